"""The probes are scikit-learn classifiers, and find the optimum that scikit-learn finds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from probe_worlds import leaky_world, null_world, planted_world
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from vlmscope.probes import (
    BinaryProbe,
    FoldError,
    LogisticProbe,
    MeanDifferenceProbe,
    MlpProbe,
    grouped_folds,
)


def small_mlp() -> MlpProbe:
    return MlpProbe(hidden=(32, 16), batch=20)


PROBES: list[Callable[[], BinaryProbe]] = [LogisticProbe, MeanDifferenceProbe, small_mlp]


@pytest.mark.first(1)
@pytest.mark.parametrize("make", [*PROBES[:2], small_mlp])
def test_the_contract_of_scikit_learn(make: Callable[[], BinaryProbe]) -> None:
    check_estimator(make(), on_skip=None)


@pytest.mark.parametrize("strength", [1e-5, 1e-3, 1e-1, 1.0])
@pytest.mark.parametrize(("rows", "width"), [(600, 40), (150, 400)])
def test_the_optimum_is_scikit_learns(rows: int, width: int, strength: float) -> None:
    world, fresh = (planted_world(seed, rows=rows, width=width) for seed in (0, 1))
    ours = LogisticProbe(strength).fit(world.vectors, world.truth)
    scaler = StandardScaler().fit(world.vectors.astype(np.float64))
    theirs = LogisticRegression(C=strength, tol=1e-8, max_iter=5000)
    theirs.fit(scaler.transform(world.vectors), world.truth)
    for vectors in (world.vectors, fresh.vectors):
        expected = theirs.predict_proba(scaler.transform(vectors))
        assert np.abs(ours.predict_proba(vectors) - expected).max() < 1e-2
    np.testing.assert_allclose(ours.mean_, scaler.mean_, rtol=1e-5)
    np.testing.assert_allclose(ours.scale_, scaler.scale_, rtol=1e-5)


@pytest.mark.parametrize("make", [lambda: LogisticProbe("auto"), *PROBES[1:]])
def test_few_groups_of_different_sizes_are_split_into_fewer_inner_folds(
    make: Callable[[], BinaryProbe],
) -> None:
    """As with ``--group-by category``: nobody asked for the number of inner folds."""
    rows, positive = [4, 6, 1, 2, 1, 6], [1, 6, 1, 1, 0, 1]
    groups = np.repeat(np.arange(6), rows)
    truth = np.concatenate([np.arange(n) < p for n, p in zip(rows, positive, strict=True)])
    with pytest.raises(FoldError, match="4 folds of 6 groups left one"):
        grouped_folds(truth, groups, count=4)
    vectors = np.random.default_rng(0).normal(size=(len(truth), 8)).astype(np.float32)
    probe = make().fit(vectors, truth, groups=groups)
    assert np.isfinite(probe.predict_proba(vectors)).all()
    whole = np.zeros(len(truth), dtype=np.int64)
    with pytest.raises(FoldError, match="2 folds need 2 groups"):
        make().fit(vectors, truth, groups=whole)


def test_odd_features_do_no_harm() -> None:
    world = planted_world(0)
    plain = LogisticProbe(0.01).fit(world.vectors, world.truth)
    odd = np.c_[world.vectors, np.full(600, 7.7), np.zeros(600)].astype(np.float32)
    odd[:, :3] = odd[:, :3] * [1e4, 1e-4, 1] + [0, 0, 1e3]  # units, as massive activations have
    probe = LogisticProbe(0.01).fit(odd, world.truth)
    difference = probe.predict_proba(odd) - plain.predict_proba(world.vectors)
    assert np.abs(difference).max() < 2e-3
    assert probe.coef_[0, -2:].tolist() == [0, 0]


@pytest.mark.parametrize(("make", "least"), [(LogisticProbe, 0.85), (MeanDifferenceProbe, 0.6)])
def test_the_planted_direction_is_found(make: Callable[[], BinaryProbe], least: float) -> None:
    world = planted_world(3)
    folds = grouped_folds(world.truth, world.images)
    for fold in folds[:2]:
        probe = make().fit(
            world.vectors[fold.train], world.truth[fold.train], groups=world.images[fold.train]
        )
        risk = probe.predict_proba(world.vectors[fold.test])[:, 1]
        assert roc_auc_score(world.truth[fold.test], risk) > least


@pytest.mark.first(2)
@pytest.mark.parametrize("make", [*PROBES, MlpProbe])
def test_without_signal_the_probabilities_say_so(make: Callable[[], BinaryProbe]) -> None:
    world, fresh = null_world(4), null_world(5)
    probe = make().fit(world.vectors, world.truth, groups=world.images)
    risk = probe.predict_proba(fresh.vectors)[:, 1]
    rate = np.full(600, world.truth.mean())
    # In-sample calibration would promise much and pay for it here.
    assert log_loss(fresh.truth, risk) < log_loss(fresh.truth, rate) + 0.1


def test_the_penalty_is_chosen_by_image() -> None:
    world = leaky_world(0)
    blind = LogisticProbe().fit(world.vectors, world.truth)
    aware = LogisticProbe().fit(world.vectors, world.truth, groups=world.images)
    assert blind.grid_auroc_.max() > 0.9  # each row its own group: the image gives it away
    assert aware.grid_auroc_.max() < 0.7


def test_a_given_penalty_needs_no_folds() -> None:
    vectors = np.array([[0.0], [1.0], [2.0], [3.0]], dtype=np.float32)
    probe = LogisticProbe(1.0).fit(vectors, [False, False, False, True])
    assert probe.C_ == 1.0
    assert not hasattr(probe, "grid_auroc_")
    with pytest.raises(FoldError, match="found 1 hallucinated answer in 1 group"):
        LogisticProbe().fit(vectors, [False, False, False, True])


@pytest.mark.parametrize("strength", [0, -1.0, float("nan"), float("inf")])
def test_an_odd_penalty_is_refused(strength: float) -> None:
    with pytest.raises(FoldError, match="positive values of C"):
        LogisticProbe(strength).fit(np.eye(4, dtype=np.float32), [True, False] * 2)


@pytest.mark.exhaustive
def test_a_probe_keeps_no_rows() -> None:
    world = planted_world(6, rows=150)
    for make in PROBES:
        probe = make().fit(world.vectors, world.truth)
        sizes = [np.asarray(value).shape for name, value in vars(probe).items()
                 if name.endswith("_") and not isinstance(value, list)]  # fmt: skip
        assert not any(150 in size for size in sizes)


def test_vectors_of_a_float16_store_are_welcome() -> None:
    world = planted_world(6)
    halves = world.vectors.astype(np.float16)
    probe = LogisticProbe(0.01).fit(halves, world.truth)
    assert np.array_equal(probe.predict(halves), probe.predict(halves.astype(np.float32)))


def test_it_fits_into_scikit_learns_tools() -> None:
    world = planted_world(7)
    scores = cross_val_score(LogisticProbe(0.01), world.vectors, world.truth, scoring="roc_auc")
    assert scores.mean() > 0.85


@pytest.mark.exhaustive
def test_the_network_learns_what_no_line_can() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1500, 6)).astype(np.float32)
    truth = vectors[:, 0] * vectors[:, 1] > 0
    network = MlpProbe(hidden=(64, 32), seed=1).fit(vectors[:1000], truth[:1000])
    line = LogisticProbe().fit(vectors[:1000], truth[:1000])
    assert roc_auc_score(truth[1000:], network.decision_function(vectors[1000:])) > 0.9
    assert roc_auc_score(truth[1000:], line.decision_function(vectors[1000:])) < 0.65
    again = MlpProbe(hidden=(64, 32), seed=1).fit(vectors[:1000], truth[:1000])
    assert np.array_equal(again.predict_proba(vectors), network.predict_proba(vectors))


@pytest.mark.exhaustive
def test_the_difference_of_means_is_the_right_direction_for_round_clouds() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(3000) < 0.3
    vectors = rng.standard_normal((3000, 10)) + 3
    vectors[:, 4] += 1.5 * truth
    probe = MeanDifferenceProbe().fit(vectors[:2000], truth[:2000])
    assert np.abs(probe.coef_[0]).argmax() == 4
    risk = probe.predict_proba(vectors[2000:])[:, 1]
    assert roc_auc_score(truth[2000:], risk) > 0.8
    assert risk.mean() == pytest.approx(truth[2000:].mean(), abs=0.05)
