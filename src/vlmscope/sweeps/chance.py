"""Permutation tests: what the search through layers reaches by chance, and leaks between images.

The labels of complete images are permuted, and every representation and layer is cross-validated on
each permutation: the best of them in a permutation is what the search finds without a signal.
Compared with that maximum, the layers' p-values are corrected for their number (Westfall and Young,
1993). The probe is a ridge regression, for the null distribution and for the observed value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmscope.probes import Fold
from vlmscope.probes.permutation import (
    auroc_of_lines,
    nearest_pairs,
    neighbouring_groups,
    permute_groups,
    permute_in_pairs,
    ridge_scores,
)

MOST_ROWS = 10_000
"""Most rows used for permutations: of more, complete groups are drawn; for the recognition test,
groups and their neighbours.
"""

SUSPICIOUS = 0.75
"""Share of the permutations in pairs above chance from which on images count as recognised.
Simulated, it is 86% if every image occurs under two names, and at most two thirds if none does.
"""

FEWEST_DRAWN = 20
"""Fewest groups in a draw of rows: of larger groups, only some of the rows are drawn."""

HELD_FIRST = 200
"""Groups with the rarer label that are drawn before others, up to half of the draw: if they are one
in a thousand, a plain draw may contain almost none.
"""

LEAST_PERMUTATIONS = 100
"""Fewest permutations: a p-value cannot be below 1 / their number."""


@dataclass(frozen=True, slots=True)
class LayerChance:
    """One representation and layer compared with the null distribution."""

    auroc: float
    """AUROC of the ridge probe on the observed labels."""
    p_value: float
    """P-value: share of the permutations whose best reaches it, so corrected for the number of
    layers.
    """


@dataclass(frozen=True, slots=True)
class Chance:
    """The result of the permutation test."""

    permutations: int
    """Number of permutations."""
    rows: int
    """Number of rows used."""
    observed: float
    """AUROC of the best representation and layer on the observed labels."""
    median: float
    """Median AUROC of the best in each permutation."""
    high: float
    """95th percentile of the best AUROC."""
    p_value: float
    """Share of the permutations whose best reaches ``observed``, which is counted too."""
    by_layer: dict[str, LayerChance] = field(default_factory=dict)
    """Each representation and layer, by name."""

    def to_dict(self) -> dict[str, Any]:
        """Return the document of ``results.json``, where ``by_layer`` is ``by_place``."""
        record = asdict(self)
        record["by_place"] = record.pop("by_layer")
        return record


@dataclass(frozen=True, slots=True)
class Recognition:
    """Whether a probe recognises images in groups that it has not seen."""

    auroc: float
    """Mean AUROC when groups with similar vectors get another pair's labels together."""
    low: float
    """2.5% of the permutations are below this."""
    high: float
    """2.5% are above this."""
    above: float
    """Share of the permutations above 0.5."""
    pairs: int
    """Number of pairs of mutually nearest groups."""

    @property
    def suspicious(self) -> bool:
        """Whether so many permutations are above chance that images are probably recognised."""
        return self.above >= SUSPICIOUS


