"""The sweep: every representation and layer on the same folds, one matrix in memory at a time.

The result to report is ``selected``: the layer is chosen inside each fold's training rows, without
the rows it is tested on. The best of the single layers is chosen on the test rows and is
optimistic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vlmscope.arguments import listener, several_names
from vlmscope.errors import InputError, shortened
from vlmscope.metrics import WithinKinds
from vlmscope.positions import ANSWER_POSITIONS, IMAGE_REPRESENTATIONS, REPRESENTATIONS
from vlmscope.probes import (
    CrossFit,
    Fold,
    MeanDifferenceProbe,
    MlpProbe,
    Selected,
    combine,
    crossfit_estimator,
    crossfit_logistic,
    crossfit_select,
)
from vlmscope.probes.base import block_numbers
from vlmscope.probes.baselines import JOINT, Known, baseline_fits
from vlmscope.schema import Progress
from vlmscope.store import DEFAULT, HalpFiles, Run, vector_path
from vlmscope.sweeps.by_column import by_column
from vlmscope.sweeps.calibration import calibrated
from vlmscope.sweeps.chance import LEAST_PERMUTATIONS, Permutations, Recognition
from vlmscope.sweeps.data import ProbeData, probe_data, with_columns
from vlmscope.sweeps.evaluation import (
    JOINT_AND_PROBE,
    Entry,
    evaluate,
    planned_tests,
    within_category,
)
from vlmscope.sweeps.grouping import COPIES
from vlmscope.sweeps.halp_files import LabelTable, research_data
from vlmscope.sweeps.halp_protocol import halp_protocol, network_of
from vlmscope.sweeps.results import ColumnResult, SweepResult, WithinGap, most_chosen
from vlmscope.sweeps.source import AnySource, Source, as_source, check_labels, check_seed, model_of
from vlmscope.sweeps.splitting import IMAGE, grouped_by, novelty, repeated_splits

ESTIMATORS = ("logistic", "mean-difference", "mlp")
"""Available probes; ``logistic`` always runs, because the selection needs it."""

AFTER = frozenset(REPRESENTATIONS[position] for position in ANSWER_POSITIONS)
"""Representations that exist only after the answer is written."""

PROTOCOLS = ("grouped", "halp")
"""``grouped``: folds that keep images together; ``halp``: the HALP paper's own protocol as well."""

REPEATS = 3
"""Default number of splits into folds, for few enough rows."""

REPEATED_ROWS = 20_000
"""With more rows than this a single split is used: another one changes little."""

Matrix = Callable[[str, int | None], NDArray[np.float32]]
"""Representation and layer → vectors of the probed rows, ``[N, D]``."""


@dataclass(frozen=True, slots=True)
class SweepSpec:
    """Settings of a sweep."""

    estimators: tuple[str, ...] = ("logistic",)
    """Names from ``ESTIMATORS``; ``logistic`` always runs."""
    folds: int = 5
    """Outer folds."""
    repeats: int | None = None
    """Splits into folds; by default ``REPEATS``, or one for many rows."""
    group_by: str = IMAGE
    """Groups that folds keep together: ``image``, ``question``, or a column of the table."""
    copies: str = "near"
    """Which images count as equal: ``near`` (near-copies too) or ``exact`` (equal ones only)."""
    permutations: int = 200
    """Permutations of the labels."""
    draws: int = 2000
    """Resamples of the images for the intervals."""
    seed: int = 0
    """Seed of folds, permutations and resamples."""
    protocol: str = "grouped"
    """One of ``PROTOCOLS``."""
    by: tuple[str, ...] | None = None
    """Columns of the table to break results down by; None for the default ones."""

    def __post_init__(self) -> None:
        """Raise for unknown names and invalid numbers."""
        object.__setattr__(self, "estimators", several_names(self.estimators))
        if self.by is not None:
            object.__setattr__(self, "by", several_names(self.by))
        names = self.estimators
        unknown = [name for name in names if name not in ESTIMATORS]
        if unknown or not names:
            raise InputError(
                f"--estimators: {unknown[0] if unknown else ''!r} is not a probe; choose from "
                f"{', '.join(ESTIMATORS)}"
            )
        if self.protocol not in PROTOCOLS:
            raise InputError(
                f"--protocol: found {self.protocol!r}, expected one of {', '.join(PROTOCOLS)}"
            )
        if self.copies not in COPIES:
            raise InputError(f"--copies {self.copies}: choose from {', '.join(COPIES)}")
        if self.folds < 3 or self.draws < 1:
            raise InputError(
                f"--folds {self.folds}, --draws {self.draws}: give 3 folds or more, and a draw"
            )
        check_seed(self.seed)
        if self.permutations < LEAST_PERMUTATIONS or (
            self.repeats is not None and self.repeats < 1
        ):
            raise InputError(
                f"--permutations {self.permutations}, --repeats {self.repeats}: give "
                f"{LEAST_PERMUTATIONS} permutations or more, and a repeat"
            )


