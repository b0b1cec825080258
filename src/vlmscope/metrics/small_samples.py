"""Intervals of the AUROC for few images, or few images of a class.

Resampling few images with replacement underestimates the uncertainty: simulated, 95% intervals
covered the true value in 90% at 40 images of 15 rows, and in 74% at 30 rows that a risk separates
well. Here the error is computed by leaving out one image at a time (the jackknife of the two-sample
statistic; Arvesen, 1969); the interval is taken on the scale of log-odds, with Student's quantile
for the effective number of images of the rarer class. A perfectly separated sample would have no
error at all: the variance is never below a quarter of the largest variance that an AUROC can have
(Birnbaum and Klose, 1957). With these the simulated coverage is 94% and more from 30 rows upwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit  # type: ignore[import-untyped,unused-ignore]
from scipy.stats import t as student  # type: ignore[import-untyped,unused-ignore]

from vlmscope.metrics.answers import Floats, Numbers
from vlmscope.metrics.weighted import Tally

FEW_IMAGES = 50
"""A sample with a smaller effective number of images is small."""

FEW_OF_A_CLASS = 20
"""So is one with a smaller effective number of images of a class."""

TOO_FEW_TO_DRAW = 100
"""Below this many images, or images of a class, intervals from draws are too narrow: 92% coverage
at 80 images of
4 rows, and 80 to 90% of an AUROC of 0.9 or more at 20 to 30 hallucinated rows of 420."""

LEAST = 0.25
"""Smallest variance of an AUROC, as a share of the largest possible."""


@dataclass(frozen=True, slots=True, eq=False)
class Jackknife:
    """The AUROC of one risk with each image left out."""

    wins: float
    """Pairs in the right order, ties half."""
    pairs: float
    """Pairs compared."""
    without: Floats
    """AUROC without each image, shape ``(image,)``; NaN if no pair is left."""


def effective_images(image: Numbers, weight: Floats | None = None) -> float:
    """Return the effective number of images, as if all had equal weight (Kish, 1965).

    One image with a third of all answers dominates, however many others there are.

    Args:
        image: The image of each answer.
        weight: Weight of each answer; equal weights without it.

    >>> effective_images(np.array([0, 1, 2, 3])), effective_images(np.array([0, 0, 0, 1]))
    (4.0, 1.6)
    """
    _, number = np.unique(image, return_inverse=True)
    each = np.bincount(number, weights=weight).astype(np.float64)
    return float(each.sum() ** 2 / np.square(each).sum()) if each.any() else 0.0


def effective_images_of_rarer(
    truth: ArrayLike, groups: ArrayLike, stratum: ArrayLike | None = None
) -> float:
    """Return the effective number of images of the rarer class.

    Within strata (kinds, folds) an answer is weighted by its number of pairs: one hallucinated
    answer among a hundred faithful ones is in a hundred pairs, a hundred without a faithful one are
    in none.

    Args:
        truth: Booleans, one an answer.
        groups: The image of each answer.
        stratum: Number of the stratum that each answer is compared in; one without it.

    >>> truth, images = [True, *[False] * 9, *[True] * 10], list(range(20))
    >>> effective_images_of_rarer(truth, images)
    9.0
    >>> effective_images_of_rarer(truth, images, [0] * 10 + [1] * 10)
    1.0
    """
    flags, image = np.asarray(truth, dtype=bool), np.asarray(groups)
    if stratum is None:
        return min(effective_images(image[flags]), effective_images(image[~flags]))
    _, number = np.unique(np.asarray(stratum), return_inverse=True)
    hits, alarms = (np.bincount(number, weights=each) for each in (flags, ~flags))
    pairs = np.where(flags, alarms[number], hits[number])
    return min(effective_images(image[own], pairs[own]) for own in (flags, ~flags))


def is_small(truth: ArrayLike, groups: ArrayLike) -> bool:
    """Return whether a sample is small: a low effective number of images, or of those of a class.

    >>> is_small([True, False] * 100, list(range(200))), is_small([True] * 9, list(range(9)))
    (False, True)
    """
    image = np.asarray(groups)
    return (
        effective_images(image) < FEW_IMAGES
        or effective_images_of_rarer(truth, image) < FEW_OF_A_CLASS
    )


def too_few_to_resample(
    truth: ArrayLike, groups: ArrayLike, stratum: ArrayLike | None = None
) -> bool:
    """Return whether intervals of an AUROC from draws are too narrow: see ``TOO_FEW_TO_DRAW``.

    >>> too_few_to_resample([True, False] * 100, list(range(200)))
    False
    >>> too_few_to_resample([True, *[False] * 9] * 90, list(range(900)))
    True
    """
    image = np.asarray(groups)
    few = effective_images(image), effective_images_of_rarer(truth, image, stratum)
    return min(few) < TOO_FEW_TO_DRAW


def jackknife(counted: Tally) -> Jackknife:
    """Return the AUROC of a tally with each image left out.

    A pair is removed with either of its images; pairs within one image must not be subtracted
    twice.
    """
    hits, alarms = (np.asarray(m.sum(axis=1)) for m in (counted.hallucinated, counted.faithful))
    stratum = np.repeat(np.arange(counted.starts.size), counted.sizes)
    all_hits, all_alarms = (
        np.bincount(stratum, weights=each).astype(np.float64) for each in (hits, alarms)
    )

    def below(values: Floats, totals: Floats) -> Floats:
        before = (np.cumsum(totals) - totals)[stratum]
        return np.asarray(np.cumsum(values) - before - values / 2)

    beaten = below(alarms, all_alarms)
    above = all_hits[stratum] - below(hits, all_hits)
    wins, pairs = float(hits @ beaten), float(all_hits @ all_alarms)
    lost = counted.hallucinated.T @ beaten + counted.faithful.T @ above
    gone = counted.hallucinated.T @ all_alarms[stratum] + counted.faithful.T @ all_hits[stratum]
    own_wins, own_pairs = _within_images(counted, stratum)
    left = pairs - gone + own_pairs
    with np.errstate(invalid="ignore", divide="ignore"):
        without = np.where(left > 0, (wins - lost + own_wins) / left, np.nan)
    return Jackknife(wins, pairs, np.asarray(without))


def _within_images(counted: Tally, stratum: Numbers) -> tuple[Floats, Floats]:
    """Return the correctly ordered pairs and all pairs within each image, by stratum."""
    hallucinated, faithful = counted.hallucinated.tocsc(), counted.faithful.tocsc()
    hallucinated.sort_indices()  # levels ascend by risk within a stratum
    faithful.sort_indices()
    wins, pairs = np.zeros(hallucinated.shape[1]), np.zeros(hallucinated.shape[1])
    both = np.flatnonzero(np.diff(hallucinated.indptr) * np.diff(faithful.indptr))
    for image in both:
        one, other = (
            slice(matrix.indptr[image], matrix.indptr[image + 1])
            for matrix in (hallucinated, faithful)
        )
        hit, alarm = hallucinated.indices[one], faithful.indices[other]
        before = np.concatenate([[0], np.cumsum(faithful.data[other])])
        start = counted.starts[stratum[hit]]
        first = before[np.searchsorted(alarm, start)]
        below = before[np.searchsorted(alarm, hit)]
        up_to = before[np.searchsorted(alarm, hit, "right")]
        last = before[np.searchsorted(alarm, start + counted.sizes[stratum[hit]])]
        wins[image] = hallucinated.data[one] @ ((below + up_to) / 2 - first)
        pairs[image] = hallucinated.data[one] @ (last - first)
    return wins, pairs


def error_of(without: Floats) -> float:
    """Return the standard error of a statistic from its values without each image."""
    kept = without[~np.isnan(without)]
    count = kept.size
    if count < 2:
        return float("nan")
    return float(np.sqrt((count - 1) / count * np.square(kept - kept.mean()).sum()))


def interval_of_auroc(
    found: Jackknife, images: float, level: float, wider: float = 1.0
) -> tuple[float, float]:
    """Return the interval of an AUROC.

    Args:
        found: The AUROC without each image.
        images: Effective number of images of the rarer class.
        level: Confidence level: share of intervals that contain the true value.
        wider: Factor of the error, for uncertainty that the answers alone do not show.
    """
    if not found.pairs or images <= 1:
        return float("nan"), float("nan")
    if _all_tied(found):
        return 0.5, 0.5  # constant in any sample
    quantile = float(student.ppf((1 + level) / 2, images - 1))
    ends = [
        [float(expit(centre + side * quantile * error)) for side in (-1, 1)]
        for centre, error in _log_odds(found, images, wider)
    ]
    auroc = found.wins / found.pairs
    low, high = (max(each) if auroc > 0.5 else min(each) for each in zip(*ends, strict=True))
    return min(low, auroc), max(high, auroc)


def compare(
    one: Jackknife, other: Jackknife, images: float, level: float, wider: float = 1.0
) -> tuple[float, float, float]:
    """Return the interval of the difference of two AUROCs, and its two-sided p-value.

    The difference to a constant, whose AUROC is 0.5, is as certain as the other's AUROC. Two risks
    whose difference is the same without any image would have no error; the smallest error is the
    difference of the two variances, or that of either if both are constant.

    Args:
        one: The AUROC of the one risk without each image.
        other: That of the other.
        images: Effective number of images of the rarer class.
        level: Confidence level: share of intervals that contain the true value.
        wider: Factor of the error, for uncertainty that the answers alone do not show.
    """
    error = error_of(one.without - other.without)
    if images <= 1 or not np.isfinite(error) or not one.pairs:
        return float("nan"), float("nan"), float("nan")
    gap = one.wins / one.pairs - other.wins / other.pairs
    if not gap and not error:
        return 0.0, 0.0, 1.0
    if _all_tied(other):
        return _above_chance(one, images, level, wider)
    if _all_tied(one):
        low, high, p_value = _above_chance(other, images, level, wider)
        return -high, -low, p_value
    most = [value * (1 - value) for value in (_smoothed(one), _smoothed(other))]
    least = LEAST * (abs(most[0] - most[1]) if error else max(most)) / images
    error = wider * max(error, float(np.sqrt(least)))
    half = float(student.ppf((1 + level) / 2, images - 1)) * error
    p_value = float(2 * student.sf(abs(gap) / error, images - 1))
    return max(-1.0, gap - half), min(1.0, gap + half), p_value


def _above_chance(
    found: Jackknife, images: float, level: float, wider: float
) -> tuple[float, float, float]:
    """Return the interval of an AUROC minus 0.5, and its two-sided p-value."""
    low, high = interval_of_auroc(found, images, level, wider)
    distance = max(abs(centre) / error for centre, error in _log_odds(found, images, wider))
    return low - 0.5, high - 0.5, float(2 * student.sf(distance, images - 1))


def _log_odds(found: Jackknife, images: float, wider: float) -> list[tuple[float, float]]:
    """Return an AUROC and its error on the scale of log-odds, unchanged and shrunk.

    The scale is unbounded at 1: there the smallest error would reach below chance after a perfect
    order. So the end of an interval nearer to chance may be computed from an AUROC shrunk to half
    an image of ``images`` from 0 or 1, if that is closer to chance.
    """
    furthest, value = 0.5 / (images + 1), _smoothed(found)
    scales = []
    for each in (value, min(max(value, furthest), 1 - furthest)):
        most = each * (1 - each)
        variance = max(error_of(found.without) ** 2, LEAST * most / images)
        scales.append((float(logit(each)), wider * float(np.sqrt(variance) / most)))
    return scales


def _all_tied(found: Jackknife) -> bool:
    """Return whether every pair is tied, as for a constant risk."""
    still = not (np.nanmax(found.without) - np.nanmin(found.without))
    return still and found.wins == found.pairs / 2


def _smoothed(found: Jackknife) -> float:
    """Return an AUROC that is never 0 or 1."""
    return (found.wins + 0.5) / (found.pairs + 1)
