"""Out-of-fold predictions of ordinary classifiers, the best of several chosen inside training.

The nesting is that of ``crossfit_logistic``: the fit without folds a and b judges b for the sake of
a, and a for the sake of b. A baseline therefore has the same chances as a probe (its form and its
penalty are chosen, on equally many rows), and its inner predictions can be stacked with a probe's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit, logit  # type: ignore[import-untyped,unused-ignore]
from sklearn import config_context  # type: ignore[import-untyped,unused-ignore]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

from vlmscope.probe.crossfit import rank_auroc
from vlmscope.probe.folds import Fold, FoldError

FEW_ROWS = 5000
"""Below this, starting threads costs more than they save."""

FURTHEST = 1e-6
"""Least distance of a probability from 0 and 1: log-odds stay finite."""


class OutOfFold(Protocol):
    """What stacking needs of a cross-fit, whatever was fitted."""

    @property
    def logit(self) -> Float[np.ndarray, " rows"]:
        """Out-of-fold log-odds of each row."""
        ...

    @property
    def inner_logit(self) -> Float[np.ndarray, "folds rows"]:
        """For each fold, inner out-of-fold log-odds of its training rows; NaN for the others."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One way to predict."""

    features: Any
    """A matrix with a line for each row, made without the labels."""
    model: Callable[[], Any]
    """Makes an unfitted classifier of scikit-learn."""


@dataclass(frozen=True, slots=True, eq=False)
class ChosenFit:
    """The out-of-fold predictions of "the best candidate, chosen inside training"."""

    logit: Float[np.ndarray, " rows"]
    """Out-of-fold log-odds of each row, from the fit of the fold that tests it."""
    inner_logit: Float[np.ndarray, "folds rows"]
    """For each fold, the inner out-of-fold log-odds of its training rows by its candidate; NaN for
    the rows that it tests."""
    chosen: tuple[str, ...]
    """The candidate of each fold."""
    inner_auroc: Float[np.ndarray, " folds"]
    """Its inner AUROC over pairs within a fold; being the largest of several, it flatters."""

    @property
    def risk(self) -> Float[np.ndarray, " rows"]:
        """Out-of-fold probability that each row is positive."""
        return np.asarray(expit(self.logit))


def crossfit_candidates(
    candidates: Mapping[str, Candidate],
    truth: Bool[np.ndarray, " rows"],
    folds: Sequence[Fold],
) -> ChosenFit:
    """Predict every row by a classifier that never saw it, chosen without it.

    For each fold, the candidate with the highest AUROC over the inner folds is taken (pairs within
    a fold, as everywhere), the first of equals.

    Args:
        candidates: By name, the simplest first.
        truth: Whether each row is positive (hallucinated).
        folds: Three or more that test every row once (``grouped_folds``).

    Raises:
        FoldError: There is no candidate, or there are too few folds.
    """
    if not candidates or len(folds) < 3:
        raise FoldError(
            f"candidates: {len(candidates)} on {len(folds)} folds; give one or more on 3 or more"
        )
    # Hundreds of small fits: checking finite matrices again and again costs as much as fitting, and
    # threads that wait for each other cost ten times as much.
    threads = 1 if len(truth) < FEW_ROWS else None
    with (
        config_context(assume_finite=True, skip_parameter_validation=True),
        threadpool_limits(threads),
    ):
        return _choose(candidates, truth, folds)


def _choose(
    candidates: Mapping[str, Candidate],
    truth: Bool[np.ndarray, " rows"],
    folds: Sequence[Fold],
) -> ChosenFit:
    inner = {name: _inner(each, truth, folds) for name, each in candidates.items()}
    scores = np.array([_scores(logits, truth, folds) for logits in inner.values()])
    best, names = scores.argmax(axis=0), list(candidates)
    result = np.empty(len(truth))
    for number, fold in enumerate(folds):
        chosen = candidates[names[best[number]]]
        result[fold.test] = _fitted(chosen, fold.train, truth)(fold.test)
    return ChosenFit(
        logit=result,
        inner_logit=np.stack([inner[names[choice]][f] for f, choice in enumerate(best)]),
        chosen=tuple(names[choice] for choice in best),
        inner_auroc=scores.max(axis=0),
    )


def best_of(fits: Mapping[str, ChosenFit], folds: Sequence[Fold]) -> ChosenFit:
    """Return, for each fold, the fit with the highest inner AUROC, the first of equals.

    Args:
        fits: By name, the simplest first, all on the same folds.
        folds: Those folds.
    """
    names = list(fits)
    best = np.stack([fit.inner_auroc for fit in fits.values()]).argmax(axis=0)
    taken = [fits[names[choice]] for choice in best]
    result = np.empty_like(taken[0].logit)
    for fold, fit in zip(folds, taken, strict=True):
        result[fold.test] = fit.logit[fold.test]
    return ChosenFit(
        logit=result,
        inner_logit=np.stack([fit.inner_logit[f] for f, fit in enumerate(taken)]),
        chosen=tuple(
            names[choice] if fit.chosen[f] == names[choice] else f"{names[choice]}: {fit.chosen[f]}"
            for f, (choice, fit) in enumerate(zip(best, taken, strict=True))
        ),
        inner_auroc=np.array([fit.inner_auroc[f] for f, fit in enumerate(taken)]),
    )


def _fitted(
    candidate: Candidate, train: Any, truth: Bool[np.ndarray, " rows"]
) -> Callable[[Any], Float[np.ndarray, " judged"]]:
    """Return a function from row numbers to log-odds by a fit on other rows."""
    model = candidate.model().fit(candidate.features[train], truth[train])

    def judge(rows: Any) -> Float[np.ndarray, " judged"]:
        chance = model.predict_proba(candidate.features[rows])[:, 1]
        return np.asarray(logit(np.clip(chance, FURTHEST, 1 - FURTHEST)))

    return judge


def _inner(
    candidate: Candidate, truth: Bool[np.ndarray, " rows"], folds: Sequence[Fold]
) -> Float[np.ndarray, "folds rows"]:
    """Return, for each fold, the log-odds of its training rows by fits that saw neither."""
    result = np.full((len(folds), len(truth)), np.nan)
    for one, other in combinations(range(len(folds)), 2):
        train = np.setdiff1d(folds[one].train, folds[other].test)
        judge = _fitted(candidate, train, truth)
        result[one, folds[other].test] = judge(folds[other].test)
        result[other, folds[one].test] = judge(folds[one].test)
    return result


def _scores(
    logits: Float[np.ndarray, "folds rows"],
    truth: Bool[np.ndarray, " rows"],
    folds: Sequence[Fold],
) -> list[float]:
    """Return each fold's inner AUROC: over pairs within each of the other folds."""
    sizes = [truth[fold.test].sum() * (~truth[fold.test]).sum() for fold in folds]
    scores = []
    for number in range(len(folds)):
        others = [f for f in range(len(folds)) if f != number]
        found = [
            rank_auroc(truth[folds[f].test], logits[number : number + 1, folds[f].test])[0]
            for f in others
        ]
        scores.append(float(np.average(found, weights=[sizes[f] for f in others])))
    return scores
