"""How well a risk orders answers of the same kind, where the kind itself says nothing.

Kinds of questions differ in how often they are answered wrongly. A risk that only knew the kind
would order answers of different kinds well, and those of one kind not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vlmscope.metrics.answers import strata
from vlmscope.metrics.resampling import Interval, Resamples, resample


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

    Of out-of-fold risks the pairs have to be of one fold too. Where a fold has more of a kind's
    hallucinations, the fits that judge it were trained on fewer: a risk that is the kind's share
    in training orders pairs of one kind and two folds *against* the truth.

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        risk: Numbers from 0 to 1, one an answer.
        kinds: The kind of each answer: anything that can be sorted.
        groups: The image of each answer: anything that can be sorted.
        folds: The fold of each answer, likewise.
        draws: Resamples of the images.
        seed: Decides the draws.

    Raises:
        ValueError: The arrays are wrong, or there are fewer than two images.

    >>> truth, risk = [True, False, True, False], [0.9, 0.8, 0.2, 0.1]
    >>> found = within_kinds(truth, risk, list("aabb"), [1, 2, 3, 4], draws=50)
    >>> found.auroc, found.share
    (1.0, 0.5)
    """
    found = resample_within(truth, {"": risk}, kinds, groups, folds, draws=draws, seed=seed)
    share = share_of_pairs(truth, kinds, folds)
    return WithinKinds(found.whole[""]["auroc"], found.interval(""), share)


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
        seed: Decides the draws.
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
