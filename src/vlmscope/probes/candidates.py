"""Out-of-fold predictions of arbitrary classifiers, with the best chosen inside training.

The nesting is that of ``crossfit_logistic``: the fit without folds a and b predicts b for the
choice in a, and a for the choice in b. A baseline is therefore treated like a probe (its form and
penalty are chosen, on equally many rows), and its inner predictions can be stacked with a probe's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations, permutations
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float
from scipy.sparse import csr_array  # type: ignore[import-untyped,unused-ignore]
from scipy.special import expit, logit  # type: ignore[import-untyped,unused-ignore]
from sklearn import config_context  # type: ignore[import-untyped,unused-ignore]
from sklearn.linear_model import (  # type: ignore[import-untyped,unused-ignore]
    LogisticRegression,
)
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped,unused-ignore]

from vlmscope.probes.base import block_numbers
from vlmscope.probes.blocks import block_rows, pose
from vlmscope.probes.crossfit import rank_auroc
from vlmscope.probes.folds import Fold, FoldError
from vlmscope.probes.solver import curvature_of, solve

FEW_ROWS = 5000
"""Size below which threads cost more than they save."""

MOST_VALUES = 2**22
"""Largest matrix solved by this package's dense solver; 16 MB."""

FURTHEST = 1e-6
"""Smallest distance of a probability from 0 and 1, which keeps log-odds finite."""


Predictor = Callable[[Any], Float[np.ndarray, " predicted"]]
"""A fitted model: a function from row numbers to log-odds."""


class OutOfFold(Protocol):
    """Interface of cross-fits for stacking."""

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
    """A matrix with one line per row, computed without the labels."""
    model: Callable[[], Any]
    """Returns an unfitted scikit-learn classifier."""
    strength: float | None = None
    """``C``, if the model is a plain logistic regression with the default penalty: many of them are
    solved at once.
    """


def regression(features: Any, strength: float) -> Candidate:
    """Return a logistic regression on these features, with an L2 penalty.

    Args:
        features: One line per row, of comparable scales (one-hot, TF-IDF, splines, standardised
            numbers): they are penalised without scaling, and the solver's tolerance applies to the
            log-odds.
        strength: scikit-learn's ``C``.
    """
    model = partial(LogisticRegression, C=strength, max_iter=2000, tol=1e-3)
    return Candidate(features, model, strength)


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
    """Its inner AUROC over pairs within a fold; optimistic, as the largest of several."""

    @property
    def risk(self) -> Float[np.ndarray, " rows"]:
        """Out-of-fold probability that each row is positive."""
        return np.asarray(expit(self.logit))


def crossfit_candidates(
    candidates: Mapping[str, Candidate],
    truth: Bool[np.ndarray, " rows"],
    folds: Sequence[Fold],
) -> ChosenFit:
    """Predict every row by a classifier that was neither trained nor chosen on it.

    For each fold, the candidate with the highest AUROC over the inner folds is used (over pairs
    within a fold, as everywhere), the first in a tie.

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
    # Hundreds of small fits: repeated checks for finite values cost as much as fitting, and threads
    # that wait for each other cost ten times as much.
    threads = 1 if len(truth) < FEW_ROWS else None
    with (
        config_context(assume_finite=True, skip_parameter_validation=True),
        _thread_pools().limit(limits=threads),
    ):
        return _choose(candidates, truth, folds)


@cache
def _thread_pools() -> Any:
    """Return the thread pools of the libraries that are loaded; finding them takes milliseconds."""
    return ThreadpoolController()


def _choose(
    candidates: Mapping[str, Candidate],
    truth: Bool[np.ndarray, " rows"],
    folds: Sequence[Fold],
) -> ChosenFit:
    found = _solved_together(candidates, truth, folds)
    for name in candidates.keys() - found.keys():
        found[name] = _one_by_one(candidates[name], truth, folds)
    inner = np.stack([found[name].inner for name in candidates])
    scores = _scores(inner, truth, folds)
    best, names = scores.argmax(axis=0), list(candidates)
    result = np.empty(len(truth))
    for number, fold in enumerate(folds):
        result[fold.test] = found[names[best[number]]].outer(number)(fold.test)
    return ChosenFit(
        logit=result,
        inner_logit=inner[best, np.arange(len(folds))],
        chosen=tuple(names[choice] for choice in best),
        inner_auroc=scores.max(axis=0),
    )


def best_of(fits: Mapping[str, ChosenFit], folds: Sequence[Fold]) -> ChosenFit:
    """Return, for each fold, the fit with the highest inner AUROC, the first in a tie.

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


def fit_candidate(candidate: Candidate, train: Any, truth: Bool[np.ndarray, " rows"]) -> Predictor:
    """Return a function from row numbers to log-odds, by a fit on the training rows."""
    model = candidate.model().fit(candidate.features[train], truth[train])

    def predict(rows: Any) -> Float[np.ndarray, " predicted"]:
        chance = model.predict_proba(candidate.features[rows])[:, 1]
        return np.asarray(logit(np.clip(chance, FURTHEST, 1 - FURTHEST)))

    return predict


