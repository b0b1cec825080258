"""Transfer: probes and baselines trained on one labelled run, evaluated on others.

A sweep evaluates probes on unseen images, but of the same table and model. Here probes and
baselines are trained on one run and evaluated on another: another table on the same model, or
another model with vectors of the same width. All choices are made in the training run alone. The
results of cross-validation within the test run are given for comparison.

No tested image was in training. If most rows of the test run are about other images, the rows about
shared ones are left out. If it shares its images (the same questions on another model), the
training run's folds are used: each row is predicted by the fit that has not seen its image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmscope.arguments import listener
from vlmscope.errors import InputError, naming_arguments
from vlmscope.metrics import LabelledRisk, Resamples, constant_pairs, resample_sides
from vlmscope.probes import (
    CrossFit,
    Fold,
    FoldError,
    crossfit_logistic,
    crossfit_select,
    grouped_folds,
)
from vlmscope.probes.base import block_numbers
from vlmscope.probes.baselines import JOINT, BaselineInputs, Known, baseline_fits
from vlmscope.schema import Progress
from vlmscope.shown import count
from vlmscope.store import DEFAULT, AnyRun, Run, vector_path
from vlmscope.sweeps.calibration import calibrated
from vlmscope.sweeps.data import ProbeData
from vlmscope.sweeps.named import result_named
from vlmscope.sweeps.results import (
    CONSTANT,
    ProbeResult,
    SweepResult,
    constant_fields,
    difference_fields,
    measured,
)
from vlmscope.sweeps.run import SweepSpec, known_of, layer_title, sweep, vectors
from vlmscope.sweeps.source import LABEL_SET, AnySource, LayerKey
from vlmscope.sweeps.transfer.fits import (
    Part,
    Transferred,
    concatenate_inputs,
    take_rows,
    transfer_baselines,
    transfer_probe,
)
from vlmscope.sweeps.transfer.targets import Target, checked_source, listed, targets

SELECTED = "selected"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferredResult:
    """Metrics of one probe or baseline of the training run on the test run.

    The fields are the keys of ``transfer.json``, in this order; ``_low`` and ``_high`` are the ends
    of a 95% interval. A number that cannot be computed is NaN.
    """

    name: str
    """As in the sweep."""
    title: str
    kind: str
    """``selected``, ``probe`` or ``baseline``."""
    known: Known
    representation: str | None
    layer: int | None
    source_auroc: float
    """On the training run, out of fold, as in the sweep; NaN if it is missing there, or found
    nothing."""
    source_auroc_low: float
    source_auroc_high: float
    auroc: float
    """On the test run, as the other metrics: its images are resampled, with fixed fits."""
    auroc_low: float
    auroc_high: float
    auprc: float
    auprc_low: float
    auprc_high: float
    brier: float
    brier_low: float
    brier_high: float
    ece: float
    ece_low: float
    ece_high: float
    recall_at_5: float
    recall_at_5_low: float
    recall_at_5_high: float
    prevalence: float
    prevalence_low: float
    prevalence_high: float
    count: int
    """Number of tested answers."""
    constant: float
    """Share of the compared pairs that have one single risk."""
    found_nothing: bool
    """Whether that is most of them, so that the AUROC is meaningless."""
    own_auroc: float
    """AUROC of the same trained and evaluated within the test run; NaN if unavailable, or if it
    finds nothing.
    """
    above_joint: float | None
    """AUROC minus that of the joint baseline, transferred in the same way; None for baselines."""
    above_joint_low: float | None
    above_joint_high: float | None
    above_joint_p: float | None
    """P-value, for the selected probe only; for every layer it would be misleading."""
    above_own: float | None
    """AUROC minus ``own_auroc``: below 0, the loss by the transfer."""
    above_own_low: float | None
    above_own_high: float | None
    above_own_p: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values; what cannot be computed is NaN."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class TransferTest:
    """The results on one test run."""

    target: Target
    rows: tuple[TransferredResult, ...]
    """The selected layer, every layer, the baselines."""
    risks: dict[str, NDArray[np.float64]]
    """Name → risk of each tested row, ``[M]``."""
    part_of: NDArray[np.int64]
    """Number of the fit that predicts each row, ``[M]``: all 0 unless ``paired``."""
    chosen: tuple[str, ...]
    """The layer selected by each fit."""
    no_own: str
    """Why nothing is trained within the test run; empty if it is."""
    inputs_left_out: tuple[str, ...]
    """Inputs left out of the baselines, each with its reason."""

    def __getitem__(self, name: str) -> TransferredResult:
        """Return a row by its name.

        Raises:
            InputError: No row has that name.
        """
        return result_named(self.rows, name)

    def __iter__(self) -> Iterator[TransferredResult]:
        return iter(self.rows)

    def __contains__(self, name: object) -> bool:
        return any(row.name == name for row in self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class TransferResult:
    """All results of a transfer."""

    source: Run
    result: SweepResult
    """The sweep of the training run."""
    tests: tuple[TransferTest, ...]
    spec: SweepSpec

    def __repr__(self) -> str:
        runs = count(len(self.tests), "run")
        return f"TransferResult({str(self.source.path)!r}, tested on {runs})"


@naming_arguments(test="tests")
def transfer(
    source: AnySource,
    tests: AnyRun | Iterable[AnyRun | Target],
    spec: SweepSpec | None = None,
    *,
    labels: str = DEFAULT,
    result: SweepResult | None = None,
    progress: Progress | bool | None = None,
) -> TransferResult:
    """Train probes on one labelled run and evaluate them on others.

    Args:
        source: The labelled training run, or its folder.
        tests: Labelled test runs, their folders, or one of these; or the result of ``targets``.
        spec: Folds, draws and seed, as for the sweep.
        labels: The label set of ``source``; test runs use their default sets.
        result: The sweep of ``source`` with these settings and labels, if it exists already.
        progress: Called with a line of text about each step; True prints it.

    Raises:
        InputError: A run has no labels, is the training run itself, shares no vectors with it, or
            has too few answers of a class to test.
    """
    report, spec = listener("progress", progress), spec or SweepSpec()
    run = checked_source(source)
    made = listed(tests)
    plain = [each for each in made if not isinstance(each, Target)]
    opened = iter(targets(run, plain, spec, labels=labels) if plain else ())
    resolved = [each if isinstance(each, Target) else next(opened) for each in made]
    result = result or sweep(run, spec, labels=labels, progress=report)
    if (trained_on := result.data.origin.get(LABEL_SET, DEFAULT)) != labels:
        raise InputError(f"transfer: the sweep used the label set {trained_on!r}, not {labels!r}")
    return TransferResult(
        run,
        result,
        tuple(_evaluate(run, result, target, spec, report) for target in resolved),
        spec,
    )


def _evaluate(
    source: Run, result: SweepResult, target: Target, spec: SweepSpec, progress: Progress
) -> TransferTest:
    """Return the results on one test run."""
    data = _regrouped(result.data, target)
    parts = target.parts
    part_of = np.empty(len(target.kept), dtype=np.int64)
    for number, part in enumerate(parts):
        part_of[part.test] = number
    name = target.run.path.name
    own = _OwnFits.begin(target, spec)
    transferred: dict[str, Transferred] = {}
    for key in target.layers:
        path = vector_path(*key)
        progress(f"{path}, on {name}")
        test_vectors = vectors(target.run, target.data, *key)[target.kept]
        transferred[path] = transfer_probe(
            vectors(source, data, *key), data.truth, data.groups, parts, test_vectors,
            folds=spec.folds,
        )  # fmt: skip
        own.add(path, test_vectors)
    chosen = _selected(transferred, target, result, len(parts))
    risks = {SELECTED: _assembled(transferred, chosen, parts, len(target.kept))} if chosen else {}
    risks |= {path: each.risk for path, each in transferred.items()}
    progress(f"baselines, on {name}")
    inputs, lacking = concatenate_inputs(
        data.baseline_inputs,
        take_rows(_with_columns(target.data, data.baseline_inputs), target.kept),
        same_tokens=target.relation.same_tokens,
    )
    titles = {}
    for baseline, risk in transfer_baselines(
        inputs, data.truth, data.groups, parts, folds=spec.folds, seed=spec.seed
    ):
        if baseline.name != "majority":  # the same risk for every answer
            risks[baseline.name], titles[baseline.name] = risk, baseline.title
    rows = _rows(target, risks, titles, part_of, own, result, spec, progress)
    return TransferTest(target, rows, risks, part_of, chosen, own.failed, lacking)


def _with_columns(data: ProbeData, training: BaselineInputs) -> BaselineInputs:
    """Return the inputs of the test run with the columns of the training run."""
    found = {name: data.columns[name] for name in training.columns if name in data.columns}
    return replace(data.baseline_inputs, columns=found)


def _regrouped(data: ProbeData, target: Target) -> ProbeData:
    """Return the training rows, grouped with those of the test run if they share images."""
    if not target.paired:  # the fit is the saved one
        return data
    grouping = replace(data.grouping, groups=target.overlap.source_groups)
    return replace(data, grouping=grouping, split=None)


def _selected(
    transferred: dict[str, Transferred], target: Target, result: SweepResult, parts: int
) -> tuple[str, ...]:
    """Return the layer that each fit selects, without using the test run.

    A single fit uses the layer selected by the sweep, which is the saved one, unless the test run
    lacks it. Otherwise, and in folds, it is the best layer inside training.
    """
    before = [vector_path(*p) for p in target.layers if known_of(p[0]) == "before"]
    if not before:
        return ()
    if not target.paired and result.selected_probe in before:
        return (result.selected_probe,)
    inner = np.array([transferred[path].inner_auroc for path in before])
    return tuple(before[inner[:, part].argmax()] for part in range(parts))


def _assembled(
    transferred: dict[str, Transferred], chosen: Sequence[str], parts: Sequence[Part], count: int
) -> NDArray[np.float64]:
    """Return the risks of the layer that each fit selected."""
    risk = np.empty(count)
    for name, part in zip(chosen, parts, strict=True):
        risk[part.test] = transferred[name].risk[part.test]
    return risk


class _OwnFits:
    """Cross-validation within the test run, on the tested rows."""

    def __init__(self, target: Target, folds: Sequence[Fold], failed: str) -> None:
        self._target = target
        self._folds = folds
        self._fits: dict[str, CrossFit] = {}
        self.failed = failed
        """Why no fit is possible; empty if it is."""

    @classmethod
    def begin(cls, target: Target, spec: SweepSpec) -> _OwnFits:
        """Make folds of the test run, if it has enough images of each class."""
        try:
            folds = grouped_folds(target.truth, target.groups, count=spec.folds, seed=spec.seed)
        except FoldError as error:
            return cls(target, (), str(error))
        return cls(target, folds, "")

    def add(self, path: str, matrix: NDArray[np.float32]) -> None:
        """Probe one layer."""
        if self._folds:
            truth, groups = self._target.truth, self._target.groups
            fit = crossfit_logistic(matrix, truth, self._folds, groups)
            self._fits[path] = calibrated(fit, truth, self._folds)

    def sides(
        self, transferred: Iterable[str], training: BaselineInputs
    ) -> dict[str, LabelledRisk]:
        """Return the out-of-fold risks by name.

        Args:
            transferred: The names of the transferred predictors.
            training: Inputs of the training run: baselines use the same columns of the table.
        """
        if not self._folds:
            return {}
        truth, wanted = self._target.truth, set(transferred)
        risks = {path: fit.risk for path, fit in self._fits.items()}
        before = {p: fit for p, fit in self._fits.items() if known_of(p.split("/")[0]) == "before"}
        if before:
            risks[SELECTED] = crossfit_select(before, self._folds).risk
        inputs = take_rows(_with_columns(self._target.data, training), self._target.kept)
        for baseline, fit in baseline_fits(inputs, truth, self._folds):
            risks[baseline.name] = calibrated(fit, truth, self._folds).risk
        fold_of = block_numbers(self._folds, len(truth))
        return {
            name: LabelledRisk(truth, risk, fold_of)
            for name, risk in risks.items()
            if name in wanted
        }


def _rows(
    target: Target,
    risks: dict[str, NDArray[np.float64]],
    titles: dict[str, str],
    part_of: NDArray[np.int64],
    own: _OwnFits,
    result: SweepResult,
    spec: SweepSpec,
    progress: Progress,
) -> tuple[TransferredResult, ...]:
    """Return a result for each risk, resampled by the images of the test run."""
    progress(f"intervals, on {target.run.path.name}")
    drawn, both = _resampled(target, risks, part_of, own, result, spec)
    keys = {vector_path(*key): key for key in target.layers}
    trained = _training_results(result, keys)

    def row(name: str) -> TransferredResult:
        representation, layer = keys.get(name, (None, None))
        other = f"own {name}"
        title = titles.get(name) or "best layer, chosen in training"
        above_joint = None if name in titles else drawn.difference(name, JOINT)
        above_own = both.difference(name, other) if other in both.observed else None
        planned = name == SELECTED
        return TransferredResult(
            name=name,
            title=layer_title(representation, layer) if representation else title,
            kind="baseline" if name in titles else ("selected" if planned else "probe"),
            known=known_of(representation) if representation else "before",
            representation=representation,
            layer=layer,
            **_source_fields(trained.get(name)),
            **measured(drawn, name, len(target.truth)),
            **constant_fields(constant_pairs(target.truth, risks[name], part_of)),
            own_auroc=both.observed[other]["auroc"] if other in both.observed else nan,
            **difference_fields("above_joint", above_joint, planned=planned),
            **difference_fields("above_own", above_own, planned=planned),
        )

    return tuple(row(name) for name in risks)


def _resampled(
    target: Target,
    risks: Mapping[str, NDArray[np.float64]],
    part_of: NDArray[np.int64],
    own: _OwnFits,
    result: SweepResult,
    spec: SweepSpec,
) -> tuple[Resamples, Resamples]:
    """Resample the transferred risks: all metrics; and their AUROC with that of the own fits.

    The risk of an own fit is named ``own`` and the name of the transferred one. Those that are
    constant in most folds are left out.
    """
    truth, groups = target.truth, target.groups
    folds = part_of if target.paired else None  # a single fit on other images is not a cross-fit
    sides = {name: LabelledRisk(truth, risk, folds) for name, risk in risks.items()}
    drawn = resample_sides(sides, groups, draws=spec.draws, seed=spec.seed, correct=True)
    within = {
        f"own {name}": side
        for name, side in own.sides(risks, result.data.baseline_inputs).items()
        if constant_pairs(side.truth, side.risk, side.folds) < CONSTANT
    }
    both = resample_sides(
        {**sides, **within}, groups, draws=spec.draws, seed=spec.seed, metrics=("auroc",),
        correct=True,
    )  # fmt: skip
    return drawn, both


def _source_fields(found: ProbeResult | None) -> dict[str, Any]:
    """Return the sweep's results on the training run as fields; NaN if missing."""
    ends = {"": "auroc", "_low": "auroc_low", "_high": "auroc_high"}
    return {
        f"source_auroc{end}": nan if found is None else getattr(found, name)
        for end, name in ends.items()
    }


def _training_results(result: SweepResult, keys: dict[str, LayerKey]) -> dict[str, ProbeResult]:
    """Return the sweep's results on the training run, by name.

    Its result for the selected layer applies to the transferred probe only if every layer selected
    in a fold can be transferred: leaving out the others would then have changed no choice.
    """
    found = {row.name: row for row in result.rows if not row.found_nothing}
    if not set(result.chosen[SELECTED]) <= keys.keys():
        found.pop(SELECTED, None)
    return found
