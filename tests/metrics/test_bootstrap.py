"""Intervals over images: against resamples written out row by row, and against simulation."""

from __future__ import annotations

from math import erf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmscope.metrics import (
    Interval,
    LabelledRisk,
    bootstrap,
    holm,
    measure,
    paired,
    resample,
    resample_sides,
)
from vlmscope.metrics.answers import strata
from vlmscope.metrics.weighted import NAMES, measure_draw, tally

# An answer's truth, its risk in tenths (so that many tie), and its image.
ROWS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 10), st.integers(0, 5)), min_size=1, max_size=50
)
WEIGHTS = st.lists(st.integers(0, 4), min_size=6, max_size=6)


def clustered(
    images: int, each: int, seed: int, gap: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, risk and image; an image shifts the risk of all its answers. True AUROC: Φ(gap/2)."""
    generator = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), each)
    truth = generator.random(image.size) < 0.3
    score = generator.normal(size=images)[image] + generator.normal(size=image.size) + gap * truth
    return truth, 1 / (1 + np.exp(-score)), image


def columns(rows: list[tuple[bool, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth, risk, image = zip(*rows, strict=True)
    return np.array(truth), np.array(risk) / 10, np.array(image)


def width(interval: Interval) -> float:
    return interval.high - interval.low


@given(ROWS, WEIGHTS)
@settings(deadline=None)
def test_a_resample_is_measured_as_if_its_rows_were_written_out(
    rows: list[tuple[bool, int, int]], weights: list[int]
) -> None:
    truth, risk, image = columns(rows)
    repeated = np.repeat(np.arange(len(rows)), np.array(weights)[image])
    if not repeated.size:
        return
    fold = image % 3  # an image lies in one fold
    folds: tuple[np.ndarray | None, ...] = (None, fold, fold * 7)
    for each in folds:
        stratum = strata(len(rows), each)
        counted = tally(truth, risk, image, 6, stratum)
        found = measure_draw(counted, np.array(weights, dtype=float))
        own = None if each is None else each[repeated]
        expected = measure(truth[repeated], risk[repeated], own)
        for name in NAMES:
            assert found[name] == pytest.approx(getattr(expected, name), nan_ok=True), name


@pytest.mark.parametrize("decimals", [15, 2])
def test_weights_of_one_are_the_answers_as_they_are(decimals: int) -> None:
    truth, risk, image = clustered(100, 7, seed=0)
    risk = risk.round(decimals)
    found = measure_draw(tally(truth, risk, image, 100), np.ones(100))
    for name in NAMES:
        assert found[name] == pytest.approx(getattr(measure(truth, risk), name)), name


def test_the_intervals_are_those_of_resampled_rows() -> None:
    truth, risk, image = clustered(30, 4, seed=1)
    risks = {"fine": risk, "coarse": risk.round(1)}
    found = bootstrap(truth, risks, image, draws=60, seed=5, level=0.9)
    generator = np.random.default_rng(5)
    resamples = [generator.integers(30, size=30) for _ in range(60)]
    rows = [np.concatenate([np.flatnonzero(image == i) for i in drawn]) for drawn in resamples]
    for name, values in risks.items():
        assert tuple(found[name]) == NAMES
        measured = [measure(truth[row], values[row]) for row in rows]
        for metric in NAMES:
            low, high = np.quantile([getattr(m, metric) for m in measured], [0.05, 0.95])
            assert found[name][metric].low == pytest.approx(low)
            assert found[name][metric].high == pytest.approx(high)


@pytest.mark.exhaustive
def test_an_image_that_is_drawn_keeps_its_fold() -> None:
    truth, risk, image = clustered(30, 4, seed=1)
    fold = np.random.default_rng(2).integers(3, size=30)[image]
    found = resample(truth, {"risk": risk}, image, fold, draws=40, seed=5).drawn["risk"]
    generator = np.random.default_rng(5)
    resamples = [generator.integers(30, size=30) for _ in range(40)]
    rows = [np.concatenate([np.flatnonzero(image == i) for i in drawn]) for drawn in resamples]
    measured = [measure(truth[row], risk[row], fold[row]) for row in rows]
    for metric in NAMES:
        assert found[metric] == pytest.approx([getattr(m, metric) for m in measured]), metric


def test_near_chance_folds_depend_on_each_other() -> None:
    """Each fold is judged by a fit on the others: at chance the variance is twice what is seen."""
    rng = np.random.default_rng(0)
    truth, image = rng.random(600) < 0.4, np.arange(600) // 3
    risks = {"noise": rng.random(600), "knows": np.clip(0.5 * truth + 0.5 * rng.random(600), 0, 1)}
    apart = resample(truth, risks, image, draws=200)
    fitted = resample(truth, risks, image, image % 5, draws=200)
    assert apart.widening("noise") == 1
    assert 1.3 < fitted.widening("noise") <= np.sqrt(2)
    assert fitted.widening("knows") == pytest.approx(1)
    assert fitted.widening("knows", "noise") == fitted.widening("noise")
    found, value = fitted.interval("noise"), fitted.observed["noise"]["auroc"]
    low, high = np.quantile(fitted.drawn["noise"]["auroc"], [0.025, 0.975])
    wider = fitted.widening("noise")
    assert (found.low, found.high) == pytest.approx(
        (value + wider * (low - value), value + wider * (high - value))
    )
    gap = fitted.difference("noise", "knows").interval
    drawn = fitted.drawn["noise"]["auroc"] - fitted.drawn["knows"]["auroc"]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert gap.high - gap.low == pytest.approx(wider * (high - low))


@pytest.mark.parametrize("metric", ["auroc", "auprc", "recall_at_5"])
def test_a_fold_s_own_scale_changes_no_comparison(metric: str) -> None:
    """Each fold's risks on another scale: what ranks answers does not see it, nor do intervals."""
    truth, risk, image = clustered(60, 4, seed=8)
    fold = image % 4
    odd = risk ** np.array([0.2, 1.0, 3.0, 0.5])[fold]
    assert abs(getattr(measure(truth, odd), metric) - getattr(measure(truth, risk), metric)) > 0.01
    found = paired(truth, odd, risk, image, metric, folds=fold, draws=50)
    assert (found.value, found.interval, found.p_value) == (0, Interval(0, 0), 1)


@pytest.mark.exhaustive
def test_a_risk_that_is_the_share_in_training_is_worth_nothing() -> None:
    """Pooled it looks worse than chance: where training has more, the fold has fewer."""
    rng = np.random.default_rng(0)
    pooled, within = [], []
    for _ in range(40):
        truth, fold = rng.random(60) < 0.3, np.arange(60) // 12
        risk = np.array([truth[fold != f].mean() for f in range(5)])[fold]
        pooled.append(measure(truth, risk).auroc)
        within.append(measure(truth, risk, fold).auroc)
    assert np.mean(pooled) < 0.42
    assert within == [0.5] * 40


def test_only_what_is_asked_for_is_drawn() -> None:
    truth, risk, image = clustered(20, 3, seed=9)
    found = resample(truth, {"risk": risk}, image, draws=10, metrics=("auroc", "ece"))
    assert set(found.drawn["risk"]) == set(found.observed["risk"]) == {"auroc", "ece"}
    assert found.observed["risk"]["auroc"] == pytest.approx(measure(truth, risk).auroc)
    all_of_them = bootstrap(truth, {"risk": risk}, image, draws=10)["risk"]
    assert found.interval("risk") == all_of_them["auroc"]


@pytest.mark.exhaustive
def test_the_interval_covers_the_true_auroc() -> None:
    true = (1 + erf(0.5 / np.sqrt(2))) / 2
    intervals = [
        bootstrap(truth, {"risk": risk}, image, draws=100)["risk"]["auroc"]
        for truth, risk, image in (clustered(60, 5, seed) for seed in range(80))
    ]
    covered = np.mean([interval.low <= true <= interval.high for interval in intervals])
    assert 0.90 <= covered <= 0.98


def test_copies_within_an_image_do_not_feign_certainty() -> None:
    truth, risk, _ = clustered(60, 1, seed=2)
    copied = {"truth": np.repeat(truth, 9), "risks": {"risk": np.repeat(risk, 9)}}
    by_image = bootstrap(**copied, groups=np.repeat(np.arange(60), 9), draws=400)["risk"]
    by_row = bootstrap(**copied, groups=np.arange(540), draws=400)["risk"]
    alone = bootstrap(truth, {"risk": risk}, np.arange(60), draws=400)["risk"]
    assert width(by_image["auroc"]) > 2 * width(by_row["auroc"])
    assert width(by_image["auroc"]) == pytest.approx(width(alone["auroc"]))


def test_a_risk_that_knows_nothing_covers_one_half() -> None:
    truth, risk, image = clustered(100, 5, seed=3)
    shuffled = np.random.default_rng(0).permutation(truth)
    interval = bootstrap(shuffled, {"risk": risk}, image, draws=400)["risk"]["auroc"]
    assert interval.low < 0.5 < interval.high


def test_draws_without_both_classes_are_left_out_and_counted() -> None:
    truth = np.array([True, False, False, False, False, False])
    risk, image = np.array([0.9, 0.1, 0.2, 0.3, 0.4, 0.5]), np.repeat([0, 1, 2], 2)
    found = bootstrap(truth, {"risk": risk}, image, draws=600)["risk"]
    assert found["auroc"].low == found["auroc"].high == 1
    # The image of the one hallucination is missed by (2/3)³ = 30% of the draws.
    assert found["auroc"].left_out == found["auprc"].left_out == pytest.approx(178, abs=40)
    assert found["brier"].left_out == found["prevalence"].left_out == 0
    alone = bootstrap(~truth[1:], {"risk": risk[1:]}, image[1:], draws=20)["risk"]
    assert np.isnan(alone["auroc"].low)
    assert alone["auroc"].left_out == 20
    assert alone["ece"].high > 0


def test_neither_the_order_of_rows_nor_the_other_risks_change_an_interval() -> None:
    truth, risk, image = clustered(40, 3, seed=4)
    order = np.random.default_rng(0).permutation(truth.size)
    names = np.array([f"{i:03}.png" for i in image])
    alone = bootstrap(truth, {"risk": risk}, names, draws=50)["risk"]
    beside = bootstrap(
        truth[order], {"other": risk[order] / 2, "risk": risk[order]}, names[order], draws=50
    )["risk"]
    assert {name: (i.low, i.high) for name, i in alone.items()} == {
        name: pytest.approx((i.low, i.high)) for name, i in beside.items()
    }
    assert bootstrap(truth, {"risk": risk}, names, draws=50, seed=1)["risk"] != alone


@pytest.mark.parametrize("metric", ["auroc", "auprc", "brier", "ece", "recall_at_5"])
def test_a_risk_does_not_differ_from_itself(metric: str) -> None:
    truth, risk, image = clustered(30, 3, seed=5)
    found = paired(truth, risk, risk, image, metric, draws=50)
    assert (found.value, found.interval, found.p_value) == (0, Interval(0, 0), 1)


def test_a_pair_is_surer_than_its_members() -> None:
    truth, risk, image = clustered(150, 4, seed=6)
    noise = np.random.default_rng(1).normal(size=risk.size)
    worse = 1 / (1 + np.exp(-(np.log(risk / (1 - risk)) + noise)))
    found = paired(truth, risk, worse, image, draws=300)
    single = bootstrap(truth, {"risk": risk, "worse": worse}, image, draws=300)
    back = paired(truth, worse, risk, image, draws=300)
    assert found.value == measure(truth, risk).auroc - measure(truth, worse).auroc > 0
    assert width(found.interval) < min(width(single[name]["auroc"]) for name in single)
    assert found.interval.low > 0
    assert found.p_value == pytest.approx(2 / 301)
    assert back.value == -found.value
    assert back.p_value == found.p_value
    assert (back.interval.low, back.interval.high) == pytest.approx(
        (-found.interval.high, -found.interval.low)
    )


@pytest.mark.exhaustive
def test_two_risks_that_know_nothing_seldom_differ() -> None:
    generator = np.random.default_rng(7)
    p_values = []
    for _ in range(60):
        truth, risk, image = clustered(40, 4, seed=int(generator.integers(1 << 30)), gap=0)
        p_values.append(paired(truth, risk, generator.random(160), image, draws=150).p_value)
    assert np.mean(np.array(p_values) < 0.05) <= 0.12
    assert 0.35 < np.mean(p_values) < 0.65


def test_a_pair_of_one_class_has_no_p_value() -> None:
    found = paired([False] * 4, [0.1] * 4, [0.2] * 4, [0, 0, 1, 1], draws=20)
    assert np.isnan([found.value, found.p_value, found.interval.low]).all()
    assert found.interval.left_out == 20


def test_holm_keeps_order_and_ties_and_never_passes_one() -> None:
    assert holm([]) == ()
    assert holm([0.2]) == (0.2,)
    assert holm([0.5, 0.01, 0.01]) == pytest.approx((0.5, 0.03, 0.03))
    assert holm([0.6, 0.9, 0.04]) == pytest.approx((1.0, 1.0, 0.12))
    with pytest.raises(ValueError, match=r"within \[0, 1\], found nan"):
        holm([0.1, float("nan")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": [0, 0, 0]}, "at least 2 images, found 1"),
        ({"folds": [0, 1]}, r"folds and kinds must have shape \(3,\), found \(2,\)"),
        ({"groups": [0, 1]}, r"groups must have shape \(3,\), found \(2,\)"),
        ({"groups": ["a", None, "b"]}, "groups lack the image of 1 of 3 answers"),
        ({"groups": [1.0, np.nan, 2.0]}, "groups lack the image of 1 of 3 answers"),
        ({"draws": 0}, "draws must be at least 1, found 0"),
        ({"level": 95}, "level must be between 0 and 1, found 95"),
        ({"risks": {"qt_16": [0.1, 0.2]}}, "risk 'qt_16' must be one-dimensional"),
        ({"risks": {"qt_16": [0.1, 0.2, 2.0]}}, r"risk 'qt_16' must be within \[0, 1\]"),
    ],
)
def test_what_cannot_be_resampled_is_refused(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "truth": [True, False, True], "risks": {"risk": [0.1, 0.2, 0.3]}, "groups": [0, 1, 2],
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        bootstrap(**{**given, **changes})


def test_a_metric_that_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"metric must be one of auroc, .*, found 'prevalence'"):
        paired([True, False], [0.1, 0.2], [0.1, 0.2], [0, 1], "prevalence")


def test_sides_of_different_rows_are_resampled_by_the_same_images() -> None:
    """Rows written out twice, in folds of their own, say what they say once, and as surely."""
    truth, risk, image = clustered(240, 3, 4)
    twice = LabelledRisk(
        np.tile(truth, 2), np.tile(risk, 2), np.repeat([0, 1], 720), np.tile(image, 2)
    )
    sides = {"once": LabelledRisk(truth, risk, groups=image), "twice": twice}
    for images in (240, 12):  # draws, and leaving out one image at a time
        few = {
            name: LabelledRisk(*(np.asarray(each)[np.asarray(side.groups) < images] for each in (
                side.truth, side.risk,
                np.zeros(len(np.asarray(side.truth))) if side.folds is None else side.folds,
                side.groups,
            )))
            for name, side in sides.items()
        }  # fmt: skip
        drawn = resample_sides(few, draws=40, metrics=("auroc",), correct=True)
        assert bool(drawn.jackknives) == (images == 12)
        gap = drawn.difference("once", "twice")
        assert (gap.value, gap.interval.low, gap.interval.high) == pytest.approx((0, 0, 0))
    with pytest.raises(ValueError, match="give one risk or more"):
        resample_sides({})
