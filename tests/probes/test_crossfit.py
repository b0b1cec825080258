"""Nested cross-validation: equal to the plain way, and blind to what it must not see."""

from __future__ import annotations

import numpy as np
import pytest
from probe_worlds import World, leaky_world, null_world, planted_world
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vlmscope.probes import (
    CrossFit,
    Fold,
    FoldError,
    LogisticProbe,
    MeanDifferenceProbe,
    MlpProbe,
    crossfit_estimator,
    crossfit_logistic,
    grouped_folds,
    solver,
)
from vlmscope.probes.crossfit import rank_auroc


def run(world: World, **options: object) -> CrossFit:
    folds = grouped_folds(world.truth, world.images)
    return crossfit_logistic(world.vectors, world.truth, folds, world.images, **options)  # type: ignore[arg-type]


def reference(strength: float) -> object:
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, tol=1e-8, max_iter=5000)
    )  # fmt: skip


@pytest.mark.first(1)
@pytest.mark.parametrize(("rows", "width"), [(500, 60), (300, 500)])
def test_it_equals_scikit_learn_done_fold_by_fold(rows: int, width: int) -> None:
    world = planted_world(0, rows=rows, width=width, strength=0.7)
    vectors = world.vectors.astype(np.float64)
    grid = (1e-4, 1e-2, 1e-1)
    folds = grouped_folds(world.truth, world.images, count=4)
    found = crossfit_logistic(world.vectors, world.truth, folds, world.images, grid=grid)
    for number, fold in enumerate(folds):
        inner = np.full((len(grid), rows), np.nan)
        auroc, loss = np.zeros((len(grid), 3)), np.zeros((len(grid), 3))
        others = [other for other in folds if other is not fold]
        for place, other in enumerate(others):
            train = np.setdiff1d(fold.train, other.test)
            for c, strength in enumerate(grid):
                fitted = reference(strength).fit(vectors[train], world.truth[train])
                inner[c, other.test] = fitted.predict_proba(vectors[other.test])[:, 1]
                auroc[c, place] = roc_auc_score(world.truth[other.test], inner[c, other.test])
                loss[c, place] = log_loss(world.truth[other.test], inner[c, other.test])
        np.testing.assert_allclose(found.grid_auroc[number], auroc.mean(axis=1), atol=1e-3)
        np.testing.assert_allclose(found.grid_loss[number], loss.mean(axis=1), atol=2e-3)
        assert found.chosen_c[number] == grid[int(loss.mean(axis=1).argmin())]
        choice = grid.index(found.chosen_c[number])
        assert found.inner_auroc[number] == found.grid_auroc[number, choice]
        np.testing.assert_allclose(found.inner_risk[number], inner[choice], atol=1e-2)
        fitted = reference(grid[choice]).fit(vectors[fold.train], world.truth[fold.train])
        expected = fitted.predict_proba(vectors[fold.test])[:, 1]
        np.testing.assert_allclose(found.risk[fold.test], expected, atol=1e-2)


def test_a_fold_never_sees_the_labels_it_is_judged_by() -> None:
    world = planted_world(1)
    folds = grouped_folds(world.truth, world.images)
    plain = crossfit_logistic(world.vectors, world.truth, folds, world.images)
    for number, fold in enumerate(folds):
        lied = world.truth.copy()
        lied[fold.test] ^= True
        found = crossfit_logistic(world.vectors, lied, folds, world.images)
        assert found.chosen_c[number] == plain.chosen_c[number]
        assert found.inner_auroc[number] == pytest.approx(plain.inner_auroc[number], abs=1e-3)
        np.testing.assert_allclose(found.risk[fold.test], plain.risk[fold.test], atol=5e-3)
        np.testing.assert_allclose(
            found.inner_risk[number, fold.train], plain.inner_risk[number, fold.train], atol=5e-3
        )


def test_a_fold_never_sees_the_vectors_it_is_judged_by() -> None:
    world = planted_world(1)
    folds = grouped_folds(world.truth, world.images)
    plain = crossfit_logistic(world.vectors, world.truth, folds, world.images)
    fold = folds[2]
    vectors = world.vectors.copy()
    vectors[fold.test] = 30 * vectors[fold.test] + 100
    found = crossfit_logistic(vectors, world.truth, folds, world.images)
    assert found.chosen_c[2] == plain.chosen_c[2]
    np.testing.assert_allclose(
        found.inner_risk[2, fold.train], plain.inner_risk[2, fold.train], atol=5e-3
    )


def test_inner_predictions_leave_out_the_rows_of_the_fold() -> None:
    world = planted_world(2)
    found = run(world)
    folds = grouped_folds(world.truth, world.images)
    for number, fold in enumerate(folds):
        assert np.isnan(found.inner_logit[number, fold.test]).all()
        assert np.isfinite(found.inner_logit[number, fold.train]).all()
    assert found.risk.shape == (600,)
    assert ((found.risk > 0) & (found.risk < 1)).all()


@pytest.mark.exhaustive
def test_planted_signal_is_found_and_shuffled_labels_are_not() -> None:
    world = planted_world(3)
    assert roc_auc_score(world.truth, run(world).risk) > 0.85
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(5):
        truth = rng.permutation(world.truth)
        shuffled = World(world.vectors, truth, world.images)
        scores.append(roc_auc_score(truth, run(shuffled).risk))
    assert abs(np.mean(scores) - 0.5) < 0.05


