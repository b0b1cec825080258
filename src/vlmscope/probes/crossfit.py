"""Out-of-fold predictions of the logistic probe, with its penalty chosen inside training.

Every row is predicted by a fit that was not trained on its image, with ``C`` chosen without it too.
The inner folds of an outer fold are the *other* outer folds: the fit without folds a and b predicts
b for the choice in a, and a for the choice in b. That halves the inner fits (ten sets of rows
instead of twenty for five folds), gives inner training sets of three fifths of all rows, and keeps
groups together without a second split. ``solver`` computes all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped
from scipy.special import expit  # type: ignore[import-untyped,unused-ignore]
from scipy.stats import rankdata  # type: ignore[import-untyped,unused-ignore]
from sklearn.base import clone  # type: ignore[import-untyped,unused-ignore]

from vlmscope.probes.blocks import Problems, block_rows, pose
from vlmscope.probes.folds import Fold, FoldError
from vlmscope.probes.solver import curvature_of, solve

GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of ``C`` to choose from: for thousands of standardised, correlated features."""


@dataclass(frozen=True, slots=True, eq=False)
class CrossFit:
    """The result of nested cross-validation on one matrix of vectors."""

    logit: Float[np.ndarray, " rows"]
    """Out-of-fold log-odds of each row, from the fit of the fold that tests it."""
    chosen_c: Float[np.ndarray, " folds"]
    """The ``C`` of each fold, chosen on the others."""
    inner_auroc: Float[np.ndarray, " folds"]
    """Mean AUROC of that ``C`` over the inner folds, by which candidates are compared."""
    grid_auroc: Float[np.ndarray, "folds grid"]
    """The same for every ``C``."""
    grid_loss: Float[np.ndarray, "folds grid"]
    """Mean inner log-loss of every ``C`` in nats, by which ``C`` is chosen. AUROC cannot be used:
    it ignores scale, and the log-odds of all folds are pooled.
    """
    inner_logit: Float[np.ndarray, "folds rows"]
    """For each fold, the inner out-of-fold log-odds of its training rows at the chosen ``C``;
    NaN for the rows that it tests."""

    @property
    def risk(self) -> Float[np.ndarray, " rows"]:
        """Out-of-fold probability that each row is positive."""
        return np.asarray(expit(self.logit))

    @property
    def inner_risk(self) -> Float[np.ndarray, "folds rows"]:
        """``inner_logit`` as probabilities."""
        return np.asarray(expit(self.inner_logit))


def crossfit_logistic(
    vectors: Float[np.ndarray, "rows width"],
    truth: Shaped[np.ndarray, " rows"],
    folds: Sequence[Fold],
    groups: Shaped[np.ndarray, " rows"],
    *,
    grid: Sequence[float] = GRID,
) -> CrossFit:
    """Predict every row by a logistic probe that was not trained on it: nested cross-validation.

    For each fold, standardisation, weights and ``C`` come from the other folds only. ``C`` is the
    value with the lowest log-loss over the inner folds, the smallest in a tie. Takes one float32
    copy of the matrix and at most about its size again.

    Args:
        vectors: One vector for each row.
        truth: Whether each row is positive (hallucinated).
        folds: Three or more that test every row once (``grouped_folds``).
        groups: The image of each row; no fold may split one.
        grid: Values of ``C``, in scikit-learn's sense, on standardised features.

    Raises:
        FoldError: The folds do not match the rows, split a group or have one class only; the
            grid is empty or not positive; a value is not finite.
    """
    truth = np.asarray(truth, dtype=bool)
    block = _block_of(folds, groups, truth)
    strengths = checked_grid(grid)
    rows = block_rows(vectors, block)
    curvature = curvature_of(rows)
    label = truth[rows.order]
    pairs = list(combinations(range(len(folds)), 2))
    without = np.array([[b not in pair for b in range(len(folds))] for pair in pairs])
    inner = pose(
        rows, truth, np.repeat(without, len(strengths), axis=0), np.tile(strengths, len(pairs))
    )
    weights = solve(inner, curvature)
    held_out_logits = inner.logits(weights, np.arange(len(inner.penalty)), held_out=True)
    auroc, loss, inner_logit = _inner_scores(inner, held_out_logits, label, pairs, len(strengths))
    best = loss.argmin(axis=1)
    outer = pose(rows, truth, ~np.eye(len(folds), dtype=bool), strengths[best])
    start = [_mean_of_pairs(weights, pairs, fold, len(strengths), c) for fold, c in enumerate(best)]
    final = solve(outer, curvature, np.stack(start, axis=1))
    logit = outer.logits(final, np.arange(len(folds)), held_out=True).sum(axis=1)
    chosen = np.arange(len(folds))
    back = np.argsort(rows.order)
    return CrossFit(
        logit=logit[back].astype(np.float64),
        chosen_c=strengths[best],
        inner_auroc=auroc[chosen, best],
        grid_auroc=auroc,
        grid_loss=loss,
        inner_logit=inner_logit[chosen, best][:, back],
    )


