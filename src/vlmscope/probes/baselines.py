"""What can be foretold without looking inside the model. A probe has to beat it to mean anything.

Each baseline goes through the same folds as the probes, with its form and its penalty chosen inside
training as theirs are. Some are known before the first token of the answer is written, as the
probes' vectors are; others need the whole answer and are marked so. The last, ``joint``, knows
everything at once that is known before: what hidden states add is what they add to that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier  # type: ignore[import-untyped,unused-ignore]
from sklearn.ensemble import (  # type: ignore[import-untyped,unused-ignore]
    HistGradientBoostingClassifier,
)
from sklearn.preprocessing import (  # type: ignore[import-untyped,unused-ignore]
    OneHotEncoder,
    StandardScaler,
)

from vlmscope.probes.candidates import (
    Candidate,
    ChosenFit,
    best_of,
    crossfit_candidates,
    regression,
)
from vlmscope.probes.folds import Fold
from vlmscope.probes.known_facts import (
    Known as KnownFacts,
)
from vlmscope.probes.known_facts import (
    all_facts,
    few_facts,
    for_trees,
    kinds_and_numbers,
    one_hot,
    spline,
    words,
)

Known = Literal["before", "after"]
"""Whether a baseline is known before the answer is written, or only after."""

WORD_GRID = (0.1, 1.0, 10.0)
"""Values of ``C`` for the question's words."""

JOINT_GRID = (0.03, 0.3, 3.0)
"""Values of ``C`` for the joint baseline."""

JOINT = "joint"
"""The baseline that knows everything at once."""


LEAST_LOGPROB = -1e4
"""What stands for a log-probability of minus infinity."""

LARGEST = 1e15
"""What a number is cut to: the squares of larger ones overflow where they are standardised."""


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What is known of each answer from outside; all aligned, ``[N]``. None where it is not."""

    question: Sequence[str]
    """The question, verbatim."""
    category: Sequence[str] | None
    """The table's category."""
    answer_type: Sequence[str] | None
    """The table's type of answer; where it has none, the question's form stands in."""
    first_token_entropy: NDArray[np.float64] | None
    """Entropy in nats of the first token's distribution."""
    first_token_logprob: NDArray[np.float64] | None
    """Natural-log probability of the likeliest first token."""
    num_answer_tokens: NDArray[np.float64] | None
    """Length of the answer."""
    mean_answer_logprob: NDArray[np.float64] | None
    """Mean natural-log probability of the answer's tokens; NaN for an empty answer."""
    first_token: Sequence[str] | None = None
    """The likeliest first token: what the model is about to say."""
    first_token_ids: NDArray[np.int64] | None = None
    """The likeliest first tokens, most likely first, ``[N, K]``."""
    first_token_logprobs: NDArray[np.float64] | None = None
    """Their natural-log probabilities, ``[N, K]``."""
    num_prompt_tokens: NDArray[np.float64] | None = None
    """Length of the prompt in tokens; it tells the image's size where the model cuts it up."""
    num_images: NDArray[np.float64] | None = None
    """Images that the question is about."""
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further columns of the table that say of what kind a question is, by name."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """One way to foretell a hallucination from outside."""

    name: str
    """As results call it."""
    title: str
    """As a person reads it."""
    known: Known
    """Before or after the answer is written."""
    candidates: Callable[[Facts], Mapping[str, Candidate] | None]
    """Facts → the forms to choose from inside training, the simplest first; None where the facts
    lack what it needs."""


def baseline_fits(
    facts: Facts, truth: NDArray[np.bool_], folds: Sequence[Fold]
) -> Iterator[tuple[Baseline, ChosenFit]]:
    """Yield every baseline that the facts allow with its out-of-fold predictions; ``joint`` last.

    Args:
        facts: What is known from outside.
        truth: True where the answer is a hallucination, ``[N]``.
        folds: The outer folds, the probes' own.
    """
    before = {}
    for baseline in BASELINES:
        candidates = baseline.candidates(facts)
        if candidates is not None:
            fit = crossfit_candidates(candidates, truth, folds)
            if baseline.known == "before":
                before[baseline.name] = fit
            yield baseline, fit
    # A small table may bear no more than one fact: so each of them stays in the choice.
    before["together"] = crossfit_candidates(joint_candidates(facts), truth, folds)
    yield JOINT_BASELINE, best_of(before, folds)


def question_form(question: str) -> str:
    """Return what kind of answer a question asks for, by its first words.

    >>> question_form("Is there a cat?"), question_form("How many cats?"), question_form("Why?")
    ('yes/no', 'number', 'open')
    """
    if re.match(r"\W*how many\b", question, re.IGNORECASE):
        return "number"
    first = re.match(r"\W*(\w+)", question)
    return "yes/no" if first and first[1].lower() in _YES_NO_STARTS else "open"


_YES_NO_STARTS = frozenset(
    ["is", "are", "was", "were", "do", "does", "did", "can", "could", "has", "have", "had", "will"]
)


def joint_candidates(facts: Facts) -> Mapping[str, Candidate]:
    """Return the forms of the joint baseline: regressions from small to large, and trees."""
    known = _known(facts)
    found = {}
    for name, cells in known.columns.items():
        if (features := one_hot(cells)).shape[1]:
            found[f"column {name}"] = regression(features, 10.0)
    for name, make in (("few", few_facts), ("pairs", kinds_and_numbers), ("all", all_facts)):
        features = make(known)
        for strength in JOINT_GRID:
            found[f"{name}, C={strength:g}"] = regression(features, strength)
    features, kinds = for_trees(known)
    found["trees"] = Candidate(features, partial(_trees, kinds))
    return found


def _known(facts: Facts) -> KnownFacts:
    """Return what is known before the answer, without what does not differ."""
    kinds = {"category": facts.category, "answer_type": _answer_types(facts),
             "first_token": facts.first_token}  # fmt: skip
    ids, logprobs = facts.first_token_ids, facts.first_token_logprobs
    if logprobs is not None:  # a token that cannot come has minus infinity
        known = np.nan_to_num(logprobs, nan=LEAST_LOGPROB)
        logprobs = np.clip(known, LEAST_LOGPROB, -LEAST_LOGPROB)
    wide = ids is not None and logprobs is not None and logprobs.shape[1] > 1
    numbers = {
        "entropy": facts.first_token_entropy,
        "logprob": facts.first_token_logprob,
        "margin": logprobs[:, 0] - logprobs[:, 1] if wide and logprobs is not None else None,
        "question_length": np.array([float(len(text.split())) for text in facts.question]),
        "prompt_length": facts.num_prompt_tokens,
        "images": facts.num_images,
    }
    return KnownFacts(
        kinds={
            name: c[:, 0].tolist() for name, v in kinds.items() if (c := _column(v)) is not None
        },
        numbers={
            name: column[:, 0]
            for name, values in numbers.items()
            if (column := _number(values)) is not None and np.ptp(column) > 0
        },
        questions=facts.question,
        columns={
            name: c[:, 0].tolist()
            for name, v in facts.columns.items()
            if (c := _column(v)) is not None
        },
        tokens=ids if wide else None,
        logprobs=logprobs if wide else None,
    )


def _trees(kinds: Sequence[bool]) -> Any:
    """Return gradient boosting of small trees."""
    return HistGradientBoostingClassifier(
        max_iter=30, learning_rate=0.2, max_leaf_nodes=8, min_samples_leaf=15,
        l2_regularization=1.0, categorical_features=list(kinds), early_stopping=False,
        random_state=0,
    )  # fmt: skip


def _column(values: Sequence[str] | None) -> NDArray[Any] | None:
    """Return texts as a column, where there are any that differ."""
    if values is None or len(set(values)) < 2:
        return None
    return np.array([str(value) for value in values], dtype=object)[:, None]


def _number(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """Return numbers as a column, all finite.

    What is missing counts as the mean of the others, what is infinite as the last of them.
    """
    if values is None or not np.isfinite(values).any():
        return None
    told = np.clip(values[np.isfinite(values)], -LARGEST, LARGEST)
    bounded = np.clip(values, told.min(), told.max())
    return np.where(np.isnan(values), told.mean(), bounded)[:, None]


def _answer_types(facts: Facts) -> Sequence[str]:
    """Return the types of answer, from the table or else from the question's form."""
    return facts.answer_type or [question_form(text) for text in facts.question]