def repeats_of(spec: SweepSpec, data: ProbeData) -> int:
    """Return the number of splits into folds for some rows."""
    return spec.repeats or (REPEATS if len(data.truth) <= REPEATED_ROWS else 1)


def sweep(
    source: AnySource,
    spec: SweepSpec | None = None,
    *,
    labels: LabelTable | str | None = None,
    progress: Progress | bool | None = None,
) -> SweepResult:
    """Probe every representation and layer of a labelled run, or of HALP files with labels.

    Args:
        source: A run with labels (``vlmscope label``), or files in the HALP layout; or the path of
            either.
        spec: Settings.
        labels: For a run: the name of a label set, by default the default set. For files in the
            HALP layout: their labels (``read_label_table``).
        progress: Called with a line of text about each step; True prints it.

    Raises:
        InputError: No labels, or too few images of either class.
    """
    report = listener("progress", progress)
    source, spec = as_source(source), spec or SweepSpec()
    data = grouped_by(_joined(source, labels, spec.copies), source, spec.group_by)
    data = with_columns(data, spec.by)
    matrix = partial(vectors, source, data)
    result = sweep_rows(data, matrix, spec, progress=report)
    if spec.protocol != "halp":
        return result
    network, options = network_of(model_of(source)), {"draws": spec.draws, "seed": spec.seed}
    halp = halp_protocol(data, matrix, network, title=layer_title, progress=report, **options)
    return replace(result, halp=halp)


def sweep_rows(
    data: ProbeData,
    matrix: Matrix,
    spec: SweepSpec | None = None,
    *,
    progress: Progress = lambda _: None,
) -> SweepResult:
    """Probe every representation and layer of some rows: what ``sweep`` does, without a source.

    Args:
        data: The rows, grouped for the folds.
        matrix: Representation and layer → the vectors of those rows, ``[N, D]``.
        spec: Settings.
        progress: Called with a line of text about each step.

    Raises:
        FoldError: Too few groups have a class.
    """
    spec = spec or SweepSpec()
    repeats = repeats_of(spec, data)
    splits = repeated_splits(data, spec.folds, spec.seed, repeats)
    permuted = Permutations(
        data.truth, data.groups, splits[0], count=spec.permutations, seed=spec.seed,
        images=None if data.split is None else data.grouping.groups,
    )  # fmt: skip
    entries, chosen = _of_all_splits(data, matrix, splits, spec, progress, permuted)
    fold_of = np.stack([block_numbers(folds, len(data.truth)) for folds in splits])
    progress("permuted labels")
    recognition = _recognition(data, matrix, permuted, most_chosen(chosen))
    progress("intervals")
    found = evaluate(entries, data, fold_of, draws=spec.draws, seed=spec.seed)
    best = found.best_baseline
    columns, within, gaps = _by_columns(data, entries, best, fold_of, spec)
    return SweepResult(
        rows=found.rows,
        risks={name: entry.risk for name, entry in entries.items()},
        data=data,
        best_baseline=best,
        chosen={"selected": chosen},
        fold_of=fold_of,
        settings=asdict(spec) | {"repeats": len(splits)},
        within_category=within,
        within_gaps=gaps,
        by_column=columns,
        tests=planned_tests(found, gaps),
        chance=permuted.chance(),
        recognition=recognition,
        novelty=novelty(data, splits[0]),
    )


