"""The AUROC within kinds: the definition written out, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from vlmscope.metrics import bootstrap, measure, resample_within, within_kinds


def world(seed: int, rows: int = 300) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(4, size=rows)
    truth = rng.random(rows) < np.array([0.1, 0.3, 0.5, 0.8])[kinds]
    risk = np.round(rng.random(rows) * 0.5 + truth * 0.2 + kinds * 0.05, 2)  # with ties
    return truth, risk, kinds, np.arange(rows) // 3


def category_prior(seed: int) -> tuple[np.ndarray, ...]:
    """A risk that is its category's share in training: out of fold, and nothing else."""
    rng = np.random.default_rng(seed)
    kinds, fold = rng.integers(6, size=400), np.arange(400) // 4 % 5
    truth = rng.random(400) < np.linspace(0.1, 0.5, 6)[kinds]
    risk = np.empty(400)
    for f in range(5):
        own = [truth[(fold != f) & (kinds == k)].mean() for k in range(6)]
        risk[fold == f] = np.array(own)[kinds[fold == f]]
    return truth, risk, kinds, np.arange(400) // 4, fold


def test_a_category_prior_knows_nothing_within_a_category_and_fold() -> None:
    """Over pairs of one category and two folds it looks worse than chance, every time."""
    pooled, within = [], []
    for seed in range(10):
        truth, risk, kinds, groups, fold = category_prior(seed)
        pooled.append(within_kinds(truth, risk, kinds, groups, draws=20))
        within.append(within_kinds(truth, risk, kinds, groups, fold, draws=20))
    assert np.mean([found.auroc for found in pooled]) < 0.46
    assert [found.auroc for found in within] == [0.5] * 10
    assert all(found.share < other.share for found, other in zip(within, pooled, strict=True))


def test_a_difference_within_kinds_is_of_the_same_draws() -> None:
    truth, risk, kinds, groups = world(9)
    fold = groups % 3
    worse = np.clip(risk + np.random.default_rng(0).normal(size=300) * 0.1, 0, 1)
    found = resample_within(truth, {"a": risk, "b": worse}, kinds, groups, fold, draws=80)
    gap, back = found.difference("a", "b"), found.difference("b", "a")
    one, other = (within_kinds(truth, r, kinds, groups, fold, draws=80) for r in (risk, worse))
    assert gap.value == pytest.approx(one.auroc - other.auroc) == pytest.approx(-back.value)
    width = gap.interval.high - gap.interval.low
    assert width < one.interval.high - one.interval.low + other.interval.high - other.interval.low
    assert gap.p_value == back.p_value


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_share_of_pairs_of_one_kind_in_the_right_order(seed: int) -> None:
    truth, risk, kinds, groups = world(seed)
    pairs = [
        (risk[i] > risk[j]) + (risk[i] == risk[j]) / 2
        for i in np.flatnonzero(truth)
        for j in np.flatnonzero(~truth)
        if kinds[i] == kinds[j]
    ]
    found = within_kinds(truth, risk, kinds, groups, draws=20)
    assert found.auroc == pytest.approx(np.mean(pairs))
    assert found.share == pytest.approx(len(pairs) / (truth.sum() * (~truth).sum()))
    assert found.interval.low <= found.auroc <= found.interval.high


def test_of_one_kind_it_is_the_plain_number_with_its_interval() -> None:
    truth, risk, _, groups = world(5)
    found = within_kinds(truth, risk, ["all"] * len(truth), groups, draws=50, seed=3)
    assert found.auroc == pytest.approx(measure(truth, risk).auroc)
    plain = bootstrap(truth, {"risk": risk}, groups, draws=50, seed=3)["risk"]["auroc"]
    assert found.interval.low == pytest.approx(plain.low)
    assert found.interval.high == pytest.approx(plain.high)


def test_a_risk_that_knows_the_kind_alone_knows_nothing_within_it() -> None:
    truth, _, kinds, groups = world(7)
    found = within_kinds(truth, kinds / 4, kinds, groups, draws=20)
    assert found.auroc == 0.5
    assert (found.interval.low, found.interval.high) == (0.5, 0.5)
    assert measure(truth, kinds / 4).auroc > 0.7


def test_without_two_of_a_kind_there_is_no_number() -> None:
    found = within_kinds([True, False], [0.9, 0.1], ["a", "b"], [1, 2], draws=5)
    assert np.isnan(found.auroc)
    assert found.share == 0
    with pytest.raises(ValueError, match="kinds must have shape"):
        within_kinds([True, False], [0.9, 0.1], ["a"], [1, 2])
