"""Linear probes: a logistic regression, and the difference of the class means.

The HALP research trained a large network and called it linear probing; only a linear baseline shows
whether such a network is needed. The logistic probe is the default; the difference of means has no
weights to overfit and shows the AUROC of a single direction. Both standardise inside ``fit`` and
store the learned parameters, never the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import (  # type: ignore[import-untyped,unused-ignore]
    LogisticRegression,
)

from vlmscope.probes.base import BinaryProbe, block_numbers, split_inside
from vlmscope.probes.blocks import BlockedRows, block_rows, pose
from vlmscope.probes.crossfit import GRID, checked_grid, log_loss_of, rank_auroc
from vlmscope.probes.solver import Curvature, curvature_of, solve


class LinearProbe(BinaryProbe):
    """A probe whose log-odds are a weighted sum of standardised features.

    Attributes:
        mean_: Mean of each feature in training, float64 [width].
        scale_: Deviation of each feature in training, float64 [width]; 1 if constant.
        coef_: Weights on the standardised features, float64 [1, width].
        intercept_: Log-odds at the mean, float64 [1].
    """

    mean_: Float[np.ndarray, " width"]
    scale_: Float[np.ndarray, " width"]
    coef_: Float[np.ndarray, "1 width"]
    intercept_: Float[np.ndarray, 1]

    def _logits(self, vectors: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, " rows"]:
        """Return the log-odds of vectors, in float64."""
        weights = self.coef_[0] / self.scale_
        return np.asarray((vectors - self.mean_) @ weights + self.intercept_[0])


class LogisticProbe(LinearProbe):
    """L2-regularised logistic regression on standardised features.

    The optimum of scikit-learn's ``LogisticRegression(C=C)`` behind a ``StandardScaler``, found by
    ``solver``.

    Args:
        C: Inverse of the penalty, or ``"auto"``: the value of ``grid`` with the lowest log-loss "
        "over inner folds of the training rows, grouped by image.
        grid: Values that ``"auto"`` chooses from.
        inner: Number of inner folds; fewer if there are too few images of a class.
        seed: Seed of the inner folds.

    Attributes:
        C_: The ``C`` used.
        grid_auroc_: Mean inner AUROC of each value of the grid; absent if there was one ``C``.
        grid_loss_: Mean inner log-loss of each, in nats; likewise.
    """

    C_: float
    grid_auroc_: Float[np.ndarray, " grid"]
    grid_loss_: Float[np.ndarray, " grid"]

    def __init__(
        self,
        C: float | Literal["auto"] = "auto",  # noqa: N803
        *,
        grid: Sequence[float] = GRID,
        inner: int = 5,
        seed: int = 0,
    ) -> None:
        self.C = C
        self.grid = grid
        self.inner = inner
        self.seed = seed

    def fit(
        self,
        X: Any,  # noqa: N803
        y: Any,
        groups: Any = None,
        *,
        inner_folds: Any = None,
    ) -> Self:
        """Fit on vectors [rows, width] and labels [rows] of two classes.

        Args:
            X: The vectors, float32 or float64.
            y: The labels.
            groups: The image of each row, for the inner folds; by default each row is its own
                group.
            inner_folds: Number of each row's inner fold, from 0, each with both classes; by default
                made from ``groups``.

        Raises:
            FoldError: One class only, or too few images of a class to choose ``C``.
        """
        vectors, truth, groups = self._begin(X, y, groups)
        automatic = self.C == "auto"
        grid = checked_grid(self.grid if self.C == "auto" else [self.C])
        automatic = automatic and len(grid) > 1
        block = np.zeros(len(truth), dtype=np.int64)
        if automatic and inner_folds is not None:
            block = np.asarray(inner_folds, dtype=np.int64)
        elif automatic:
            found = split_inside(truth, groups, self.inner, self.seed)
            block = block_numbers(found, len(truth))
        rows = block_rows(vectors, block)
        curvature = curvature_of(rows)
        self.C_ = float(grid[0])
        if automatic:
            self.grid_auroc_, self.grid_loss_ = _grid_scores(rows, curvature, truth, grid)
            self.C_ = float(grid[self.grid_loss_.argmin()])
        everything = np.ones((1, block.max() + 1), dtype=bool)
        weights = solve(pose(rows, truth, everything, np.array([self.C_])), curvature)
        mean, deviation = rows.moments(everything)
        self.mean_ = rows.shift + rows.scale * mean[:, 0]
        self.scale_ = rows.scale * deviation[:, 0]
        self.coef_ = weights[:-1].T.astype(np.float64)
        self.intercept_ = weights[-1].astype(np.float64)
        return self


def _grid_scores(
    rows: BlockedRows,
    curvature: Curvature,
    truth: Bool[np.ndarray, " rows"],
    grid: Float[np.ndarray, " grid"],
) -> tuple[Float[np.ndarray, " grid"], Float[np.ndarray, " grid"]]:
    """Return each ``C``'s mean AUROC and log-loss on the blocks, by fits on the other blocks."""
    blocks = len(rows.starts) - 1
    masks = np.repeat(~np.eye(blocks, dtype=bool), len(grid), axis=0)
    inner = pose(rows, truth, masks, np.tile(grid, blocks))
    weights = solve(inner, curvature)
    held_out_logits = inner.logits(weights, np.arange(len(masks)), held_out=True)
    label = truth[rows.order]
    parts = [
        (label[span], held_out_logits[span, block * len(grid) : (block + 1) * len(grid)].T)
        for block, span in rows.spans()
    ]
    auroc = [rank_auroc(*part) for part in parts]
    loss = [log_loss_of(*part) for part in parts]
    return np.asarray(np.mean(auroc, axis=0)), np.asarray(np.mean(loss, axis=0))


