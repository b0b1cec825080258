"""Bootstrap over images: intervals of every metric, simultaneous bands and paired tests.

Outcomes of questions about one image are correlated, so rows are not independent: the images are
drawn with replacement, each with all its answers (Field and Welsh, 2007, "Bootstrapping clustered
data"; Rutter, 2000, for the ROC curve). All risks are measured on the same draws, which makes the
difference of two of them less uncertain than either.

Out-of-fold risks need wider intervals. Near chance, two folds that are similar by chance raise each
other's AUROC, each as the other's training set: the variance is twice what the answers alone show
(Bengio and Grandvalet, 2004: no estimate from one split shows it). A probe well above chance is not
affected. ``widening`` is the factor: simulated, 95% intervals without it covered the true value in
81% of null data sets, with it in 93% and more, whatever the signal (``docs/probing.md``).

A 95% interval covers its true value in 95 of 100 samples; among eleven intervals one is wrong far
more often. A simultaneous band covers all true values at once, and is never narrower than an
interval: its width is the 95% quantile of the largest standardised error over the same resamples
(max-t; Montiel Olea and Plagborg-Møller, 2019, "Simultaneous confidence bands"). Errors are taken
on the scale of log-odds, so that a band of an AUROC stays between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtr, ndtri  # type: ignore[import-untyped,unused-ignore]

from vlmscope.metrics.answers import Floats, answers, strata
from vlmscope.metrics.small_samples import (
    Jackknife,
    compare,
    effective_images_of_rarer,
    error_of,
    interval_of_auroc,
    jackknife,
    too_few_to_resample,
)
from vlmscope.metrics.weighted import NAMES, measure_draw, tally

NEAR_CHANCE = 3.0
"""Distance from chance, in standard errors, at which the dependence of folds is a third of that at
chance.
"""


def dependence(auroc: float, error: float) -> float:
    """Return the relative increase of an AUROC's variance due to the dependence of folds.

    >>> dependence(0.5, 0.02), round(dependence(0.62, 0.02), 3)
    (1.0, 0.018)
    """
    if not error > 0:
        return 0.0
    distance = max(0.0, (auroc - 0.5) / error)
    return float(np.exp(-((distance / NEAR_CHANCE) ** 2)))


@dataclass(frozen=True, slots=True)
class Interval:
    """A bootstrap interval by the percentile method.

    Percentiles, because the metrics are bounded and skewed near their bounds: the interval stays
    within them, need not be symmetric, and is invariant under monotone transformations (Efron and
    Tibshirani, 1993, chapter 13). It is too narrow below about 50 images; ``correct`` is for that
    case. For the calibration error it shows the spread only: resampling adds noise to every bin, so
    a small error may be below its own interval.
    """

    low: float
    high: float
    left_out: int = 0
    """Number of draws with one class only, which have no rank metric; the interval is of the
    others.
    """


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of a metric between two risks."""

    value: float
    """Metric of the one minus metric of the other, on the observed answers."""
    interval: Interval
    """Interval of the difference: both risks are measured on the same draws."""
    p_value: float
    """Two-sided: twice the share of draws on the rarer side of 0, draws at 0 counting on both
    sides.
    """


@dataclass(frozen=True, slots=True, eq=False)
class LabelledRisk:
    """A risk with its own ground truth; all aligned, ``[N]``."""

    truth: ArrayLike
    """Booleans, one an answer; true where it is hallucinated."""
    risk: ArrayLike
    """Numbers from 0 to 1, one an answer."""
    folds: ArrayLike | None = None
    """The fold of each answer; without it all answers are compared."""
    groups: ArrayLike | None = None
    """The image of each answer, if its rows differ from those of the other sides."""


