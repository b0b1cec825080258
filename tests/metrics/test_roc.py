"""The ROC curve: against counting, threshold by threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, roc_auc_score

from vlmscope.metrics import measure, roc

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=2, max_size=50)


@given(ROWS)
@settings(deadline=None)
def test_each_point_is_what_its_threshold_flags(rows: list[tuple[bool, int]]) -> None:
    truth, risk = np.array([row[0] for row in rows]), np.array([row[1] for row in rows]) / 12
    assume(truth.any() and not truth.all())
    curve = roc(truth, risk)
    for false_positive_rate, recall, threshold in zip(
        curve.false_positive_rate, curve.recall, curve.threshold, strict=True
    ):
        flagged = risk >= threshold
        assert false_positive_rate == pytest.approx(flagged[~truth].mean())
        assert recall == pytest.approx(flagged[truth].mean())
    assert (curve.false_positive_rate[0], curve.recall[0], curve.threshold[0]) == (0, 0, np.inf)
    assert (curve.false_positive_rate[-1], curve.recall[-1]) == (1, 1)
    area = auc(curve.false_positive_rate, curve.recall)
    assert area == pytest.approx(roc_auc_score(truth, risk))


def test_equal_risks_are_one_point() -> None:
    curve = roc([True, False, True, False], [0.5] * 4)
    assert curve.false_positive_rate.tolist() == curve.recall.tolist() == [0, 1]


def test_points_on_a_straight_piece_are_left_out() -> None:
    truth = np.arange(100) % 2 == 0
    curve = roc(np.sort(truth), np.arange(100) / 100)
    assert curve.recall.size < 5
    assert measure(np.sort(truth), np.arange(100) / 100).auroc == 1


@pytest.mark.parametrize(("only", "found"), [(True, "2 hallucinated and 0"), (False, "0 hall")])
def test_one_class_has_no_curve(only: bool, found: str) -> None:
    with pytest.raises(ValueError, match=f"needs both classes, found {found}"):
        roc([only] * 2, [0.1, 0.2])


def test_what_is_no_risk_is_refused() -> None:
    with pytest.raises(ValueError, match=r"within \[0, 1\]"):
        roc([True, False], [0.1, 1.2])


@pytest.mark.parametrize("decimals", [15, 1])
def test_over_folds_the_area_is_the_stated_auroc(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    fold, truth = np.arange(300) // 60, rng.random(300) < 0.3
    truth[240:] = False  # a fold of one class orders nothing
    risk = np.clip((rng.random(300) * 0.6 + 0.2 * truth).round(decimals) ** (fold + 1), 0, 1)
    curve = roc(truth, risk, fold)
    assert (np.diff(curve.false_positive_rate) >= 0).all()
    assert (np.diff(curve.recall) >= -1e-12).all()
    assert (curve.false_positive_rate[0], curve.recall[0], curve.recall[-1]) == (0, 0, 1)
    area = auc(curve.false_positive_rate, curve.recall)
    assert area == pytest.approx(measure(truth, risk, fold).auroc)
    assert area != pytest.approx(measure(truth, risk).auroc, abs=0.01)


def test_over_one_fold_the_curve_is_the_plain_one() -> None:
    truth, risk = [False, True, True, False], [0.1, 0.4, 0.8, 0.4]
    plain, folded = roc(truth, risk), roc(truth, risk, [7] * 4)
    assert folded.recall.tolist() == plain.recall.tolist()
    assert folded.threshold.tolist() == plain.threshold.tolist()
    with pytest.raises(ValueError, match="and no fold with both"):
        roc(truth, risk, [0, 1, 2, 3])
