"""Permutations of labels, and a ridge probe fitted to all of them at once.

The AUROC on permuted labels shows what a probe reaches by chance, by its search through layers, or
by a leak. Labels of one image are dependent, so the labels of complete images are permuted (Winkler
et al., 2015, "Multi-level block permutation"). A ridge regression is linear in the labels: one
factorisation per fold serves hundreds of permutations, while a logistic probe would have to be
refitted for each.

``permute_in_pairs`` is a control for leaks. Labels of groups that are nearest in the vectors' space
stay together: if one image occurs under two names, both copies get the same labels of another pair,
and a probe that recognises the image is still right. If no image occurs twice, it is at chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped
from scipy.stats import rankdata  # type: ignore[import-untyped,unused-ignore]
from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped,unused-ignore]

from vlmscope.probes.folds import Fold

Pairs = list[tuple[int, ...]]
"""Numbers of the groups whose labels stay together: pairs, and single ones."""


def permute_groups(
    truth: Bool[np.ndarray, " rows"],
    groups: Shaped[np.ndarray, " rows"],
    *,
    count: int,
    seed: int = 0,
    blocks: Shaped[np.ndarray, " rows"] | None = None,
) -> Bool[np.ndarray, "count rows"]:
    """Return labels permuted between groups, and within each group.

    Each group gets the labels of another, in random order, truncated or repeated to its size, which
    preserves the dependence of labels of one image. If sizes differ, so does the number of
    positives, and a line may have one class.

    Args:
        truth: Whether each row is positive (hallucinated).
        groups: The image of each row, any numbers or names.
        count: Number of permutations.
        seed: Seed of the permutations.
        blocks: The image of each row, if a group has several images: within a group, labels of one
            image stay together too.
    """
    generator = np.random.default_rng(seed)
    _, group = np.unique(groups, return_inverse=True)
    block, group_of = _blocks_of(group, blocks)
    size, blocks_of_group = np.bincount(block), np.bincount(group_of)
    start, first = np.cumsum(size) - size, np.cumsum(blocks_of_group) - blocks_of_group
    position = np.empty(len(truth), dtype=np.int64)
    position[np.argsort(block, kind="stable")] = np.arange(len(truth))
    within, offset = position - start[block], np.arange(len(size)) - first[group_of]
    labels = np.empty((count, len(truth)), dtype=bool)
    for line in labels:
        donor = generator.permutation(len(blocks_of_group))[group_of]
        shuffled = np.lexsort((generator.random(len(truth)), block))
        mixed = (
            np.arange(len(size))
            if blocks is None
            else np.lexsort((generator.random(len(size)), group_of))
        )
        source = mixed[first[donor] + offset % blocks_of_group[donor]][block]
        line[:] = truth[shuffled[start[source] + within % size[source]]]
    return labels


def _blocks_of(
    group: Int[np.ndarray, " rows"], blocks: Shaped[np.ndarray, " rows"] | None
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " blocks"]]:
    """Return the number of each row's block within its group, and the group of each block."""
    if blocks is None:
        return group, np.arange(group.max() + 1)
    _, image = np.unique(blocks, return_inverse=True)
    pairs, block = np.unique(group * (image.max() + 1) + image, return_inverse=True)
    return block, pairs // (image.max() + 1)


def permute_in_pairs(
    truth: Bool[np.ndarray, " rows"],
    groups: Shaped[np.ndarray, " rows"],
    pairs: Pairs,
    *,
    count: int,
    seed: int = 0,
) -> Bool[np.ndarray, "count rows"]:
    """Return labels permuted between pairs of groups; unpaired groups are permuted separately.

    Args:
        truth: As in ``permute_groups``.
        groups: Likewise.
        pairs: From ``nearest_pairs``.
        count: Number of permutations.
        seed: Seed of the permutations.
    """
    kinds = [[each for each in pairs if len(each) == size] for size in (2, 1)]
    return _dealt(truth, _rows_of(groups), [kind for kind in kinds if kind], count, seed)


def nearest_pairs(
    vectors: Float[np.ndarray, "rows width"], groups: Shaped[np.ndarray, " rows"]
) -> Pairs:
    """Return groups whose mean vectors are mutually nearest as pairs, and the others alone.

    Args:
        vectors: One vector for each row; features are standardised.
        groups: The image of each row.
    """
    centre = _centres(vectors, groups)
    if len(centre) < 3:
        return [(each,) for each in range(len(centre))]
    found = NearestNeighbors(n_neighbors=1).fit(centre).kneighbors(return_distance=False)[:, 0]
    mutual = found[found] == np.arange(len(centre))
    pairs: Pairs = [
        (int(one), int(found[one])) for one in np.flatnonzero(mutual) if one < found[one]
    ]
    return pairs + [(int(one),) for one in np.flatnonzero(~mutual)]


def neighbouring_groups(
    vectors: Float[np.ndarray, "rows width"],
    groups: Shaped[np.ndarray, " rows"],
    *,
    count: int,
    seed: int = 0,
) -> Int[np.ndarray, " rows"]:
    """Return the rows of randomly drawn groups, and of the nearest group of each.

    Args:
        vectors: One vector for each row; features are standardised.
        groups: The image of each row.
        count: Number of groups to draw; with neighbours, fewer than twice as many if some are drawn
            themselves.
        seed: Seed of the draw.
    """
    centre = _centres(vectors, groups)
    drawn = np.random.default_rng(seed).permutation(len(centre))[:count]
    index = NearestNeighbors(n_neighbors=2).fit(centre)
    near = index.kneighbors(centre[drawn], return_distance=False)
    _, number = np.unique(groups, return_inverse=True)
    return np.flatnonzero(np.isin(number, np.union1d(near, drawn)))