@dataclass(frozen=True, slots=True, eq=False)
class Resamples:
    """The metrics of several risks on the same draws of the images. Made by ``resample``."""

    observed: Mapping[str, Mapping[str, float]]
    """Risk → metric → value on the observed answers."""
    drawn: Mapping[str, Mapping[str, Floats]]
    """Risk → metric → value of each draw, shape ``(draw,)``."""
    jackknives: Mapping[str, Jackknife] = field(default_factory=dict)
    """For a small sample, with ``correct``: risk → its AUROC without each image."""
    images: float = 0
    """For a small sample: effective number of images of the rarer class."""
    crossfitted: frozenset[str] = frozenset()
    """Risks whose folds are predicted by fits on each other: see ``widening``."""

    def widening(self, *names: str) -> float:
        """Return the factor by which cross-validation widens an AUROC's interval: √2 at chance.

        Args:
            names: A risk, or the two of a difference: the one nearer to chance counts.
        """
        fitted = [self._dependence(name) for name in names if name in self.crossfitted]
        return float(np.sqrt(1 + max(fitted, default=0.0)))

    def _dependence(self, name: str) -> float:
        """Return the relative increase of a variance due to the dependence of folds."""
        drawn = self.drawn[name].get("auroc", np.empty(0))
        found = self.jackknives.get(name)
        drawn = drawn[~np.isnan(drawn)]
        error = (
            (float(drawn.std()) if drawn.size else 0.0)
            if found is None
            else error_of(found.without)
        )
        return dependence(self.observed[name]["auroc"], error)

    def interval(self, name: str, metric: str = "auroc", level: float = 0.95) -> Interval:
        """Return the interval of one metric of one risk; see ``small_samples``."""
        if metric != "auroc":
            return interval_of(self.drawn[name][metric], level)
        wider = self.widening(name)
        if name in self.jackknives:
            return Interval(*interval_of_auroc(self.jackknives[name], self.images, level, wider))
        found, value = interval_of(self.drawn[name][metric], level), self.observed[name][metric]
        low, high = value + wider * (found.low - value), value + wider * (found.high - value)
        return Interval(max(low, 0.0), min(high, 1.0), found.left_out) if wider > 1 else found

    def difference(
        self, one: str, other: str, metric: str = "auroc", level: float = 0.95
    ) -> Difference:
        """Return the difference of a metric between two risks, paired by draw."""
        gap = self.drawn[one][metric] - self.drawn[other][metric]
        observed = self.observed[one][metric] - self.observed[other][metric]
        wider = self.widening(one, other) if metric == "auroc" else 1.0
        if metric == "auroc" and one in self.jackknives and other in self.jackknives:
            low, high, p_value = compare(
                self.jackknives[one], self.jackknives[other], self.images, level, wider
            )
            return Difference(observed, Interval(low, high), p_value)
        gap = observed + wider * (gap - observed) if wider > 1 else gap
        return Difference(observed, interval_of(gap, level), p_value_of(gap))


def resample(
    truth: ArrayLike,
    risks: Mapping[str, ArrayLike],
    groups: ArrayLike,
    folds: ArrayLike | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
    metrics: Collection[str] = NAMES,
    correct: bool = False,
) -> Resamples:
    """Measure every risk on the observed answers and on each draw of the images.

    A drawn image keeps its fold: nothing is refitted, and answers are compared within their fold in
    every draw (see ``measure``).

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        risks: By name, numbers from 0 to 1, one an answer.
        groups: The image of each answer: anything that can be sorted.
        folds: The fold of each answer, likewise; without it all answers are compared.
        draws: Resamples of the images, the same for all risks.
        seed: Seed of the draws; the same seed and images give the same draws.
        metrics: Names from ``weighted.NAMES`` or ``weighted.SELECTIVE`` to compute.
        correct: For a small sample, compute intervals of the AUROC by leaving out images instead of
            by draws, which are too narrow there (``small_samples``).

    Raises:
        ValueError: The arrays are invalid, there are fewer than two images, or an option is out of
            range.
    """
    sides = {name: LabelledRisk(truth, risk, folds) for name, risk in risks.items()}
    return resample_sides(sides, groups, draws=draws, seed=seed, metrics=metrics, correct=correct)


