"""The sweep: every representation × layer through the same folds, one matrix in memory at a time.

The number to quote is that of ``selected``: the layer is chosen inside each fold's training rows,
so the rows it is judged on had no say. The best of the single layers is chosen by looking, and
flatters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError
from vlmscope.probe import (
    CrossFit,
    Fold,
    FoldError,
    MeanDifferenceProbe,
    MlpProbe,
    Selected,
    combine,
    crossfit_estimator,
    crossfit_logistic,
    crossfit_select,
    grouped_folds,
)
from vlmscope.probe.baselines import JOINT, Known, baseline_fits
from vlmscope.probing.by_column import by_column
from vlmscope.probing.calibrating import calibrated
from vlmscope.probing.columns import with_columns
from vlmscope.probing.data import ProbeData, probe_data
from vlmscope.probing.halp_protocol import halp_protocol, network_of
from vlmscope.probing.judging import JOINT_AND_PROBE, Entry, judge, within_category
from vlmscope.probing.research import LabelTable, research_data
from vlmscope.probing.results import SweepResult, most_chosen
from vlmscope.probing.source import Source, check_labels, model_of
from vlmscope.schema import ANSWER_POSITIONS, REPRESENTATIONS
from vlmscope.store import Run, SeedFiles, vector_path

ESTIMATORS = ("logistic", "mean-difference", "mlp")
"""Probes to choose from; ``logistic`` always runs, for the selection needs it."""

AFTER = frozenset(REPRESENTATIONS[position] for position in ANSWER_POSITIONS)
"""Representations that exist only once the answer is written."""

PROTOCOLS = ("grouped", "halp")
"""``grouped``: folds that keep images whole; ``halp``: beside it, the HALP paper's own protocol."""

SHUFFLES = 100
"""Shuffles of the labels to try until one can be split into folds."""

Report = Callable[[str], None]
"""Told what is being done."""

Matrix = Callable[[str, int | None], NDArray[np.float32]]
"""Representation and layer → vectors of the rows that are probed, ``[N, D]``."""


@dataclass(frozen=True, slots=True)
class SweepSpec:
    """What to sweep."""

    estimators: tuple[str, ...] = ("logistic",)
    """Names from ``ESTIMATORS``."""
    folds: int = 5
    """Outer folds."""
    draws: int = 2000
    """Resamples of the images for the intervals."""
    seed: int = 0
    """Decides folds, resamples and shuffled labels."""
    protocol: str = "grouped"
    """One of ``PROTOCOLS``."""
    by: tuple[str, ...] | None = None
    """Columns of the table to break results down by; None for the usual ones."""

    def __post_init__(self) -> None:
        """Refuse names that are none."""
        names = tuple(self.estimators)
        unknown = [name for name in names if name not in ESTIMATORS]
        if unknown or not names:
            raise InputError(
                f"--estimators: {unknown[0] if unknown else ''!r} is no probe; choose from "
                f"{', '.join(ESTIMATORS)}"
            )
        if self.protocol not in PROTOCOLS:
            raise InputError(
                f"--protocol: found {self.protocol!r}, expected one of {', '.join(PROTOCOLS)}"
            )
        if self.folds < 3 or self.draws < 1:
            raise InputError(
                f"--folds {self.folds}, --draws {self.draws}: give 3 folds or more, and a draw"
            )


def sweep(
    source: Source,
    spec: SweepSpec | None = None,
    *,
    labels: LabelTable | None = None,
    report: Report = lambda _: None,
) -> SweepResult:
    """Probe every representation and layer of a labelled run, or of research files with labels.

    Args:
        source: A run with labels (``vlmscope label``), or files of the original research.
        spec: What to sweep.
        labels: Of research files: their labels (``read_label_table``).
        report: Told what is being done, a line each.

    Raises:
        InputError: No labels, or too few images of either kind.
    """
    spec = spec or SweepSpec()
    data = with_columns(_joined(source, labels), spec.by)
    matrix = partial(vectors, source, data)
    result = sweep_rows(data, matrix, spec, report=report)
    if spec.protocol != "halp":
        return result
    network, options = network_of(model_of(source)), {"draws": spec.draws, "seed": spec.seed}
    halp = halp_protocol(data, matrix, network, title=place_title, report=report, **options)
    return replace(result, halp=halp)


def sweep_rows(
    data: ProbeData,
    matrix: Matrix,
    spec: SweepSpec | None = None,
    *,
    report: Report = lambda _: None,
) -> SweepResult:
    """Probe every representation and layer of some rows: what ``sweep`` does, without a source.

    Args:
        data: What may be learnt from.
        matrix: Representation and layer → the vectors of those rows, ``[N, D]``.
        spec: What to sweep.
        report: Told what is being done, a line each.

    Raises:
        FoldError: Too few images of either kind.
    """
    spec = spec or SweepSpec()
    folds = grouped_folds(data.truth, data.groups, count=spec.folds, seed=spec.seed)
    entries, chosen = _entries(data, matrix, folds, spec, report)
    report("shuffled labels")
    entries["shuffled"] = _shuffled(matrix, data, chosen.chosen, spec)
    report("intervals")
    fold_of = _fold_of(folds, len(data.truth))
    rows, best = judge(entries, data, fold_of, draws=spec.draws, seed=spec.seed)
    risks = {name: entries[name].risk for name in ("selected", best, JOINT, JOINT_AND_PROBE)}
    pairs = [("selected", JOINT), ("selected", best), (JOINT_AND_PROBE, JOINT)]
    columns = by_column(data, risks, pairs, fold_of, draws=spec.draws, seed=spec.seed)
    if "category" in columns:
        within, gaps = columns["category"].within, columns["category"].gaps
    else:
        within, gaps = within_category(
            data, risks, pairs, fold_of, draws=spec.draws, seed=spec.seed
        )
    return SweepResult(
        rows=rows,
        risks={name: entry.risk for name, entry in entries.items()},
        data=data,
        best_baseline=best,
        chosen={"selected": chosen.chosen},
        fold_of=fold_of,
        settings=asdict(spec),
        within_category=within,
        within_gaps=gaps,
        by_column=columns,
    )


