"""Baselines know what can be known from outside, and no more."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from vlmscope.metrics import measure
from vlmscope.probes import grouped_folds
from vlmscope.probes.baselines import (
    BASELINES,
    BaselineInputs,
    baseline_fits,
    joint_candidates,
)
from vlmscope.probes.candidates import Candidate, crossfit_candidates, regression

ROWS = 300


@pytest.fixture
def case() -> tuple[BaselineInputs, np.ndarray, np.ndarray]:
    """Category decides mostly; the entropy a little; the words nothing."""
    rng = np.random.default_rng(0)
    category = rng.integers(0, 3, ROWS)
    truth = rng.random(ROWS) < np.array([0.1, 0.4, 0.8])[category]
    inputs = BaselineInputs(
        question=[f"Is there a {word}?" for word in rng.choice(["cat", "dog", "cup"], ROWS)],
        category=[f"c{number}" for number in category],
        answer_type=None,
        first_token_entropy=rng.random(ROWS) + 0.2 * truth,
        first_token_logprob=-rng.random(ROWS),
        num_answer_tokens=None,
        mean_answer_logprob=None,
    )
    return inputs, truth, np.arange(ROWS) // 2


def aurocs(inputs: BaselineInputs, truth: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    folds = grouped_folds(truth, groups)
    fold_of = np.empty(len(truth), dtype=np.int64)
    for number, fold in enumerate(folds):
        fold_of[fold.test] = number
    found = baseline_fits(inputs, truth, folds)
    return {baseline.name: measure(truth, fit.risk, fold_of).auroc for baseline, fit in found}


def test_each_finds_what_is_there(case: tuple[BaselineInputs, np.ndarray, np.ndarray]) -> None:
    found = aurocs(*case)
    assert found["category"] > 0.75
    assert 0.55 < found["first_token_entropy"] < 0.75
    assert abs(found["question_words"] - 0.5) < 0.1
    assert abs(found["majority"] - 0.5) < 0.1


@pytest.mark.exhaustive
def test_what_is_not_known_is_left_out(case: tuple[BaselineInputs, np.ndarray, np.ndarray]) -> None:
    inputs, truth, groups = case
    assert set(aurocs(inputs, truth, groups)).isdisjoint({"answer_length", "answer_type"})
    bare = replace(inputs, category=None, mean_answer_logprob=np.full(ROWS, np.nan))
    assert set(aurocs(bare, truth, groups)).isdisjoint({"category", "answer_probability"})


@pytest.mark.exhaustive
def test_the_form_of_the_question_stands_in_for_the_type_of_answer(
    case: tuple[BaselineInputs, np.ndarray, np.ndarray],
) -> None:
    inputs, truth, groups = case
    asked = [f"How many? {i}" if wrong else "Is it?" for i, wrong in enumerate(truth)]
    assert aurocs(replace(inputs, question=asked), truth, groups)["answer_type"] == 1.0


@pytest.mark.exhaustive
def test_an_answer_that_is_empty_is_no_obstacle(
    case: tuple[BaselineInputs, np.ndarray, np.ndarray],
) -> None:
    inputs, truth, groups = case
    logprobs = np.where(truth, -2.0, -0.1)
    logprobs[::7] = np.nan
    found = aurocs(replace(inputs, mean_answer_logprob=logprobs), truth, groups)
    assert found["answer_probability"] > 0.85


@pytest.mark.exhaustive
@pytest.mark.parametrize("odd", [np.inf, -np.inf, 1e300, np.nan])
def test_a_number_that_is_none_stops_nothing(
    case: tuple[BaselineInputs, np.ndarray, np.ndarray], odd: float
) -> None:
    """A forced token has a log-probability of minus infinity, and a run may be somebody else's."""
    inputs, truth, groups = case
    entropy = np.where(np.arange(ROWS) % 50, inputs.first_token_entropy, odd)
    ids = np.arange(ROWS * 3).reshape(ROWS, 3) % 7
    logprobs = -np.sort(np.random.default_rng(1).gamma(1.0, size=(ROWS, 3)), axis=1)
    logprobs[::40, 1] = odd
    known = replace(
        inputs, first_token_entropy=entropy, mean_answer_logprob=np.full(ROWS, odd),
        first_token_ids=ids, first_token_logprobs=logprobs,
    )  # fmt: skip
    found = aurocs(known, truth, groups)
    assert 0.55 < found["first_token_entropy"] < 0.75
    assert found["joint"] > 0.75
    assert found.get("answer_probability", 0.5) == 0.5


@pytest.mark.exhaustive
def test_a_number_that_is_risky_at_both_ends_is_found(
    case: tuple[BaselineInputs, np.ndarray, np.ndarray],
) -> None:
    """A line through it is flat: the baseline must be able to turn."""
    inputs, _, groups = case
    value = np.random.default_rng(1).normal(size=ROWS)
    truth = np.abs(value) > 1
    found = aurocs(replace(inputs, first_token_entropy=value), truth, groups)
    assert found["first_token_entropy"] > 0.95
    assert found["joint"] > 0.95


