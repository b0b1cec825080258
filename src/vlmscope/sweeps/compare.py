"""Comparison of labelled runs of the same questions: models, prompts or settings.

A probe that was trained on more answers is better for that alone, and other folds give another
AUROC. Then the difference of two AUROCs is given without a test.

Runs are paired by question: an id matches if question and image are the same too. Differences are
to the first run, with intervals over the images that both share. Runs are only read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmscope.errors import InputError, StoreError, UnreachableError
from vlmscope.metrics import (
    LabelledRisk,
    holm,
    rate,
    rate_difference,
    resample_sides,
    widened,
)
from vlmscope.probes import image_groups
from vlmscope.store import AnyRun, Run, as_run, label_settings, read_labels
from vlmscope.sweeps.grouping import content_groups
from vlmscope.sweeps.load import SavedSweep, read_sweep
from vlmscope.sweeps.source import check_seed

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]


MOST_MORE = 0.10
"""Relative difference allowed between the numbers of training answers of two probes."""

TRAINED_APART = 1.2
"""Factor of the error of the difference of two probes, each trained on labels of its own.

Resamples keep the fits fixed, but other answers to train on give other directions. Of simulated
pairs of models whose probes are equally good in truth, 13% differed significantly without it at an
AUROC of 0.65 (60 images of 5 answers), and 6% at 0.8 (80 images of 3); with it, 6% and 3%.
"""

_SETTINGS: Mapping[str, str] = {
    "repeats": "splits into folds",
    "folds": "folds",
    "group_by": "group-by",
    "copies": "copies",
    "estimators": "estimators",
}
"""Settings of a sweep that affect the AUROC of its selected probe, and their names in messages."""


def differences(one: SavedSweep, other: SavedSweep) -> Iterator[str]:
    """Yield the differences between two sweeps, as phrases with both values.

    Settings that a summary lacks are not compared.

    Args:
        one: The sweep mentioned first.
        other: The one to compare it with.
    """
    here, there = training_size(one), training_size(other)
    if max(here, there) > (1 + MOST_MORE) * min(here, there):
        yield f"trained on {here:,} answers and {there:,}"
    for name, title in _SETTINGS.items():
        values = [sweep.summary["settings"].get(name) for sweep in (one, other)]
        if None not in values and values[0] != values[1]:
            yield f"{title} {_shown(values[0])} and {_shown(values[1])}"
    if one.label_set != other.label_set:
        yield f"label set {one.label_set} and {other.label_set}"
    reads = [_representations(sweep) for sweep in (one, other)]
    if reads[0] != reads[1]:
        yield f"layers chosen from {_listed(reads[0])} and {_listed(reads[1])}"


def training_size(sweep: SavedSweep) -> int:
    """Return the mean number of training answers in a fold of the first split."""
    folds = len(np.unique(sweep.folds))
    return round(len(sweep.predictions) * (folds - 1) / folds)


def _representations(sweep: SavedSweep) -> frozenset[str]:
    """Return the representations that the selected layer was chosen from."""
    return frozenset(
        str(row.representation)
        for row in sweep.results
        if row.kind == "probe" and row.known == "before"
    )


def _listed(names: frozenset[str]) -> str:
    words = (name.removesuffix("_representation").replace("_", " ") for name in names)
    return " + ".join(sorted(words)) or "none"


def _shown(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The results of one run. None for missing numbers."""

    run: str
    run_id: str
    model: str
    dtype: str
    """Data type of the model's computation."""
    labelled_by: str
    """Scorer of the labels, as in ``label --scorer``; empty if unknown."""
    rows: int
    scorable: int
    unscorable: int
    unlabelled: int
    """Rows added after the labelling, or missing from the label file."""
    hallucination_rate: float | None = None
    """Hallucination rate of the scorable rows; accuracy is 1 minus this."""
    hallucination_rate_low: float | None = None
    hallucination_rate_high: float | None = None
    accuracy: float | None = None
    probe_auroc: float | None = None
    """Out-of-fold AUROC of the layer chosen inside training, from the saved sweep."""
    probe_auroc_low: float | None = None
    probe_auroc_high: float | None = None
    above_joint: float | None = None
    """That AUROC minus that of the joint baseline."""
    above_joint_low: float | None = None
    above_joint_high: float | None = None
    probe_note: str = ""
    """Why there are no results of a probe."""


