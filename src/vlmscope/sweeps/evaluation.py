"""Evaluation of risks: metrics, their intervals, and tests against the baselines.

Rank metrics compare answers of one fold only: see ``metrics.measure``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlmscope.metrics import (
    Difference,
    Resamples,
    WithinKinds,
    constant_pairs,
    holm,
    resample,
    resample_within,
    share_of_pairs,
    simultaneous,
)
from vlmscope.metrics.weighted import NAMES
from vlmscope.probes.baselines import JOINT
from vlmscope.sweeps.data import ProbeData
from vlmscope.sweeps.results import (
    PlannedTest,
    ProbeResult,
    ResultKind,
    WithinGap,
    constant_fields,
    difference_fields,
    grid_edge,
    measured,
)
from vlmscope.sweeps.splitting import Stacked, stacked

QUESTION_ONLY = "question_words"
"""The baseline of the question's words, which a probe must beat to use more than the question."""

JOINT_AND_PROBE = "joint_and_probe"
"""The joint baseline with the selected probe added."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A risk to evaluate; the fields are those of ``ProbeResult``."""

    title: str
    kind: ResultKind
    risk: NDArray[np.float64]
    """The risk: ``[N]`` for one split, ``[R, N]`` for several."""
    known: Literal["before", "after"] = "before"
    representation: str | None = None
    layer: int | None = None
    estimator: str | None = None
    chosen_c: tuple[float, ...] | None = None
    """For a logistic probe: the penalty chosen in each fold."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The evaluated risks."""

    rows: tuple[ProbeResult, ...]
    """A result for each."""
    best_baseline: str
    """Name of the best single baseline known before the answer."""
    differences: Mapping[tuple[str, str], Difference]
    """Names of a probe and of a baseline → AUROC of the one minus that of the other."""


def evaluate(
    entries: Mapping[str, Entry],
    data: ProbeData,
    fold_of: NDArray[np.int64],
    *,
    draws: int,
    seed: int,
) -> Evaluation:
    """Return a result for each entry, compared with the best single baseline and with two others.

    Args:
        entries: Name → risk, ``[R, N]``.
        data: Truth and images of the rows.
        fold_of: Fold in which each row is tested, ``[R, N]``.
        draws: Resamples of the images.
        seed: Seed of the resamples.
    """
    rows = stacked(
        data.truth, data.groups, fold_of, {name: entry.risk for name, entry in entries.items()}
    )
    drawn = _drawn(rows, draws, seed)
    best = _best_baseline(entries, drawn)
    probes = [name for name, entry in entries.items() if entry.kind == "probe"]
    bands = simultaneous(drawn, probes) if probes else {}
    gaps = _differences(entries, drawn, best)

    def result(name: str, entry: Entry) -> ProbeResult:
        planned = entry.kind in ("selected", "combined")
        band = bands.get(name)
        return ProbeResult(
            name=name,
            title=entry.title,
            kind=entry.kind,
            known=entry.known,
            representation=entry.representation,
            layer=entry.layer,
            estimator=entry.estimator,
            **measured(drawn, name, len(data.truth)),
            **constant_fields(constant_pairs(rows.truth, rows.risks[name], rows.folds)),
            chosen_c=entry.chosen_c,
            grid_edge=grid_edge(entry.chosen_c),
            auroc_band_low=None if band is None else band.low,
            auroc_band_high=None if band is None else band.high,
            **difference_fields("above_baseline", gaps.get((name, best)), planned=planned),
            **difference_fields("above_question", gaps.get((name, QUESTION_ONLY)), planned=planned),
            **difference_fields("above_joint", gaps.get((name, JOINT)), planned=planned),
        )

    return Evaluation(tuple(result(name, entry) for name, entry in entries.items()), best, gaps)


def _differences(
    entries: Mapping[str, Entry], drawn: Resamples, best: str
) -> dict[tuple[str, str], Difference]:
    """Return the AUROC difference of every probe to each baseline, computing each pair once."""
    rivals = dict.fromkeys(name for name in (best, QUESTION_ONLY, JOINT) if name in entries)
    return {
        (name, rival): drawn.difference(name, rival)
        for name, entry in entries.items()
        if entry.kind != "baseline"
        for rival in rivals
    }