class Permutations:
    """Permutations of the labels, applied to one matrix after another.

    Args:
        truth: Whether each row is positive (hallucinated), ``[N]``.
        groups: The image of each row, ``[N]``.
        folds: The folds that the probes go through.
        count: Number of permutations.
        seed: Seed of the permutations.
        images: The image of each row if groups are not images, ``[N]``: labels of one image stay
            together within a group.
    """

    def __init__(
        self,
        truth: NDArray[np.bool_],
        groups: NDArray[np.int64],
        folds: Sequence[Fold],
        *,
        count: int,
        seed: int,
        images: NDArray[np.int64] | None = None,
    ) -> None:
        self._truth, self._groups, self._all = truth, groups, tuple(folds)
        self._count, self._seed = count, seed
        self._capped = _capped(groups, seed)
        self._rows = _drawn(truth, groups, self._capped, seed)
        self._folds = [_within(fold, self._rows) for fold in folds]
        labels = truth[self._rows]
        permuted = permute_groups(
            labels, groups[self._rows], count=count, seed=seed,
            blocks=None if images is None else images[self._rows],
        )  # fmt: skip
        self._labels = np.concatenate([labels[None], permuted])
        self._found: dict[str, NDArray[np.float64]] = {}

    def add(self, name: str, matrix: NDArray[np.float32]) -> None:
        """Probe a representation and layer on every permutation; the matrix has all rows."""
        scores = ridge_scores(matrix[self._rows], self._labels, self._folds)
        self._found[name] = auroc_of_lines(self._labels, scores, self._folds)

    def chance(self) -> Chance | None:
        """Return the result for all matrices that were added.

        None if no fold of the drawn rows has both labels.
        """
        found = np.stack(list(self._found.values()))
        if not np.isfinite(found[:, 0]).any():
            return None
        two_classes = found[:, 1:][:, np.isfinite(found[:, 1:]).any(axis=0)]  # skips one class
        best = np.nanmax(two_classes, axis=0) if two_classes.size else np.array([0.5])
        top = float(np.nanmax(found[:, 0]))
        by_name = {
            name: LayerChance(float(line[0]), _p_value(line[0], best))
            for name, line in self._found.items()
        }
        return Chance(
            permutations=self._count,
            rows=len(self._rows),
            observed=top,
            median=float(np.median(best)),
            high=float(np.quantile(best, 0.95)),
            p_value=_p_value(top, best),
            by_layer=by_name,
        )

    def recognition(
        self, matrix: NDArray[np.float32], seen: NDArray[np.float32] | None = None
    ) -> Recognition | None:
        """Return the result of permutations in pairs of similar groups; None without a pair.

        Args:
            matrix: Vectors of all rows, to be probed.
            seen: Vectors by which the similarity of groups is measured; by default the same.
        """
        reference = matrix if seen is None else seen
        rows = self._similar_rows(reference)
        groups = self._groups[rows]
        pairs = nearest_pairs(reference[rows], groups)
        count = sum(len(each) == 2 for each in pairs)
        if count < 2:
            return None
        labels = permute_in_pairs(
            self._truth[rows], groups, pairs, count=self._count, seed=self._seed
        )
        folds = [_within(fold, rows) for fold in self._all]
        found = auroc_of_lines(labels, ridge_scores(matrix[rows], labels, folds), folds)
        found = found[np.isfinite(found)]
        if not len(found):
            return None
        low, high = np.quantile(found, [0.025, 0.975])
        above = float(((found > 0.5) + 0.5 * (found == 0.5)).mean())
        return Recognition(float(found.mean()), float(low), float(high), above, count)

    def _similar_rows(self, reference: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return all rows; if too many, those of some groups and of their nearest groups."""
        if len(self._truth) <= MOST_ROWS:
            return np.arange(len(self._truth))
        each = len(self._capped) / len(np.unique(self._groups))
        count = max(2, int(MOST_ROWS / each / 2))
        rows = neighbouring_groups(reference, self._groups, count=count, seed=self._seed)
        return np.intersect1d(rows, self._capped, assume_unique=True)


def _p_value(value: float, best: NDArray[np.float64]) -> float:
    """Return the share of the permutations that reach a value; the value is counted too."""
    return float((1 + np.sum(best >= value)) / (1 + len(best)))


def _capped(groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return all rows; if too many, a limited number of each group so that several fit."""
    if len(groups) <= MOST_ROWS:
        return np.arange(len(groups))
    _, number, count = np.unique(groups, return_inverse=True, return_counts=True)
    size = np.sort(count)
    # With every group cut to this size, they fill the limit together.
    level = (MOST_ROWS - (np.cumsum(size) - size)) / np.arange(len(size), 0, -1)
    most = max(MOST_ROWS // FEWEST_DRAWN, int(level[np.argmax(level <= size)]), 1)
    if count.max() <= most:
        return np.arange(len(groups))
    order = np.lexsort((np.random.default_rng([seed, 1]).random(len(groups)), number))
    within = np.arange(len(groups)) - np.repeat(np.cumsum(count) - count, count)
    return np.sort(order[within < most])


def _drawn(
    truth: NDArray[np.bool_], groups: NDArray[np.int64], capped: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """Return all rows, or those of a draw of groups if there are too many.

    Args:
        truth: Labels of all rows.
        groups: The group of each.
        capped: Rows to draw from, from ``_capped``.
        seed: Seed of the draw.
    """
    if len(groups) <= MOST_ROWS:
        return np.arange(len(groups))
    _, number, count = np.unique(groups[capped], return_inverse=True, return_counts=True)
    labels = truth[capped]
    rarer = np.bincount(number, weights=labels == (labels.mean() < 0.5)) > 0
    order = np.random.default_rng(seed).permutation(len(count))
    first = order[rarer[order]][:HELD_FIRST]
    first = first[np.cumsum(count[first]) <= MOST_ROWS // 2]
    kept, room = [], MOST_ROWS
    for group in (*first, *order[~np.isin(order, first)]):
        if count[group] <= room:
            kept.append(group)
            room -= count[group]
    return np.asarray(capped[np.isin(number, kept)])


def _within(fold: Fold, rows: NDArray[np.int64]) -> Fold:
    """Return a fold restricted to some rows, with their new numbers."""
    return Fold(np.flatnonzero(np.isin(rows, fold.train)), np.flatnonzero(np.isin(rows, fold.test)))
