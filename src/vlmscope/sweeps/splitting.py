"""Splits into folds: the groups that they keep together, repeats, and what they leave open.

A single split into folds is one draw of many. The reported AUROC is over all pairs within all folds
of all repeats. An image that is resampled is resampled in every repeat, so that repeats make the
AUROC less dependent on the split without counting images more than once.

Folds are grouped by image by default. Grouped by question, a probe is tested on questions whose
words it was not trained on, about images that it may have been trained on; by category, on new
kinds of questions. The remaining overlap is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError
from vlmscope.probes import Fold, FoldError, grouped_folds
from vlmscope.sweeps.data import ProbeData, kind_of
from vlmscope.sweeps.grouping import plain_question
from vlmscope.sweeps.source import Source


@dataclass(frozen=True, slots=True, eq=False)
class Stacked:
    """The concatenated rows of all repeats, ``[R*N]``."""

    truth: NDArray[np.bool_]
    """True where the answer is a hallucination."""
    groups: NDArray[np.int64]
    """Number of each row's group: the same in every repeat."""
    folds: NDArray[np.int64]
    """Number of the fold that tested each row, distinct between repeats."""
    risks: Mapping[str, NDArray[np.float64]]
    """Name → out-of-fold risk."""


def stacked(
    truth: NDArray[np.bool_],
    groups: NDArray[np.int64],
    fold_of: NDArray[np.int64],
    risks: Mapping[str, NDArray[np.float64]],
) -> Stacked:
    """Return the concatenated rows of all repeats.

    Args:
        truth: ``[N]``.
        groups: ``[N]``.
        fold_of: Fold that tested each row, ``[R, N]``, from 0 in every repeat.
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
    """Return fold numbers that are distinct between repeats, ``[R, N]``.

    >>> distinct_folds(np.array([[0, 1], [1, 0]])).tolist()
    [[0, 1], [3, 2]]
    """
    return np.asarray(fold_of + np.arange(len(fold_of))[:, None] * (fold_of.max() + 1))


IMAGE, QUESTION = "image", "question"
"""Groupings that need no column of the table; ``category`` and all others are columns."""

MOST_LEFT_OUT = 12
"""Up to this many groups other than images, each is its own fold: leave-one-group-out."""

OTHER_SEEDS = 20
"""Splits to try for a repeat before giving up."""

_STEP = 7919
"""Difference of the seeds of two repeats, so that neighbouring ``--seed`` share none."""


@dataclass(frozen=True, slots=True)
class Novelty:
    """Overlap of the test rows with the training rows, as shares of the rows."""

    images: float
    """Rows about an image that is in training too."""
    questions: float
    """Rows whose question, word for word, is in training too."""


def grouped_by(data: ProbeData, source: Source | None, by: str) -> ProbeData:
    """Return the rows with other groups than images.

    Rows without a value in the column are grouped by image: they need not be of one kind.

    Args:
        data: The rows.
        source: The source, with the columns of its table.
        by: ``image``, ``question``, or a column.

    Raises:
        InputError: There is no such column, or it is the same in all rows.
    """
    if by == IMAGE:
        return data
    names = (
        [plain_question(text) for text in data.baseline_inputs.question]
        if by == QUESTION
        else _column(data, source, by)
    )
    values = [None if by != QUESTION and _is_gap(name) else name for name in names]
    without = np.array([value is None for value in values], dtype=bool)
    if without.all():
        raise InputError(f"--group-by {by}: no row has a value; give a column that differs")
    images = data.grouping.groups.tolist()
    named = [
        ("image", image) if value is None else ("value", value)
        for value, image in zip(values, images, strict=True)
    ]
    number = numbered(named)
    if number.max(initial=0) < 1:
        raise InputError(
            f"--group-by {by}: all {len(names):,} rows have the same; give a column that differs"
        )
    return replace(data, split=number, split_by=by, without_value=without)


def _is_gap(name: str) -> bool:
    """Return whether a cell is a missing value rather than a group.

    >>> [_is_gap(name) for name in ("", " ", "nan", "none", "0")]
    [True, True, True, False, False]
    """
    return name.strip().casefold() in ("", "nan", "<na>")


def numbered(names: Sequence[Any]) -> NDArray[np.int64]:
    """Return a number for each different name, in sorted order, whatever the order of the rows.

    >>> numbered(["b", "a", "b"]).tolist()
    [1, 0, 1]
    """
    rank = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([rank[name] for name in names], dtype=np.int64)


def _column(data: ProbeData, source: Source | None, name: str) -> list[str]:
    """Return a column of the rows as text."""
    if name == "category" and data.categories is not None:
        return list(data.categories)
    if name in data.metadata:
        return list(map(str, data.metadata[name]))
    table = None if source is None else source.to_pandas()
    if table is None or name not in table:
        known = [] if table is None else sorted(map(str, table.columns))
        raise InputError(
            f"--group-by {name}: no such column; give image, question, or one of "
            f"{', '.join(known) or 'none'}"
        )
    return [kind_of(cell) for cell in table[name].iloc[data.rows]]


def split_rows(data: ProbeData, count: int, seed: int) -> tuple[Fold, ...]:
    """Return folds that keep groups together.

    A few groups other than images are left out one at a time, if each has both classes.

    Raises:
        FoldError: Too few groups have a class.
    """
    if data.split is not None:
        number = data.split
        count_of = int(number.max()) + 1
        few = 3 <= count_of <= MOST_LEFT_OUT
        each = [number == group for group in range(count_of)] if few else []
        if few and all(0 < data.truth[rows].sum() < rows.sum() for rows in each):
            return tuple(Fold(np.flatnonzero(~rows), np.flatnonzero(rows)) for rows in each)
    try:
        return tuple(grouped_folds(data.truth, data.groups, count=count, seed=seed))
    except FoldError as error:
        if data.split is None:
            raise FoldError(f"{error}{data.grouping.way_out(data.truth)}") from error
        raise FoldError(f"--group-by {data.split_by}: {error}") from error


def repeated_splits(data: ProbeData, count: int, seed: int, repeats: int) -> list[tuple[Fold, ...]]:
    """Return the folds of every repeat. The first are those of ``split_rows``.

    If only one split is possible, it is returned once.

    Raises:
        FoldError: As ``split_rows``.
    """
    splits = [split_rows(data, count, seed)]
    tried = 0
    while len(splits) < repeats and tried < OTHER_SEEDS:
        tried += 1
        try:
            split = split_rows(data, count, (seed + _STEP * tried) % 2**32)
        except FoldError:
            continue  # a greedy splitter: another seed may find one
        if not any(_same(split, other) for other in splits):
            splits.append(split)
    return splits


def _same(one: Sequence[Fold], other: Sequence[Fold]) -> bool:
    """Return whether two splits have the same folds, in any order."""
    parts = [{fold.test.tobytes() for fold in split} for split in (one, other)]
    return parts[0] == parts[1]


def novelty(data: ProbeData, folds: Sequence[Fold]) -> Novelty:
    """Return the overlap of test rows with training."""
    question = numbered([plain_question(text) for text in data.baseline_inputs.question])
    _, image = np.unique(data.grouping.groups, return_inverse=True)
    shares = []
    for number in (image, question):
        seen = sum(int(np.isin(number[f.test], number[f.train]).sum()) for f in folds)
        shares.append(seen / len(number))
    if not data.grouping.images:
        shares[0] = 0.0
    return Novelty(*shares)
