"""Bands that hold several AUROCs at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from vlmscope.metrics import resample, simultaneous

LAYERS = 8


def drawn_world(seed: int, images: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Truth, independent risks of several layers with an AUROC of 0.76, and images."""
    rng = np.random.default_rng(seed)
    truth = rng.random(images) < 0.4
    risks = {f"layer {i}": ndtr(rng.normal(size=images) + truth) for i in range(LAYERS)}
    return truth, risks, np.arange(images)


@pytest.mark.exhaustive
def test_all_layers_are_held_at_once_where_their_intervals_are_not() -> None:
    true, held, apart, sets = ndtr(1 / np.sqrt(2)), 0, 0, 60
    for seed in range(sets):
        truth, risks, images = drawn_world(seed, 150)
        drawn = resample(truth, risks, images, draws=150, metrics=("auroc",))
        band = simultaneous(drawn, list(risks))
        held += all(each.low <= true <= each.high for each in band.values())
        single = [drawn.interval(name) for name in risks]
        apart += all(each.low <= true <= each.high for each in single)
    assert held >= 0.88 * sets
    assert apart <= 0.8 * sets, "eight intervals at once hold far less often"


def test_a_small_sample_has_wider_intervals_for_their_number() -> None:
    truth, risks, images = drawn_world(0, 30)
    drawn = resample(truth, risks, images, draws=50, metrics=("auroc",), correct=True)
    band = simultaneous(drawn, list(risks))
    for name, each in band.items():
        single = drawn.interval(name)
        assert each.low < single.low < single.high < each.high
        assert each.low >= 0
        assert each.high <= 1


def test_a_risk_without_a_spread_has_its_own_interval() -> None:
    truth, risks, images = drawn_world(1, 150)
    risks["constant"] = np.full(150, 0.3)
    drawn = resample(truth, risks, images, draws=50, metrics=("auroc",))
    band = simultaneous(drawn, list(risks))
    assert (band["constant"].low, band["constant"].high) == (0.5, 0.5)
    assert simultaneous(drawn, ["constant"])["constant"].low == 0.5
