"""Agreement of two labelings of the same answers: Cohen's kappa, with intervals over images.

Labels of questions about one image are not independent, so the interval resamples images, each with
all its answers, like every other interval of this package.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmscope.metrics.answers import Floats
from vlmscope.metrics.resampling import Interval, image_numbers, interval_of

MOST_AT_ONCE = 2**22
"""Weights of patterns drawn at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """The agreement of two labelings of the same answers. Made by ``agreement``."""

    classes: tuple[str, ...]
    """The labels."""
    confusion: NDArray[np.int64]
    """Number of answers by the first label (rows) and the second label (columns)."""
    kappa: float | None
    """Cohen's kappa; None if undefined: both give every answer the same single label."""
    interval: Interval | None
    """Bootstrap interval of kappa; None if kappa is undefined, or there is one image only."""

    @property
    def agreed(self) -> float | None:
        """Share of the answers with equal labels; None without answers."""
        total = int(self.confusion.sum())
        return float(np.trace(self.confusion)) / total if total else None


def agreement(
    one: ArrayLike,
    other: ArrayLike,
    groups: ArrayLike,
    *,
    classes: Sequence[str],
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Agreement:
    """Compare two labelings of the same answers.

    Args:
        one: Labels, one an answer.
        other: The same of the other labeling.
        groups: The image of each answer: anything that can be sorted.
        classes: All possible labels, in the order of the confusion table.
        draws: Resamples of the images.
        seed: Seed of the draws.
        level: Confidence level: share of the draws within the interval.

    Raises:
        ValueError: The arrays differ in length, or contain a label that is not a class.

    >>> found = agreement(list("yynn"), list("yynn"), [1, 2, 3, 4], classes=("y", "n"), draws=50)
    >>> found.kappa, found.confusion.tolist()
    (1.0, [[2, 0], [0, 2]])
    """
    number = {name: i for i, name in enumerate(classes)}
    a, b = (_numbers(labels, number) for labels in (one, other))
    if len(a) != len(b):
        raise ValueError(f"labelings must have equal length, found {len(a)} and {len(b)}")
    count = len(classes)
    cell = a * count + b
    confusion = np.bincount(cell, minlength=count**2).reshape(count, count)
    kappa = _kappa(a, b)
    interval = None
    images = len({*np.asarray(groups).tolist()}) if len(a) else 0
    if kappa is not None and images > 1:
        interval = interval_of(_drawn(cell, groups, count, draws, seed), level)
    return Agreement(tuple(classes), confusion.astype(np.int64), kappa, interval)


def _numbers(labels: ArrayLike, number: dict[str, int]) -> NDArray[np.intp]:
    names = np.asarray(labels).tolist()
    if unknown := next((name for name in names if name not in number), None):
        raise ValueError(f"labels must be among {', '.join(number)}, found {unknown!r}")
    return np.array([number[name] for name in names], dtype=np.intp)


def _kappa(a: NDArray[np.intp], b: NDArray[np.intp]) -> float | None:
    """Return Cohen's kappa of the observed answers."""
    from sklearn.metrics import cohen_kappa_score  # type: ignore[import-untyped,unused-ignore]

    if not len(a) or len({*a.tolist(), *b.tolist()}) < 2:
        return None  # 0/0: agreement by chance alone is perfect
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = float(cohen_kappa_score(a, b))
    return value if np.isfinite(value) else None


def _drawn(cell: NDArray[np.intp], groups: ArrayLike, count: int, draws: int, seed: int) -> Floats:
    """Return kappa of each draw of the images; NaN where undefined.

    Images with equal counts are drawn together: the number of each pattern in a draw is
    multinomial, and there are few patterns even with many images.
    """
    image, images = image_numbers(groups, len(cell))
    by_image = np.zeros((images, count**2))
    np.add.at(by_image, (image, cell), 1)
    patterns, alike = np.unique(by_image, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    found = []
    step = max(1, MOST_AT_ONCE // len(patterns))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        weights = generator.multinomial(images, alike / images, size=size)
        found.append(_kappas((weights @ patterns).reshape(size, count, count)))
    return np.concatenate(found)


def _kappas(confusions: Floats) -> Floats:
    """Return kappa of each confusion table, ``[draw, class, class]``."""
    total = confusions.sum(axis=(1, 2))
    observed = np.trace(confusions, axis1=1, axis2=2) / total
    rows, columns = confusions.sum(axis=2), confusions.sum(axis=1)
    chance = (rows * columns).sum(axis=1) / total**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)
