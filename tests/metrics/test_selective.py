"""Abstaining: against every order of tied answers, written out."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmscope.metrics import abstain, risk_coverage

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=1, max_size=40)


def drawn(rows: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    truth, risk = zip(*rows, strict=True)
    return np.array(truth), np.array(risk) / 8


def test_ties_are_worth_the_mean_over_their_orders() -> None:
    truth = np.array([False, True, False, True, True, False])
    risk = np.array([0.1, 0.4, 0.4, 0.4, 0.7, 0.7])
    orders = [
        [0, *middle, *last] for middle in permutations([1, 2, 3]) for last in permutations([4, 5])
    ]
    rates = np.mean([np.cumsum(truth[order]) / np.arange(1, 7) for order in orders], axis=0)
    curve = risk_coverage(truth, risk)
    assert curve.rate == pytest.approx(rates)
    assert curve.coverage == pytest.approx(np.arange(1, 7) / 6)
    assert curve.aurc == pytest.approx(rates.mean())
    assert abstain(truth, risk, 0.5) == pytest.approx((0.5, rates[2]))


@given(ROWS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_rows_changes_nothing(rows: list[tuple[bool, int]], random: Any) -> None:
    mixed = random.sample(rows, len(rows))
    assert risk_coverage(*drawn(rows)).rate == pytest.approx(risk_coverage(*drawn(mixed)).rate)
    assert abstain(*drawn(rows), 0.3) == pytest.approx(abstain(*drawn(mixed), 0.3))


@given(ROWS)
@settings(deadline=None)
def test_abstaining_on_nothing_changes_nothing(rows: list[tuple[bool, int]]) -> None:
    before, after = abstain(*drawn(rows), 0)
    assert before == pytest.approx(after)
    assert before == pytest.approx(np.mean([truth for truth, _ in rows]))


@given(ROWS, st.floats(0, 0.999))
@settings(deadline=None)
def test_abstaining_is_a_point_of_the_curve(rows: list[tuple[bool, int]], share: float) -> None:
    truth, risk = drawn(rows)
    curve = risk_coverage(truth, risk)
    kept = len(rows) - int(np.floor(share * len(rows) + 1e-9))
    assert abstain(truth, risk, share)[1] == pytest.approx(curve.rate[kept - 1])


@given(ROWS)
@settings(deadline=None)
def test_no_risk_beats_the_truth_itself(rows: list[tuple[bool, int]]) -> None:
    truth, risk = drawn(rows)
    curve = risk_coverage(truth, risk)
    best, worst = risk_coverage(truth, truth), risk_coverage(truth, ~truth)
    assert curve.optimal_aurc - 1e-12 <= curve.aurc <= worst.aurc + 1e-12
    assert best.aurc == pytest.approx(curve.optimal_aurc)
    assert best.excess == pytest.approx(0)
    assert curve.rate[-1] == pytest.approx(truth.mean())


def test_a_constant_risk_buys_nothing() -> None:
    curve = risk_coverage([True, False, False, False], [0.5] * 4)
    assert curve.rate == pytest.approx([0.25] * 4)
    assert curve.aurc == pytest.approx(0.25)


def test_the_riskiest_tenth_goes_first() -> None:
    truth = np.arange(100) >= 85
    assert abstain(truth, np.arange(100) / 100, 0.1) == pytest.approx((0.15, 5 / 90))


def test_of_every_fold_the_same_share_is_answered() -> None:
    """The risks of one fold are all above those of the other: pooled, it alone would abstain."""
    truth = np.tile([False, False, False, True], 20)
    fold = np.arange(80) // 40
    risk = 0.1 * truth + 0.5 * fold
    assert abstain(truth, risk, 0.25, fold) == (0.25, 0.0)
    assert abstain(truth, risk, 0.25)[1] == pytest.approx(1 / 6)
    curve, whole = risk_coverage(truth, risk, fold), risk_coverage(truth, truth.astype(float))
    assert curve.rate == pytest.approx(whole.rate)
    assert curve.aurc == pytest.approx(curve.optimal_aurc)
    assert curve.rate[-1] == pytest.approx(truth.mean())


def test_what_cannot_be_answered_is_refused() -> None:
    with pytest.raises(ValueError, match="share must be from 0 to below 1, found 1"):
        abstain([True], [0.5], 1)
    with pytest.raises(ValueError, match="risk must be finite"):
        abstain([True], [np.nan], 0)
    with pytest.raises(ValueError, match="are empty"):
        risk_coverage([], [])
