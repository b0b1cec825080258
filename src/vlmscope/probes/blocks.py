"""Rows in blocks, and logistic regressions on unions of blocks.

Cross-validation splits the rows into blocks; every fit trains on some of them. With the rows of a
block stored contiguously, a fit reads only its own, and means and deviations of any union are sums
over blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped

from vlmscope.probes.folds import FoldError

CHUNK = 512
"""Rows converted to float64 at a time: 16 MB at width 4096."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockedRows:
    """A float32 copy of the rows, ordered by block, with each feature shifted and scaled.

    Shift and scale are those of all rows. They are a change of units that keeps float32 accurate if
    a few features are a thousand times the others; every problem still standardises by its own
    rows, and its optimum does not depend on the units.
    """

    values: Float32[np.ndarray, "rows width"]
    order: Int[np.ndarray, " rows"]
    """The caller's row number at each position."""
    starts: Int[np.ndarray, " edges"]
    """Start of each block, and the end of the last."""
    shift: Float[np.ndarray, " width"]
    scale: Float[np.ndarray, " width"]
    sums: Float[np.ndarray, "blocks width"]
    """Sum of each block's values."""
    squares: Float[np.ndarray, "blocks width"]
    """Sum of each block's squared values."""

    @property
    def width(self) -> int:
        """Number of features."""
        return int(self.values.shape[1])

    def spans(self) -> Iterator[tuple[int, slice]]:
        """Yield each block's number and slice."""
        for block, (start, end) in enumerate(pairwise(self.starts)):
            yield block, slice(int(start), int(end))

    def moments(
        self, masks: Bool[np.ndarray, "problems blocks"]
    ) -> tuple[Float[np.ndarray, "width problems"], Float[np.ndarray, "width problems"]]:
        """Return mean and deviation of each feature over each union of blocks.

        A constant feature has the deviation 1, as in ``StandardScaler``.
        """
        count = masks @ np.diff(self.starts)
        mean = (masks @ self.sums) / count[:, None]
        variance = (masks @ self.squares) / count[:, None] - mean**2
        return mean.T, np.sqrt(np.where(variance > 1e-12, variance, 1.0)).T


def block_rows(
    vectors: Float[np.ndarray, "rows width"],
    block: Int[np.ndarray, " rows"],
    *,
    rescale: bool = True,
) -> BlockedRows:
    """Copy the rows into the order of their blocks, numbered from 0 without a gap.

    Args:
        vectors: The rows.
        block: Each row's block.
        rescale: Divide each feature by its deviation; otherwise only its mean is subtracted.

    Raises:
        FoldError: A value is not finite.
    """
    order = np.argsort(block, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(block))])
    values = np.empty(vectors.shape, dtype=np.float32)
    shift = _mean(vectors)
    if not np.isfinite(shift).all():
        raise FoldError("probe: the vectors contain NaN or infinity; leave such rows out")
    variance = np.zeros(vectors.shape[1])
    for start in range(0, len(order), CHUNK):
        part = vectors[order[start : start + CHUNK]].astype(np.float64) - shift
        variance += np.square(part).sum(axis=0)
        values[start : start + CHUNK] = part
    variance /= len(order)
    scale = np.sqrt(np.where(variance > (1e-7 * shift) ** 2, variance, 1.0))
    scale = scale if rescale else np.ones_like(scale)
    values *= (1 / scale).astype(np.float32)
    sums, squares = _block_sums(values, starts)
    return BlockedRows(values, order, starts, shift, scale, sums, squares)


def _mean(vectors: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, " width"]:
    """Return the mean of each feature in float64, without a float64 copy of the matrix."""
    parts = (
        vectors[start : start + CHUNK].sum(axis=0, dtype=np.float64)
        for start in range(0, len(vectors), CHUNK)
    )
    total = np.zeros(vectors.shape[1])
    for part in parts:
        total += part
    return total / len(vectors)


def _block_sums(
    values: Float32[np.ndarray, "rows width"], starts: Int[np.ndarray, " edges"]
) -> tuple[Float[np.ndarray, "blocks width"], Float[np.ndarray, "blocks width"]]:
    """Return each block's sums of the values and of their squares, in float64."""
    sums = np.zeros((len(starts) - 1, values.shape[1]))
    squares = np.zeros_like(sums)
    for block, (first, end) in enumerate(pairwise(starts)):
        for start in range(int(first), int(end), CHUNK):
            part = values[start : min(start + CHUNK, int(end))].astype(np.float64)
            sums[block] += part.sum(axis=0)
            squares[block] += np.square(part).sum(axis=0)
    return sums, squares


