"""Validation of truth and risk: done once, here, so that the computations can rely on it.

Truth must already be boolean: the text "False" is true in Python, so a table of such texts would "
"make every answer a hallucination.
"""

from __future__ import annotations

from math import floor

import numpy as np
from numpy.typing import ArrayLike, NDArray

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Numbers = NDArray[np.intp]


def answers(truth: ArrayLike, risk: ArrayLike, name: str = "risk") -> tuple[Flags, Floats]:
    """Return the truth and the risk of each answer, checked.

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        risk: Numbers from 0 to 1, one an answer.
        name: Name of the risk in errors.

    Raises:
        ValueError: Either is empty, of another shape or kind, or the risk is not within [0, 1].
    """
    flags, numbers = scored_answers(truth, risk, name)
    low, high = float(numbers.min()), float(numbers.max())
    if low < 0 or high > 1:
        raise ValueError(f"{name} must be within [0, 1], found {low:g} to {high:g}")
    return flags, numbers


def scored_answers(truth: ArrayLike, score: ArrayLike, name: str) -> tuple[Flags, Floats]:
    """Return the truth and the score of each answer; a score may be any finite number.

    Raises:
        ValueError: Either is empty, of another shape or kind, or a score is not finite.
    """
    flags, numbers = np.asarray(truth), np.asarray(score)
    if flags.ndim != 1 or flags.shape != numbers.shape:
        raise ValueError(
            f"truth and {name} must be one-dimensional and equally long, "
            f"found shapes {flags.shape} and {numbers.shape}"
        )
    if not flags.size:
        raise ValueError(f"truth and {name} are empty, expected at least one answer")
    if flags.dtype != np.bool_:
        raise ValueError(f"truth must be boolean, found {flags.dtype}")
    if numbers.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers, found {numbers.dtype}")
    if bad := int((~np.isfinite(numbers)).sum()):
        raise ValueError(f"{name} must be finite, found {bad} of {numbers.size} that are not")
    return flags, numbers.astype(np.float64)


def strata(count: int, *columns: ArrayLike | None) -> Numbers:
    """Return the number of each answer's stratum, a combination of several columns, from 0.

    Args:
        count: Answers in all.
        columns: One value an answer: anything that can be sorted, such as a fold or a category.
            None is a constant column.

    Raises:
        ValueError: A column has another length.

    >>> strata(4, [1, 1, 0, 0], list("aabb")).tolist(), strata(2, None).tolist()
    ([1, 1, 0, 0], [0, 0])
    """
    found = np.zeros(count, dtype=np.intp)
    for column in columns:
        if column is None:
            continue
        names = np.asarray(column)
        if names.shape != (count,):
            raise ValueError(f"folds and kinds must have shape ({count},), found {names.shape}")
        values, number = np.unique(names, return_inverse=True)
        found = np.unique(found * len(values) + number, return_inverse=True)[1]
    return found


def integer_part(share: float, count: float) -> int:
    """Return the largest number of answers that is at most ``share`` of ``count``.

    A product such as 0.29 × 100, which is just below 29 in binary, counts as the whole number.

    >>> integer_part(0.29, 100), integer_part(0.05, 59), integer_part(0.05, 60)
    (29, 2, 3)
    """
    return floor(share * count + 1e-9)
