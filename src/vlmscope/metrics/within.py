"""How well a risk orders answers of the same kind, where the kind itself says nothing.

Kinds of questions differ in how often they are answered wrongly. A risk that only knew the kind
would order answers of different kinds well, and those of one kind not at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vlmscope.metrics.answers import Floats, answers
from vlmscope.metrics.resampling import Interval, image_numbers, interval_of
from vlmscope.metrics.weighted import Tally, tally


@dataclass(frozen=True, slots=True)
class WithinKinds:
    """AUROC over pairs of a hallucinated and a faithful answer of the same kind."""

    auroc: float
    """Chance that the hallucinated one has the higher risk; ties count half. NaN: no such pair."""
    interval: Interval
    """95% interval, images resampled."""
    share: float
    """Share of all pairs that are of the same kind."""


def within_kinds(
    truth: ArrayLike,
    risk: ArrayLike,
    kinds: ArrayLike,
    groups: ArrayLike,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> WithinKinds:
    """Return the AUROC within kinds (the covariate-adjusted one of Janes and Pepe, 2009).

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        risk: Numbers from 0 to 1, one an answer.
        kinds: The kind of each answer: anything that can be sorted.
        groups: The image of each answer: anything that can be sorted.
        draws: Resamples of the images.
        seed: Decides the draws.

    Raises:
        ValueError: The arrays are wrong, or there are fewer than two images.

    >>> truth, risk = [True, False, True, False], [0.9, 0.8, 0.2, 0.1]
    >>> found = within_kinds(truth, risk, list("aabb"), [1, 2, 3, 4], draws=50)
    >>> found.auroc, found.share
    (1.0, 0.5)
    """
    flags, risks = answers(truth, risk)
    image, images = image_numbers(groups, flags.size)
    names = np.asarray(kinds)
    if names.shape != flags.shape:
        raise ValueError(f"kinds must have shape {flags.shape}, found {names.shape}")
    tallies = []
    for kind in np.unique(names):
        own = names == kind
        tallies.append(tally(flags[own], risks[own], image[own], images))
    ones = np.ones(images)
    wins, pairs = _pairs(tallies, ones)
    generator = np.random.default_rng(seed)
    values = np.empty(draws)
    for draw in range(draws):
        drawn = np.bincount(generator.integers(images, size=images), minlength=images)
        won, of = _pairs(tallies, drawn.astype(np.float64))
        values[draw] = won / of if of else np.nan
    everything = int(flags.sum()) * int((~flags).sum())
    return WithinKinds(
        auroc=wins / pairs if pairs else float("nan"),
        interval=interval_of(values, 0.95),
        share=pairs / everything if everything else float("nan"),
    )


def _pairs(tallies: list[Tally], weights: Floats) -> tuple[float, float]:
    """Return the pairs that are ordered rightly, ties half, and all of them, of a resample."""
    wins = pairs = 0.0
    for counted in tallies:
        hits, alarms = counted.hallucinated @ weights, counted.faithful @ weights
        wins += float(hits @ (np.cumsum(alarms) - alarms / 2))
        pairs += float(hits.sum() * alarms.sum())
    return wins, pairs