def _entries(
    data: ProbeData, matrix: Matrix, folds: Sequence[Fold], spec: SweepSpec, report: Report
) -> tuple[dict[str, Entry], Selected]:
    """Return every baseline, probe and combination with its risks, and the selected layers."""
    report("baselines")
    known = {}
    entries = {}
    for baseline, raw in baseline_fits(data.facts, data.truth, folds):
        known[baseline.name] = calibrated(raw, data.truth, folds)
        risk = known[baseline.name].risk
        entries[baseline.name] = Entry(baseline.title, "baseline", risk, baseline.known)
    before: dict[str, CrossFit] = {}
    for name, entry, fit in _probes(matrix, data, folds, spec, report):
        entries[name] = entry
        if fit is not None and entry.known == "before":
            before[name] = fit
    chosen = crossfit_select(before, folds)
    entries["selected"] = Entry("best layer, chosen inside training", "selected", chosen.risk)
    combined = combine(before, data.truth, folds, data.groups, grid=(1.0,))
    entries["combined"] = Entry("all layers together", "combined", combined.risk)
    both = combine({JOINT: known[JOINT], "selected": chosen}, data.truth, folds, data.groups)
    title = "everything known before the answer, and the best layer"
    entries[JOINT_AND_PROBE] = Entry(title, "combined", both.risk)
    return entries, chosen


def vectors(
    source: Source, data: ProbeData, representation: str, layer: int | None
) -> NDArray[np.float32]:
    """Return the vectors of the rows that are probed, ``[N, D]``."""
    matrix = source.matrix(representation, layer)
    return matrix if len(data.rows) == len(matrix) else matrix[data.rows]


def place_title(representation: str, layer: int | None) -> str:
    """Return a place as a person reads it.

    >>> place_title("query_token_representation", 9)
    'query token, layer 9'
    """
    words = representation.removesuffix("_representation").replace("_", " ")
    return words if layer is None else f"{words}, layer {layer}"


def known_of(representation: str) -> Known:
    """Return whether a representation exists before the answer is written, or only after."""
    return "after" if representation in AFTER else "before"


def _joined(source: Source, labels: LabelTable | None) -> ProbeData:
    """Return what may be learnt from: a run with its own labels, or research files with these."""
    check_labels(source.path, run=isinstance(source, Run), labelled=labels is not None)
    if isinstance(source, SeedFiles) and labels is not None:
        return research_data(source, labels)
    if isinstance(source, Run):
        return probe_data(source)
    raise TypeError(f"a {type(source).__name__} has no labels that we know of")


def _probes(
    read: Matrix, data: ProbeData, folds: Sequence[Fold], spec: SweepSpec, report: Report
) -> Iterator[tuple[str, Entry, CrossFit | None]]:
    """Yield every probe's name, risk and, of a logistic one, what selection needs."""
    others = {"mean-difference": MeanDifferenceProbe, "mlp": MlpProbe}
    for representation, layer in data.places:
        place = vector_path(representation, layer)
        report(place)
        matrix = read(representation, layer)
        common = (known_of(representation), representation, layer)
        raw = crossfit_logistic(matrix, data.truth, folds, data.groups)
        fit = calibrated(raw, data.truth, folds)
        title = place_title(representation, layer)
        strengths = tuple(fit.chosen_c.tolist())
        entry = Entry(title, "probe", fit.risk, *common, "logistic", chosen_c=strengths)
        yield place, entry, fit
        for name in spec.estimators:
            if name in others:
                risk = crossfit_estimator(others[name](), matrix, data.truth, folds, data.groups)
                entry = Entry(f"{title}, {name}", "probe", risk, *common, name)
                yield f"{place} {name}", entry, None


def _shuffled(read: Matrix, data: ProbeData, chosen: Sequence[str], spec: SweepSpec) -> Entry:
    """Return the probe of the place chosen most often, on labels dealt out anew: it must fail."""
    place = most_chosen(chosen)
    representation, layer = next(where for where in data.places if vector_path(*where) == place)
    truth, folds = _dealt_anew(data, spec)
    matrix = read(representation, layer)
    fit = calibrated(crossfit_logistic(matrix, truth, folds, data.groups), truth, folds)
    title = f"{place_title(representation, layer)}, on shuffled labels"
    known = known_of(representation)
    return Entry(
        title,
        "control",
        fit.risk,
        known,
        representation,
        layer,
        "logistic",
        truth,
        _fold_of(folds, len(truth)),
    )


def _dealt_anew(data: ProbeData, spec: SweepSpec) -> tuple[NDArray[np.bool_], tuple[Fold, ...]]:
    """Return the labels shuffled among the rows, with folds of their own.

    Split anew, so that every fold has both classes of these labels too. Where few images hold a
    hallucination, a shuffle may put two into one image and leave too few: then another is tried.
    """
    generator = np.random.default_rng(spec.seed)
    for _ in range(SHUFFLES):
        truth = data.truth[generator.permutation(len(data.truth))]
        try:
            return truth, tuple(grouped_folds(truth, data.groups, count=spec.folds, seed=spec.seed))
        except FoldError as error:
            failed = error
    raise failed


def _fold_of(folds: Sequence[Fold], count: int) -> NDArray[np.int64]:
    """Return the number of the fold in which each row is judged."""
    numbers = np.empty(count, np.int64)
    for number, fold in enumerate(folds):
        numbers[fold.test] = number
    return numbers