@pytest.mark.exhaustive
def test_a_number_of_few_values_breaks_no_spline(
    case: tuple[BaselineInputs, np.ndarray, np.ndarray],
) -> None:
    inputs, truth, groups = case
    for values in (np.zeros(ROWS), np.arange(ROWS) % 2.0, np.r_[1e6, np.zeros(ROWS - 1)]):
        found = aurocs(replace(inputs, first_token_entropy=values), truth, groups)
        assert 0.4 < found["first_token_entropy"] < 0.6


@pytest.mark.exhaustive
def test_the_joint_baseline_knows_what_no_single_one_does() -> None:
    """Two facts of equal weight, and a third that matters in one category only."""
    rng = np.random.default_rng(3)
    category, entropy, logprob = rng.integers(0, 4, 600), rng.normal(size=600), rng.normal(size=600)
    logit = np.array([-3, -1, 0, 1.5])[category] + 1.5 * entropy + 3 * logprob * (category == 2)
    truth = rng.random(600) < 1 / (1 + np.exp(-logit))
    inputs = BaselineInputs(
        question=["Is it?"] * 600,
        category=[f"c{number}" for number in category],
        answer_type=None,
        first_token_entropy=entropy,
        first_token_logprob=logprob,
        num_answer_tokens=None,
        mean_answer_logprob=None,
    )
    found = aurocs(inputs, truth, np.arange(600) // 2)
    single = max(value for name, value in found.items() if name != "joint")
    assert found["joint"] > single + 0.05
    assert found["joint"] > 0.85


@pytest.mark.exhaustive
def test_the_joint_baseline_uses_the_alternatives_of_the_first_token(
    case: tuple[BaselineInputs, np.ndarray, np.ndarray],
) -> None:
    """How likely token 7 was tells all; how likely the likeliest was, nothing."""
    inputs, _, groups = case
    rng = np.random.default_rng(5)
    logprobs = np.sort(-5 * rng.random((ROWS, 6)))[:, ::-1]
    tokens = rng.permuted(np.tile(np.arange(5, 11), (ROWS, 1)), axis=1)
    seventh = np.where(tokens == 7, logprobs, 0).sum(axis=1)
    truth = seventh > np.median(seventh)
    known = replace(inputs, first_token_ids=tokens, first_token_logprobs=logprobs)
    assert aurocs(known, truth, groups)["joint"] > 0.9
    assert aurocs(inputs, truth, groups)["joint"] < 0.65


def test_the_linear_forms_hold_what_vectors_of_the_same_facts_do() -> None:
    """A probe of vectors that hold facts as they are knows no more than a form of the baseline."""
    rng = np.random.default_rng(3)
    words, length = rng.integers(0, 12, (2, ROWS)), np.exp(rng.normal(4, 1, ROWS))
    logprobs = np.log(rng.dirichlet(np.ones(3), ROWS))
    order = np.argsort(-logprobs, axis=1)
    source = rng.permutation(ROWS) % 75
    inputs = BaselineInputs(
        question=[f"Is the thing{a} near the part{b}?" for a, b in words.T],
        category=None,
        answer_type=None,
        first_token_entropy=rng.random(ROWS),
        first_token_logprob=None,
        num_answer_tokens=None,
        mean_answer_logprob=None,
        first_token_ids=order + 100,
        first_token_logprobs=np.take_along_axis(logprobs, order, axis=1),
        num_prompt_tokens=length,
        columns={"source": [f"s{number}" for number in source]},
    )
    forms = joint_candidates(inputs)
    entropy = inputs.first_token_entropy
    assert entropy is not None
    rate, one, two = rng.normal(size=75), rng.normal(size=12), rng.normal(size=12)
    facts = {
        "linear": entropy + rate[source],
        "linear, tokens": logprobs[:, 0] - logprobs[:, 1] + rate[source],
        "linear, words": entropy + one[words[0]] + two[words[1]],
    }
    for name, wanted in facts.items():
        assert _unexplained(forms[f"{name}, C=3"].features, wanted) < 1e-9, name
        assert _unexplained(forms["few, C=3"].features, wanted) > 1e-6, name
    # The normal score of a skewed number is almost its logarithm.
    assert _unexplained(forms["linear, C=3"].features, np.log(length)) < 0.01


def _unexplained(features: np.ndarray, wanted: np.ndarray) -> float:
    """Return the share of the variance that no weights of the features explain."""
    design = np.column_stack([np.ones(len(wanted)), features])
    left = wanted - design @ np.linalg.lstsq(design, wanted, rcond=None)[0]
    return float(left.var() / wanted.var())


@pytest.mark.exhaustive
@pytest.mark.parametrize("impossible", [False, True])
def test_a_small_and_uniform_table_has_a_joint_baseline(impossible: bool) -> None:
    """No kind has enough rows for a column of its own, and no number varies."""
    rng = np.random.default_rng(0)
    inputs = BaselineInputs(
        question=["Is it?"] * 18,
        category=[f"c{number}" for number in range(18)],
        answer_type=None,
        first_token_entropy=None,
        first_token_logprob=None,
        num_answer_tokens=None,
        mean_answer_logprob=None,
        first_token_ids=rng.integers(0, 3, (18, 4)) if impossible else None,
        first_token_logprobs=np.full((18, 4), -np.inf) if impossible else None,
    )
    truth = np.arange(18) % 2 == 0
    assert 0 <= aurocs(inputs, truth, np.arange(18))["joint"] <= 1


@pytest.mark.exhaustive
def test_nothing_known_is_nothing_found() -> None:
    """Of facts that tell nothing, the best inside training tells nothing outside."""
    values = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        inputs = BaselineInputs(
            question=[f"Is there a {word}?" for word in rng.choice(["cat", "dog", "cup"], 200)],
            category=[f"c{number}" for number in rng.integers(0, 5, 200)],
            answer_type=None,
            first_token_entropy=rng.random(200),
            first_token_logprob=-rng.random(200),
            num_answer_tokens=None,
            mean_answer_logprob=None,
        )
        values.append(aurocs(inputs, rng.random(200) < 0.4, np.arange(200) // 2)["joint"])
    assert abs(np.mean(values) - 0.5) < 0.05


@pytest.mark.exhaustive
def test_a_fold_s_own_labels_reach_none_of_its_predictions(
    case: tuple[BaselineInputs, np.ndarray, np.ndarray],
) -> None:
    inputs, truth, groups = case
    folds = grouped_folds(truth, groups)
    lied = truth.copy()
    lied[folds[0].test] ^= True
    there = {b.name: fit for b, fit in baseline_fits(inputs, truth, folds)}
    for baseline, fit in baseline_fits(inputs, lied, folds):
        test = folds[0].test
        same = partial(np.testing.assert_allclose, rtol=0, atol=1e-4)  # solved beside others
        same(fit.logit[test], there[baseline.name].logit[test])
        same(fit.inner_logit[0], there[baseline.name].inner_logit[0])
        assert np.isnan(fit.inner_logit[0][test]).all()
        assert fit.chosen[0] == there[baseline.name].chosen[0]


def test_names_are_unique_and_the_answers_own_come_after() -> None:
    assert len({baseline.name for baseline in BASELINES}) == len(BASELINES)
    after = {baseline.name for baseline in BASELINES if baseline.known == "after"}
    assert after == {"answer_length", "answer_probability"}


@pytest.mark.exhaustive
def test_the_first_token_says_different_things_in_different_categories(
    case: tuple[BaselineInputs, np.ndarray, np.ndarray],
) -> None:
    """ "No" is wrong of what is there and right of what is not: only the pair tells."""
    inputs, _, groups = case
    rng = np.random.default_rng(4)
    kinds, tokens = rng.integers(0, 2, ROWS), rng.integers(0, 2, ROWS)
    truth = rng.random(ROWS) < np.where(kinds == tokens, 0.7, 0.1)
    known = replace(inputs, category=[f"c{k}" for k in kinds], first_token=[str(t) for t in tokens])
    found = aurocs(known, truth, groups)
    assert found["first_token_in_category"] > 0.75
    assert abs(found["first_token"] - 0.5) < 0.1
    assert abs(found["category"] - 0.5) < 0.1


@pytest.mark.first(1)
@pytest.mark.parametrize("sparse", [False, True])
def test_regressions_solved_together_are_those_of_scikit_learn(sparse: bool) -> None:
    rng = np.random.default_rng(0)
    features = np.concatenate(
        [rng.normal(3, 5, (150, 2)), np.eye(6)[rng.integers(0, 6, 150)], np.zeros((150, 1))], axis=1
    )
    truth = rng.random(150) < expit(features[:, 0] - 3)
    folds = grouped_folds(truth, np.arange(150) // 3)
    kept = csr_array(features) if sparse else features
    ours = {f"C={c}": regression(kept, c) for c in (0.03, 3.0, 10.0)}
    theirs = {
        name: Candidate(
            features,
            partial(LogisticRegression, C=each.strength, solver="newton-cholesky", tol=1e-10),
        )
        for name, each in ours.items()
    }
    together, alone = (crossfit_candidates(each, truth, folds) for each in (ours, theirs))
    assert together.chosen == alone.chosen
    np.testing.assert_allclose(together.logit, alone.logit, rtol=0, atol=5e-3)
    np.testing.assert_allclose(together.inner_logit, alone.inner_logit, rtol=0, atol=5e-3)


def test_rows_with_the_same_facts_have_the_same_risk() -> None:
    """To the last digit: ties count half in an AUROC, and rounding must not order them."""
    rng = np.random.default_rng(1)
    kinds = np.eye(7)[rng.integers(0, 7, 203)]
    truth = rng.random(203) < 0.4
    folds = grouped_folds(truth, np.arange(203))
    fit = crossfit_candidates({"kinds": regression(kinds, 10.0)}, truth, folds)
    for fold in folds:
        assert len(np.unique(fit.logit[fold.test])) <= 7
