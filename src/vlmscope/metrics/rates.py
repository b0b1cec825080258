"""Rates with intervals over images, and the paired difference of two rates.

Outcomes of questions about one image are correlated, so images are drawn with replacement, each
with all its answers, as everywhere. With few images, or a rate of 0 or 1, percentiles of draws
would be too narrow or have no width: there the interval is Wilson's for the effective number of
independent answers, and that of a difference is Student's over images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri  # type: ignore[import-untyped,unused-ignore]
from scipy.stats import t as student  # type: ignore[import-untyped,unused-ignore]

from vlmscope.metrics.answers import Flags, Floats, Numbers
from vlmscope.metrics.calibration import wilson
from vlmscope.metrics.resampling import Difference, Interval, image_numbers, interval_of, p_value_of
from vlmscope.metrics.small_samples import FEW_IMAGES, effective_images

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of answers."""

    value: float
    interval: Interval
    """95% interval, images resampled."""
    count: int
    """Number of answers."""


def rate(flags: ArrayLike, groups: ArrayLike, *, draws: int = 2000, seed: int = 0) -> Rate:
    """Return the share of true flags, with an interval over images.

    Args:
        flags: Booleans, one an answer.
        groups: The image of each answer: anything that can be sorted.
        draws: Resamples of the images.
        seed: Seed of the draws.

    Raises:
        ValueError: The arrays are invalid, or there are fewer than two images.

    >>> rate([True, False] * 4, list("aabbccdd")).value
    0.5
    """
    found, image, images = _checked(flags, groups)
    value = float(found.mean())
    if effective_images(image) < FEW_IMAGES or found.all() or not found.any():
        return Rate(value, _wilson(found, image, images), found.size)
    drawn = _draws(found.astype(np.float64), image, images, draws, seed)
    return Rate(value, interval_of(drawn, LEVEL), found.size)


def rate_difference(
    one: ArrayLike, other: ArrayLike, groups: ArrayLike, *, draws: int = 2000, seed: int = 0
) -> Difference:
    """Return the rate of ``one`` minus that of ``other``, on the same questions.

    Args:
        one: Booleans, one a question.
        other: Booleans to compare with, one a question.
        groups: The image of each question.
        draws: Resamples of the images.
        seed: Seed of the draws.

    Raises:
        ValueError: As for ``rate``.

    >>> rate_difference([True] * 4, [True, False] * 2, list("abcd"), draws=50).value
    0.5
    """
    first, image, images = _checked(one, groups)
    second, _, _ = _checked(other, groups)
    gap = first.astype(np.float64) - second
    value = float(gap.mean())
    if not gap.any():  # no difference in this many images
        most = 1 - ((1 - LEVEL) / 2) ** (1 / effective_images(image))
        return Difference(0.0, Interval(-float(most), float(most)), 1.0)
    if effective_images(image) >= FEW_IMAGES:
        drawn = _draws(gap, image, images, draws, seed)
        return Difference(value, interval_of(drawn, LEVEL), p_value_of(drawn))
    error, freedom = max(_error(gap, image, images), _least_error(gap)), effective_images(image) - 1
    half = float(student.ppf((1 + LEVEL) / 2, freedom)) * error
    p_value = float(2 * student.sf(abs(value) / error, freedom))
    return Difference(value, Interval(max(-1.0, value - half), min(1.0, value + half)), p_value)


def _checked(flags: ArrayLike, groups: ArrayLike) -> tuple[Flags, Numbers, int]:
    found = np.asarray(flags)
    if found.ndim != 1 or not found.size or found.dtype != np.bool_:
        raise ValueError(
            f"flags must be booleans in one dimension, found {found.dtype} of {found.shape}"
        )
    return found, *image_numbers(groups, found.size)


def _draws(values: Floats, image: Numbers, images: int, draws: int, seed: int) -> Floats:
    """Return the mean of each draw of the images."""
    sums = np.bincount(image, weights=values, minlength=images)
    sizes = np.bincount(image, minlength=images).astype(np.float64)
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    for draw in range(draws):
        drawn = generator.integers(images, size=images)
        means[draw] = sums[drawn].sum() / sizes[drawn].sum()
    return means


def _error(values: Floats, image: Numbers, images: int) -> float:
    """Return the standard error of a mean over images (the linearised ratio)."""
    deviations = np.bincount(image, weights=values - values.mean(), minlength=images)
    return float(np.sqrt(images / (images - 1) * np.square(deviations).sum()) / values.size)


def _least_error(values: Floats) -> float:
    """Return an error for equal differences, whose spread is 0: as if one more value were 0."""
    padded = np.append(values, 0.0)
    return float(padded.std() / np.sqrt(padded.size))


def _wilson(found: Flags, image: Numbers, images: int) -> Interval:
    """Return Wilson's interval for the effective number of independent answers."""
    value, most = float(found.mean()), float(found.size)
    error = _error(found.astype(np.float64), image, images)
    if 0 < value < 1 and error > 0:
        most = min(most, value * (1 - value) / error**2)
    elif value in (0.0, 1.0):
        most = effective_images(image)  # as if each image had one outcome
    # Student's quantile instead of the normal one (Korn and Graubard, 1998).
    ends = (1 + LEVEL) / 2
    most *= (
        float(ndtri(ends)) / float(student.ppf(ends, max(effective_images(image) - 1, 1)))
    ) ** 2
    counts: NDArray[np.int64] = np.asarray([max(most, 1.0)])
    low, high = wilson(np.array([value]), counts)
    return Interval(float(low[0]), float(high[0]))
