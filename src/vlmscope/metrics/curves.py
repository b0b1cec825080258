"""ROC curves (recall against false positive rate) and risk-coverage curves.

Risk-coverage curves measure selective answering: abstaining from the riskiest 10% lowers the
hallucination rate from a to b. Answers of equal risk have no defined order, so all numbers are
expectations over their orders; the order of the rows never matters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_curve  # type: ignore[import-untyped,unused-ignore]

from vlmscope.metrics.answers import Flags, Floats, Numbers, answers, integer_part, strata


@dataclass(frozen=True, slots=True, eq=False)
class RocCurve:
    """Recall against false positive rate, from flagging no answer to flagging all.

    All arrays have one element a threshold, of shape ``(threshold,)``. Thresholds between two
    points of a straight segment are left out: they change neither the line nor the area under it.
    """

    false_positive_rate: Floats
    """Share of the faithful answers that are flagged, from 0 to 1, non-decreasing."""
    recall: Floats
    """Share of the hallucinated answers that are flagged, from 0 to 1, non-decreasing."""
    threshold: Floats
    """Answers of at least this risk are flagged; decreasing, from infinity, which flags none. NaN
    over folds, as each has its own threshold.
    """


def roc(truth: ArrayLike, risk: ArrayLike, folds: ArrayLike | None = None) -> RocCurve:
    """Return the ROC curve of a risk. Answers of equal risk are flagged together.

    With ``folds``, the recall is the mean over folds at each false positive rate, weighted by their
    pairs: the area under it is the ``auroc`` that ``measure`` returns.

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        risk: Numbers from 0 to 1, one an answer.
        folds: The fold of each answer: anything that can be sorted.

    Raises:
        ValueError: The arrays are wrong, or hold one class only.

    >>> curve = roc([False, False, True, True], [0.1, 0.4, 0.4, 0.8])
    >>> curve.false_positive_rate.tolist(), curve.recall.tolist(), curve.threshold.tolist()
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
    grid = np.unique(np.concatenate([curve.false_positive_rate for curve in curves]))
    recall = np.average(
        [_ends(curve, grid) for curve in curves], axis=0, weights=(hits * alarms)[kept]
    )
    return RocCurve(np.repeat(grid, 2), recall.ravel(), np.full(2 * grid.size, np.nan))


def _curve(truth: Flags, risk: Floats) -> RocCurve:
    false_positive_rate, recall, threshold = roc_curve(truth, risk)
    return RocCurve(
        *(np.asarray(part, np.float64) for part in (false_positive_rate, recall, threshold))
    )


def _ends(curve: RocCurve, grid: Floats) -> Floats:
    """Return the recall at both ends of the step at each false positive rate, ``(share, 2)``."""
    rate, recall = curve.false_positive_rate, curve.recall
    # np.interp is exact where a share occurs once: the two ends of a step are handled here.
    first, last = np.searchsorted(rate, grid), np.searchsorted(rate, grid, side="right") - 1
    between = np.interp(grid, rate, recall)
    step = rate[np.minimum(first, rate.size - 1)] == grid
    low = np.where(step, recall[np.minimum(first, rate.size - 1)], between)
    high = np.where(step, recall[np.maximum(last, 0)], between)
    return np.stack([low, high], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class RiskCoverage:
    """Hallucination rate against the share of questions answered, safest first."""

    coverage: Floats
    """Share answered: 1/n, 2/n, … 1, shape ``(answer,)``."""
    rate: Floats
    """Expected hallucination rate of the answered ones, shape ``(answer,)``."""
    aurc: float
    """Area under the curve: the mean of ``rate``. Lower is better; chance is the prevalence."""
    optimal_aurc: float
    """The smallest area possible at this prevalence."""

    @property
    def excess(self) -> float:
        """Area above the smallest possible one (Geifman, Uziel and El-Yaniv, 2019); 0 is best."""
        return self.aurc - self.optimal_aurc


def risk_coverage(
    truth: ArrayLike, risk: ArrayLike, folds: ArrayLike | None = None
) -> RiskCoverage:
    """Return the risk-coverage curve and its area (Geifman and El-Yaniv, 2017).

    With ``folds``, the same share of every fold is answered, its safest answers: risks of different
    fits are not ranked against each other.

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        risk: Numbers from 0 to 1, one an answer.
        folds: The fold of each answer: anything that can be sorted.

    Raises:
        ValueError: The arrays are empty, of different shapes, or the risk is not within [0, 1].

    >>> curve = risk_coverage([False, False, True, True], [0.1, 0.5, 0.5, 0.9])
    >>> curve.coverage.tolist(), curve.rate.round(3).tolist()
    ([0.25, 0.5, 0.75, 1.0], [0.0, 0.25, 0.333, 0.5])
    """
    flags, risks = answers(truth, risk)
    stratum = strata(flags.size, folds)
    answered = np.arange(1, flags.size + 1)
    rate = _errors(flags, risks, stratum) / answered
    optimal = _errors(flags, flags.astype(np.float64), stratum) / answered
    return RiskCoverage(
        coverage=answered / flags.size,
        rate=rate,
        aurc=float(rate.mean()),
        optimal_aurc=float(optimal.mean()),
    )


def abstain(
    truth: ArrayLike, risk: ArrayLike, share: float, folds: ArrayLike | None = None
) -> tuple[float, float]:
    """Return the hallucination rate before and after leaving out the riskiest answers.

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        risk: Numbers from 0 to 1, one an answer.
        share: Share of the answers to leave out, from 0 to below 1; rounded down to whole answers.
        folds: The fold of each answer: the same share of every fold is left out.

    Raises:
        ValueError: The arrays are wrong, or the share is out of range.

    >>> abstain([False, False, False, True], [0.1, 0.2, 0.3, 0.9], 0.25)
    (0.25, 0.0)
    """
    flags, risks = answers(truth, risk)
    if not 0 <= share < 1:
        raise ValueError(f"share must be from 0 to below 1, found {share}")
    kept = max(1, flags.size - integer_part(share, flags.size))
    errors = _errors(flags, risks, strata(flags.size, folds))
    return float(flags.mean()), float(errors[kept - 1] / kept)


def _errors(truth: Flags, risk: Floats, stratum: Numbers) -> Floats:
    """Return the expected number of hallucinations among the k safest answers, k from 1.

    Within answers of equal risk the expectation grows linearly, in any order. The same share of
    each stratum is answered, k times its share of all answers.
    """
    answered = np.arange(1, truth.size + 1)
    errors = np.zeros(truth.size)
    for number in range(int(stratum.max()) + 1):
        own = stratum == number
        _, group, size = np.unique(risk[own], return_inverse=True, return_counts=True)
        ends = np.concatenate([[0], np.cumsum(size)])
        below = np.concatenate([[0], np.cumsum(np.bincount(group, weights=truth[own]))])
        errors += np.interp(answered * (own.sum() / truth.size), ends, below)
    return errors