def test_an_image_leak_fools_ungrouped_folds_only() -> None:
    world = leaky_world(0)
    splitter = StratifiedKFold(5, shuffle=True, random_state=0)
    careless = [Fold(*pair) for pair in splitter.split(world.vectors, world.truth)]
    rows = np.arange(len(world.truth))
    fooled = crossfit_logistic(world.vectors, world.truth, careless, rows)
    assert roc_auc_score(world.truth, fooled.risk) > 0.97
    scores = []
    for seed in range(4):
        other = leaky_world(seed)
        scores.append(roc_auc_score(other.truth, run(other).risk))
    assert abs(np.mean(scores) - 0.5) < 0.1
    with pytest.raises(FoldError, match="an image is on both sides"):
        crossfit_logistic(world.vectors, world.truth, careless, world.images)


def test_the_order_of_the_rows_does_not_matter() -> None:
    world = planted_world(4)
    folds = grouped_folds(world.truth, world.images)
    plain = crossfit_logistic(world.vectors, world.truth, folds, world.images)
    order = np.random.default_rng(0).permutation(600)
    back = np.argsort(order)
    moved = [Fold(np.sort(back[fold.train]), np.sort(back[fold.test])) for fold in folds]
    found = crossfit_logistic(
        world.vectors[order], world.truth[order], moved, world.images[order]
    )  # fmt: skip
    np.testing.assert_allclose(found.risk, plain.risk[order], atol=2e-3)


def test_the_caller_s_matrix_stays_as_it_is() -> None:
    world = planted_world(4)
    before = world.vectors.copy()
    run(world)
    assert np.array_equal(before, world.vectors)


def test_the_least_loss_wins_whatever_the_order_though_all_rank_alike() -> None:
    world = planted_world(5, strength=8)
    found = run(world, grid=(1e-1, 1e-3, 1e-2))
    assert found.grid_auroc.max() == 1
    first = found.grid_loss.argmin(axis=1)
    assert found.chosen_c.tolist() == [(1e-3, 1e-2, 1e-1)[place] for place in first]
    assert set(found.chosen_c) == {1e-1}, "a weak fit ranks as well, but is sure of nothing"


def test_odd_folds_are_refused() -> None:
    world = planted_world(6)
    folds = grouped_folds(world.truth, world.images)
    call = (world.vectors, world.truth)
    with pytest.raises(FoldError, match="needs 3 or more"):
        crossfit_logistic(*call, grouped_folds(world.truth, world.images, count=2), world.images)
    with pytest.raises(FoldError, match="tested once"):
        crossfit_logistic(*call, folds[:4], world.images)
    with pytest.raises(FoldError, match="tested once"):
        crossfit_logistic(*call, [*folds, folds[0]], world.images)
    lied = world.truth.copy()
    lied[folds[1].test] = False
    with pytest.raises(FoldError, match="one class only"):
        crossfit_logistic(world.vectors, lied, folds, world.images)


@pytest.mark.parametrize("grid", [(), (0.0,), (1.0, -1.0), (float("nan"),)])
def test_an_odd_grid_is_refused(grid: tuple[float, ...]) -> None:
    with pytest.raises(FoldError, match="positive values of C"):
        run(planted_world(6), grid=grid)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_odd_vectors_are_refused(value: float) -> None:
    world = planted_world(6)
    world.vectors[5, 7] = value
    with pytest.raises(FoldError, match="NaN or infinity"):
        run(world)


def test_giving_up_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "MAX_STEPS", 2)
    with pytest.warns(ConvergenceWarning, match="did not converge in 2 steps"):
        run(planted_world(6))


@pytest.mark.exhaustive
def test_any_probe_can_be_crossfitted() -> None:
    world = planted_world(7)
    folds = grouped_folds(world.truth, world.images)
    call = (world.vectors, world.truth, folds, world.images)
    # The difference of means is blind to correlations: it sees less of the planted direction.
    network = MlpProbe(hidden=(16,), batch=20)
    for probe, least in ((LogisticProbe(), 0.85), (network, 0.8), (MeanDifferenceProbe(), 0.6)):
        assert roc_auc_score(world.truth, crossfit_estimator(probe, *call)) > least
    same = crossfit_logistic(*call, grid=(0.01,)).risk
    np.testing.assert_allclose(crossfit_estimator(LogisticProbe(0.01), *call), same, atol=5e-3)
    null = null_world(8)
    risk = crossfit_estimator(
        MeanDifferenceProbe(), null.vectors, null.truth,
        grouped_folds(null.truth, null.images), null.images,
    )  # fmt: skip
    assert abs(roc_auc_score(null.truth, risk) - 0.5) < 0.1


@pytest.mark.parametrize("decimals", [12, 1])
def test_our_auroc_is_scikit_learn_s(decimals: int) -> None:
    rng = np.random.default_rng(0)
    label, scores = rng.random(80) < 0.3, rng.normal(size=(6, 80)).round(decimals)
    expected = [roc_auc_score(label, row) for row in scores]
    np.testing.assert_allclose(rank_auroc(label, scores), expected, rtol=1e-12)