class MeanDifferenceProbe(LinearProbe):
    """The difference of the class means on standardised features, calibrated to probabilities.

    Weights are the difference of means; a logistic regression with one feature turns the score
    into log-odds. It is fitted on scores of inner held-out rows (J. Platt, "Probabilistic outputs
    for support vector machines", 1999): in thousands of dimensions the training rows' own scores
    are separated far too well.

    Args:
        inner: Number of inner folds; fewer if there are too few images of a class.
        seed: Seed of the inner folds.
    """

    def __init__(self, *, inner: int = 5, seed: int = 0) -> None:
        self.inner = inner
        self.seed = seed

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:  # noqa: N803
        """Fit on vectors [rows, width] and labels [rows]; see ``LogisticProbe.fit``."""
        vectors, truth, groups = self._begin(X, y, groups)
        folds = split_inside(truth, groups, self.inner, self.seed)
        count = len(folds)
        rows = block_rows(vectors, block_numbers(folds, len(truth)))
        masks = np.vstack([~np.eye(count, dtype=bool), np.ones((1, count), dtype=bool)])
        mean, deviation = rows.moments(masks)
        label = truth[rows.order]
        direction = _difference(rows, label, masks) / deviation
        score = np.empty(len(label))
        for block, span in rows.spans():
            weights = direction[:, block] / deviation[:, block]
            score[span] = rows.values[span] @ weights - mean[:, block] @ weights
        slope, offset = _calibration(score, label)
        self.mean_ = rows.shift + rows.scale * mean[:, -1]
        self.scale_ = rows.scale * deviation[:, -1]
        self.coef_ = slope * direction[:, -1:].T
        self.intercept_ = np.array([offset])
        return self


def _difference(
    rows: BlockedRows, label: Bool[np.ndarray, " rows"], masks: Bool[np.ndarray, "fits blocks"]
) -> Float[np.ndarray, "width fits"]:
    """Return positive mean minus negative mean over each union of blocks."""
    positive = np.array([label[span].sum() for _, span in rows.spans()])
    total = np.stack(
        [rows.values[span].T @ label[span].astype(np.float64) for _, span in rows.spans()]
    )
    count = masks @ positive
    other = masks @ np.diff(rows.starts) - count
    above = (masks @ total) / count[:, None]
    below = (masks @ (rows.sums - total)) / other[:, None]
    return np.asarray((above - below).T)


def _calibration(
    score: Float[np.ndarray, " rows"], label: Bool[np.ndarray, " rows"]
) -> tuple[float, float]:
    """Return slope and offset from scores to log-odds; finite even for separated classes."""
    unit = float(score.std()) or 1.0
    fitted = LogisticRegression(C=1.0).fit(score[:, None] / unit, label)
    return float(fitted.coef_[0, 0]) / unit, float(fitted.intercept_[0])