def _of_all_splits(
    data: ProbeData,
    matrix: Matrix,
    splits: Sequence[Sequence[Fold]],
    spec: SweepSpec,
    progress: Progress,
    permuted: Permutations,
) -> tuple[dict[str, Entry], tuple[str, ...]]:
    """Return every entry with its risks of all splits, ``[R, N]``, and the chosen layers.

    The matrices of the first split are also passed to ``permuted``.
    """
    rounds: list[dict[str, Entry]] = []
    chosen: tuple[str, ...] = ()
    for number, folds in enumerate(splits):
        step_progress = _in_repeat(progress, number, len(splits))
        null = None if number else permuted
        entries, selected = _entries(data, matrix, folds, spec, step_progress, null)
        rounds.append(entries)
        chosen += selected.chosen
    return _stacked_entries(rounds), chosen


def _by_columns(
    data: ProbeData,
    entries: Mapping[str, Entry],
    best: str,
    fold_of: NDArray[np.int64],
    spec: SweepSpec,
) -> tuple[dict[str, ColumnResult], Mapping[str, WithinKinds], tuple[WithinGap, ...]]:
    """Return the results by columns of the table, and within categories."""
    risks = {name: entries[name].risk for name in ("selected", best, JOINT, JOINT_AND_PROBE)}
    pairs = [("selected", JOINT), ("selected", best), (JOINT_AND_PROBE, JOINT)]
    options = {"draws": spec.draws, "seed": spec.seed}
    columns = by_column(data, risks, pairs, fold_of, **options)
    if "category" in columns:
        return columns, columns["category"].within, columns["category"].gaps
    return columns, *within_category(data, risks, pairs, fold_of, **options)


def _in_repeat(progress: Progress, number: int, repeats: int) -> Progress:
    """Return a progress callback that adds the number of the repeat, if there are several."""
    if repeats == 1:
        return progress
    return lambda doing: progress(f"repeat {number + 1} of {repeats}, {doing}")


def _stacked_entries(rounds: Sequence[Mapping[str, Entry]]) -> dict[str, Entry]:
    """Return every entry with its risks of all repeats, ``[R, N]``, and the penalties of all."""
    found = {}
    for name, entry in rounds[0].items():
        risk = np.stack([entries[name].risk for entries in rounds])
        chosen = [entries[name].chosen_c or () for entries in rounds]
        strengths = None if entry.chosen_c is None else tuple(np.concatenate(chosen).tolist())
        found[name] = replace(entry, risk=risk, chosen_c=strengths)
    return found


def _recognition(
    data: ProbeData, matrix: Matrix, permuted: Permutations, name: str
) -> Recognition | None:
    """Return whether the selected layer's probe recognises images in other groups.

    Similar groups are searched by the selected vectors, and by the image's own vectors if there are
    any; the result with more permutations above chance is returned.
    """
    by_name = {vector_path(*where): where for where in data.layer_keys}
    selected = matrix(*by_name[name])
    found = [permuted.recognition(selected)]
    of_image = [where for where in data.layer_keys if where[0] in IMAGE_REPRESENTATIONS]
    if of_image and of_image[0] != by_name[name]:
        found.append(permuted.recognition(selected, matrix(*of_image[0])))
    return max((each for each in found if each), key=lambda each: each.above, default=None)


