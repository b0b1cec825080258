"""Baselines know what can be known from outside, and no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from vlmscope.probe import grouped_folds
from vlmscope.probe.baselines import BASELINES, Facts, baseline_risks

ROWS = 300


@pytest.fixture
def case() -> tuple[Facts, np.ndarray, np.ndarray]:
    """Category decides mostly; the entropy a little; the words nothing."""
    rng = np.random.default_rng(0)
    category = rng.integers(0, 3, ROWS)
    truth = rng.random(ROWS) < np.array([0.1, 0.4, 0.8])[category]
    facts = Facts(
        question=[f"Is there a {word}?" for word in rng.choice(["cat", "dog", "cup"], ROWS)],
        category=[f"c{number}" for number in category],
        answer_type=None,
        first_token_entropy=rng.random(ROWS) + 0.2 * truth,
        first_token_logprob=-rng.random(ROWS),
        num_answer_tokens=None,
        mean_answer_logprob=None,
    )
    return facts, truth, np.arange(ROWS) // 2


def aurocs(facts: Facts, truth: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    folds = grouped_folds(truth, groups)
    found = baseline_risks(facts, truth, folds, groups)
    return {baseline.name: roc_auc_score(truth, risk) for baseline, risk in found}


def test_each_finds_what_is_there(case: tuple[Facts, np.ndarray, np.ndarray]) -> None:
    found = aurocs(*case)
    assert found["category"] > 0.75
    assert 0.55 < found["first_token_entropy"] < 0.75
    assert abs(found["question_words"] - 0.5) < 0.1
    assert abs(found["majority"] - 0.5) < 0.1


def test_what_is_not_known_is_left_out(case: tuple[Facts, np.ndarray, np.ndarray]) -> None:
    facts, truth, groups = case
    assert set(aurocs(facts, truth, groups)).isdisjoint({"answer_length", "answer_type"})
    bare = replace(facts, category=None, mean_answer_logprob=np.full(ROWS, np.nan))
    assert set(aurocs(bare, truth, groups)).isdisjoint({"category", "answer_probability"})


def test_the_form_of_the_question_stands_in_for_the_type_of_answer(
    case: tuple[Facts, np.ndarray, np.ndarray],
) -> None:
    facts, truth, groups = case
    asked = [f"How many? {i}" if wrong else "Is it?" for i, wrong in enumerate(truth)]
    assert aurocs(replace(facts, question=asked), truth, groups)["answer_type"] == 1.0


def test_an_answer_that_is_empty_is_no_obstacle(
    case: tuple[Facts, np.ndarray, np.ndarray],
) -> None:
    facts, truth, groups = case
    logprobs = np.where(truth, -2.0, -0.1)
    logprobs[::7] = np.nan
    found = aurocs(replace(facts, mean_answer_logprob=logprobs), truth, groups)
    assert found["answer_probability"] > 0.85


def test_names_are_unique_and_the_answers_own_come_after() -> None:
    assert len({baseline.name for baseline in BASELINES}) == len(BASELINES)
    after = {baseline.name for baseline in BASELINES if baseline.known == "after"}
    assert after == {"answer_length", "answer_probability"}


def test_the_first_token_says_different_things_in_different_categories(
    case: tuple[Facts, np.ndarray, np.ndarray],
) -> None:
    """ "No" is wrong of what is there and right of what is not: only the pair tells."""
    facts, _, groups = case
    rng = np.random.default_rng(4)
    kinds, tokens = rng.integers(0, 2, ROWS), rng.integers(0, 2, ROWS)
    truth = rng.random(ROWS) < np.where(kinds == tokens, 0.7, 0.1)
    known = replace(facts, category=[f"c{k}" for k in kinds], first_token=[str(t) for t in tokens])
    found = aurocs(known, truth, groups)
    assert found["first_token_in_category"] > 0.75
    assert abs(found["first_token"] - 0.5) < 0.1
    assert abs(found["category"] - 0.5) < 0.1