def _drawn(rows: Stacked, draws: int, seed: int) -> Resamples:
    """Return all metrics on resamples of the images.

    The AUROC is tested and corrected, which needs the far tails; the other metrics' intervals use
    the first quarter of the same draws.
    """
    args = rows.truth, rows.risks, rows.groups, rows.folds
    ranks = resample(*args, draws=draws, seed=seed, metrics=("auroc",), correct=True)
    rest = tuple(name for name in NAMES if name != "auroc")
    others = resample(*args, draws=max(1, draws // 4), seed=seed, metrics=rest)
    return Resamples(
        {name: {**others.observed[name], **ranks.observed[name]} for name in rows.risks},
        {name: {**others.drawn[name], **ranks.drawn[name]} for name in rows.risks},
        ranks.jackknives,
        ranks.images,
        ranks.crossfitted,
    )


def _best_baseline(entries: Mapping[str, Entry], drawn: Resamples) -> str:
    """Return the single baseline known before the answer with the highest AUROC."""
    return max(
        (name for name, entry in entries.items() if _is_baseline_before(entry) and name != JOINT),
        key=lambda name: drawn.observed[name]["auroc"],
    )


def _is_baseline_before(entry: Entry) -> bool:
    return entry.kind == "baseline" and entry.known == "before"


def within_category(
    data: ProbeData,
    risks: Mapping[str, NDArray[np.float64]],
    pairs: Sequence[tuple[str, str]],
    fold_of: NDArray[np.int64],
    *,
    draws: int,
    seed: int,
) -> tuple[dict[str, WithinKinds], tuple[WithinGap, ...]]:
    """Return the AUROC of risks within one category and fold, and their differences.

    Args:
        data: Truth, images and categories of the rows.
        risks: By name, the risks to measure, ``[R, N]``.
        pairs: Names of a risk and of the one to compare it with.
        fold_of: Fold in which each row is tested, ``[R, N]``.
        draws: Resamples of the images.
        seed: Seed of the resamples.
    """
    return within_column(data.categories or (), data, risks, pairs, fold_of, draws=draws, seed=seed)


def within_column(
    cells: Sequence[str],
    data: ProbeData,
    risks: Mapping[str, NDArray[np.float64]],
    pairs: Sequence[tuple[str, str]],
    fold_of: NDArray[np.int64],
    *,
    draws: int,
    seed: int,
) -> tuple[dict[str, WithinKinds], tuple[WithinGap, ...]]:
    """Return the AUROC of risks within one value of a column and one fold, and their differences.

    Rows without a value are left out. Both are empty if there are fewer than two values, or no
    value has both outcomes in a fold.

    Args:
        cells: The value of each row, empty if it has none; or None.
        data: As for ``within_category``, like the others.
        risks: By name, the risks to measure.
        pairs: Names of a risk and of the one to compare it with.
        fold_of: Fold in which each row is tested.
        draws: Resamples of the images.
        seed: Seed of the resamples.
    """
    named = np.array([bool(name) for name in cells], dtype=bool)
    kinds = np.array(cells)[named]
    if len(np.unique(kinds)) < 2 or len(np.unique(data.groups[named])) < 2:
        return {}, ()
    rows = stacked(
        data.truth[named],
        data.groups[named],
        fold_of[:, named],
        {name: risk[:, named] for name, risk in risks.items()},
    )
    kind = np.tile(kinds, len(fold_of))
    share = share_of_pairs(rows.truth, kind, rows.folds) * len(fold_of)
    if not share > 0:
        return {}, ()
    found = resample_within(
        rows.truth, rows.risks, kind, rows.groups, rows.folds,
        draws=draws, seed=seed, correct=True,
    )  # fmt: skip
    return (
        {
            name: WithinKinds(found.observed[name]["auroc"], found.interval(name), share)
            for name in risks
        },
        tuple(WithinGap(one, other, found.difference(one, other)) for one, other in pairs),
    )


def planned_tests(found: Evaluation, gaps: Sequence[WithinGap]) -> tuple[PlannedTest, ...]:
    """Return the comparisons of the verdict, with p-values corrected together (Holm).

    Args:
        found: The results with their differences.
        gaps: Differences within categories.
    """
    pairs = [("selected", JOINT), (JOINT_AND_PROBE, JOINT), ("selected", found.best_baseline)]
    if found.best_baseline != QUESTION_ONLY:
        pairs.append(("selected", QUESTION_ONLY))
    candidates = [(*pair, False, found.differences.get(pair)) for pair in pairs]
    candidates += [
        (each.of, each.over, True, each.gap)
        for each in gaps
        if each.of == "selected" or (each.of, each.over) == (JOINT_AND_PROBE, JOINT)
    ]
    finite = [
        (of, over, within, gap)
        for of, over, within, gap in candidates
        if gap is not None and np.isfinite(gap.p_value)
    ]
    corrected = holm([gap.p_value for *_, gap in finite])
    return tuple(
        PlannedTest(of, over, within, gap, p)
        for (of, over, within, gap), p in zip(finite, corrected, strict=True)
    )
