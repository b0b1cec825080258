"""From risks to results: the metrics, their intervals, and the tests against the baselines.

Everything that ranks answers compares those of one fold only: see ``metrics.measure``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlmscope.metrics import (
    Difference,
    Metrics,
    Resamples,
    WithinKinds,
    constant_pairs,
    resample,
    resample_within,
    share_of_pairs,
)
from vlmscope.metrics.weighted import NAMES
from vlmscope.probe.baselines import JOINT
from vlmscope.probing.data import ProbeData
from vlmscope.probing.results import ProbeResult, ResultKind, WithinGap

QUESTION_ONLY = "question_words"
"""The baseline that a probe must beat to have learnt more than the question gives away."""

JOINT_AND_PROBE = "joint_and_probe"
"""The joint baseline with the selected probe beside it."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A risk on its way to becoming a result; the fields are those of ``ProbeResult``."""

    title: str
    kind: ResultKind
    risk: NDArray[np.float64]
    known: Literal["before", "after"] = "before"
    representation: str | None = None
    layer: int | None = None
    estimator: str | None = None
    truth: NDArray[np.bool_] | None = None
    """Of a control: the labels that it was trained and is judged on."""
    fold_of: NDArray[np.int64] | None = None
    """Of a control: its own folds."""
    chosen_c: tuple[float, ...] | None = None
    """Of a logistic probe: the penalty chosen in each fold."""


def judge(
    entries: Mapping[str, Entry],
    data: ProbeData,
    fold_of: NDArray[np.int64],
    *,
    draws: int,
    seed: int,
) -> tuple[tuple[ProbeResult, ...], str]:
    """Return a result for each entry, and the name of the best single baseline known in time.

    Args:
        entries: Name → risk.
        data: Truth and images of the rows.
        fold_of: Fold in which each row is judged.
        draws: Resamples of the images.
        seed: Decides them.
    """
    plain = {name: entry.risk for name, entry in entries.items() if entry.truth is None}
    drawn = resample(data.truth, plain, data.groups, fold_of, draws=draws, seed=seed, correct=True)
    best = _best_baseline(entries, drawn)

    def result(name: str, entry: Entry) -> ProbeResult:
        truth = data.truth if entry.truth is None else entry.truth
        folds = fold_of if entry.fold_of is None else entry.fold_of
        own = drawn
        if entry.truth is not None:
            own = resample(
                truth, {name: entry.risk}, data.groups, folds, draws=draws, seed=seed, correct=True
            )
        against = _difference(drawn, entry, name, best)
        return ProbeResult(
            name=name,
            title=entry.title,
            kind=entry.kind,
            known=entry.known,
            representation=entry.representation,
            layer=entry.layer,
            estimator=entry.estimator,
            metrics=Metrics(**own.whole[name], count=len(truth)),
            intervals={metric: own.interval(name, metric) for metric in NAMES},
            against=against,
            over_question=against
            if best == QUESTION_ONLY
            else _difference(drawn, entry, name, QUESTION_ONLY),
            over_joint=_difference(drawn, entry, name, JOINT) if JOINT in entries else None,
            constant=constant_pairs(truth, entry.risk, folds),
            chosen_c=entry.chosen_c,
        )

    return tuple(result(name, entry) for name, entry in entries.items()), best


def _difference(drawn: Resamples, entry: Entry, name: str, other: str) -> Difference | None:
    """Return what a probe's AUROC is above another's; baselines and controls are not compared."""
    return None if entry.kind in ("baseline", "control") else drawn.difference(name, other)


def _best_baseline(entries: Mapping[str, Entry], drawn: Resamples) -> str:
    """Return the single baseline known before the answer with the highest AUROC."""
    return max(
        (name for name, entry in entries.items() if _is_baseline_before(entry) and name != JOINT),
        key=lambda name: drawn.whole[name]["auroc"],
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
    """Return how well risks order answers of one category and fold, and their differences.

    Args:
        data: Truth, images and categories of the rows.
        risks: By name, the risks to measure.
        pairs: Names of a risk and of the one that it is compared with.
        fold_of: Fold in which each row is judged.
        draws: Resamples of the images.
        seed: Decides them.
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
    """Return how well risks order answers of one value of a column and one fold: see above.

    Rows without a value are no kind, and left out. Both are empty where there are no two values, or
    no value with both outcomes in a fold.

    Args:
        cells: The value of each row, empty where it has none; or nothing at all.
        data: As for ``within_category``, like the others.
        risks: By name, the risks to measure.
        pairs: Names of a risk and of the one that it is compared with.
        fold_of: Fold in which each row is judged.
        draws: Resamples of the images.
        seed: Decides them.
    """
    named = np.array([bool(name) for name in cells], dtype=bool)
    kinds = np.array(cells)[named]
    if len(np.unique(kinds)) < 2 or len(np.unique(data.groups[named])) < 2:
        return {}, ()
    truth, folds = data.truth[named], fold_of[named]
    share = share_of_pairs(truth, kinds, folds)
    if not share > 0:
        return {}, ()
    kept = {name: risk[named] for name, risk in risks.items()}
    found = resample_within(
        truth, kept, kinds, data.groups[named], folds, draws=draws, seed=seed, correct=True
    )
    return (
        {
            name: WithinKinds(found.whole[name]["auroc"], found.interval(name), share)
            for name in risks
        },
        tuple(WithinGap(one, other, found.difference(one, other)) for one, other in pairs),
    )
