"""The numbers of one risk: against scikit-learn, and where scikit-learn has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, astuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from vlmscope import metrics
from vlmscope.metrics import (
    Platt,
    constant_pairs,
    fit_platt,
    measure,
    reliability,
    threshold_at,
    wilson,
)

# Risks in 64ths are exact, so a monotone map of them keeps every tie and makes none.
ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 64)), min_size=1, max_size=60)


def drawn(rows: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    truth, risk = zip(*rows, strict=True)
    return np.array(truth), np.array(risk) / 64


def simulated(count: int, seed: int, decimals: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """Hallucinations that happen as often as the risk says."""
    generator = np.random.default_rng(seed)
    risk = generator.beta(1, 3, size=count).round(decimals)
    return generator.random(count) < risk, risk


def test_the_front_is_sorted_and_complete() -> None:
    assert metrics.__all__ == sorted(metrics.__all__)
    assert all(hasattr(metrics, name) for name in metrics.__all__)


@pytest.mark.parametrize("decimals", [15, 1])
@pytest.mark.parametrize("seed", range(3))
def test_the_metrics_are_those_of_scikit_learn(seed: int, decimals: int) -> None:
    truth, risk = simulated(400, seed, decimals)
    found = measure(truth, risk)
    false_positive_rate, recall, _ = roc_curve(truth, risk, drop_intermediate=False)
    assert found.auroc == roc_auc_score(truth, risk)
    assert found.auprc == average_precision_score(truth, risk)
    assert found.brier == pytest.approx(brier_score_loss(truth, risk))
    assert found.recall_at_5 == pytest.approx(recall[false_positive_rate <= 0.05].max())
    assert (found.prevalence, found.count) == (truth.mean(), 400)


@pytest.mark.parametrize(("only", "brier"), [(False, 0.09), (True, 0.49)])
def test_one_class_has_no_rank_metric(only: bool, brier: float) -> None:
    found = measure([only] * 4, [0.3] * 4)
    assert np.isnan([found.auroc, found.auprc, found.recall_at_5]).all()
    assert found.brier == pytest.approx(brier)
    assert found.ece == pytest.approx(abs(only - 0.3))
    assert (found.prevalence, found.count) == (only, 4)


@pytest.mark.parametrize(
    ("truth", "risk", "message"),
    [
        ([True, False], [0.1, np.nan], "risk must be finite, found 1 of 2"),
        ([True, False], [0.1, np.inf], "risk must be finite, found 1 of 2"),
        ([True, False], [0.1, 1.5], r"within \[0, 1\], found 0.1 to 1.5"),
        ([True, False], [0.1], r"found shapes \(2,\) and \(1,\)"),
        ([[True, False]], [[0.1, 0.2]], r"found shapes \(1, 2\) and \(1, 2\)"),
        ([], [], "are empty"),
        (["True", "False"], [0.1, 0.2], "truth must be boolean, found <U5"),
        ([1, 0], [0.1, 0.2], "truth must be boolean, found int64"),
        ([True, False], ["0.1", "0.2"], "risk must be numbers, found <U3"),
    ],
)
@pytest.mark.parametrize("function", [measure, reliability, threshold_at])
def test_what_cannot_be_measured_is_refused(
    function: Callable[..., Any], truth: list[Any], risk: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        function(truth, risk)


@given(ROWS)
@settings(deadline=None)
def test_rank_metrics_do_not_see_a_monotone_map(rows: list[tuple[bool, int]]) -> None:
    truth, risk = drawn(rows)
    plain, mapped = measure(truth, risk), measure(truth, risk**2 / 2)
    for name in ("auroc", "auprc", "recall_at_5"):
        assert getattr(plain, name) == pytest.approx(getattr(mapped, name), nan_ok=True)


@given(ROWS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_rows_changes_nothing(rows: list[tuple[bool, int]], random: Any) -> None:
    mixed = random.sample(rows, len(rows))
    expected = astuple(measure(*drawn(rows)))
    assert astuple(measure(*drawn(mixed))) == pytest.approx(expected, nan_ok=True)


@given(ROWS)
@settings(deadline=None)
def test_turning_the_risk_round_turns_the_auroc_round(rows: list[tuple[bool, int]]) -> None:
    truth, risk = drawn(rows)
    turned = 1 - measure(truth, 1 - risk).auroc
    assert measure(truth, risk).auroc == pytest.approx(turned, nan_ok=True)


def test_bins_of_distinct_risks_have_equal_mass() -> None:
    truth, risk = simulated(150, 0)
    order = np.argsort(risk)
    promised = risk[order].reshape(15, 10).mean(axis=1)
    observed = truth[order].reshape(15, 10).mean(axis=1)
    curve = reliability(truth, risk)
    assert curve.mean_risk == pytest.approx(promised)
    assert curve.rate == pytest.approx(observed)
    assert curve.count.tolist() == [10] * 15
    assert measure(truth, risk).ece == pytest.approx(np.abs(promised - observed).mean())


@given(ROWS, st.integers(1, 20))
@settings(deadline=None)
def test_bins_keep_ties_together_and_every_row(rows: list[tuple[bool, int]], bins: int) -> None:
    truth, risk = drawn(rows)
    curve = reliability(truth, risk, bins=bins)
    ends = np.cumsum(curve.count)
    ordered = np.sort(risk)
    assert ends[-1] == len(rows)
    assert len(ends) <= bins
    assert all(ordered[end - 1] < ordered[end] for end in ends[:-1])
    assert (curve.mean_risk * curve.count).sum() == pytest.approx(risk.sum())
    assert np.bincount(curve.bin_of).tolist() == curve.count.tolist()
    np.testing.assert_allclose(
        np.bincount(curve.bin_of, weights=risk) / curve.count, curve.mean_risk
    )


def test_the_interval_of_independent_answers_is_wilsons() -> None:
    truth, risk = simulated(200, 1, decimals=1)
    curve = reliability(truth, risk)
    ends = wilson(curve.rate, curve.count)
    for rate, count, low, high in zip(curve.rate, curve.count, *ends, strict=True):
        found = binomtest(round(rate * count), int(count)).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((found.low, found.high))
        assert low <= rate <= high


def test_the_calibration_error_tells_a_true_risk_from_a_false_one() -> None:
    truth, risk = simulated(20_000, 2)
    assert measure(truth, risk).ece < 0.02
    assert measure(truth, np.sqrt(risk)).ece > 0.1


def test_no_bin_is_refused() -> None:
    with pytest.raises(ValueError, match="bins must be at least 1, found 0"):
        reliability([True], [0.5], bins=0)


@given(ROWS, st.floats(0, 0.99))
@settings(deadline=None)
def test_the_threshold_is_the_lowest_that_keeps_the_false_positive_rate(
    rows: list[tuple[bool, int]], share: float
) -> None:
    truth, risk = drawn([*rows, (False, 32)])
    faithful = risk[~truth]
    threshold = threshold_at(truth, risk, false_positive_rate=share)
    assert (faithful > threshold).mean() <= share + 1e-9
    assert (faithful >= threshold).mean() > share


def test_a_threshold_needs_faithful_answers_and_a_share() -> None:
    with pytest.raises(ValueError, match="all 2 answers are hallucinated"):
        threshold_at([True, True], [0.1, 0.2])
    with pytest.raises(ValueError, match="false_positive_rate must be from 0 to below 1, found 1"):
        threshold_at([False], [0.1], false_positive_rate=1)


def test_platts_sigmoid_is_the_logistic_regression_on_his_targets() -> None:
    generator = np.random.default_rng(0)
    score = generator.normal(size=300)
    truth = generator.random(300) < 1 / (1 + np.exp(1 - 2 * score))
    hallucinated = truth.sum()
    target = np.where(truth, (hallucinated + 1) / (hallucinated + 2), 1 / (302 - hallucinated))
    # A soft target is an answer of either class, weighted.
    model = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(
        np.tile(score, 2)[:, np.newaxis],
        np.repeat([1, 0], 300),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    found = fit_platt(truth, score)
    assert (found.a, found.b) == pytest.approx((model.coef_[0, 0], model.intercept_[0]), rel=1e-4)
    assert (found.a, found.b) == pytest.approx((2, -1), abs=0.5)


def test_platts_sigmoid_does_not_depend_on_the_scale_of_the_score() -> None:
    truth, score = simulated(200, 3)
    plain = fit_platt(truth, score).apply(score)
    far = fit_platt(truth, 1e4 * score - 5e6).apply(1e4 * score - 5e6)
    assert plain == pytest.approx(far, rel=1e-5)


def test_platts_sigmoid_calibrates_an_overconfident_score_and_keeps_its_order() -> None:
    truth, risk = simulated(4000, 4)
    logit = 5 * np.log(risk / (1 - risk)) + 3
    fit, rest = slice(0, 2000), slice(2000, None)
    sigmoid = fit_platt(truth[fit], logit[fit])
    calibrated = measure(truth[rest], sigmoid.apply(logit[rest]))
    overconfident = measure(truth[rest], Platt(a=1, b=0).apply(logit[rest]))
    assert (sigmoid.a, sigmoid.b) == pytest.approx((1 / 5, -3 / 5), abs=0.1)
    assert calibrated.ece < overconfident.ece / 3
    assert calibrated.auroc == pytest.approx(measure(truth[rest], risk[rest]).auroc)


def test_classes_that_a_score_separates_get_finite_numbers() -> None:
    found = fit_platt([False] * 50 + [True] * 50, np.linspace(-1000, 1000, 100))
    risk = found.apply([-1000, 1000])
    assert np.isfinite([found.a, found.b]).all()
    assert 0 < risk[0] < 0.03
    assert 0.97 < risk[1] < 1


def test_a_constant_score_gets_the_prevalence() -> None:
    found = fit_platt([False] * 90 + [True] * 10, [7.0] * 100)
    assert found.apply(7.0) == pytest.approx(0.1, abs=0.02)


def test_platts_sigmoid_survives_json() -> None:
    found = fit_platt([False, True, False, True], [1, 2, 3, 4])
    assert Platt(**json.loads(json.dumps(asdict(found)))) == found


@pytest.mark.parametrize(
    ("truth", "score", "message"),
    [
        ([True, True], [1, 2], "found 2 hallucinated and 0 faithful"),
        ([True, False], [1, np.inf], "score must be finite"),
        ([True, False], [1], "found shapes"),
    ],
)
def test_a_sigmoid_that_cannot_be_fitted_is_refused(
    truth: list[bool], score: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_platt(truth, score)


def test_pairs_of_constant_folds_are_counted() -> None:
    truth = np.tile([True, False, False], 4)
    fold = np.arange(12) // 6
    assert constant_pairs(truth, np.full(12, 0.3)) == 1
    assert constant_pairs(truth, 0.1 + fold * 0.5, fold) == 1
    assert constant_pairs(truth, np.where(fold == 0, 0.2, np.arange(12) / 12), fold) == 0.5
    assert constant_pairs(truth, np.arange(12) / 12) == 0
    coarse = np.where(np.arange(12) % 6 == 0, 0.9, 0.1)  # many ties, and it tells answers apart
    assert constant_pairs(truth, coarse, fold) == 0
    assert np.isnan(constant_pairs([True, False], [0.1, 0.1], [0, 1]))