def resample_sides(
    sides: Mapping[str, LabelledRisk],
    groups: ArrayLike | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
    metrics: Collection[str] = NAMES,
    correct: bool = False,
) -> Resamples:
    """Resample like ``resample``, for risks with their own ground truths or folds.

    Two models that answer the same questions have different hallucinations: the positive answers
    differ, and the AUROCs are of different pairs. They share the images, so each draw takes the
    same images for both, and the interval of the difference is valid: it accounts for whatever the
    two have in common. The same applies to one ground truth and risks of different folds.

    Args:
        sides: By name, risks with their ground truths.
        groups: The image of each row, for sides without their own: anything that can be sorted. One
            value means the same image on all sides.
        draws: Resamples of the images, the same for all sides.
        seed: Seed of the draws; the same seed and images give the same draws.
        metrics: Names from ``weighted.NAMES`` or ``weighted.SELECTIVE`` to compute.
        correct: As for ``resample``; one small side makes all intervals those of small samples.

    Raises:
        ValueError: As for ``resample``.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, found {draws}")
    checked = {name: answers(e.truth, e.risk, f"risk {name!r}") for name, e in sides.items()}
    image, images = _images_of_sides(sides, groups, {n: len(f) for n, (f, _) in checked.items()})
    stratum = {name: strata(len(f), sides[name].folds) for name, (f, _) in checked.items()}
    tallies = {
        name: tally(flags, risk, image[name], images, stratum[name])
        for name, (flags, risk) in checked.items()
    }
    observed = {
        name: measure_draw(each, np.ones(images), metrics) for name, each in tallies.items()
    }
    found = {name: {metric: np.empty(draws) for metric in metrics} for name in sides}
    generator = np.random.default_rng(seed)
    for draw in range(draws):
        drawn = generator.integers(images, size=images)
        weights = np.bincount(drawn, minlength=images).astype(np.float64)
        for name, counted in tallies.items():
            for metric, value in measure_draw(counted, weights, metrics).items():
                found[name][metric][draw] = value
    crossfitted = frozenset(name for name, side in sides.items() if side.folds is not None)
    # Most sides share their labels, and the effective number of images is slow to compute.
    rows = {tuple(part.tobytes() for part in each): each
            for name, (flags, _) in checked.items()
            for each in [(flags, image[name], stratum[name])]}.values()  # fmt: skip
    if not correct or not any(too_few_to_resample(*each) for each in rows):
        return Resamples(observed, found, crossfitted=crossfitted)
    jackknives = {name: jackknife(each) for name, each in tallies.items()}
    least = min(effective_images_of_rarer(*each) for each in rows)
    return Resamples(observed, found, jackknives, least, crossfitted)


def _images_of_sides(
    sides: Mapping[str, LabelledRisk], groups: ArrayLike | None, counts: Mapping[str, int]
) -> tuple[dict[str, NDArray[np.intp]], int]:
    """Return the number of each answer's image, the same on all sides, and how many there are."""
    if not sides:
        raise ValueError("give one risk or more")
    keys: dict[str, tuple[int, int]] = {}
    found: dict[tuple[int, int], NDArray[Any]] = {}  # most sides share their groups
    for name, side in sides.items():
        own = groups if side.groups is None else side.groups
        keys[name] = id(own), counts[name]
        if keys[name] not in found:
            image_numbers([] if own is None else own, counts[name])  # raises for invalid groups
            found[keys[name]] = np.asarray(own)
    different = np.unique(np.concatenate(list(found.values())))
    numbers = {key: np.searchsorted(different, own) for key, own in found.items()}
    return {name: numbers[key] for name, key in keys.items()}, different.size


def bootstrap(
    truth: ArrayLike,
    risks: Mapping[str, ArrayLike],
    groups: ArrayLike,
    folds: ArrayLike | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    correct: bool = False,
) -> Mapping[str, Mapping[str, Interval]]:
    """Return the interval of every metric of every risk, by the risk's name and the metric's.

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        risks: By name, numbers from 0 to 1, one an answer.
        groups: The image of each answer: anything that can be sorted.
        folds: The fold of each answer, likewise; only answers of one fold are compared (see
            ``measure``).
        draws: Resamples of the images, the same for all risks.
        seed: Seed of the draws; the same seed and images give the same intervals.
        level: Confidence level: share of the draws within an interval.
        correct: As for ``resample``.

    Raises:
        ValueError: The arrays are invalid, there are fewer than two images, or an option is out of
            range.

    >>> found = bootstrap([False, True] * 3, {"sure": [0, 1] * 3}, list("aabbcc"), draws=100)
    >>> found["sure"]["auroc"]
    Interval(low=1.0, high=1.0, left_out=0)
    """
    _check_level(level)
    found = resample(truth, risks, groups, folds, draws=draws, seed=seed, correct=correct)
    return {risk: {name: found.interval(risk, name, level) for name in NAMES} for risk in risks}