def _inner_scores(
    inner: Problems,
    held_out_logits: Float32[np.ndarray, "rows problems"],
    label: Bool[np.ndarray, " rows"],
    pairs: Sequence[tuple[int, int]],
    size: int,
) -> tuple[
    Float[np.ndarray, "folds grid"],
    Float[np.ndarray, "folds grid"],
    Float[np.ndarray, "folds grid rows"],
]:
    """Return, for each fold and ``C``, mean inner AUROC and log-loss, and the inner logits."""
    spans = dict(inner.rows.spans())
    auroc, loss = np.zeros((len(spans), size)), np.zeros((len(spans), size))
    logits = np.full((len(spans), size, len(label)), np.nan)
    for number, pair in enumerate(pairs):
        for fold, other in (pair, pair[::-1]):
            span = spans[other]
            part = held_out_logits[span, number * size : (number + 1) * size].T
            logits[fold, :, span] = part
            auroc[fold] += rank_auroc(label[span], part)
            loss[fold] += log_loss_of(label[span], part)
    return auroc / (len(spans) - 1), loss / (len(spans) - 1), logits


def rank_auroc(
    label: Bool[np.ndarray, " rows"], scores: Float[np.ndarray, "fits rows"]
) -> Float[np.ndarray, " fits"]:
    """Return the AUROC of each line of scores; ties count half. Both classes must be present.

    scikit-learn's argument checks take a millisecond, and a sweep calls this ten thousand times.

    >>> rank_auroc(np.array([False, True, False]), np.array([[0.1, 0.9, 0.2], [1, 1, 1]])).tolist()
    [1.0, 0.5]
    """
    positives = int(label.sum())
    ranks = rankdata(scores, axis=1)[:, label].sum(axis=1)
    pairs = positives * (len(label) - positives)
    return np.asarray((ranks - positives * (positives + 1) / 2) / pairs)


def log_loss_of(
    label: Bool[np.ndarray, " rows"], logits: Float[np.ndarray, "fits rows"]
) -> Float[np.ndarray, " fits"]:
    """Return the mean log-loss in nats of each line of log-odds."""
    wrong = np.where(label, -logits, logits).astype(np.float64)
    return np.asarray(np.logaddexp(0, wrong).mean(axis=1))


def _mean_of_pairs(
    weights: Float32[np.ndarray, "weights problems"],
    pairs: Sequence[tuple[int, int]],
    fold: int,
    size: int,
    choice: int,
) -> Float32[np.ndarray, " weights"]:
    """Return a starting point for a fold's final fit: the mean of its inner fits."""
    columns = [number * size + choice for number, pair in enumerate(pairs) if fold in pair]
    return np.asarray(weights[:, columns].mean(axis=1))


def checked_grid(grid: Sequence[float]) -> Float[np.ndarray, " grid"]:
    """Return the grid in ascending order, so that the first in a tie is the smallest."""
    strengths = np.unique(np.asarray(grid, dtype=np.float64))
    if not len(strengths) or not (np.isfinite(strengths) & (strengths > 0)).all():
        raise FoldError(f"probe: the grid {list(grid)} must contain positive values of C")
    return strengths


def _block_of(
    folds: Sequence[Fold], groups: Shaped[np.ndarray, " rows"], truth: Bool[np.ndarray, " rows"]
) -> Int[np.ndarray, " rows"]:
    """Check the folds, and return the fold that tests each row."""
    if len(folds) < 3:
        raise FoldError(f"folds: {len(folds)} given; nested selection needs 3 or more")
    tested = np.concatenate([fold.test for fold in folds])
    if not np.array_equal(np.sort(tested), np.arange(len(truth))) or len(groups) != len(truth):
        raise FoldError(
            f"folds: they test {len(tested)} rows of {len(truth)} ({len(groups)} groups); every "
            "row must be tested once, as by grouped_folds on the same rows"
        )
    block = np.empty(len(truth), dtype=np.int64)
    for number, fold in enumerate(folds):
        block[fold.test] = number
        if not 0 < truth[fold.test].sum() < len(fold.test):
            raise FoldError(f"folds: fold {number} tests one class only; use fewer folds")
    _, group = np.unique(groups, return_inverse=True)
    if len(np.unique(np.stack([group, block]), axis=1).T) != group.max() + 1:
        raise FoldError("folds: an image is on both sides of a fold; use grouped_folds")
    return block


def crossfit_estimator(
    estimator: Any,
    vectors: Float[np.ndarray, "rows width"],
    truth: Shaped[np.ndarray, " rows"],
    folds: Sequence[Fold],
    groups: Shaped[np.ndarray, " rows"],
) -> Float[np.ndarray, " rows"]:
    """Return the out-of-fold risk by any probe of this package, one fit for each fold.

    All choices of the probe are made inside its training rows, whose ``groups`` are passed to it.

    Raises:
        FoldError: As in ``crossfit_logistic``.
    """
    truth = np.asarray(truth, dtype=bool)
    _block_of(folds, groups, truth)
    risk = np.empty(len(truth))
    for fold in folds:
        fitted = clone(estimator).fit(
            vectors[fold.train], truth[fold.train], groups=np.asarray(groups)[fold.train]
        )
        risk[fold.test] = fitted.predict_proba(vectors[fold.test])[:, 1]
    return risk
