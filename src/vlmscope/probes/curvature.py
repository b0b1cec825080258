"""Roughly how the loss bends: what turns hundreds of steps into tens.

Hidden states are strongly correlated: a few directions hold most of the variance, so plain
descent zigzags. The Hessian of a logistic loss is close to ``rate · XᵀX + 1/C``; its leading
eigenvectors, found once for all problems from a random projection, and the mean of the rest make
a good starting guess for L-BFGS. It changes the number of steps, not the optimum: a guess that is
wrong for a problem costs time only.

Source of the projection: N. Halko, P. Martinsson, J. Tropp, "Finding structure with randomness",
SIAM Review 53 (2011), algorithm 4.3 with one power iteration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy.linalg import eigh, qr  # type: ignore[import-untyped,unused-ignore]

from vlmscope.probes.blocks import BlockedRows, Problems

RANK = 256
"""Leading directions kept; up to this width the guess is exact for equal weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Curvature:
    """Leading eigenpairs of a matrix's ``XᵀX / rows``, and the mean of the other eigenvalues."""

    directions: Float32[np.ndarray, "width rank"]
    values: Float[np.ndarray, " rank"]
    rest: float

    def divide(
        self,
        gradient: Float32[np.ndarray, "weights active"],
        problems: Problems,
        active: Int[np.ndarray, " active"],
    ) -> Float32[np.ndarray, "weights active"]:
        """Return the inverse of the guessed Hessian times the gradient, for each problem."""
        count = problems.count[active]
        rate = problems.positives[active] / count
        scale = count * rate * (1 - rate)
        penalty = problems.penalty[active].astype(np.float64)
        outside = 1 / (self.rest * scale + penalty)
        within = 1 / (self.values[:, None] * scale + penalty) - outside
        part = (self.directions.T @ gradient[:-1]) * within.astype(np.float32)
        result = np.empty_like(gradient)
        result[:-1] = gradient[:-1] * outside.astype(np.float32) + self.directions @ part
        result[-1] = gradient[-1] / scale
        return result


def curvature_of(rows: BlockedRows) -> Curvature:
    """Return the curvature of standardised rows; deterministic."""
    values = rows.values
    rank = min(RANK, rows.width)
    start = np.random.default_rng(0).standard_normal((rows.width, rank), dtype=np.float32)
    basis, _ = qr(values.T @ (values @ start), mode="economic", check_finite=False)
    projected = values @ basis
    found, vectors = eigh(projected.T @ projected, check_finite=False)
    found = np.maximum(found.astype(np.float64), 0) / len(values)
    total = float(rows.squares.sum()) / len(values)
    rest = max(total - float(found.sum()), 0.0) / max(rows.width - rank, 1)
    return Curvature(basis @ vectors, found, rest)
