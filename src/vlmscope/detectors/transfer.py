"""Transfer: detectors trained on one labelled run, evaluated on others.

Rows, folds and shared images are those of ``probe --test``: no tested image was in training. A
detector without training is computed on the other run as it is. With the results within the
training run, that is the matrix of detectors and runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit  # type: ignore[import-untyped,unused-ignore]
from sklearn.base import clone  # type: ignore[import-untyped,unused-ignore]

from vlmscope.arguments import listener
from vlmscope.detectors.checks import naming, undefined_rows
from vlmscope.detectors.detector import Detector
from vlmscope.detectors.meaning import SameMeaning, by_rules
from vlmscope.detectors.methods import (
    ESTIMATORS,
    Baseline,
    BestHeads,
    Distance,
    Features,
    Flags,
    Probe,
    Score,
    is_fitted,
    ranks,
    without_model,
)
from vlmscope.detectors.results import Detection, Unavailable
from vlmscope.detectors.rows import Floats, Rows, rows_of, with_vectors
from vlmscope.detectors.run import incomplete
from vlmscope.errors import InputError, naming_arguments
from vlmscope.metrics import LabelledRisk, constant_pairs, resample_sides
from vlmscope.positions import SUBLAYER_REPRESENTATIONS, VISION_ONLY
from vlmscope.probes.baselines import JOINT
from vlmscope.schema import Progress
from vlmscope.store import DEFAULT, AnyRun, Run, as_run, vector_path
from vlmscope.sweeps import SweepSpec, probe_data
from vlmscope.sweeps.results import constant_fields
from vlmscope.sweeps.source import LABEL_SET
from vlmscope.sweeps.transfer.fits import (
    Part,
    Transferred,
    concatenate_inputs,
    transfer_baselines,
    transfer_probe,
)
from vlmscope.sweeps.transfer.targets import Target, listed, targets

FURTHEST = 1e-6
"""Smallest distance of a risk from 0 and 1 in log-odds."""

OTHER_SHAPE = "its inputs have another shape in the test run"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferredDetector:
    """A detector on the test run."""

    name: str
    title: str
    learned: bool
    source_auroc: float
    """Within the training run, as in its table."""
    auroc: float
    """On the test run: its images are resampled, fits are fixed."""
    auroc_low: float
    auroc_high: float
    found_nothing: bool
    """Whether its risk is constant there."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectionTransfer:
    """The results on one test run."""

    run: str
    """Its folder."""
    run_id: str
    model: str
    relation: str
    """How its model is related to that of the training run, as text."""
    paired: bool
    """Whether the training run's folds are used, because the runs share their images."""
    rows: int
    hallucinated: int
    left_out: int
    """Labelled rows of the test run that are not tested."""
    results: tuple[TransferredDetector, ...]
    unavailable: tuple[Unavailable, ...]

    def document(self) -> dict[str, Any]:
        """Return the results as plain values."""
        return asdict(self)


@naming_arguments(test="tests")
def transfer_detection(
    run: AnyRun,
    found: Detection,
    tests: AnyRun | Iterable[AnyRun],
    spec: SweepSpec | None = None,
    *,
    same_meaning: SameMeaning | None = None,
    progress: Progress | bool | None = None,
) -> tuple[DetectionTransfer, ...]:
    """Evaluate the detectors of a detection on other labelled runs.

    Args:
        run: The training run, or its folder.
        found: The detection of that run, whose label set is used.
        tests: The other runs, their folders, or one of these; they use their default label sets.
        spec: Settings, as for ``detect``.
        same_meaning: Whether two answers to a question mean the same.
        progress: Called with a line of text about each step; True prints it.

    Raises:
        InputError: A run has no labels, is the training run, defines layers in another way, or has
            too few answers of a class.
    """
    spec, source = spec or SweepSpec(), as_run(run)
    runs = cast("list[AnyRun]", listed(tests))
    aims = targets(source, runs, spec, labels=_label_set(found), vectors=False)
    return transfer_to(source, found, aims, spec, same_meaning=same_meaning, progress=progress)


def _label_set(found: Detection) -> str:
    return str(found.data.origin.get(LABEL_SET, DEFAULT))


