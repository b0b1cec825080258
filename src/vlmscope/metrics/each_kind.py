"""The AUROC of a risk within each kind of answers, with intervals that allow for looking at many.

Of twenty kinds one has a 95% interval beside the truth. ``simultaneous`` is wider: all kinds
together hold the truth in 95% (Bonferroni: each at a level of one less 5% over their number). A
kind may have few images, so all intervals come from leaving out one image at a time
(``small_samples``), which needs no draws far out in the tails either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vlmscope.metrics.answers import Flags, Floats, Numbers, answers, strata
from vlmscope.metrics.resampling import Interval, dependence, image_numbers
from vlmscope.metrics.small_samples import (
    Jackknife,
    error_of,
    interval_of_auroc,
    jackknife,
    worth_of_rarer,
)
from vlmscope.metrics.weighted import tally

LEVEL = 0.95
"""Share of the intervals that shall hold the truth."""

_NOTHING = Interval(float("nan"), float("nan"))


@dataclass(frozen=True, slots=True)
class KindAuroc:
    """The AUROC over pairs of a hallucinated and a faithful answer of one kind (and fold)."""

    auroc: float
    """NaN where the kind has no such pair."""
    interval: Interval
    """95% interval of this kind alone; NaN where either outcome has fewer than two images."""
    simultaneous: Interval
    """The same, such that those of all kinds together hold the truth in 95%."""


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
        ValueError: The arrays are wrong, or there are fewer than two images.

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
    told = sum(np.isfinite(_interval(each, LEVEL, fitted).low) for each in found.values())
    level = 1 - (1 - LEVEL) / max(told, 1)
    return {
        name: KindAuroc(
            _auroc(each[0]), _interval(each, LEVEL, fitted), _interval(each, level, fitted)
        )
        for name, each in found.items()
    }


def _left_out(
    truth: Flags, risk: Floats, image: Numbers, stratum: Numbers
) -> tuple[Jackknife, float]:
    """Return the AUROC without each image, and what the images of the rarer class are worth."""
    images, own = np.unique(image, return_inverse=True)
    counted = tally(truth, risk, own, len(images), strata(truth.size, stratum))
    return jackknife(counted), worth_of_rarer(truth, own, stratum)


def _auroc(found: Jackknife) -> float:
    return found.wins / found.pairs if found.pairs else float("nan")


def _interval(each: tuple[Jackknife, float], level: float, fitted: bool) -> Interval:
    found, images = each
    if images <= 1 or not found.pairs or np.isnan(found.without).all():
        return _NOTHING
    extra = dependence(_auroc(found), error_of(found.without)) if fitted else 0.0
    return Interval(*interval_of_auroc(found, images, level, float(np.sqrt(1 + extra))))
