"""Calibration: reliability curves and errors of a risk, and Platt scaling of a score.

A risk of 0.3 should be a hallucination three times in ten. Rank metrics do not measure that: they
ignore a risk with the right order and the wrong size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, ndtri  # type: ignore[import-untyped,unused-ignore]

from vlmscope.metrics.answers import Floats, answers, scored_answers

BINS = 15
"""Bins of the calibration error, after Guo et al. (2017)."""

_NORMAL_95 = float(ndtri(0.975))


@dataclass(frozen=True, slots=True, eq=False)
class ReliabilityCurve:
    """Predicted against observed share of hallucinations, in bins of ascending risk.

    All arrays but ``bin_of`` have one element a bin.
    """

    mean_risk: Floats
    """Mean risk of the bin: the predicted share."""
    rate: Floats
    """Share of its answers that are hallucinated: the observed share."""
    count: NDArray[np.int64]
    """Answers in the bin."""
    bin_of: NDArray[np.int64]
    """Bin of each answer."""

    @property
    def error(self) -> float:
        """Expected calibration error: distance of predicted and observed share, by answers."""
        return float(np.average(np.abs(self.rate - self.mean_risk), weights=self.count))


def reliability(truth: ArrayLike, risk: ArrayLike, *, bins: int = BINS) -> ReliabilityCurve:
    """Return the reliability curve over bins of equal mass.

    The bin of an answer is given by the middle rank of all answers with its risk: equal risks share
    a bin, whatever their order, and empty bins are left out. Bins have equal mass because risks
    crowd near 0 and bins of equal width would leave most of them in one (Nguyen and O'Connor, 2015,
    "Posterior calibration and exploratory analysis"; Roelofs et al., 2022, find its bias smaller
    too). The error summed over bins is Naeini et al.'s (2015).

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        risk: Numbers from 0 to 1, one an answer.
        bins: Largest number of bins.

    Raises:
        ValueError: The arrays are invalid, or ``bins`` is below 1.

    >>> curve = reliability([False, False, True, True], [0.1, 0.3, 0.6, 0.8], bins=2)
    >>> curve.mean_risk.round(3).tolist(), curve.rate.tolist(), curve.count.tolist()
    ([0.2, 0.7], [0.0, 1.0], [2, 2])
    >>> round(curve.error, 3)
    0.25
    """
    flags, risks = answers(truth, risk)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, found {bins}")
    _, group, size = np.unique(risks, return_inverse=True, return_counts=True)
    twice_middle = 2 * np.cumsum(size) - size
    bin_of = (bins * twice_middle // (2 * risks.size))[group]
    count = np.bincount(bin_of, minlength=bins)
    kept = count > 0
    count = count[kept]
    rate = np.bincount(bin_of, weights=flags, minlength=bins)[kept] / count
    mean = np.bincount(bin_of, weights=risks, minlength=bins)[kept] / count
    return ReliabilityCurve(mean, rate, count, (np.cumsum(kept) - 1)[bin_of])


def wilson(rate: Floats, count: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the ends of Wilson's 95% interval, which stays within [0, 1] at rates of 0 and 1.

    Answers are taken as independent; ``rates.rate`` gives the interval for groups of answers.

    Args:
        rate: Shares, of any shape.
        count: Denominator of each share, of the same shape.
    """
    square = _NORMAL_95**2 / count
    centre = (rate + square / 2) / (1 + square)
    half = np.sqrt(square * (rate * (1 - rate) + square / 4)) / (1 + square)
    # Rounding may put an end of the interval on the wrong side of an extreme rate.
    return np.minimum(np.maximum(centre - half, 0), rate), np.maximum(
        np.minimum(centre + half, 1), rate
    )


@dataclass(frozen=True, slots=True)
class Platt:
    """A sigmoid that maps a score to a risk: ``1 / (1 + exp(-(a * score + b)))``.

    Two parameters rather than an isotonic fit: a validation split has few hallucinations, and a
    sigmoid keeps the order of the scores (while ``a`` is positive) and with it every rank metric.
    """

    a: float
    b: float

    def apply(self, score: ArrayLike) -> Floats:
        """Return the risk of each score, of the same shape, within [0, 1].

        >>> Platt(a=2.0, b=0.0).apply([-1.0, 0.0]).round(3).tolist()
        [0.119, 0.5]
        """
        return np.asarray(expit(self.a * np.asarray(score, dtype=np.float64) + self.b))


def fit_platt(truth: ArrayLike, score: ArrayLike) -> Platt:
    """Fit Platt's sigmoid on answers that the score was not fitted on.

    After Platt (1999), "Probabilistic outputs for support vector machines", whose targets are "
    "moved away from 0 and 1 by the counts of each class, so that classes separated by the score "
    "still get finite parameters; by Newton's method as Lin, Lin and Weng (2007) state it. The signs
    of ``a`` and ``b`` are the opposite of theirs.

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        score: Finite numbers, one an answer; higher is riskier.

    Raises:
        ValueError: The arrays are invalid, or have one class only.

    >>> sigmoid = fit_platt([False, False, True, False, True, True], [-3, -2, -1, 0, 1, 2])
    >>> sigmoid.apply([-3, 2]).round(2).tolist()
    [0.21, 0.79]
    """
    flags, scores = scored_answers(truth, score, "score")
    hallucinated = int(flags.sum())
    faithful = flags.size - hallucinated
    if not hallucinated or not faithful:
        raise ValueError(
            f"a sigmoid needs both classes, found {hallucinated} hallucinated "
            f"and {faithful} faithful answers"
        )
    target = np.where(flags, (hallucinated + 1) / (hallucinated + 2), 1 / (faithful + 2))
    # Scores may be logits or log-probabilities of any scale: Newton's method needs them near 1.
    centre, spread = float(scores.mean()), float(scores.std()) or 1.0
    slope, level = _newton((scores - centre) / spread, target)
    return Platt(a=slope / spread, b=level - slope * centre / spread)


def _newton(score: Floats, target: Floats) -> tuple[float, float]:
    """Return slope and intercept of the sigmoid with the least cross-entropy to ``target``."""
    design = np.stack([score, np.ones_like(score)], axis=1)
    found = np.zeros(2)
    for _ in range(100):
        risk = expit(design @ found)
        gradient = design.T @ (risk - target)
        weight = (risk * (1 - risk))[:, np.newaxis]
        # The ridge is for a constant score, for which the slope is undetermined.
        curvature = (design * weight).T @ design + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        before, size = _cross_entropy(design @ found, target), 1.0
        while size > 1e-9 and _cross_entropy(design @ (found - size * step), target) > before:
            size /= 2
        found = found - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    return float(found[0]), float(found[1])


def _cross_entropy(logit: Floats, target: Floats) -> float:
    """Return the summed cross-entropy of a sigmoid's argument, without overflow."""
    return float((np.logaddexp(0, logit) - target * logit).sum())