def transfer_to(
    source: Run,
    found: Detection,
    aims: Iterable[Target],
    spec: SweepSpec,
    *,
    same_meaning: SameMeaning | None = None,
    progress: Progress | bool | None = None,
) -> tuple[DetectionTransfer, ...]:
    """Evaluate the detectors of a detection on test runs that ``targets`` has opened.

    ``targets`` refuses unusable runs, and can be called before anything is trained. The arguments
    are otherwise those of ``transfer_detection``.
    """
    report, same = listener("progress", progress), same_meaning or by_rules
    data = probe_data(source, spec.copies, labels=_label_set(found))
    rows = rows_of(source, data, same)
    transferred = []
    for target in aims:
        report(f"transfer to {target.run.path.name}")
        groups = target.overlap.source_groups if target.paired else data.groups
        other = rows_of(target.run, target.data, same).take(target.kept)
        other = replace(other, trained_layers=rows.num_layers)
        pair = Pair(
            _comparable(rows, target), data.truth, groups, _comparable(other, target),
            tuple(target.parts), spec, target, _different(source, target),
        )  # fmt: skip
        transferred.append(_tested(pair, found, report))
    return tuple(transferred)


def _comparable(rows: Rows, target: Target) -> Rows:
    """Return rows with the representations that both runs have alike, and their sub-layers."""
    common = {vector_path(*key) for key in target.layers}
    return with_vectors(
        rows,
        [
            path
            for path in rows.vectors
            if path in common or path.partition("/")[0] in SUBLAYER_REPRESENTATIONS
        ],
    )


