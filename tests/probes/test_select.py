"""Choosing the best of many candidates must not make chance look like knowledge."""

from __future__ import annotations

import numpy as np
import pytest
from probe_worlds import null_world, planted_world
from sklearn.metrics import roc_auc_score

from vlmscope.probes import (
    CrossFit,
    Fold,
    FoldError,
    combine,
    crossfit_logistic,
    crossfit_select,
    grouped_folds,
)

NAMES = ("vision", "last_prompt_token/0", "last_prompt_token/14", "last_prompt_token/27")


def planted() -> tuple[dict[str, CrossFit], np.ndarray, list[Fold], np.ndarray]:
    """Four candidates; the third knows."""
    world = planted_world(0, strength=0.8)
    folds = grouped_folds(world.truth, world.images)
    found = {}
    for number, name in enumerate(NAMES):
        vectors = world.vectors if number == 2 else null_world(10 + number).vectors
        found[name] = crossfit_logistic(vectors, world.truth, folds, world.images)
    return found, world.truth, folds, world.images


def test_the_candidate_that_knows_is_chosen_and_no_other_knows() -> None:
    found, truth, folds, _ = planted()
    scores = {name: roc_auc_score(truth, one.risk) for name, one in found.items()}
    knows = scores.pop(NAMES[2])
    assert knows > 0.75
    assert all(abs(score - 0.5) < 0.08 for score in scores.values())
    selected = crossfit_select(found, folds)
    assert selected.chosen == (NAMES[2],) * 5
    np.testing.assert_array_equal(selected.risk, found[NAMES[2]].risk)
    np.testing.assert_array_equal(selected.inner_auroc, found[NAMES[2]].inner_auroc)
    combined = combine(found, truth, folds)
    assert combined.candidates == NAMES
    assert combined.weights.shape == (5, 4)
    assert (combined.weights.argmax(axis=1) == 2).all()
    assert roc_auc_score(truth, combined.risk) > knows - 0.03


@pytest.mark.exhaustive
def test_the_best_of_many_null_candidates_stays_at_chance() -> None:
    naive, nested, stacked = [], [], []
    for seed in range(6):
        rng = np.random.default_rng(100 + seed)
        truth, images = rng.random(240) < 0.4, np.arange(240) // 2
        folds = grouped_folds(truth, images)
        found = {
            str(number): crossfit_logistic(
                rng.standard_normal((240, 12)).astype(np.float32),
                truth,
                folds,
                images,
                grid=(1e-2,),
            )
            for number in range(20)
        }
        naive.append(max(roc_auc_score(truth, one.risk) for one in found.values()))
        nested.append(roc_auc_score(truth, crossfit_select(found, folds).risk))
        stacked.append(roc_auc_score(truth, combine(found, truth, folds).risk))
    assert np.mean(naive) > 0.55  # chosen on the rows that judge it: nothing looks like something
    assert abs(np.mean(nested) - 0.5) < 0.05
    assert abs(np.mean(stacked) - 0.5) < 0.05


def test_two_halves_of_the_truth_are_better_together() -> None:
    rng = np.random.default_rng(3)
    parts = rng.standard_normal((2, 800))
    truth, images = parts.sum(axis=0) + 0.5 * rng.standard_normal(800) > 1, np.arange(800) // 2
    folds = grouped_folds(truth, images)
    found = {}
    for number, part in enumerate(parts):
        vectors = np.c_[part, rng.standard_normal((800, 9))].astype(np.float32)
        found[str(number)] = crossfit_logistic(vectors, truth, folds, images)
    alone = max(roc_auc_score(truth, one.risk) for one in found.values())
    together = combine(found, truth, folds)
    assert roc_auc_score(truth, together.risk) > alone + 0.05
    assert together.risk.mean() == pytest.approx(truth.mean(), abs=0.03)


def test_a_fold_s_own_labels_reach_neither_choice_nor_combination() -> None:
    found, truth, folds, _ = planted()
    lied = truth.copy()
    lied[folds[0].test] ^= True
    again = combine(found, lied, folds)
    expected = combine(found, truth, folds)
    np.testing.assert_array_equal(again.risk[folds[0].test], expected.risk[folds[0].test])


def test_candidates_of_other_folds_are_refused() -> None:
    found, truth, folds, images = planted()
    other = grouped_folds(truth, images, seed=1)
    with pytest.raises(FoldError, match="'vision' was made on other folds"):
        crossfit_select(found, other)
    with pytest.raises(FoldError, match="made on other folds"):
        combine(found, truth, folds[:4])
    with pytest.raises(FoldError, match="no candidates"):
        crossfit_select({}, folds)