@dataclass(frozen=True, slots=True, eq=False)
class _Fits:
    """The fits of one candidate."""

    inner: Float[np.ndarray, "folds rows"]
    """For each fold, out-of-fold log-odds of its training rows by fits without that fold; NaN
    elsewhere.
    """
    outer: Callable[[int], Predictor]
    """From a fold's number to the fit on its training rows."""


def _one_by_one(
    candidate: Candidate, truth: Bool[np.ndarray, " rows"], folds: Sequence[Fold]
) -> _Fits:
    """Fit a candidate with scikit-learn."""
    inner = np.full((len(folds), len(truth)), np.nan)
    for one, other in combinations(range(len(folds)), 2):
        train = np.setdiff1d(folds[one].train, folds[other].test)
        predict = fit_candidate(candidate, train, truth)
        inner[one, folds[other].test] = predict(folds[other].test)
        inner[other, folds[one].test] = predict(folds[one].test)
    return _Fits(inner, lambda number: fit_candidate(candidate, folds[number].train, truth))


def _solved_together(
    candidates: Mapping[str, Candidate],
    truth: Bool[np.ndarray, " rows"],
    folds: Sequence[Fold],
) -> dict[str, _Fits]:
    """Return the fits of every small regression by name, solving those of equal features at once.

    Each takes a millisecond, while a scikit-learn call for each takes five.
    """
    same: dict[int, list[str]] = {}
    for name, each in candidates.items():
        if each.strength is not None and np.prod(each.features.shape) <= MOST_VALUES:
            same.setdefault(id(each.features), []).append(name)
    found: dict[str, _Fits] = {}
    for names in same.values():
        strengths = [float(candidates[name].strength or 0) for name in names]
        logits = _held_out_logits(candidates[names[0]].features, strengths, truth, folds)
        found.update(zip(names, (_fits_of(part, folds) for part in logits), strict=True))
    return found


def _held_out_logits(
    features: Any,
    strengths: Sequence[float],
    truth: Bool[np.ndarray, " rows"],
    folds: Sequence[Fold],
) -> Float[np.ndarray, "strengths left_out rows"]:
    """Return the log-odds of all rows by regressions on all folds but those left out.

    For each ``C``, first the fits without one fold, then those without two (``_left_out``).
    """
    left_out = _left_out(len(folds))
    masks = np.array([[fold not in out for fold in range(len(folds))] for out in left_out])
    sparse = csr_array(features, dtype=np.float64)
    rows = block_rows(sparse.toarray(), block_numbers(folds, len(truth)), rescale=False)
    problems = pose(
        rows,
        truth,
        np.tile(masks, (len(strengths), 1)),
        np.repeat(strengths, len(masks)),
        standardise=False,
    )
    weights = solve(problems, curvature_of(rows)).astype(np.float64)
    bias = weights[-1] - ((rows.shift[:, None] + problems.mean) * weights[:-1]).sum(axis=0)
    # Row by row, so that equal rows have equal log-odds; a matrix product may round differently.
    logits = (sparse @ weights[:-1] + bias).T
    furthest = logit(1 - FURTHEST)
    clipped = np.asarray(np.clip(logits, -furthest, furthest))
    return clipped.reshape(len(strengths), len(masks), len(truth))


def _left_out(folds: int) -> list[tuple[int, ...]]:
    """Return every fold and every pair of folds."""
    return [*combinations(range(folds), 1), *combinations(range(folds), 2)]


def _fits_of(logits: Float[np.ndarray, "left_out rows"], folds: Sequence[Fold]) -> _Fits:
    """Return the fits with these log-odds of all rows."""
    inner = np.full((len(folds), logits.shape[1]), np.nan)
    for out, line in zip(_left_out(len(folds)), logits, strict=True):
        for of, at in permutations(out, 2):
            inner[of, folds[at].test] = line[folds[at].test]
    return _Fits(inner, lambda number: lambda rows: logits[number, rows])


def _scores(
    inner: Float[np.ndarray, "candidates folds rows"],
    truth: Bool[np.ndarray, " rows"],
    folds: Sequence[Fold],
) -> Float[np.ndarray, "candidates folds"]:
    """Return each fold's inner AUROC: over pairs within each of the other folds."""
    scores, pairs = np.zeros(inner.shape[:2]), np.zeros(len(folds))
    for of, at in permutations(range(len(folds)), 2):
        label = truth[folds[at].test]
        weight = label.sum() * (~label).sum()
        scores[:, of] += weight * rank_auroc(label, inner[:, of, folds[at].test])
        pairs[of] += weight
    return scores / pairs
