"""AUROC among answers of the same kind, over all kinds and within each kind.

Kinds of questions differ in how often they are answered wrongly. A risk that only knew the kind
would order answers of different kinds well, and those of one kind not at all.

Intervals of the AUROC within each kind account for the number of kinds: among twenty kinds, one 95%
interval misses the true value. ``simultaneous`` is wider: the intervals of all kinds together cover
the true values in 95% (Bonferroni: each at a level of one minus 5% over their number). A kind may
have few images, so all intervals are computed by leaving out one image at a time
(``small_samples``), which needs no draws far out in the tails either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vlmscope.metrics.answers import Flags, Floats, Numbers, answers, strata
from vlmscope.metrics.resampling import Interval, Resamples, dependence, image_numbers, resample
from vlmscope.metrics.small_samples import (
    Jackknife,
    effective_images_of_rarer,
    error_of,
    interval_of_auroc,
    jackknife,
)
from vlmscope.metrics.weighted import tally


@dataclass(frozen=True, slots=True)
class WithinKinds:
    """AUROC over pairs of a hallucinated and a faithful answer of the same kind."""

    auroc: float
    """Chance that the hallucinated one has the higher risk; ties count half. NaN: no such pair."""
    interval: Interval
    """95% interval, images resampled."""
    share: float
    """Share of all pairs that are of the same kind (and fold)."""


def within_kinds(
    truth: ArrayLike,
    risk: ArrayLike,
    kinds: ArrayLike,
    groups: ArrayLike,
    folds: ArrayLike | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> WithinKinds:
    """Return the AUROC within kinds (the covariate-adjusted one of Janes and Pepe, 2009).

    For out-of-fold risks the pairs must be of one fold too. Where a fold has more of a kind's
    hallucinations, the fits that judge it were trained on fewer: a risk that is the kind's share
    in training orders pairs of one kind and two folds *against* the truth.

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        risk: Numbers from 0 to 1, one an answer.
        kinds: The kind of each answer: anything that can be sorted.
        groups: The image of each answer: anything that can be sorted.
        folds: The fold of each answer, likewise.
        draws: Resamples of the images.
        seed: Seed of the draws.

    Raises:
        ValueError: The arrays are invalid, or there are fewer than two images.

    >>> truth, risk = [True, False, True, False], [0.9, 0.8, 0.2, 0.1]
    >>> found = within_kinds(truth, risk, list("aabb"), [1, 2, 3, 4], draws=50)
    >>> found.auroc, found.share
    (1.0, 0.5)
    """
    found = resample_within(truth, {"": risk}, kinds, groups, folds, draws=draws, seed=seed)
    share = share_of_pairs(truth, kinds, folds)
    return WithinKinds(found.observed[""]["auroc"], found.interval(""), share)


def resample_within(
    truth: ArrayLike,
    risks: Mapping[str, ArrayLike],
    kinds: ArrayLike,
    groups: ArrayLike,
    folds: ArrayLike | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
    correct: bool = False,
) -> Resamples:
    """Return the AUROC within kinds of several risks on the same draws, and their differences.

    Args:
        truth: As for ``within_kinds``.
        risks: By name, numbers from 0 to 1, one an answer.
        kinds: As for ``within_kinds``, like the others.
        groups: The image of each answer.
        folds: The fold of each answer.
        draws: Resamples of the images.
        seed: Seed of the draws.
        correct: As for ``resample``.
    """
    both = strata(len(np.asarray(truth)), kinds, folds)
    return resample(
        truth, risks, groups, both, draws=draws, seed=seed, metrics=("auroc",), correct=correct
    )


def share_of_pairs(truth: ArrayLike, kinds: ArrayLike, folds: ArrayLike | None = None) -> float:
    """Return the share of all pairs of a hallucinated and a faithful answer that are compared.

    >>> share_of_pairs([True, False, True, False], list("aabb"))
    0.5
    """
    flags = np.asarray(truth, dtype=bool)
    stratum = strata(flags.size, kinds, folds)
    hits, alarms = np.bincount(stratum, weights=flags), np.bincount(stratum, weights=~flags)
    everything = hits.sum() * alarms.sum()
    return float(hits @ alarms / everything) if everything else float("nan")


LEVEL = 0.95
"""Confidence level: share of intervals that contain the true value."""

_NOTHING = Interval(float("nan"), float("nan"))


@dataclass(frozen=True, slots=True)
class KindAuroc:
    """The AUROC over pairs of a hallucinated and a faithful answer of one kind (and fold)."""

    auroc: float
    """NaN if the kind has no such pair."""
    interval: Interval
    """95% interval of this kind alone; NaN if either outcome has fewer than two images."""
    simultaneous: Interval
    """The same, such that the intervals of all kinds cover the true values together in 95%."""


def each_kind(
    truth: ArrayLike,
    risk: ArrayLike,
    kinds: ArrayLike,
    groups: ArrayLike,
    folds: ArrayLike | None = None,
) -> dict[str, KindAuroc]:
    """Return the AUROC within each kind, by kind in sorted order.

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        risk: Numbers from 0 to 1, one an answer.
        kinds: The kind of each answer, a text.
        groups: The image of each answer: anything that can be sorted.
        folds: The fold of each answer, likewise; only answers of one fold are compared.

    Raises:
        ValueError: The arrays are invalid, or there are fewer than two images.

    >>> found = each_kind([True, False] * 4, [0.9, 0.1] * 4, ["a"] * 8, [1, 2, 3, 4, 5, 6, 7, 8])
    >>> found["a"].auroc, found["a"].interval == found["a"].simultaneous
    (1.0, True)
    """
    flags, risks = answers(truth, risk)
    image, _ = image_numbers(groups, flags.size)
    stratum, names = strata(flags.size, folds), np.asarray(kinds)
    found = {}
    for name in np.unique(names):
        own = names == name
        found[str(name)] = _left_out(flags[own], risks[own], image[own], stratum[own])
    fitted = folds is not None
    shown = sum(np.isfinite(_interval(each, LEVEL, fitted).low) for each in found.values())
    level = 1 - (1 - LEVEL) / max(shown, 1)
    return {
        name: KindAuroc(
            _auroc(each[0]), _interval(each, LEVEL, fitted), _interval(each, level, fitted)
        )
        for name, each in found.items()
    }


def _left_out(
    truth: Flags, risk: Floats, image: Numbers, stratum: Numbers
) -> tuple[Jackknife, float]:
    """Return the AUROC without each image, and the effective number of the rarer class."""
    images, own = np.unique(image, return_inverse=True)
    counted = tally(truth, risk, own, len(images), strata(truth.size, stratum))
    return jackknife(counted), effective_images_of_rarer(truth, own, stratum)


def _auroc(found: Jackknife) -> float:
    return found.wins / found.pairs if found.pairs else float("nan")


def _interval(each: tuple[Jackknife, float], level: float, fitted: bool) -> Interval:
    found, images = each
    if images <= 1 or not found.pairs or np.isnan(found.without).all():
        return _NOTHING
    extra = dependence(_auroc(found), error_of(found.without)) if fitted else 0.0
    return Interval(*interval_of_auroc(found, images, level, float(np.sqrt(1 + extra))))
