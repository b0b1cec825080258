"""Is abstaining told to help only where it does? On risks whose worth is known."""

from __future__ import annotations

import time
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from vlmscope.metrics import abstain, abstention, coverage_band, risk_coverage

SETS = 60


def rows(rng: np.random.Generator, images: int, each: int, worth: float) -> tuple[Any, ...]:
    """Truth that depends on the image, a risk that knows so much of it, images and folds."""
    group = np.repeat(np.arange(images), each)
    truth = rng.random(images * each) < expit(rng.normal(size=images)[group] - 1)
    risk = expit(rng.normal(size=images * each) + worth * truth)
    return truth, risk, group, group % 5


@pytest.mark.exhaustive
@pytest.mark.parametrize(("images", "each"), [(30, 1), (80, 4)])
def test_a_risk_without_a_sign_is_seldom_told_to_help(images: int, each: int) -> None:
    """Its sign alone says so of every second data set. Of 300, an interval said it of 4."""
    rng = np.random.default_rng(images)
    helps = falls = 0
    for _ in range(SETS):
        truth, risk, group, folds = rows(rng, images, each, 0)
        found = abstention(truth, risk, group, 0.1, folds, draws=150)
        helps += found.interval.high < 0
        falls += found.change < 0
    assert falls > 0.3 * SETS, "the data sets are not trivial"
    assert helps <= 0.08 * SETS  # of 60 at 2.5%, more than four come once in fifty


def test_a_risk_that_knows_is_told_to_help_and_the_interval_holds_the_change() -> None:
    truth, risk, *_ = rows(np.random.default_rng(0), 100_000, 4, 1.0)
    before, after = abstain(truth, risk, 0.1)
    expected = after - before
    rng = np.random.default_rng(1)
    found = [
        abstention(*(parts := rows(rng, 80, 4, 1.0))[:3], 0.1, parts[3], draws=150)
        for _ in range(SETS)
    ]
    assert np.mean([each.interval.high < 0 for each in found]) > 0.9
    held = [each.interval.low <= expected <= each.interval.high for each in found]
    assert np.mean(held) > 0.88


def test_rates_are_those_of_abstain() -> None:
    truth, risk, group, folds = rows(np.random.default_rng(2), 40, 3, 1.0)
    for share in (0.0, 0.1, 0.33):
        found = abstention(truth, risk, group, share, folds, draws=50)
        assert (found.before, found.after) == abstain(truth, risk, share, folds)
        assert found.change == found.after - found.before
        assert found.interval.low <= found.change <= found.interval.high


def test_a_resample_is_measured_as_if_its_rows_were_written_out() -> None:
    from vlmscope.metrics.abstention import _rates
    from vlmscope.metrics.answers import strata
    from vlmscope.metrics.weighted import tally

    rng = np.random.default_rng(3)
    truth, risk, group, folds = rows(rng, 12, 3, 1.0)
    risk = risk.round(1)  # ties
    counted = tally(truth, risk, group, 12, strata(36, folds))
    weights = rng.multinomial(12, np.ones(12) / 12, size=5).astype(float)
    shares = np.array([0.25, 0.8, 1.0])
    found = _rates(counted, weights, shares)
    for draw, weight in enumerate(weights):
        drawn = np.repeat(np.arange(36), weight[group].astype(int))
        curve = risk_coverage(truth[drawn], risk[drawn], folds[drawn])
        whole = np.interp(shares, [0, *curve.coverage], [0, *curve.rate * curve.coverage]) / shares
        np.testing.assert_allclose(found[draw], whole, atol=1e-12)


def test_one_risk_for_all_changes_nothing() -> None:
    truth, _, group, folds = rows(np.random.default_rng(4), 40, 3, 0)
    found = abstention(truth, np.full(120, 0.5), group, 0.1, folds, draws=50)
    assert found.change == pytest.approx(0, abs=0.02)
    assert found.interval.low <= 0 <= found.interval.high
    same = abstention(truth, np.full(120, 0.5), group, 0.1, draws=50)
    assert same.change == pytest.approx(0)
    assert (same.interval.low, same.interval.high) == pytest.approx((0, 0), abs=1e-12)


def test_questions_of_one_image_are_not_counted_as_many() -> None:
    """Four copies of every row say nothing new: the interval must not shrink."""
    truth, risk, group, folds = rows(np.random.default_rng(5), 120, 1, 0.5)
    once = abstention(truth, risk, group, 0.1, folds, draws=400).interval
    copies = [np.repeat(each, 4) for each in (truth, risk, group, folds)]
    four = abstention(*copies[:3], 0.1, copies[3], draws=400).interval
    assert four.high - four.low > 0.75 * (once.high - once.low)


def test_one_image_has_no_interval_and_no_error() -> None:
    found = abstention([True, False, False], [0.9, 0.2, 0.1], ["a"] * 3, 0.34)
    assert found.after == 0
    assert np.isnan(found.interval.low)


def test_a_seed_repeats_itself() -> None:
    parts = rows(np.random.default_rng(6), 40, 3, 0.5)
    found = [abstention(*parts[:3], 0.1, parts[3], draws=50, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


@pytest.mark.exhaustive
def test_the_band_holds_the_whole_curve() -> None:
    """Of the true curve: by points it would be missed somewhere by every second band or so."""
    far = rows(np.random.default_rng(0), 50_000, 4, 1.0)
    curve = risk_coverage(*far[:2])
    rng, held = np.random.default_rng(7), 0
    for _ in range(SETS):
        truth, risk, group, folds = rows(rng, 80, 4, 1.0)
        band = coverage_band(truth, risk, group, folds, draws=150)
        true = np.interp(band.coverage, curve.coverage, curve.rate)
        held += bool(((band.low <= true) & (true <= band.high)).all())
    assert held >= 0.86 * SETS


def test_the_band_is_around_the_curve() -> None:
    truth, risk, group, folds = rows(np.random.default_rng(8), 60, 3, 1.0)
    band, curve = coverage_band(truth, risk, group, folds), risk_coverage(truth, risk, folds)
    rate = np.interp(band.coverage, curve.coverage, curve.rate)
    assert ((band.low <= rate) & (rate <= band.high)).all()
    assert band.coverage[0] == 0.1
    assert band.coverage[-1] == 1
    for low, high in product([0], [1]):
        assert (band.low >= low).all()
        assert (band.high <= high).all()


def test_one_image_that_fills_the_riskiest_tenth_takes_no_time_of_its_own() -> None:
    """Leaving out each of all images would go over all answers as often as there are images."""
    rng = np.random.default_rng(0)
    count = 8_000
    groups = np.r_[np.zeros(900, int), np.arange(1, count - 899)]
    truth = rng.random(count) < 0.2
    risk = np.r_[np.full(900, 0.9), rng.random(count - 900) * 0.5]
    start = time.perf_counter()
    found = abstention(truth, risk, groups, share=0.1, draws=50)
    assert time.perf_counter() - start < 4
    assert found.interval.low < found.change < found.interval.high
    small = np.r_[groups[:300], groups[900:1200]]
    rows = np.r_[0:300, 900:1200]
    exact = abstention(truth[rows], risk[rows], small, share=0.1, draws=50)
    assert np.isfinite(exact.interval.low)
