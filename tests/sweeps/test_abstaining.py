"""What the verdict says of abstaining: never more than its interval."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import calibration_of_verdicts as benchmark
from vlmscope.metrics import Abstention, Interval, abstention, constant_pairs
from vlmscope.probes import crossfit_logistic, crossfit_select, grouped_folds
from vlmscope.sweeps.abstaining import abstaining_document, abstaining_sentence
from vlmscope.sweeps.calibration import calibrated

SETS = 30


@pytest.mark.exhaustive
def test_a_sweep_without_a_sign_seldom_says_that_abstaining_helps() -> None:
    """Through folds and selection. Of 300 such data sets the sign says so of 112, this of one."""
    helps = falls = 0
    for seed in range(SETS):
        world = benchmark.made_for("null, 80 images × 4", seed)
        folds = grouped_folds(world.truth, world.groups, seed=seed)
        fold_of = np.empty(len(world.truth), dtype=np.int64)
        for number, fold in enumerate(folds):
            fold_of[fold.test] = number
        fits = {
            name: calibrated(
                crossfit_logistic(matrix, world.truth, folds, world.groups), world.truth, folds
            )
            for name, matrix in (("noise", world.noise), ("vectors", world.vectors))
        }
        risk = crossfit_select(fits, folds).risk
        if constant_pairs(world.truth, risk, fold_of) >= 0.5:
            continue  # nothing found, nothing said
        found = abstention(world.truth, risk, world.groups, 0.1, fold_of, draws=100, seed=seed)
        helps += found.interval.high < 0
        falls += found.change < 0
    assert falls >= 6, "without an interval it would be said that often"
    assert helps <= 1


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Abstention(0.1, 0.425, 0.381, -0.044, Interval(-0.06, -0.02)),
         "lowers the share of hallucinations from 42.5% to 38.1%, by 4.4 points (95% interval 2.0 "
         "to 6.0)."),
        (Abstention(0.1, 0.4, 0.444, 0.044, Interval(0.01, 0.08)),
         "raises the share of hallucinations from 40.0% to 44.4%, by 4.4 points (95% interval 1.0 "
         "to 8.0)."),
        (Abstention(0.1, 0.4, 0.394, -0.006, Interval(-0.02, 0.008)),
         "does not measurably change the share of hallucinations: from 40.0% to 39.4%, -0.6 points "
         "(95% interval -2.0 to +0.8)."),
        (Abstention(0.1, 0.4, 0.38, -0.02, Interval(-0.03, 0.0)),
         "does not measurably change the share of hallucinations: from 40.0% to 38.0%, -2.0 points "
         "(95% interval -3.0 to +0.0)."),
        (Abstention(0.1, 0.4, 0.4, 0.0, Interval(0.0, 0.0)),
         "leaves the share of hallucinations at 40.0%."),
        (Abstention(0.1, 0.4, 0.3, -0.1, Interval(float("nan"), float("nan"))),
         "changes the share of hallucinations from 40.0% to 30.0%; there is no interval of it."),
    ],
)  # fmt: skip
def test_it_is_said_as_far_as_the_interval_shows_it(found: Abstention, said: str) -> None:
    assert abstaining_sentence(found) == f"Abstaining from the riskiest 10% {said}"


def test_zero_is_left_only_by_a_change_that_is_large_enough() -> None:
    """Fits share training rows, so between one and 1.4 half widths nothing is claimed."""
    rng = np.random.default_rng(0)
    group = np.arange(400)
    truth = rng.random(400) < 0.3
    between = 0
    for weight in np.linspace(0, 1, 15):
        risk = 1 / (1 + np.exp(-(rng.normal(size=400) + weight * truth)))
        plain = abstention(truth, risk, group, 0.1, draws=100)
        folded = abstention(truth, risk, group, 0.1, np.zeros(400), draws=100)
        half = plain.interval.high - plain.change
        claimed = folded.interval.high < 0
        assert claimed == (plain.change < -(2**0.5) * half)
        if plain.interval.high < 0 and not claimed:
            between += 1
            assert folded.interval == replace(plain.interval, high=0.0)
    assert between


def test_a_document_holds_numbers_only() -> None:
    found = Abstention(0.1, 0.4, 0.39, -0.01, Interval(-0.02, 0.01))
    assert json.loads(json.dumps(abstaining_document(found))) == {
        "abstaining": {
            "share": 0.1, "before": 0.4, "after": 0.39, "change": -0.01,
            "interval": {"low": -0.02, "high": 0.01, "left_out": 0},
        }
    }  # fmt: skip
