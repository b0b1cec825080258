"""The ROC curve: what every threshold of an alarm would find, and what it would cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_curve  # type: ignore[import-untyped,unused-ignore]

from vlmscope.metrics.answers import Flags, Floats, answers, strata


@dataclass(frozen=True, slots=True, eq=False)
class RocCurve:
    """Recall against false alarms, from no alarm to an alarm for every answer.

    All arrays have one element a threshold, of shape ``(threshold,)``. Thresholds between two
    points of a straight piece are left out: they change neither the line nor the area under it.
    """

    false_alarms: Floats
    """Share of the faithful answers that are flagged, from 0 to 1, never falling."""
    recall: Floats
    """Share of the hallucinated answers that are flagged, from 0 to 1, never falling."""
    threshold: Floats
    """Flagged are the answers of at least this risk; falling, from infinity, which flags none.
    NaN over folds: each has a threshold of its own."""


def roc(truth: ArrayLike, risk: ArrayLike, folds: ArrayLike | None = None) -> RocCurve:
    """Return the ROC curve of a risk. Answers of equal risk are flagged together.

    With ``folds``, the recall is the mean of the folds' own at each share of false alarms, weighted
    by their pairs: the area under it is the ``auroc`` that ``measure`` returns.

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        risk: Numbers from 0 to 1, one an answer.
        folds: The fold of each answer: anything that can be sorted.

    Raises:
        ValueError: The arrays are wrong, or hold one class only.

    >>> curve = roc([False, False, True, True], [0.1, 0.4, 0.4, 0.8])
    >>> curve.false_alarms.tolist(), curve.recall.tolist(), curve.threshold.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0], [inf, 0.8, 0.4, 0.1])
    """
    flags, risks = answers(truth, risk)
    stratum = strata(flags.size, folds)
    hits, alarms = np.bincount(stratum, weights=flags), np.bincount(stratum, weights=~flags)
    kept = np.flatnonzero(hits * alarms)
    if not kept.size:
        raise ValueError(
            f"a ROC curve needs both classes, found {int(hits.sum())} hallucinated "
            f"and {int(alarms.sum())} faithful answers"
            + (" and no fold with both" if len(hits) > 1 else "")
        )
    if len(kept) == 1:
        own = stratum == kept[0]
        return _curve(flags[own], risks[own])
    curves = [_curve(flags[stratum == number], risks[stratum == number]) for number in kept]
    grid = np.unique(np.concatenate([curve.false_alarms for curve in curves]))
    recall = np.average(
        [_ends(curve, grid) for curve in curves], axis=0, weights=(hits * alarms)[kept]
    )
    return RocCurve(np.repeat(grid, 2), recall.ravel(), np.full(2 * grid.size, np.nan))


def _curve(truth: Flags, risk: Floats) -> RocCurve:
    false_alarms, recall, threshold = roc_curve(truth, risk)
    return RocCurve(*(np.asarray(part, np.float64) for part in (false_alarms, recall, threshold)))


def _ends(curve: RocCurve, grid: Floats) -> Floats:
    """Return the recall at both ends of the step at each share of false alarms, ``(share, 2)``."""
    along, up = curve.false_alarms, curve.recall
    # np.interp is exact where a share stands once: a step's ends are told apart by hand.
    first, last = np.searchsorted(along, grid), np.searchsorted(along, grid, side="right") - 1
    between = np.interp(grid, along, up)
    step = along[np.minimum(first, along.size - 1)] == grid
    low = np.where(step, up[np.minimum(first, along.size - 1)], between)
    high = np.where(step, up[np.maximum(last, 0)], between)
    return np.stack([low, high], axis=1)
