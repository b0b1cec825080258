"""Repeated cross-validation: the same rows, split anew several times.

A single split into folds is one draw of many. The AUROC that is told is of all pairs within all
folds of all repeats. An image that is resampled is resampled in every repeat, so that repeats make
the number less dependent on the split and never pretend that there are more images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Stacked:
    """The rows of all repeats below each other, ``[R*N]``."""

    truth: NDArray[np.bool_]
    """True where the answer is a hallucination."""
    groups: NDArray[np.int64]
    """Number of each row's group: the same in every repeat."""
    folds: NDArray[np.int64]
    """Number of the fold that judged each row; folds of different repeats have different ones."""
    risks: Mapping[str, NDArray[np.float64]]
    """Name → out-of-fold risk."""


def stacked(
    truth: NDArray[np.bool_],
    groups: NDArray[np.int64],
    fold_of: NDArray[np.int64],
    risks: Mapping[str, NDArray[np.float64]],
) -> Stacked:
    """Return the rows of all repeats below each other.

    Args:
        truth: ``[N]``.
        groups: ``[N]``.
        fold_of: Fold that judged each row, ``[R, N]``, from 0 in every repeat.
        risks: Name → risk, ``[R, N]``.
    """
    repeats = len(fold_of)
    return Stacked(
        np.tile(truth, repeats),
        np.tile(groups, repeats),
        distinct_folds(fold_of).ravel(),
        {name: risk.ravel() for name, risk in risks.items()},
    )


def distinct_folds(fold_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return fold numbers that differ between repeats, ``[R, N]``.

    >>> distinct_folds(np.array([[0, 1], [1, 0]])).tolist()
    [[0, 1], [3, 2]]
    """
    return np.asarray(fold_of + np.arange(len(fold_of))[:, None] * (fold_of.max() + 1))
