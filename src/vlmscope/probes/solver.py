"""Many regularised logistic regressions on masks of the same rows, solved together.

Hidden states are strongly correlated: a few directions have most of the variance, so plain gradient
descent zigzags. The Hessian of a logistic loss is close to ``rate · XᵀX + 1/C``; its leading
eigenvectors, found once for all problems from a random projection, and the mean of the rest make a
good initial guess for L-BFGS. It changes the number of steps, not the optimum: a bad guess for a
problem only costs time.

Source of the projection: N. Halko, P. Martinsson, J. Tropp, "Finding structure with randomness",
SIAM Review 53 (2011), algorithm 4.3 with one power iteration.

Nested cross-validation needs some fifty fits that differ only in their rows and penalty. One after
the other, each pass over the matrix is memory-bound; together they are one matrix product per step.
Every problem has its own standardisation (folded into its weights, so that the rows are never
copied), quasi-Newton direction, step length and convergence test, and is removed from the product
when it has converged.

Method: L-BFGS (J. Nocedal and S. Wright, Numerical Optimization, 2nd ed., algorithm 7.5) with
``Curvature`` as the initial inverse Hessian, and a safeguarded Newton search for the step, which
needs no further product: along a direction the logits are linear. The optimum is that of
scikit-learn's ``LogisticRegression(C=C)`` on standardised features; only the last digits differ.
"""

from __future__ import annotations

import warnings
from collections import deque
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy.linalg import eigh, qr  # type: ignore[import-untyped,unused-ignore]
from scipy.special import expit, logit  # type: ignore[import-untyped,unused-ignore]
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped,unused-ignore]

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
    """Return the curvature of standardised rows, deterministically."""
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


TOLERANCE = 1e-4
"""Convergence tolerance: root mean square change of a problem's logits by the next Newton step."""

MEMORY = 10
"""Number of pairs that L-BFGS stores."""

MAX_STEPS = 1000
"""Maximum number of steps, far above what the default grid needs (80); reaching it gives a warning.
"""


def solve(
    problems: Problems,
    curvature: Curvature,
    start: Float32[np.ndarray, "weights problems"] | None = None,
) -> Float32[np.ndarray, "weights problems"]:
    """Return the optimum of every problem: weights on its standardised features, then the bias.

    Each column minimises ``½‖w‖² + C Σ log-loss`` over the problem's rows; the bias is free.

    Args:
        problems: The rows, and each problem's mask and ``C``.
        curvature: Of the same rows; changes the speed, not the result.
        start: Starting point; by default zero weights and the bias of the base rate.

    Warns:
        ConvergenceWarning: A problem did not converge in ``MAX_STEPS`` steps.
    """
    descent = _Descent(problems, curvature, start)
    for _ in range(MAX_STEPS):
        descent.differentiate()
        descent.turn()
        if not len(descent.active):
            return descent.solved
        descent.step()
    warnings.warn(
        f"{len(descent.active)} logistic regressions did not converge in {MAX_STEPS} steps; "
        "use a smaller C",
        ConvergenceWarning,
        stacklevel=2,
    )
    descent.solved[:, descent.active] = descent.point
    return descent.solved