def _entries(
    data: ProbeData,
    matrix: Matrix,
    folds: Sequence[Fold],
    spec: SweepSpec,
    progress: Progress,
    permuted: Permutations | None,
) -> tuple[dict[str, Entry], Selected]:
    """Return every baseline, probe and combination with its risks, and the selected layers."""
    progress("baselines")
    known = {}
    entries = {}
    for baseline, raw in baseline_fits(data.baseline_inputs, data.truth, folds):
        known[baseline.name] = calibrated(raw, data.truth, folds)
        risk = known[baseline.name].risk
        entries[baseline.name] = Entry(baseline.title, "baseline", risk, baseline.known)
    before: dict[str, CrossFit] = {}
    for name, entry, fit in _probes(matrix, data, folds, spec, progress, permuted):
        entries[name] = entry
        if fit is not None and entry.known == "before":
            before[name] = fit
    chosen = crossfit_select(before, folds)
    entries["selected"] = Entry("best layer, chosen inside training", "selected", chosen.risk)
    combined = combine(before, data.truth, folds, grid=(1.0,))
    entries["combined"] = Entry("all layers together", "combined", combined.risk)
    both = combine({JOINT: known[JOINT], "selected": chosen}, data.truth, folds)
    title = "everything known before the answer, and the best layer"
    entries[JOINT_AND_PROBE] = Entry(title, "combined", both.risk)
    return entries, chosen


def vectors(
    source: Source, data: ProbeData, representation: str, layer: int | None
) -> NDArray[np.float32]:
    """Return the vectors of the probed rows, ``[N, D]``."""
    matrix = source.matrix(representation, layer)
    return matrix if len(data.rows) == len(matrix) else matrix[data.rows]


def layer_title(representation: str, layer: int | None) -> str:
    """Return a representation and layer as readable text.

    >>> layer_title("query_token_representation", 9)
    'query token, layer 9'
    """
    words = representation.removesuffix("_representation").replace("_", " ")
    return words if layer is None else f"{words}, layer {layer}"


def known_of(representation: str) -> Known:
    """Return whether a representation is known before or only after the answer is written."""
    return "after" if representation in AFTER else "before"


def _joined(source: Source, labels: LabelTable | str | None, copies: str) -> ProbeData:
    """Return the data: a run with its own labels, or HALP files with the given ones."""
    table = labels if isinstance(labels, LabelTable) else None
    check_labels(source.path, run=isinstance(source, Run), labelled=table is not None)
    if isinstance(source, HalpFiles) and table is not None:
        return research_data(source, table, copies)
    if isinstance(source, Run):
        if not isinstance(labels, str | None):
            raise InputError(
                f"labels is {shortened(repr(labels))}, expected the name of a label set"
            )
        return probe_data(source, copies, labels=labels or DEFAULT)
    raise TypeError(f"a {type(source).__name__} has no labels that vlmscope can read")


def _probes(
    read: Matrix,
    data: ProbeData,
    folds: Sequence[Fold],
    spec: SweepSpec,
    progress: Progress,
    permuted: Permutations | None,
) -> Iterator[tuple[str, Entry, CrossFit | None]]:
    """Yield every probe's name, risk and, for a logistic one, what the selection needs."""
    others = {"mean-difference": MeanDifferenceProbe, "mlp": MlpProbe}
    for representation, layer in data.layer_keys:
        name = vector_path(representation, layer)
        progress(name)
        matrix = read(representation, layer)
        common = (known_of(representation), representation, layer)
        raw = crossfit_logistic(matrix, data.truth, folds, data.groups)
        fit = calibrated(raw, data.truth, folds)
        title = layer_title(representation, layer)
        strengths = tuple(fit.chosen_c.tolist())
        if permuted is not None and known_of(representation) == "before":
            permuted.add(name, matrix)
        entry = Entry(title, "probe", fit.risk, *common, "logistic", chosen_c=strengths)
        yield name, entry, fit
        for estimator in dict.fromkeys(spec.estimators):
            if estimator in others:
                risk = crossfit_estimator(
                    others[estimator](), matrix, data.truth, folds, data.groups
                )
                entry = Entry(f"{title}, {estimator}", "probe", risk, *common, estimator)
                yield f"{name} {estimator}", entry, None
