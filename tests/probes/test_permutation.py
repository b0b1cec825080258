"""Labels permuted as whole groups, and the ridge probe that is fitted on all permutations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from vlmscope.metrics import measure
from vlmscope.probes import grouped_folds
from vlmscope.probes.permutation import (
    auroc_of_lines,
    nearest_pairs,
    neighbouring_groups,
    permute_groups,
    permute_in_pairs,
    ridge_scores,
)

GROUPS = np.repeat(np.arange(30), 4)


def labels_by_group(seed: int = 0) -> np.ndarray:
    """Labels that differ more between groups than within."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.random(120) < rng.beta(0.5, 0.5, 30)[GROUPS])


def test_groups_of_one_size_swap_their_labels_whole() -> None:
    truth = labels_by_group()
    permuted = permute_groups(truth, GROUPS, count=20, seed=3)
    before = sorted(truth.reshape(30, 4).sum(axis=1).tolist())
    for line in permuted:
        assert sorted(line.reshape(30, 4).sum(axis=1).tolist()) == before
    assert len({line.tobytes() for line in permuted}) == 20
    assert np.array_equal(permuted, permute_groups(truth, GROUPS, count=20, seed=3))
    assert not np.array_equal(permuted, permute_groups(truth, GROUPS, count=20, seed=4))


def test_names_and_scattered_rows_are_groups_too() -> None:
    truth = labels_by_group()
    order = np.random.default_rng(1).permutation(120)
    names = np.array([f"image {group}" for group in GROUPS])[order]
    permuted = permute_groups(truth[order], names, count=5)
    for line in permuted:
        counts = [int(line[names == name].sum()) for name in np.unique(names)]
        assert sorted(counts) == sorted(truth.reshape(30, 4).sum(axis=1).tolist())


def test_groups_of_different_sizes_keep_what_their_labels_have_in_common() -> None:
    groups = np.repeat(np.arange(9), [40, 1, 1, 2, 3, 5, 8, 13, 21])
    truth = groups % 2 == 0
    for line in permute_groups(truth, groups, count=10):
        given = [set(line[groups == group].tolist()) for group in range(9)]
        assert all(len(labels) == 1 for labels in given)
        assert sum(labels == {True} for labels in given) == 5


def test_pairs_are_the_groups_that_are_each_others_nearest() -> None:
    rng = np.random.default_rng(0)
    face = rng.normal(size=(15, 6))[np.arange(30) % 15]  # 0 and 15 are copies, 1 and 16, …
    vectors = face[GROUPS] + 0.05 * rng.normal(size=(120, 6))
    pairs = nearest_pairs(vectors, GROUPS)
    assert sorted(pairs) == [(i, i + 15) for i in range(15)]
    assert nearest_pairs(vectors[:8], GROUPS[:8]) == [(0,), (1,)], "two groups are no pair"


def test_pairs_keep_their_labels_together() -> None:
    truth = np.arange(120) // 4 % 2 == 0  # groups are all true or all false
    pairs = [(2 * i, 2 * i + 1) for i in range(10)] + [(i,) for i in range(20, 30)]
    for line in permute_in_pairs(truth, GROUPS, pairs, count=10):
        group = line.reshape(30, 4)
        assert all(len(set(each)) == 1 for each in group.tolist())
        assert all(group[2 * i, 0] and not group[2 * i + 1, 0] for i in range(10))
        assert group[20:, 0].sum() == 5


@pytest.mark.parametrize("width", [5, 300])
def test_ridge_is_that_of_scikit_learn(width: int) -> None:
    rng = np.random.default_rng(0)
    truth, vectors = labels_by_group(), rng.normal(3, 2, size=(120, width))
    vectors[:, 0] = 7  # constant
    folds = grouped_folds(truth, GROUPS, count=4)
    labels = np.stack([truth, permute_groups(truth, GROUPS, count=1)[0]])
    found = ridge_scores(vectors, labels, folds)
    scaled = StandardScaler().fit_transform(vectors)
    for line, label in zip(found, labels, strict=True):
        for fold in folds:
            target = label[fold.train] - label[fold.train].mean()
            model = Ridge(alpha=width, fit_intercept=False).fit(scaled[fold.train], target)
            assert np.allclose(line[fold.test], model.predict(scaled[fold.test]), atol=1e-5)


def test_auroc_of_many_labellings_is_that_of_each() -> None:
    rng = np.random.default_rng(0)
    truth = labels_by_group()
    folds = grouped_folds(truth, GROUPS, count=4)
    fold_of = np.empty(120, int)
    for number, fold in enumerate(folds):
        fold_of[fold.test] = number
    labels = permute_groups(truth, GROUPS, count=6)
    scores = rng.random((6, 120)).round(1)  # with ties
    for value, label, score in zip(auroc_of_lines(labels, scores, folds), labels, scores,
                                   strict=True):  # fmt: skip
        assert value == pytest.approx(measure(label, score, fold_of).auroc)
    assert np.isnan(auroc_of_lines(np.zeros((1, 120), bool), scores[:1], folds)[0])


def test_of_many_groups_some_are_drawn_with_their_neighbours() -> None:
    rng = np.random.default_rng(0)
    face = rng.normal(size=(15, 6))[np.arange(30) % 15]
    vectors = face[GROUPS] + 0.05 * rng.normal(size=(120, 6))
    rows = neighbouring_groups(vectors, GROUPS, count=4)
    drawn = np.unique(GROUPS[rows])
    assert len(rows) == 4 * len(drawn)
    assert 4 <= len(drawn) <= 8
    assert all(group + 15 in drawn or group - 15 in drawn for group in drawn)