class _Descent:
    """The state of the descent: one column for each problem that is still active."""

    def __init__(
        self,
        problems: Problems,
        curvature: Curvature,
        start: Float32[np.ndarray, "weights problems"] | None,
    ) -> None:
        self.problems = problems
        self.curvature = curvature
        self.active = np.arange(len(problems.penalty))
        self.inside = problems.inside()
        if start is None:
            start = np.zeros((problems.rows.width + 1, len(self.active)), dtype=np.float32)
            start[-1] = logit(problems.positives / problems.count)
        self.point = start.copy()
        self.solved = start.copy()
        self.logits = problems.logits(self.point, self.active)
        self.gradient = np.empty((0, 0), dtype=np.float32)
        self.direction = np.empty((0, 0), dtype=np.float32)
        self.moved: Float32[np.ndarray, "weights active"] | None = None
        self.history: deque[_Pair] = deque(maxlen=MEMORY)

    def differentiate(self) -> None:
        """Compute the gradient at the current point, and store how it changed."""
        before = self.gradient
        errors = (expit(self.logits) - self.problems.truth[:, None]) * self.inside
        self.gradient = self.problems.gather(errors, self.active)
        self.gradient[:-1] += self.point[:-1] * self.problems.penalty[self.active]
        if self.moved is not None:
            self.history.append(_Pair(self.moved, self.gradient - before))

    def turn(self) -> None:
        """Choose the next direction, and remove the problems that have converged."""
        wanted = self.gradient.copy()
        factors = []
        for pair in reversed(self.history):
            factors.append(pair.project(pair.moved, wanted))
            wanted -= pair.turned * factors[-1]
        wanted = self.curvature.divide(wanted, self.problems, self.active)
        for pair, factor in zip(self.history, reversed(factors), strict=True):
            wanted += pair.moved * (factor - pair.project(pair.turned, wanted))
        self.direction = -wanted
        # The Newton decrement is the weighted sum of squared changes of the logits by the step.
        decrement = -_dot(self.gradient, self.direction)
        going = decrement > TOLERANCE**2 * self.problems.count[self.active]
        if not going.all():
            self._retire(going)

    def _retire(self, going: Bool[np.ndarray, " active"]) -> None:
        """Remove the solved problems from every array."""
        self.solved[:, self.active[~going]] = self.point[:, ~going]
        self.active = self.active[going]
        self.point, self.gradient = self.point[:, going], self.gradient[:, going]
        self.direction, self.logits = self.direction[:, going], self.logits[:, going]
        self.inside = self.inside[:, going]
        self.history = deque((pair.keep(going) for pair in self.history), maxlen=MEMORY)

    def step(self) -> None:
        """Move along the direction to its minimum."""
        slope = self.problems.logits(self.direction, self.active)
        length = self._search(slope).astype(np.float32)
        self.moved = self.direction * length
        self.point = self.point + self.moved
        self.logits += slope * length

    def _search(self, slope: Float32[np.ndarray, "rows active"]) -> Float[np.ndarray, " active"]:
        """Return the step length of each problem: a bracketed Newton search for slope zero."""
        penalty = self.problems.penalty[self.active].astype(np.float64)
        linear = penalty * _dot(self.point[:-1], self.direction[:-1])
        square = penalty * _dot(self.direction[:-1], self.direction[:-1])
        first = -_dot(self.gradient, self.direction)
        length, low = np.ones_like(first), np.zeros_like(first)
        high = np.full_like(first, np.inf)
        for _ in range(30):
            chance = expit(self.logits + slope * length.astype(np.float32))
            errors = (chance - self.problems.truth[:, None]) * self.inside
            rise = _dot(errors, slope) + linear + length * square
            good = np.abs(rise) <= 0.1 * first
            if good.all():
                break
            bend = _dot(chance * (1 - chance) * self.inside * slope, slope) + square
            low = np.where(rise < 0, length, low)
            high = np.where(rise > 0, length, high)
            beyond = np.where(np.isfinite(high), (low + np.minimum(high, 1e30)) / 2, 2 * length)
            newton = length - rise / np.maximum(bend, 1e-30)
            trusted = (newton > low) & (newton < np.minimum(high, 8 * length))
            length = np.where(good, length, np.where(trusted, newton, beyond))
        return length


class _Pair:
    """One stored step: the change of the point, and of the gradient."""

    def __init__(
        self,
        moved: Float32[np.ndarray, "weights active"],
        turned: Float32[np.ndarray, "weights active"],
        bend: Float[np.ndarray, " active"] | None = None,
    ) -> None:
        self.moved = moved
        self.turned = turned
        if bend is None:
            bend = _dot(moved, turned)
            # Rounding can hide the curvature of a last tiny step: such a pair is not used.
            bend = np.where(bend > 1e-12 * _dot(moved, moved), bend, np.inf)
        self.bend = bend

    def project(
        self,
        onto: Float32[np.ndarray, "weights active"],
        wanted: Float32[np.ndarray, "weights active"],
    ) -> Float32[np.ndarray, " active"]:
        """Return ``onto · wanted`` over the pair's curvature, for each problem."""
        return np.asarray(_dot(onto, wanted) / self.bend, dtype=np.float32)

    def keep(self, going: Bool[np.ndarray, " active"]) -> _Pair:
        """Return the pair for the remaining problems."""
        return _Pair(self.moved[:, going], self.turned[:, going], self.bend[going])


def _dot(
    one: Float32[np.ndarray, "size active"], other: Float32[np.ndarray, "size active"]
) -> Float[np.ndarray, " active"]:
    """Return the inner product of each pair of columns, summed in float64."""
    return np.asarray(np.sum(one * other, axis=0, dtype=np.float64))