@dataclass(frozen=True, slots=True)
class PairSummary:
    """One run compared with the first, on their common questions."""

    run_id: str
    common: int
    """Number of ids in both runs."""
    other_questions: int
    """Of these, ids with a different question or image, which are left out."""
    compared: int
    """Of the others, those scorable in both."""
    both_right: int = 0
    only_first_right: int = 0
    only_this_right: int = 0
    both_wrong: int = 0
    difference: float | None = None
    """Hallucination rate minus that of the first run."""
    difference_low: float | None = None
    difference_high: float | None = None
    difference_p: float | None = None
    difference_p_holm: float | None = None
    """P-value corrected for the number of runs compared with the first (Holm)."""
    probe_compared: int = 0
    """Number of questions predicted by the saved probes of both runs."""
    probe_difference: float | None = None
    """AUROC of the selected probe minus that of the first run, on these, each on its own labels."""
    probe_not_alike: str = ""
    """How the probes or their labels differ in settings, this run first; if they do, the difference
    has no p-value.
    """
    probe_difference_low: float | None = None
    probe_difference_high: float | None = None
    probe_difference_p: float | None = None
    probe_difference_p_holm: float | None = None
    pair_note: str = ""
    """Why there is no difference of probes."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several runs, each compared with the first."""

    runs: tuple[RunSummary, ...]
    pairs: tuple[PairSummary, ...]
    """One for each run but the first, in order."""

    def rows(self) -> list[dict[str, Any]]:
        """Return a flat dictionary for each run; comparisons are None for the first."""
        blank = {field.name: None for field in fields(PairSummary)}
        paired = [blank, *map(asdict, self.pairs)]
        return [{**pair, **asdict(run)} for run, pair in zip(self.runs, paired, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A run with its labels, questions and saved sweep."""

    run: Run
    table: pd.DataFrame
    verdicts: dict[str, bool | None]
    sweep: SavedSweep | None
    note: str


_FIRST = (
    "run", "model", "compared", "accuracy", "difference", "difference_low", "difference_high",
    "difference_p_holm",
)  # fmt: skip
"""Columns of ``compare`` that come first: what is compared, on how many, and what differs."""


def compare(*runs: AnyRun, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Return a table with a row for each of several labelled runs; see ``compare_runs``.

    The first columns are the most important: ``compared`` questions that both runs have labelled,
    each run's ``accuracy``, and the ``difference`` of its hallucination rate from the first run's
    with its interval and p-value. Comparisons with the first run are missing in the first row.

    Args:
        *runs: Two or more runs, or their folders.
        draws: Resamples of the images.
        seed: Decides them.
    """
    import pandas as pd

    found = pd.DataFrame(compare_runs(runs, draws=draws, seed=seed).rows())
    names = [field.name for kind in (RunSummary, PairSummary) for field in fields(kind)]
    return found[list(dict.fromkeys((*_FIRST, *names)))]


def compare_runs(runs: Iterable[AnyRun], *, draws: int = 2000, seed: int = 0) -> Comparison:
    """Compare labelled runs with the first of them.

    Raises:
        InputError: Fewer than two runs, the same one twice, one without rows or labels, or an
            invalid seed.
    """
    check_seed(seed)
    opened = [as_run(each) for each in runs]
    if len(opened) < 2:
        raise InputError(f"compare: {len(opened)} run given; give two or more")
    seen: dict[str, Run] = {}
    for run in opened:
        if (twin := seen.get(run.manifest.run_id)) is not None:
            raise InputError(f"{run.path}: is the same run as {twin.path}; give each once")
        if not len(run):
            raise InputError(f"{run.path}: has no rows to compare; run vlmscope extract again")
        seen[run.manifest.run_id] = run
    read = [_read(run) for run in opened]
    first = read[0]
    summaries = tuple(_summary(each, draws=draws, seed=seed) for each in read)
    pairs = [_pair(first, each, draws=draws, seed=seed) for each in read[1:]]
    return Comparison(summaries, tuple(_corrected(pairs)))


def _read(run: Run) -> _Opened:
    """Return a run with its labels, questions and saved sweep."""
    labels = read_labels(run.path)
    verdicts = {
        id_: labels[id_].hallucinated for id_ in run.ids if id_ in labels and labels[id_].labelled
    }
    try:
        sweep = read_sweep(run)
    except UnreachableError:
        raise
    except StoreError as error:
        return _Opened(run, run.to_pandas(thumbnails=True), verdicts, None, str(error))
    note = ""
    if sweep is None:
        note = "no probes yet"
    elif sweep.stale:
        note = f"the saved probes are left out, {sweep.stale}"
    return _Opened(run, run.to_pandas(thumbnails=True), verdicts, None if note else sweep, note)


def _summary(each: _Opened, *, draws: int, seed: int) -> RunSummary:
    """Return the results of one run."""
    known = [each.verdicts.get(id_) for id_ in each.run.ids]
    scorable = np.flatnonzero([verdict is not None for verdict in known])
    labelled = len(each.verdicts)
    summary = RunSummary(
        run=str(each.run.path),
        run_id=each.run.manifest.run_id,
        model=each.run.manifest.model.name,
        dtype=each.run.manifest.dtype,
        labelled_by=_labelled_by(each.run),
        rows=len(known),
        scorable=len(scorable),
        unscorable=labelled - len(scorable),
        unlabelled=len(known) - labelled,
        probe_note=each.note,
    )
    groups = content_groups([each.table.iloc[scorable]])[0] if len(scorable) else np.empty(0)
    if len(np.unique(groups)) > 1:
        flags = np.array([bool(known[i]) for i in scorable])
        found = rate(flags, groups, draws=draws, seed=seed)
        summary = replace(
            summary,
            hallucination_rate=found.value,
            hallucination_rate_low=found.interval.low,
            hallucination_rate_high=found.interval.high,
            accuracy=1 - found.value,
        )
    return _with_probe(summary, each.sweep)


def _labelled_by(run: Run) -> str:
    """Return the scorer of a run's labels."""
    settings = label_settings(run.path).get("settings")
    return str(settings.get("scorer", "")) if isinstance(settings, Mapping) else ""


def _with_probe(summary: RunSummary, sweep: SavedSweep | None) -> RunSummary:
    """Add the results of the selected probe from the saved sweep."""
    if sweep is None:
        return summary
    selected = sweep["selected"]
    if selected.found_nothing:
        return replace(summary, probe_note="the probe has a constant risk")
    return replace(
        summary,
        probe_auroc=_number(selected.auroc),
        probe_auroc_low=_number(selected.auroc_low),
        probe_auroc_high=_number(selected.auroc_high),
        above_joint=_number(selected.above_joint),
        above_joint_low=_number(selected.above_joint_low),
        above_joint_high=_number(selected.above_joint_high),
    )


def _number(value: float | None) -> float | None:
    """Return a number, or None for NaN."""
    return None if value is None or value != value else value


def _pair(first: _Opened, other: _Opened, *, draws: int, seed: int) -> PairSummary:
    """Return the comparison of one run with the first."""
    ids, here, same = _common(first, other)
    verdicts = [(first.verdicts.get(id_), other.verdicts.get(id_)) for id_ in same]
    kept = [n for n, both in enumerate(verdicts) if None not in both]
    one, two = (np.array([verdicts[n][side] for n in kept], dtype=bool) for side in (0, 1))
    pair = PairSummary(
        run_id=other.run.manifest.run_id,
        common=ids,
        other_questions=ids - len(same),
        compared=len(kept),
        both_right=int((~one & ~two).sum()),
        only_first_right=int((~one & two).sum()),
        only_this_right=int((one & ~two).sum()),
        both_wrong=int((one & two).sum()),
    )
    groups = content_groups([first.table.iloc[here]])[0] if same else np.empty(0, dtype=np.int64)
    if len(np.unique(groups[kept])) > 1:
        gap = rate_difference(two, one, groups[kept], draws=draws, seed=seed)
        pair = replace(
            pair,
            difference=gap.value,
            difference_low=gap.interval.low,
            difference_high=gap.interval.high,
            difference_p=gap.p_value,
        )
    by_id = dict(zip(same, groups.tolist(), strict=True))
    return _with_probes(pair, first, other, by_id, draws=draws, seed=seed)


def _common(first: _Opened, other: _Opened) -> tuple[int, list[int], list[str]]:
    """Return the number of common ids, and the rows and ids of equal questions."""
    columns = ("question", "image_sha256")
    there = {
        id_: tuple(each)
        for id_, *each in zip(other.run.ids, *(other.table[c] for c in columns), strict=True)
    }
    rows = [
        (row, id_, tuple(each) == there[id_])
        for row, (id_, *each) in enumerate(
            zip(first.run.ids, *(first.table[c] for c in columns), strict=True)
        )
        if id_ in there
    ]
    same = [(row, id_) for row, id_, agrees in rows if agrees]
    return len(rows), [row for row, _ in same], [id_ for _, id_ in same]


def _with_probes(
    pair: PairSummary,
    first: _Opened,
    other: _Opened,
    groups: Mapping[str, int],
    *,
    draws: int,
    seed: int,
) -> PairSummary:
    """Add the difference of the selected probes on the questions predicted by both.

    Each is evaluated on the labels of its own model, so the pairs of answers differ. Both are
    resampled by the same images, which makes the interval of their difference valid.
    """
    if first.sweep is None or other.sweep is None:
        return replace(pair, pair_note=first.note or other.note)
    if any(sweep["selected"].found_nothing for sweep in (first.sweep, other.sweep)):
        return replace(pair, pair_note="a probe has a constant risk")
    both = (first.sweep, other.sweep)
    ids = _predicted_by_both(*both, groups)
    pair = replace(pair, probe_compared=len(ids))
    joined = _joined(ids, groups, both)
    if len(set(joined.values())) < 2:
        return replace(pair, pair_note="the probes predicted no common questions")
    sides = {
        name: _side(sweep, joined) for name, sweep in zip(("first", "this"), both, strict=True)
    }
    drawn = resample_sides(sides, draws=draws, seed=seed, metrics=("auroc",), correct=True)
    gap = widened(drawn.difference("this", "first"), TRAINED_APART)
    if not np.isfinite([gap.value, gap.interval.low, gap.interval.high, gap.p_value]).all():
        return replace(pair, pair_note="too few answers of both kinds in common")
    differ = "; ".join(_differences(first, other))
    return replace(
        pair,
        probe_difference=gap.value,
        probe_difference_low=gap.interval.low,
        probe_difference_high=gap.interval.high,
        probe_difference_p=None if differ else gap.p_value,
        probe_not_alike=differ,
    )


def _differences(first: _Opened, other: _Opened) -> Iterator[str]:
    """Yield how the probes of two runs differ in settings or labels."""
    if first.sweep is not None and other.sweep is not None:
        yield from differences(other.sweep, first.sweep)
    scorers = [_labelled_by(each.run) for each in (other, first)]
    if all(scorers) and scorers[0] != scorers[1]:
        yield f"labels by {scorers[0]} and {scorers[1]}"


def _predicted_by_both(one: SavedSweep, other: SavedSweep, known: Mapping[str, int]) -> list[str]:
    """Return the questions predicted by two sweeps, of those that are equal in both."""
    there = set(other.predictions["id"])
    return [id_ for id_ in one.predictions["id"] if id_ in there and id_ in known]


def _side(sweep: SavedSweep, joined: Mapping[str, int]) -> LabelledRisk:
    """Return the selected probe of a sweep on some questions, in all its repeats."""
    rows = sweep.stacked("selected")
    numbers = np.array([joined.get(id_, -1) for id_ in sweep.predictions["id"]], dtype=np.int64)
    groups = np.tile(numbers, len(rows.truth) // len(numbers))
    kept = groups >= 0
    return LabelledRisk(
        rows.truth[kept], rows.risks["selected"][kept], rows.folds[kept], groups[kept]
    )


def _joined(
    ids: Sequence[str], groups: Mapping[str, int], sweeps: Iterable[SavedSweep]
) -> dict[str, int]:
    """Return a group for each question, joining what images or either sweep keep together."""
    names: list[list[str]] = [[f"image {groups[id_]}"] for id_ in ids]
    for side, sweep in enumerate(sweeps):
        own = dict(zip(sweep.predictions["id"], sweep.groups.tolist(), strict=True))
        for id_, each in zip(ids, names, strict=True):
            each.append(f"{side} {own[id_]}")
    return dict(zip(ids, image_groups(names).tolist(), strict=True))


def _corrected(pairs: Sequence[PairSummary]) -> Iterator[PairSummary]:
    """Yield the pairs with p-values corrected for their number."""
    found = list(pairs)
    rates = _holm([pair.difference_p for pair in found])
    probes = _holm([pair.probe_difference_p for pair in found])
    for pair, one, two in zip(found, rates, probes, strict=True):
        yield replace(pair, difference_p_holm=one, probe_difference_p_holm=two)


def _holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct the p-values that are not None."""
    corrected = iter(holm([value for value in p_values if value is not None]))
    return [None if value is None else next(corrected) for value in p_values]