def paired(
    truth: ArrayLike,
    one: ArrayLike,
    other: ArrayLike,
    groups: ArrayLike,
    metric: str = "auroc",
    *,
    folds: ArrayLike | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    correct: bool = False,
) -> Difference:
    """Compare two risks on the same answers and the same draws.

    The p-value is the level at which the interval reaches 0, so the two agree; it is never 0,
    because one more draw is counted against the difference (Davison and Hinkley, 1997, section
    4.2). Choose the baseline to beat on other answers than these, and correct the p-values of
    several tests with ``holm``.

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        one: Numbers from 0 to 1, one an answer.
        other: The risk to compare with, likewise.
        groups: The image of each answer: anything that can be sorted.
        metric: Which of ``auroc``, ``auprc``, ``brier``, ``ece``, ``recall_at_5``. For ``brier``
            and ``ece``, lower is better.
        folds: The fold of each answer; only answers of one fold are compared (see ``measure``).
        draws: Resamples of the images.
        seed: Seed of the draws.
        level: Confidence level: share of the draws within the interval.
        correct: As in ``resample``.

    Raises:
        ValueError: As for ``bootstrap``, or the metric has another name.

    >>> truth, images = [False, True] * 20, [i // 2 for i in range(40)]
    >>> paired(truth, [0.2, 0.9] * 20, [0.5] * 40, images, draws=99)
    Difference(value=0.5, interval=Interval(low=0.5, high=0.5, left_out=0), p_value=0.02)
    """
    _check_level(level)
    names = [name for name in NAMES if name != "prevalence"]
    if metric not in names:
        raise ValueError(f"metric must be one of {', '.join(names)}, found {metric!r}")
    both = {"one": one, "other": other}
    found = resample(
        truth, both, groups, folds, draws=draws, seed=seed, metrics=(metric,), correct=correct
    )
    return found.difference("one", "other", metric, level)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values corrected for their number, in the order given (Holm, 1979).

    Raises:
        ValueError: One of them is not within [0, 1].

    >>> holm([0.01, 0.04, 0.03, 0.005])
    (0.03, 0.06, 0.06, 0.02)
    """
    found = np.asarray(p_values, dtype=np.float64)
    bad = found[~((found >= 0) & (found <= 1))]
    if bad.size:
        raise ValueError(f"p-values must be within [0, 1], found {bad[0]}")
    order = np.argsort(found, kind="stable")
    raised = found[order] * np.arange(found.size, 0, -1)
    corrected = np.empty_like(found)
    corrected[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return tuple(corrected.tolist())


def image_numbers(groups: ArrayLike, count: int) -> tuple[NDArray[np.intp], int]:
    """Return the number of each answer's image, and how many images there are."""
    names = np.asarray(groups)
    if names.shape != (count,):
        raise ValueError(f"groups must have shape ({count},), found {names.shape}")
    if missing := sum(name is None or name != name for name in names.tolist()):
        raise ValueError(f"groups lack the image of {missing} of {count} answers")
    different, image = np.unique(names, return_inverse=True)
    if different.size < 2:
        raise ValueError(f"resampling needs at least 2 images, found {different.size}")
    return image, different.size


def interval_of(values: Floats, level: float) -> Interval:
    """Return the percentile interval of the draws with a value."""
    kept = values[~np.isnan(values)]
    if not kept.size:
        return Interval(float("nan"), float("nan"), values.size)
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), values.size - kept.size)


def p_value_of(gap: Floats) -> float:
    """Return the two-sided p-value of no difference."""
    kept = gap[~np.isnan(gap)]
    if not kept.size:
        return float("nan")
    tail = min(int((kept <= 0).sum()), int((kept >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (kept.size + 1))


def _check_level(level: float) -> None:
    """Raise for a level that is not between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, found {level}")


def widened(found: Difference, factor: float) -> Difference:
    """Return a difference whose error is larger, by uncertainty that its resamples do not show.

    Args:
        found: The difference.
        factor: Factor of the standard error, 1 or more.

    >>> found = widened(Difference(0.25, Interval(0.05, 0.45), 0.0143), 1.25)
    >>> round(found.interval.low, 6), round(found.interval.high, 6), round(found.p_value, 3)
    (0.0, 0.5, 0.05)
    """
    low, high = (
        found.value + factor * (end - found.value)
        for end in (found.interval.low, found.interval.high)
    )
    p_value = float(2 * ndtr(ndtri(found.p_value / 2) / factor))
    interval = Interval(max(low, -1.0), min(high, 1.0), found.interval.left_out)
    return Difference(found.value, interval, p_value)


LEAST = 1e-3
"""Smallest distance of an AUROC from 0 and 1 on the scale of log-odds."""


def simultaneous(
    drawn: Resamples, names: Sequence[str], level: float = 0.95
) -> Mapping[str, Interval]:
    """Return a simultaneous band of the AUROC of several risks.

    A small sample has no usable draws: there each interval is widened for their number
    (Bonferroni).

    Args:
        drawn: As ``resample`` returns it.
        names: The risks.
        level: Confidence level: share of samples in which the band covers every true AUROC.
    """
    if drawn.jackknives:
        wider = 1 - (1 - level) / max(len(names), 1)
        return {name: drawn.interval(name, level=wider) for name in names}
    centre = {name: _log_odds(np.array(drawn.observed[name]["auroc"])) for name in names}
    errors, spread = {}, {}
    for name in names:
        errors[name] = _log_odds(drawn.drawn[name]["auroc"]) - centre[name]
        spread[name] = float(np.nanstd(errors[name]))
    moving = [name for name in names if spread[name] > 0]
    if not moving:
        return {name: drawn.interval(name, level=level) for name in names}
    largest = np.max([np.abs(errors[name]) / spread[name] for name in moving], axis=0)
    width = float(np.nanquantile(largest, level))
    bands = {}
    for name in names:
        own = drawn.interval(name, level=level)
        half = width * spread[name] * drawn.widening(name) if spread[name] > 0 else 0.0
        low, high = (float(expit(centre[name] + side * half)) for side in (-1, 1))
        bands[name] = Interval(min(low, own.low), max(high, own.high)) if half else own
    return bands


def _log_odds(auroc: np.ndarray) -> np.ndarray:
    return np.asarray(logit(np.clip(auroc, LEAST, 1 - LEAST)))