def _different(source: Run, target: Target) -> dict[str, str]:
    """Return why no vector is comparable of the representations for which there is none."""
    mine, theirs = source.manifest.widths(), target.run.manifest.widths()
    common = {group for group, _ in target.layers}
    found: dict[str, str] = {}
    for path, width in mine.items():
        group = path.partition("/")[0]
        if group in (*common, *SUBLAYER_REPRESENTATIONS) or group not in target.run.representations:
            continue
        if path not in theirs:
            found.setdefault(group, "the runs have no layer of it in common")
        elif theirs[path] != width:
            found[group] = f"its width is {theirs[path]} in the test run, {width} in training"
        elif group == VISION_ONLY and (
            source.manifest.capture.vision_pooling
            != target.run.manifest.capture.vision_pooling
        ):  # fmt: skip
            found[group] = "it is pooled in another way in the test run"
        else:
            found[group] = "no row of the test run has it"
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A training run and a test run."""

    rows: Rows
    truth: Flags
    """Of the training run, ``[N]``."""
    groups: NDArray[np.int64]
    """The image of each training row."""
    other: Rows
    """The tested rows, ``[M]``."""
    parts: tuple[Part, ...]
    """Rows to train and to test on, of each fit."""
    spec: SweepSpec
    target: Target
    different: Mapping[str, str] = field(default_factory=dict)
    """Representation → why none of its vectors is comparable."""
    probes: dict[str, Transferred] = field(default_factory=dict)
    """Logistic probes by the path of their vectors: several detectors share them."""

    def risk_of_parts(self, risk: Callable[[int, Part], Floats]) -> Floats:
        """Return the risk of each tested row from a function of each part."""
        found = np.full(len(self.other), np.nan)
        for number, part in enumerate(self.parts):
            found[part.test] = risk(number, part)
        return found


class _OtherShapeError(Exception):
    """The inputs of a detector have another shape in the test run."""


def _tested(pair: Pair, found: Detection, progress: Progress) -> DetectionTransfer:
    """Return the results on a test run, on the rows that every detector has a value for."""
    usable, unavailable = _usable(pair, found)
    undefined = {name: undefined_rows(each, pair.other) for name, each in usable.items()}
    for name, reason in incomplete(undefined).items():
        unavailable.append(Unavailable(name, usable.pop(name).title, reason))
    pair, kept = _defined(pair, usable.values(), [undefined[name] for name in usable])
    target = pair.target
    truth, groups = target.truth[kept], target.groups[kept]
    if truth.all() or not truth.any():
        raise InputError(
            f"--test {target.run.path}: of the {len(truth):,} rows that every detector has a value "
            f"for, {int(truth.sum()):,} are hallucinated, expected some that are and some that are "
            "not; select fewer --detectors"
        )
    baselines = _baselines(pair, usable.values())
    risks: dict[str, Floats] = {}
    for name, detector in usable.items():
        progress(f"{detector.title}, on {target.run.path.name}")
        with naming(detector, pair.other):
            try:
                risks[name] = _risk(detector, pair, baselines)
            except _OtherShapeError:
                unavailable.append(Unavailable(name, detector.title, OTHER_SHAPE))
    return DetectionTransfer(
        run=str(target.run.path),
        run_id=target.run.manifest.run_id,
        model=target.run.manifest.model.name,
        relation=target.relation.model,
        paired=target.paired,
        rows=len(truth),
        hallucinated=int(truth.sum()),
        left_out=len(target.data.truth) - len(truth),
        results=tuple(_results(pair, found, risks, truth, groups)),
        unavailable=tuple(unavailable),
    )


def _usable(pair: Pair, found: Detection) -> tuple[dict[str, Detector], list[Unavailable]]:
    """Return the detectors that the test run has everything for, and the others."""
    usable, unavailable = {}, []
    for name, detector in found.detectors.items():
        if missing := pair.other.lacks(detector.requires):
            why = pair.different.get(missing)
            reason = f"{missing}: {why}" if why else f"the test run has no {missing}"
            unavailable.append(Unavailable(name, detector.title, reason))
        elif isinstance(detector.method, Baseline) and not detector.is_model_free:
            reason = "a baseline that needs the answer is not tested on other runs"
            unavailable.append(Unavailable(name, detector.title, reason))
        else:
            usable[name] = detector
    return usable, unavailable


def _defined(
    pair: Pair, detectors: Iterable[Detector], undefined: Sequence[Flags]
) -> tuple[Pair, NDArray[np.int64]]:
    """Return the pair without rows that a detector has no value for, and the tested rows.

    Args:
        pair: The runs.
        detectors: The detectors.
        undefined: The tested rows that each has no value for.
    """
    source, other = (np.zeros(len(each), dtype=bool) for each in (pair.rows, pair.other))
    for detector in detectors:
        source |= detector.method.undefined(pair.rows)
    for bad in undefined:
        other |= bad
    kept = np.flatnonzero(~other)
    position = np.cumsum(~other) - 1
    parts = tuple(
        Part(part.train[~source[part.train]], position[part.test[~other[part.test]]])
        for part in pair.parts
    )
    parts = tuple(part for part in parts if len(part.test))
    return replace(pair, other=pair.other.take(kept), parts=parts, probes={}), kept


def _results(
    pair: Pair,
    found: Detection,
    risks: Mapping[str, Floats],
    truth: Flags,
    groups: NDArray[np.int64],
) -> Iterator[TransferredDetector]:
    """Yield a result for each risk, resampled by the images of the test run."""
    part_of = np.zeros(len(truth), dtype=np.int64)
    for number, part in enumerate(pair.parts):
        part_of[part.test] = number
    folds = part_of if pair.target.paired else None
    sides = {name: LabelledRisk(truth, risk, folds) for name, risk in risks.items()}
    drawn = resample_sides(
        sides, groups, draws=pair.spec.draws, seed=pair.spec.seed, metrics=("auroc",), correct=True
    )
    fitted = frozenset(name for name in risks if is_fitted(found.detectors[name].method))
    drawn = replace(drawn, crossfitted=drawn.crossfitted & fitted)
    for name, risk in risks.items():
        interval = drawn.interval(name)
        constant = constant_fields(constant_pairs(truth, risk, part_of))["found_nothing"]
        yield TransferredDetector(
            name=name,
            title=found.detectors[name].title,
            learned=found.detectors[name].learned,
            source_auroc=found[name].auroc,
            auroc=float(drawn.observed[name]["auroc"]),
            auroc_low=interval.low,
            auroc_high=interval.high,
            found_nothing=bool(constant),
        )


def _baselines(pair: Pair, detectors: Iterable[Detector]) -> dict[str, Floats]:
    """Return the risks of the baselines that need no model, by name."""
    wanted = {each.method.name for each in detectors if isinstance(each.method, Baseline)}
    if not wanted or pair.rows.inputs is None or pair.other.inputs is None:
        return {}
    inputs, _ = concatenate_inputs(
        without_model(pair.rows.inputs),
        without_model(pair.other.inputs),
        same_tokens=pair.target.relation.same_tokens,
    )
    return {
        baseline.name: risk
        for baseline, risk in transfer_baselines(
            inputs, pair.truth, pair.groups, pair.parts,
            folds=pair.spec.folds, seed=pair.spec.seed, joint=JOINT in wanted,
        )
    }  # fmt: skip


def _risk(detector: Detector, pair: Pair, baselines: Mapping[str, Floats]) -> Floats:
    """Return the risk of each tested row by a detector.

    Raises:
        _OtherShapeError: Its inputs have another shape in the test run.
    """
    method = detector.method
    if isinstance(method, Score):
        return ranks(method.values(pair.other))
    if isinstance(method, Baseline):
        if method.name not in baselines:
            raise _OtherShapeError
        return baselines[method.name]
    if isinstance(method, Distance):
        return _distance(method, pair)
    if isinstance(method, BestHeads):
        return _best_heads(method, pair)
    if isinstance(method, Probe):
        return _probe(method, pair)
    raise TypeError(f"{detector.name}: a {type(method).__name__} cannot be transferred")


def _probes(features: Callable[[Rows], Features], pair: Pair) -> dict[str, Transferred]:
    """Return the logistic probe of each candidate that both runs have, with the same width."""
    found = {}
    there = features(pair.other)
    for name, read in features(pair.rows).items():
        if name not in there:
            continue
        if name in pair.probes:
            found[name] = pair.probes[name]
        else:
            matrix, test = (np.asarray(each(), np.float32) for each in (read, there[name]))
            if matrix.shape[1] != test.shape[1]:
                continue
            found[name] = transfer_probe(
                matrix, pair.truth, pair.groups, pair.parts, test, folds=pair.spec.folds
            )
            if name in pair.rows.vectors:
                pair.probes[name] = found[name]
    if not found:
        raise _OtherShapeError
    return found


def _probe(method: Probe, pair: Pair) -> Floats:
    """Return the risks of the candidate that is best inside each part's training."""
    found = _probes(method.features, pair)
    names = list(found)
    inner = np.array([found[name].inner_auroc for name in names])
    chosen = [names[index] for index in inner.argmax(axis=0)]
    if method.estimator == "logistic":
        return pair.risk_of_parts(lambda number, part: found[chosen[number]].risk[part.test])
    own, there = method.features(pair.rows), method.features(pair.other)

    def fitted(number: int, part: Part) -> Floats:
        matrix = np.asarray(own[chosen[number]](), np.float32)[part.train]
        probe = clone(ESTIMATORS[method.estimator])
        probe.fit(matrix, pair.truth[part.train], groups=pair.groups[part.train])
        test = np.asarray(there[chosen[number]](), np.float32)[part.test]
        return np.asarray(probe.predict_proba(test)[:, 1])

    return pair.risk_of_parts(fitted)


def _best_heads(method: BestHeads, pair: Pair) -> Floats:
    """Return the risks by the heads that are best inside each part's training."""
    found = list(_probes(method.features, pair).values())
    inner = np.array([each.inner_auroc for each in found])
    logits = logit(np.clip(np.stack([each.risk for each in found]), FURTHEST, 1 - FURTHEST))

    def mean(number: int, part: Part) -> Floats:
        best = np.argsort(-inner[:, number], kind="stable")[: method.most]
        return np.asarray(expit(logits[best][:, part.test].mean(axis=0)))

    return pair.risk_of_parts(mean)


def _distance(method: Distance, pair: Pair) -> Floats:
    """Return the ranks of a distance to each part's training rows."""
    matrix, test = (np.asarray(method.vectors(rows)) for rows in (pair.rows, pair.other))
    if matrix.shape[1] != test.shape[1]:
        raise _OtherShapeError

    def score(_: int, part: Part) -> Floats:
        return ranks(method.scores(matrix[part.train], pair.truth[part.train], test[part.test]))

    return pair.risk_of_parts(score)
