"""Area under the risk-coverage curve, false positive rate at 95%, and accuracy at 90%, on draws."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from vlmscope.metrics import abstain, resample, risk_coverage
from vlmscope.metrics.weighted import SELECTIVE, measure_draw, tally

Answers = tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]


def answers(seed: int, count: int = 180, *, ties: bool = False) -> Answers:
    """Return truth, risk, image and fold of some answers."""
    rng = np.random.default_rng(seed)
    truth = rng.random(count) < 0.3
    risk = np.clip(rng.normal(0.4 + 0.2 * truth, 0.2), 0, 1)
    risk = np.round(risk, 1) if ties else risk
    return truth, risk, rng.integers(0, count // 3, count), rng.integers(0, 3, count)


def false_positive_rate(truth: NDArray[np.bool_], risk: NDArray[np.float64]) -> float:
    """Return the smallest rate of a threshold that flags 95% of the hallucinated answers."""
    rates, recall, _ = roc_curve(truth, risk, drop_intermediate=False)
    return float(rates[recall >= 0.95 - 1e-9].min())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("folded", [False, True])
def test_the_observed_values_are_those_of_the_definitions(ties: bool, folded: bool) -> None:
    truth, risk, image, fold = answers(1, ties=ties)
    folds = fold if folded else None
    found = resample(truth, {"x": risk}, image, folds, draws=1, metrics=SELECTIVE).observed["x"]
    assert found["aurc"] == pytest.approx(risk_coverage(truth, risk, folds).aurc)
    assert found["accuracy_at_90"] == pytest.approx(1 - abstain(truth, risk, 0.1, folds)[1])
    parts = [fold == number for number in range(3)] if folded else [np.ones(len(truth), bool)]
    rates = [false_positive_rate(truth[own], risk[own]) for own in parts]
    weights = [(~truth[own]).sum() for own in parts]
    assert found["fpr_at_95"] == pytest.approx(np.average(rates, weights=weights))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_draw_is_measured_as_if_its_rows_were_repeated(seed: int) -> None:
    truth, risk, image, fold = answers(seed, 90, ties=bool(seed))
    _, number = np.unique(image, return_inverse=True)
    weights = np.random.default_rng(seed).integers(0, 4, number.max() + 1).astype(float)
    counted = tally(truth, risk, number, len(weights), fold)
    found = measure_draw(counted, weights, SELECTIVE)
    rows = np.repeat(np.arange(len(truth)), weights[number].astype(int))
    again = resample(
        truth[rows], {"x": risk[rows]}, image[rows], fold[rows], draws=1, metrics=SELECTIVE
    )
    assert found == pytest.approx(dict(again.observed["x"]))


def test_a_perfect_risk_and_a_reversed_one() -> None:
    truth = np.array([False] * 80 + [True] * 20)
    for risk, rate, accuracy in ((truth.astype(float), 0.0, 80 / 90), (1.0 - truth, 1.0, 70 / 90)):
        found = resample(truth, {"x": risk}, np.arange(100), draws=1, metrics=SELECTIVE)
        assert found.observed["x"]["fpr_at_95"] == rate
        assert found.observed["x"]["accuracy_at_90"] == pytest.approx(accuracy)


def test_one_class_has_no_false_positive_rate() -> None:
    found = resample([True] * 4, {"x": [0.1] * 4}, list("aabb"), draws=1, metrics=SELECTIVE)
    assert np.isnan(found.observed["x"]["fpr_at_95"])
    assert found.observed["x"]["aurc"] == 1


@pytest.mark.exhaustive
def test_intervals_cover_the_values_of_the_population() -> None:
    """Of 60 samples, at least 50 intervals contain the value of a hundred times as many rows."""
    truth, risk, image, _ = answers(99, 20_000)
    whole = resample(truth, {"x": risk}, image, draws=1, metrics=SELECTIVE).observed["x"]
    covered = dict.fromkeys(SELECTIVE, 0)
    for seed in range(60):
        rows = answers(seed, 200)
        found = resample(rows[0], {"x": rows[1]}, rows[2], draws=60, seed=seed, metrics=SELECTIVE)
        for name in SELECTIVE:
            interval = found.interval("x", name)
            covered[name] += interval.low <= whole[name] <= interval.high
    assert min(covered.values()) >= 50, covered