def _first_token_in_category(facts: Facts) -> NDArray[Any] | None:
    """Return category, first token, and the two together."""
    if facts.category is None or facts.first_token is None or len(set(facts.category)) < 2:
        return None
    pairs = list(zip(facts.category, facts.first_token, strict=True))
    return np.array([[kind, token, f"{kind}\n{token}"] for kind, token in pairs], dtype=object)


def _by_kind(values: NDArray[Any] | None) -> Mapping[str, Candidate] | None:
    """Return a classifier of kinds: near each kind's share in training."""
    if values is None:
        return None
    features = OneHotEncoder().fit_transform(values)
    return {"kinds": regression(features, 10.0)}


def _by_number(values: NDArray[np.float64] | None) -> Mapping[str, Candidate] | None:
    """Return classifiers of one number: a line, and a spline that may turn."""
    column = _number(values)
    if column is None:
        return None
    return {
        "linear": regression(StandardScaler().fit_transform(column), 10.0),
        "spline": regression(spline(column[:, 0]), 10.0),
    }


def _by_words(facts: Facts) -> Mapping[str, Candidate] | None:
    """Return classifiers of the question's words, of several penalties."""
    features = words(facts.question)
    if features is None:
        features = np.zeros((len(facts.question), 1))
    return {f"C={c:g}": regression(features, c) for c in WORD_GRID}


def _majority(facts: Facts) -> Mapping[str, Candidate]:
    features = np.zeros((len(facts.question), 1))
    return {"prior": Candidate(features, lambda: DummyClassifier(strategy="prior"))}


BASELINES = (
    Baseline("majority", "share of hallucinations in training", "before", _majority),
    Baseline("category", "the question's category", "before",
             lambda facts: _by_kind(_column(facts.category))),
    Baseline("answer_type", "the type of answer asked for", "before",
             lambda facts: _by_kind(_column(_answer_types(facts)))),
    Baseline("question_words", "the question's words (TF-IDF)", "before", _by_words),
    Baseline("first_token_entropy", "entropy of the first token", "before",
             lambda facts: _by_number(facts.first_token_entropy)),
    Baseline("first_token_probability", "probability of the first token", "before",
             lambda facts: _by_number(facts.first_token_logprob)),
    Baseline("first_token", "the first token it is about to write", "before",
             lambda facts: _by_kind(_column(facts.first_token))),
    Baseline("first_token_in_category", "category and first token", "before",
             lambda facts: _by_kind(_first_token_in_category(facts))),
    Baseline("answer_length", "length of the answer", "after",
             lambda facts: _by_number(facts.num_answer_tokens)),
    Baseline("answer_probability", "mean log-probability of the answer", "after",
             lambda facts: _by_number(facts.mean_answer_logprob)),
)  # fmt: skip
"""Every single baseline, simplest first."""

JOINT_BASELINE = Baseline(
    JOINT, "everything known before the answer, together", "before", joint_candidates
)
"""Made of the single ones and of models of all facts, whichever is best inside training."""