@dataclass(frozen=True, slots=True, eq=False)
class Problems:
    """Logistic regressions on unions of blocks. Made by ``pose``."""

    rows: BlockedRows
    truth: Float32[np.ndarray, " rows"]
    """1 for a positive row, in the order of ``rows``."""
    masks: Bool[np.ndarray, "problems blocks"]
    """The blocks that each problem trains on."""
    penalty: Float32[np.ndarray, " problems"]
    """1 / C."""
    count: Int[np.ndarray, " problems"]
    """Number of rows of each problem."""
    positives: Float[np.ndarray, " problems"]
    """Number of positive rows of each problem."""
    mean: Float32[np.ndarray, "width problems"]
    deviation: Float32[np.ndarray, "width problems"]

    def inside(self) -> Float32[np.ndarray, "rows problems"]:
        """Return 1 where a row belongs to a problem, else 0."""
        return np.repeat(self.masks.T, np.diff(self.rows.starts), axis=0).astype(np.float32)

    def logits(
        self,
        weights: Float32[np.ndarray, "weights active"],
        active: Int[np.ndarray, " active"],
        *,
        held_out: bool = False,
    ) -> Float32[np.ndarray, "rows active"]:
        """Return the logits of each problem's training rows, 0 elsewhere.

        With ``held_out``, those of the other rows, and 0 for its training rows.
        """
        scaled = weights[:-1] / self.deviation[:, active]
        bias = weights[-1] - np.sum(self.mean[:, active] * scaled, axis=0, dtype=np.float64)
        result = np.zeros((len(self.truth), len(active)), dtype=np.float32)
        for block, span in self.rows.spans():
            here = np.flatnonzero(self.masks[active, block] != held_out)
            if len(here):
                product = self.rows.values[span] @ scaled[:, here]
                result[span, here] = product + bias[here].astype(np.float32)
        return result

    def gather(
        self, errors: Float32[np.ndarray, "rows active"], active: Int[np.ndarray, " active"]
    ) -> Float32[np.ndarray, "weights active"]:
        """Return the gradient of the losses, from their derivatives by the logits."""
        result = np.zeros((self.rows.width + 1, len(active)), dtype=np.float32)
        for block, span in self.rows.spans():
            here = np.flatnonzero(self.masks[active, block])
            if len(here):
                result[:-1, here] += self.rows.values[span].T @ errors[span, here]
        total = np.sum(errors, axis=0, dtype=np.float64).astype(np.float32)
        result[:-1] -= self.mean[:, active] * total
        result[:-1] /= self.deviation[:, active]
        result[-1] = total
        return result


def pose(
    rows: BlockedRows,
    truth: Shaped[np.ndarray, " rows"],
    masks: Bool[np.ndarray, "problems blocks"],
    strength: Float[np.ndarray, " problems"],
    *,
    standardise: bool = True,
) -> Problems:
    """Set up one regression for each mask, with ``strength`` as its ``C``.

    Args:
        rows: The rows in blocks.
        truth: Labels in the caller's order.
        masks: Blocks to train on.
        strength: scikit-learn's ``C``, the inverse of the penalty.
        standardise: Penalise the weights on features standardised by the problem's own rows;
            otherwise those on the unscaled values of the blocks.

    Raises:
        FoldError: A problem has one class only.
    """
    label = np.asarray(truth, dtype=bool)[rows.order].astype(np.float32)
    count = masks @ np.diff(rows.starts)
    positives = masks @ np.array([label[span].sum(dtype=np.float64) for _, span in rows.spans()])
    if ((positives == 0) | (positives == count)).any():
        raise FoldError("probe: training rows of one class only; label rows of both classes")
    mean, deviation = (part.astype(np.float32) for part in rows.moments(masks))
    if not standardise:  # means are kept: an unpenalised bias absorbs any shift
        deviation = np.ones_like(deviation)
    penalty = (1 / np.asarray(strength)).astype(np.float32)
    return Problems(rows, label, masks, penalty, count, positives, mean, deviation)
