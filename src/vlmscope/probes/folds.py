"""Folds that keep images together, and groups of rows with the same image.

A probe trained on other questions about an image can recognise the image instead of the
hallucination; random splits are therefore optimistic. Rows are grouped by image first, where a
re-encoded or resized copy counts as the same image, and folds never split a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt64
from scipy.sparse import coo_array  # type: ignore[import-untyped,unused-ignore]
from scipy.sparse.csgraph import (  # type: ignore[import-untyped,unused-ignore]
    connected_components,
)
from sklearn.model_selection import (  # type: ignore[import-untyped,unused-ignore]
    StratifiedGroupKFold,
)

from vlmscope.errors import InputError

Item = TypeVar("Item")

HASH_BITS = 64
"""Bits of a perceptual hash."""


FEWEST = 3
"""Fewest folds that a sweep can use; messages never suggest fewer."""

ONE_GROUP = "near-copies of an image, and images that one question shows, are one group"
"""What a group is, for messages."""

MORE_IMAGES = "label questions about other images (more labels of the same images do not help)"
"""The remedy if there are too few groups, rather than rows."""


class FoldError(InputError):
    """The rows cannot be split as asked."""


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """One split of the rows, as ascending row numbers."""

    train: Int[np.ndarray, " train"]
    """Training rows."""
    test: Int[np.ndarray, " test"]
    """Test rows; none of their images is in ``train``."""


def grouped_folds(
    truth: Shaped[np.ndarray, " rows"],
    groups: Shaped[np.ndarray, " rows"],
    *,
    count: int = 5,
    seed: int = 0,
) -> list[Fold]:
    """Return ``count`` folds that never split a group and distribute the positives evenly.

    The split is scikit-learn's ``StratifiedGroupKFold``, shuffled by ``seed``.

    Args:
        truth: Whether each row is positive (hallucinated).
        groups: The image of each row, any numbers or names.
        count: Folds; every row is tested in exactly one.
        seed: Seed of the shuffle.

    Raises:
        FoldError: Positives or negatives are in too few groups for every fold to test both.
    """
    truth = np.asarray(truth, dtype=bool)
    if not len(truth) == len(groups):
        raise FoldError(f"folds: {len(truth)} labels but {len(groups)} groups; give one for each")
    if count < 2:
        raise FoldError(f"folds: {count} asked for; 2 or more are needed")
    most = largest_count(truth, groups)
    if most < count:
        raise FoldError(_too_few(truth, groups, count, most))
    splitter = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
    folds = [Fold(train, test) for train, test in splitter.split(truth, truth, groups)]
    if any(truth[fold.test].all() or not truth[fold.test].any() for fold in folds):
        # The splitter is greedy: a few huge groups can leave a fold with one class.
        fewer = "ask for fewer folds, or " if count > FEWEST else ""
        raise FoldError(
            f"folds: {fewer}{MORE_IMAGES}: a few groups have most rows, so that {count} folds of "
            f"{_number(len(np.unique(groups)), 'group')} left one without hallucinated or without "
            f"faithful answers; {ONE_GROUP}"
        )
    return folds


def largest_count(truth: Bool[np.ndarray, " rows"], groups: Shaped[np.ndarray, " rows"]) -> int:
    """Return the largest possible number of folds: the number of groups of the rarer class."""
    return min(len(np.unique(groups[truth])), len(np.unique(groups[~truth])))


def _too_few(
    truth: Bool[np.ndarray, " rows"], groups: Shaped[np.ndarray, " rows"], count: int, most: int
) -> str:
    """Return the error for too few groups."""
    found, short_of_groups = [], False
    for rows, outcome in ((truth, "hallucinated"), (~truth, "faithful")):
        size, group_count = int(rows.sum()), len(np.unique(groups[rows]))
        found.append(f"{_number(size, f'{outcome} answer')} in {_number(group_count, 'group')}")
        # Several rows share a group: another row of the same images would not help.
        short_of_groups |= group_count < min(count, size)
    why = f"; {ONE_GROUP}" if len(np.unique(groups)) < len(groups) else ""
    fewer = f"ask for {most} folds, or " if most >= FEWEST else ""
    return (
        f"folds: {fewer}{MORE_IMAGES if short_of_groups else 'label more rows'}: found {found[0]} "
        f"and {found[1]}; {count} folds need {count} groups of each{why}"
    )


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def image_groups(
    hashes: Sequence[str | Sequence[str]],
    perceptual: Sequence[int | Sequence[int]] | None = None,
    *,
    distance: int = 4,
    copies: Sequence[tuple[str, str]] = (),
) -> Int[np.ndarray, " rows"]:
    """Number the groups of rows that show the same image, from 0, in the order of their hashes.

    So the number of a group does not depend on the order of the rows, and neither do folds.

    Two rows are in one group if their exact hashes are equal or of known copies, or if their
    perceptual hashes differ in at most ``distance`` bits, or if a chain of such pairs connects
    them. A row with several images joins the rows of each of them.

    Args:
        hashes: An exact hash of each row's image, such as SHA-256 of its pixels; of a row with
            several images, a sequence of them.
        perceptual: 64-bit perceptual hashes (``Capture.image_dhash``), if near-copies count; of a
            row with several images, a sequence of them.
        distance: Largest number of differing bits between near-copies, 0 to 31.
        copies: Pairs of exact hashes whose images are near-copies (``near_copies``).

    Raises:
        FoldError: The first two differ in length, a hash has more than 64 bits, or the
            distance is out of range.
    """
    count = len(hashes)
    if perceptual is not None and (len(perceptual) != count or not 0 <= distance < HASH_BITS // 2):
        raise FoldError(
            f"image groups: {count} exact and {len(perceptual)} perceptual hashes, distance "
            f"{distance}; give one of each for every row and a distance of 0 to 31"
        )
    rows, names = _flat([each] if isinstance(each, str) else each for each in hashes)
    distinct, exact = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    # Nodes are the rows, then the exact hashes, then the perceptual ones.
    edges = [(rows, count + exact)]
    if len(copies):
        one, other = np.searchsorted(distinct, np.asarray(copies, dtype=str)).T
        edges.append((count + one, count + other))
    if perceptual is not None:
        edges += _likeness(perceptual, count + len(distinct), distance)
    starts, ends = (np.concatenate(side) for side in zip(*edges, strict=True))
    size = 1 + int(max(count - 1, ends.max(initial=-1), starts.max(initial=-1)))
    graph = coo_array((np.ones(len(starts), dtype=np.int8), (starts, ends)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    return _by_name(component[:count], rows, exact)


def _likeness(
    perceptual: Sequence[int | Sequence[int]], first: int, distance: int
) -> list[tuple[Int[np.ndarray, " edges"], Int[np.ndarray, " edges"]]]:
    """Return the edges from rows to their perceptual hashes, and between similar hashes.

    Args:
        perceptual: The hashes of each row.
        first: Number of the first node that is a perceptual hash.
        distance: Largest number of differing bits.
    """
    rows, values = _flat([v] if isinstance(v, int | np.integer) else v for v in perceptual)
    if any(not 0 <= value < 1 << HASH_BITS for value in values):
        raise FoldError("image groups: a perceptual hash is not an unsigned 64-bit number; rehash")
    codes, code = np.unique(np.asarray(values, dtype=np.uint64), return_inverse=True)
    near = [np.empty((2, 0), dtype=np.int64), *_near_pairs(codes, distance)]
    left, right = np.concatenate(near, axis=1)
    return [(rows, first + code), (first + left, first + right)]


def _flat(items: Iterable[Sequence[Item]]) -> tuple[Int[np.ndarray, " items"], list[Item]]:
    """Return the items of all rows in one list, and the row of each."""
    listed = [list(each) for each in items]
    rows = np.repeat(np.arange(len(listed)), [len(each) for each in listed])
    return rows, [item for each in listed for item in each]


def _by_name(
    component: Int[np.ndarray, " rows"],
    rows: Int[np.ndarray, " names"],
    names: Int[np.ndarray, " names"],
) -> Int[np.ndarray, " rows"]:
    """Renumber components in the order of their first names.

    Args:
        component: The component of each row.
        rows: The row of each name.
        names: The rank of each name.
    """
    found, number = np.unique(component, return_inverse=True)
    first = np.full(len(found), np.iinfo(np.int64).max)
    np.minimum.at(first, number[rows], names)
    rank = np.empty(len(found), dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(found))
    return rank[number]


def _near_pairs(
    codes: UInt64[np.ndarray, " codes"], distance: int
) -> Iterator[Int[np.ndarray, "2 pairs"]]:
    """Yield pairs of distinct codes within ``distance`` bits; a pair may come more than once.

    Two codes that differ in at most ``distance`` bits agree on at least one of ``distance + 1``
    bands of bits (the pigeonhole principle), so only codes with an equal band are compared.
    """
    edges = np.linspace(0, HASH_BITS, distance + 2).round().astype(int).tolist()
    for low, high in pairwise(edges):
        mask = np.uint64((1 << (high - low)) - 1)
        band = (codes >> np.uint64(low)) & mask
        order = np.argsort(band, kind="stable")
        cuts = np.flatnonzero(np.diff(band[order])) + 1
        for bucket in np.split(order, cuts):
            for index in range(len(bucket) - 1):
                one, others = bucket[index], bucket[index + 1 :]
                close = others[_count_bits(codes[others] ^ codes[one]) <= distance]
                if len(close):
                    yield np.stack([np.full(len(close), one), close])


def _count_bits(values: UInt64[np.ndarray, " values"]) -> Int[np.ndarray, " values"]:
    """Return the number of set bits in each value (numpy 1 has no ``bitwise_count``)."""
    octets = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8)
    return np.asarray(_BITS_OF_OCTET[octets].sum(axis=1, dtype=np.int64))


_BITS_OF_OCTET = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)
