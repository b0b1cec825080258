"""Intervals of small samples: the jackknife written out, and coverage by simulation."""

from __future__ import annotations

import time
from math import erf

import numpy as np
import pytest
from scipy.stats import norm
from test_bootstrap import clustered

from vlmscope.metrics import measure, resample, resample_within
from vlmscope.metrics.answers import strata
from vlmscope.metrics.small_samples import is_small, jackknife, too_few_to_resample
from vlmscope.metrics.weighted import tally


@pytest.mark.first(1)
@pytest.mark.parametrize("decimals", [12, 1])
def test_the_jackknife_is_that_of_images_left_out(decimals: int) -> None:
    truth, risk, image = clustered(15, 6, seed=1)
    risk = risk.round(decimals)
    kind = np.random.default_rng(0).integers(0, 3, truth.size)  # an image lies in several
    stratum = strata(truth.size, kind, image % 2)
    found = jackknife(tally(truth, risk, image, 15, stratum))
    assert found.wins / found.pairs == pytest.approx(measure(truth, risk, stratum).auroc)
    for left in range(15):
        kept = image != left
        expected = measure(truth[kept], risk[kept], stratum[kept]).auroc
        assert found.without[left] == pytest.approx(expected, nan_ok=True)


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("images", "each", "gap"), [(40, 15, 1.0), (30, 1, 1.0), (30, 1, 3.0), (20, 5, 2.0)]
)
def test_small_samples_are_covered(images: int, each: int, gap: float) -> None:
    """Draws alone miss the truth too often, most of all where a few rows are separated well."""
    true = (1 + erf(gap / 2 / np.sqrt(2))) / 2
    fold = np.arange(images) % 5
    covered = []
    for seed in range(150):
        truth, risk, image = clustered(images, each, seed, gap)
        if len(np.unique(fold[image[truth]])) < 5:
            continue
        found = resample(
            truth, {"r": risk}, image, fold[image], draws=1, metrics=("auroc",), correct=True
        )
        interval = found.interval("r")
        covered.append(interval.low <= true <= interval.high)
    assert np.mean(covered) >= 0.93


@pytest.mark.exhaustive
@pytest.mark.parametrize(("positives", "true"), [(20, 0.9), (20, 0.97), (40, 0.97)])
def test_few_of_a_class_among_many_images_are_covered(positives: int, true: float) -> None:
    """Draws alone hold the truth in 80 to 90% of these."""
    gap = 2**0.5 * float(norm.ppf(true))
    truth = np.arange(positives + 400) < positives
    covered = []
    for seed in range(120):
        score = np.random.default_rng(seed).normal(size=truth.size) + gap * truth
        found = resample(
            truth, {"r": norm.cdf(score / 3)}, np.arange(truth.size), draws=1, metrics=("auroc",),
            correct=True,
        )  # fmt: skip
        interval = found.interval("r")
        covered.append(interval.low <= true <= interval.high)
    assert np.mean(covered) >= 0.93


@pytest.mark.exhaustive
def test_a_kind_with_a_few_of_a_class_is_not_made_sure_by_kinds_without_pairs() -> None:
    """One kind holds all pairs, and has two hallucinated answers; the other is hallucinated."""
    kind = np.repeat(["some", "all"], 150)
    truth = (kind == "all") | (np.arange(300) < 2)
    told, better = 0, 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        noise = {"one": rng.random(300), "other": rng.random(300)}
        found = resample_within(
            truth, noise, kind, np.arange(300), np.arange(300) % 5, draws=40, correct=True
        )
        interval, gap = found.interval("one"), found.difference("one", "other")
        told += not interval.low <= 0.5 <= interval.high
        better += gap.interval.low > 0
    assert told <= 9, "5% of 120 are 6"
    assert better <= 6, "2.5% are 3"


def test_a_kind_with_one_of_a_class_has_no_interval() -> None:
    kind = np.repeat(["some", "all"], 150)
    truth = (kind == "all") | (np.arange(300) < 1)
    risks = {"one": np.linspace(0, 1, 300), "other": np.linspace(1, 0, 300)}
    found = resample_within(truth, risks, kind, np.arange(300), draws=40, correct=True)
    assert np.isnan([found.interval("one").low, found.difference("one", "other").p_value]).all()


@pytest.mark.exhaustive
def test_a_difference_of_nothing_is_seldom_found_in_small_samples() -> None:
    p_values, found = [], []
    for seed in range(150):
        truth, risk, image = clustered(30, 3, seed, gap=0)
        other = np.random.default_rng(seed + 1000).random(90)
        gap = resample(
            truth, {"a": risk, "b": other}, image, image % 5, draws=1, correct=True
        ).difference("a", "b")
        p_values.append(gap.p_value)
        found.append(gap.interval.low > 0)
        assert (gap.p_value < 0.05) == (not gap.interval.low <= 0 <= gap.interval.high)
    assert np.mean(found) <= 0.06
    assert np.mean(np.array(p_values) < 0.05) <= 0.1