def _centres(
    vectors: Float[np.ndarray, "rows width"], groups: Shaped[np.ndarray, " rows"]
) -> Float32[np.ndarray, "groups width"]:
    """Return the mean standardised vector of each group."""
    _, number, count = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")
    starts = np.cumsum(count) - count
    total = np.add.reduceat(_standardised(vectors)[order], starts, axis=0)
    return np.asarray(total / count[:, None].astype(np.float32))


def ridge_scores(
    vectors: Float[np.ndarray, "rows width"],
    labels: Bool[np.ndarray, "count rows"],
    folds: Sequence[Fold],
) -> Float[np.ndarray, "count rows"]:
    """Return out-of-fold scores by ridge regressions on several labellings of the same rows.

    Features are standardised over all rows, without labels; the penalty is the number of features,
    between predicting the mean only and memorising the training rows. Scores of different folds
    have different offsets: compare those of one fold.

    Args:
        vectors: One vector for each row.
        labels: A line for each labelling.
        folds: The training and test rows.
    """
    matrix = _standardised(vectors)
    scores = np.empty(labels.shape)
    wide = matrix.shape[1] >= min(len(fold.train) for fold in folds)
    product = matrix @ matrix.T if wide else matrix.T @ matrix
    for fold in folds:
        target = labels[:, fold.train].T - labels[:, fold.train].mean(axis=1)
        tested = matrix[fold.test]
        if wide:
            kernel = product[np.ix_(fold.train, fold.train)]
            weights = _solved(kernel, target, matrix.shape[1])
            scores[:, fold.test] = (product[np.ix_(fold.test, fold.train)] @ weights).T
        else:
            weights = _solved(
                product - tested.T @ tested, matrix[fold.train].T @ target, matrix.shape[1]
            )
            scores[:, fold.test] = (tested @ weights).T
    return scores


def auroc_of_lines(
    labels: Bool[np.ndarray, "count rows"],
    scores: Float[np.ndarray, "count rows"],
    folds: Sequence[Fold],
) -> Float[np.ndarray, " count"]:
    """Return the AUROC of each labelling's scores over pairs within a fold; ties count half.

    NaN if no fold has both classes.

    >>> fold = Fold(np.arange(0), np.arange(3))
    >>> auroc_of_lines(np.array([[False, True, True]]), np.array([[0.1, 0.9, 0.1]]), [fold])
    array([0.75])
    """
    wins, pairs = np.zeros(len(labels)), np.zeros(len(labels))
    for fold in folds:
        label = labels[:, fold.test]
        positive = label.sum(axis=1)
        ranks = (rankdata(scores[:, fold.test], axis=1) * label).sum(axis=1)
        wins += ranks - positive * (positive + 1) / 2
        pairs += positive * (label.shape[1] - positive)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(pairs > 0, wins / pairs, np.nan))


def _solved(
    gram: Float32[np.ndarray, "size size"], target: Float[np.ndarray, "size count"], penalty: float
) -> Float[np.ndarray, "size count"]:
    square = gram.astype(np.float64)
    square[np.diag_indices_from(square)] += penalty
    return np.asarray(np.linalg.solve(square, target))


def _standardised(vectors: Float[np.ndarray, "rows width"]) -> Float32[np.ndarray, "rows width"]:
    """Return every feature with mean 0 and deviation 1; a constant one becomes 0."""
    matrix = np.asarray(vectors, np.float32) - vectors.mean(axis=0, dtype=np.float64).astype("f4")
    parts = [
        matrix[:, at : at + 64] for at in range(0, matrix.shape[1], 64)
    ]  # rows converted to float64 at a time
    deviation = np.concatenate([part.std(axis=0, dtype=np.float64) for part in parts])
    deviation = deviation.astype(np.float32)
    matrix /= np.where(deviation > 0, deviation, 1)
    return np.asarray(matrix)


def _rows_of(groups: Shaped[np.ndarray, " rows"]) -> list[Int[np.ndarray, " rows"]]:
    """Return the rows of each group, groups ascending."""
    _, number = np.unique(groups, return_inverse=True)
    order = np.argsort(number, kind="stable")
    return np.split(order, np.cumsum(np.bincount(number))[:-1])


def _dealt(
    truth: Bool[np.ndarray, " rows"],
    rows: Sequence[Int[np.ndarray, " rows"]],
    kinds: Sequence[Pairs],
    count: int,
    seed: int,
) -> Bool[np.ndarray, "count rows"]:
    """Return labels permuted between blocks of groups of the same kind."""
    generator = np.random.default_rng(seed)
    lined = [_Lined(rows, blocks) for blocks in kinds]
    labels = np.empty((count, len(truth)), dtype=bool)
    for line in labels:
        for each in lined:
            line[each.shuffled(generator)] = truth[each.shuffled(generator)]
    return labels


class _Lined:
    """The rows of some blocks, in orders that keep blocks together."""

    def __init__(self, rows: Sequence[Int[np.ndarray, " rows"]], blocks: Pairs) -> None:
        groups = [(number, rows[group]) for number, block in enumerate(blocks) for group in block]
        sizes = [len(each) for _, each in groups]
        self._rows = np.concatenate([each for _, each in groups])
        self._block = np.repeat([number for number, _ in groups], sizes)
        self._group = np.repeat(np.arange(len(groups)), sizes)  # of a block in their order
        self._count = len(blocks)

    def shuffled(self, generator: np.random.Generator) -> Int[np.ndarray, " rows"]:
        """Return the rows, blocks in a random order and the rows of each group too."""
        rank = generator.permutation(self._count)[self._block]
        within = generator.random(len(self._rows))
        return np.asarray(self._rows[np.lexsort((within, self._group, rank))])
