"""Labels permuted among the rows, and a ridge probe of all permutations at once.

What a probe reaches on permuted labels is what it reaches by chance, by its search through layers,
or by a leak. Labels of one image depend on each other, so whole images' labels are permuted
(Winkler et al., 2015, "Multi-level block permutation"). A ridge regression on the labels is linear
in them: one factorisation a fold serves hundreds of permutations, where a logistic probe would have
to be fitted anew for each.

``permute_in_pairs`` is a control for leaks. Labels of groups that lie next to each other in the
vectors' space stay together: where one image stands under two names, both copies get the same
foreign labels, and a probe that recognises the image is still right. Where no image stands twice,
it is at chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped
from scipy.stats import rankdata  # type: ignore[import-untyped,unused-ignore]
from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped,unused-ignore]

from vlmscope.probes.folds import Fold

Pairs = list[tuple[int, ...]]
"""Numbers of groups whose labels stay together: pairs, and single ones."""


def permute_groups(
    truth: Bool[np.ndarray, " rows"],
    groups: Shaped[np.ndarray, " rows"],
    *,
    count: int,
    seed: int = 0,
    blocks: Shaped[np.ndarray, " rows"] | None = None,
) -> Bool[np.ndarray, "count rows"]:
    """Return labels permuted as whole groups, and within each group.

    Each group gets the labels of another, in a random order, cut or repeated to its size: what
    labels of one image have in common they keep. Where sizes differ, the number of positives does
    too, and a line may have one class.

    Args:
        truth: Whether each row is positive (hallucinated).
        groups: The image of each row, any numbers or names.
        count: Permutations.
        seed: Decides them.
        blocks: Where a group holds several images, the image of each row: within a group, labels
            of one image stay together likewise.
    """
    generator = np.random.default_rng(seed)
    _, group = np.unique(groups, return_inverse=True)
    block, group_of = _blocks_of(group, blocks)
    size, held = np.bincount(block), np.bincount(group_of)
    start, first = np.cumsum(size) - size, np.cumsum(held) - held
    position = np.empty(len(truth), dtype=np.int64)
    position[np.argsort(block, kind="stable")] = np.arange(len(truth))
    within, place = position - start[block], np.arange(len(size)) - first[group_of]
    labels = np.empty((count, len(truth)), dtype=bool)
    for line in labels:
        giver = generator.permutation(len(held))[group_of]
        shuffled = np.lexsort((generator.random(len(truth)), block))
        mixed = (
            np.arange(len(size))
            if blocks is None
            else np.lexsort((generator.random(len(size)), group_of))
        )
        source = mixed[first[giver] + place % held[giver]][block]
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
    """Return labels permuted as whole pairs of groups: pairs among pairs, the others among them.

    Args:
        truth: As in ``permute_groups``.
        groups: Likewise.
        pairs: As ``nearest_pairs`` returns them.
        count: Permutations.
        seed: Decides them.
    """
    kinds = [[each for each in pairs if len(each) == size] for size in (2, 1)]
    return _dealt(truth, _rows_of(groups), [kind for kind in kinds if kind], count, seed)


def nearest_pairs(
    vectors: Float[np.ndarray, "rows width"], groups: Shaped[np.ndarray, " rows"]
) -> Pairs:
    """Return the groups whose mean vectors are each other's nearest as pairs, and the others alone.

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
    """Return the rows of some groups drawn at random and of the group nearest to each.

    Args:
        vectors: One vector for each row; features are standardised.
        groups: The image of each row.
        count: Groups to draw; fewer come with their neighbours where some are each other's.
        seed: Decides the draw.
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
    half way between the mean image alone and the training rows by heart. Scores of different folds
    have different offsets: compare those of one fold.

    Args:
        vectors: One vector for each row.
        labels: A line for each labelling.
        folds: Which rows are learnt from and which are judged.
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

    NaN where no fold has both classes.

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
    parts = [matrix[:, at : at + 64] for at in range(0, matrix.shape[1], 64)]  # float64 at a time
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
    """Return labels dealt among blocks of groups, those of a kind among each other."""
    generator = np.random.default_rng(seed)
    lined = [_Lined(rows, blocks) for blocks in kinds]
    labels = np.empty((count, len(truth)), dtype=bool)
    for line in labels:
        for each in lined:
            line[each.shuffled(generator)] = truth[each.shuffled(generator)]
    return labels


class _Lined:
    """The rows of some blocks, to be lined up block by block."""

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