def test_perfect_order_of_a_few_rows_is_not_certain() -> None:
    truth = np.tile([True, False, False], 10)
    found = resample(
        truth, {"r": truth * 0.8, "flat": np.full(30, 0.5)}, range(30), draws=1, correct=True
    )
    assert found.observed["r"]["auroc"] == 1
    assert 0.6 < found.interval("r").low < 0.9, "not certain, and not nothing"
    assert found.interval("r").high == 1
    assert (found.interval("flat").low, found.interval("flat").high) == (0.5, 0.5)


def test_large_samples_keep_their_draws() -> None:
    truth, risk, image = clustered(240, 2, seed=3)
    assert not is_small(truth, image)
    plain = resample(truth, {"r": risk}, image, draws=50)
    assert resample(truth, {"r": risk}, image, draws=50, correct=True).interval(
        "r"
    ) == plain.interval("r")
    assert is_small(truth, image % 49)
    assert not is_small(truth, image % 80)
    assert too_few_to_resample(truth, image % 80)
    assert is_small(truth, np.where(np.arange(480) < 160, 0, image)), "one with a third of all"
    assert is_small(np.arange(480) < 30, image), "hallucinations in 15 images"


@pytest.mark.exhaustive
def test_one_giant_image_is_no_proof() -> None:
    """A third of the rows is about one image: noise must not be told from chance by it."""
    told = {True: 0, False: 0}
    for seed in range(120):
        rng = np.random.default_rng(seed)
        image = np.where(np.arange(320) < 107, 0, np.arange(320) // 4)
        truth, fold = rng.random(320) < 0.3, np.random.default_rng(seed).integers(5, size=80)[image]
        noise = rng.random(320)
        found = resample(
            truth, {"r": noise}, image, fold, draws=60, metrics=("auroc",), correct=True
        )
        low, high = np.quantile(found.drawn["r"]["auroc"], [0.025, 0.975])
        told[False] += not low <= 0.5 <= high
        told[True] += not found.interval("r").low <= 0.5 <= found.interval("r").high
    assert told[True] <= 8, "5% of 120 are 6"
    assert told[False] > 12


def test_a_difference_to_a_constant_is_not_certain_after_perfect_order() -> None:
    truth = np.arange(30) % 3 == 0
    found = resample(
        truth, {"right": truth.astype(float), "flat": np.full(30, 0.5)}, np.arange(30), draws=1,
        correct=True,
    ).difference("right", "flat")  # fmt: skip
    assert found.value == 0.5
    assert 0 < found.interval.low < 0.5 == found.interval.high
    assert 0 < found.p_value < 0.05


@pytest.mark.first(1)
@pytest.mark.parametrize("fold", [None, np.arange(202) % 5])
def test_a_difference_to_a_constant_is_as_sure_as_the_auroc(fold: np.ndarray | None) -> None:
    """Not 0.5 within the one interval, and 0 outside the other."""
    truth, image = np.arange(202) < 12, np.arange(202)
    told = 0
    for seed in range(60):
        risk = np.random.default_rng(seed).random(202) ** (1 - 0.6 * truth)
        drawn = resample(
            truth, {"r": risk, "flat": np.full(202, 0.3)}, image, fold, draws=1, correct=True
        )
        gap, back = drawn.difference("r", "flat"), drawn.difference("flat", "r")
        own = drawn.interval("r")
        assert (gap.interval.low, gap.interval.high) == pytest.approx(
            (own.low - 0.5, own.high - 0.5)
        )
        assert (back.interval.low, back.interval.high) == (-gap.interval.high, -gap.interval.low)
        assert (gap.p_value < 0.05) == (not own.low <= 0.5 <= own.high) == (back.p_value < 0.05)
        told += gap.p_value < 0.05
    assert 0 < told < 60


def test_a_difference_stays_within_bounds_where_one_image_holds_a_class() -> None:
    rng = np.random.default_rng(0)
    truth = np.r_[np.ones(65, bool), np.zeros(200, bool)]
    image = np.r_[np.zeros(60, int), np.arange(1, 206)]
    risks = {"one": rng.random(265), "other": rng.random(265)}
    found = resample(truth, risks, image, draws=1, correct=True).difference("one", "other")
    assert -1 <= found.interval.low <= found.value <= found.interval.high <= 1


def test_one_image_with_most_rows_takes_no_time_of_its_own() -> None:
    rng = np.random.default_rng(0)
    truth, risk = rng.random(20_000) < 0.3, rng.random(20_000)
    image = np.where(np.arange(20_000) < 18_000, 0, np.arange(20_000))
    start = time.perf_counter()
    found = jackknife(tally(truth, risk, np.unique(image, return_inverse=True)[1], 2_001,
                            strata(truth.size)))  # fmt: skip
    assert time.perf_counter() - start < 2
    kept = image != 0
    assert found.without[0] == pytest.approx(measure(truth[kept], risk[kept]).auroc)
