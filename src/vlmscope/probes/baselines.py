"""Baselines: predictions without hidden states, which a probe has to beat.

The known properties of a question or its answer are features of ordinary classifiers. Features are
computed on all rows at once, without their labels (``features``): word counts or ranks of entropies
leak nothing about the labels.

Each baseline uses the same folds as the probes, with its form and penalty likewise chosen inside
training. Some are known before the first token of the answer is written, like the probes' vectors;
others need the complete answer and are marked so. The last, ``joint``, uses everything known before
the answer together: the value of hidden states is what they add to it.
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
from vlmscope.probes.features import (
    Matrix,
    PreAnswerFeatures,
    all_features,
    linear_effects,
    linear_tokens,
    linear_words,
    main_effects,
    one_hot,
    spline,
    tree_features,
    with_interactions,
    words,
)
from vlmscope.probes.folds import Fold

Known = Literal["before", "after"]
"""When a baseline is known: before the answer is written, or only after."""

WORD_GRID = (0.1, 1.0, 10.0)
"""Values of ``C`` for the question's words."""

JOINT_GRID = (0.03, 0.3, 3.0)
"""Values of ``C`` for the joint baseline."""

LINEAR_GRID = (0.3, 3.0, 30.0)
"""Those for its linear forms. Indicators are not scaled, as a probe's features are: of a kind with
a fortieth of the rows, 30 is a probe's 0.7."""

JOINT = "joint"
"""Name of the baseline that uses everything together."""


LEAST_LOGPROB = -1e4
"""Replacement for a log-probability of minus infinity."""

LARGEST = 1e15
"""Limit to which numbers are clipped: the squares of larger ones overflow in standardisation."""


@dataclass(frozen=True, slots=True, eq=False)
class BaselineInputs:
    """What is known of each answer without hidden states; aligned, ``[N]``. None if unknown."""

    question: Sequence[str]
    """The question, verbatim."""
    category: Sequence[str] | None
    """The table's category."""
    answer_type: Sequence[str] | None
    """The table's type of answer; without one, the question's form is used."""
    first_token_entropy: NDArray[np.float64] | None
    """Entropy in nats of the first token's distribution."""
    first_token_logprob: NDArray[np.float64] | None
    """Natural-log probability of the likeliest first token."""
    num_answer_tokens: NDArray[np.float64] | None
    """Length of the answer."""
    mean_answer_logprob: NDArray[np.float64] | None
    """Mean natural-log probability of the answer's tokens; NaN for an empty answer."""
    first_token: Sequence[str] | None = None
    """The likeliest first token."""
    first_token_ids: NDArray[np.int64] | None = None
    """The likeliest first tokens, most likely first, ``[N, K]``."""
    first_token_logprobs: NDArray[np.float64] | None = None
    """Their natural-log probabilities, ``[N, K]``."""
    num_prompt_tokens: NDArray[np.float64] | None = None
    """Length of the prompt in tokens; it reveals the image's size if the model splits images in
    tiles.
    """
    num_images: NDArray[np.float64] | None = None
    """Number of images of the question."""
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further columns of the table with kinds of questions, by name."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """One way to predict a hallucination without hidden states."""

    name: str
    """Its name in results."""
    title: str
    """Readable title."""
    known: Known
    """Before or after the answer is written."""
    candidates: Callable[[BaselineInputs], Mapping[str, Candidate] | None]
    """Inputs → the candidates to choose from inside training, the simplest first; None if the
    required inputs are missing.
    """


def baseline_fits(
    inputs: BaselineInputs, truth: NDArray[np.bool_], folds: Sequence[Fold]
) -> Iterator[tuple[Baseline, ChosenFit]]:
    """Yield each baseline that the inputs allow, with out-of-fold predictions; ``joint`` is last.

    Args:
        inputs: What is known without hidden states.
        truth: True where the answer is a hallucination, ``[N]``.
        folds: The outer folds, the probes' own.
    """
    before = {}
    for baseline in BASELINES:
        candidates = baseline.candidates(inputs)
        if candidates is not None:
            fit = crossfit_candidates(candidates, truth, folds)
            if baseline.known == "before":
                before[baseline.name] = fit
            yield baseline, fit
    # A small table may support no more than one fact, so each single one remains a candidate.
    before["together"] = crossfit_candidates(joint_candidates(inputs), truth, folds)
    yield JOINT_BASELINE, best_of(before, folds)


def question_form(question: str) -> str:
    """Return the kind of answer that a question asks for, by its first words.

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


def joint_candidates(inputs: BaselineInputs) -> Mapping[str, Candidate]:
    """Return the candidates of the joint baseline: regressions from small to large, and trees."""
    known = _known(inputs)
    found = {}
    for name, cells in known.columns.items():
        if (features := one_hot(cells)).shape[1]:
            found[f"column {name}"] = regression(features, 10.0)
    for name, (make, grid) in _JOINT_FEATURES.items():
        if (form := make(known)) is not None:
            for strength in grid:
                found[f"{name}, C={strength:g}"] = regression(form, strength)
    features, kinds = tree_features(known)
    found["trees"] = Candidate(features, partial(_trees, kinds))
    return found


_JOINT_FEATURES: Mapping[
    str, tuple[Callable[[PreAnswerFeatures], Matrix | None], Sequence[float]]
] = {
    "linear": (linear_effects, LINEAR_GRID),
    "linear, tokens": (linear_tokens, LINEAR_GRID),
    "linear, words": (linear_words, LINEAR_GRID),
    "few": (main_effects, JOINT_GRID),
    "pairs": (with_interactions, JOINT_GRID),
    "all": (all_features, JOINT_GRID),
}
"""Features of the joint baseline's regressions by name, from few to many, with values of ``C``."""


def _known(inputs: BaselineInputs) -> PreAnswerFeatures:
    """Return what is known before the answer, without what is constant."""
    kinds = {"category": inputs.category, "answer_type": _answer_types(inputs),
             "first_token": inputs.first_token}  # fmt: skip
    ids, logprobs = inputs.first_token_ids, inputs.first_token_logprobs
    if logprobs is not None:  # an impossible token has minus infinity
        known = np.nan_to_num(logprobs, nan=LEAST_LOGPROB)
        logprobs = np.clip(known, LEAST_LOGPROB, -LEAST_LOGPROB)
    wide = ids is not None and logprobs is not None and logprobs.shape[1] > 1
    numbers = {
        "entropy": inputs.first_token_entropy,
        "logprob": inputs.first_token_logprob,
        "margin": logprobs[:, 0] - logprobs[:, 1] if wide and logprobs is not None else None,
        "question_length": np.array([float(len(text.split())) for text in inputs.question]),
        "prompt_length": inputs.num_prompt_tokens,
        "images": inputs.num_images,
    }
    return PreAnswerFeatures(
        kinds={
            name: c[:, 0].tolist() for name, v in kinds.items() if (c := _column(v)) is not None
        },
        numbers={
            name: column[:, 0]
            for name, values in numbers.items()
            if (column := _number(values)) is not None and np.ptp(column) > 0
        },
        questions=inputs.question,
        columns={
            name: c[:, 0].tolist()
            for name, v in inputs.columns.items()
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
    """Return texts as a column; None if all are equal."""
    if values is None or len(set(values)) < 2:
        return None
    return np.array([str(value) for value in values], dtype=object)[:, None]


def _number(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """Return numbers as a column, all finite.

    Missing values become the mean of the others, infinite ones the largest or smallest of them.
    """
    if values is None or not np.isfinite(values).any():
        return None
    finite = np.clip(values[np.isfinite(values)], -LARGEST, LARGEST)
    bounded = np.clip(values, finite.min(), finite.max())
    return np.where(np.isnan(values), finite.mean(), bounded)[:, None]


def _answer_types(inputs: BaselineInputs) -> Sequence[str]:
    """Return the types of answer, from the table or else from the question's form."""
    return inputs.answer_type or [question_form(text) for text in inputs.question]


def _first_token_in_category(inputs: BaselineInputs) -> NDArray[Any] | None:
    """Return category, first token, and the two together."""
    if inputs.category is None or inputs.first_token is None or len(set(inputs.category)) < 2:
        return None
    pairs = list(zip(inputs.category, inputs.first_token, strict=True))
    return np.array([[kind, token, f"{kind}\n{token}"] for kind, token in pairs], dtype=object)


def _by_kind(values: NDArray[Any] | None) -> Mapping[str, Candidate] | None:
    """Return a classifier of kinds that predicts about each kind's share in training."""
    if values is None:
        return None
    features = OneHotEncoder().fit_transform(values)
    return {"kinds": regression(features, 10.0)}


def _by_number(values: NDArray[np.float64] | None) -> Mapping[str, Candidate] | None:
    """Return classifiers of one number: linear, and a spline, which need not be monotone."""
    column = _number(values)
    if column is None:
        return None
    return {
        "linear": regression(StandardScaler().fit_transform(column), 10.0),
        "spline": regression(spline(column[:, 0]), 10.0),
    }


def _by_words(inputs: BaselineInputs) -> Mapping[str, Candidate] | None:
    """Return classifiers of the question's words, with several penalties."""
    features = words(inputs.question)
    if features is None:
        features = np.zeros((len(inputs.question), 1))
    return {f"C={c:g}": regression(features, c) for c in WORD_GRID}


def _majority(inputs: BaselineInputs) -> Mapping[str, Candidate]:
    features = np.zeros((len(inputs.question), 1))
    return {"prior": Candidate(features, lambda: DummyClassifier(strategy="prior"))}


BASELINES = (
    Baseline("majority", "share of hallucinations in training", "before", _majority),
    Baseline("category", "the question's category", "before",
             lambda inputs: _by_kind(_column(inputs.category))),
    Baseline("answer_type", "the type of answer asked for", "before",
             lambda inputs: _by_kind(_column(_answer_types(inputs)))),
    Baseline("question_words", "the question's words (TF-IDF)", "before", _by_words),
    Baseline("first_token_entropy", "entropy of the first token", "before",
             lambda inputs: _by_number(inputs.first_token_entropy)),
    Baseline("first_token_probability", "probability of the first token", "before",
             lambda inputs: _by_number(inputs.first_token_logprob)),
    Baseline("first_token", "the first token it is about to write", "before",
             lambda inputs: _by_kind(_column(inputs.first_token))),
    Baseline("first_token_in_category", "category and first token", "before",
             lambda inputs: _by_kind(_first_token_in_category(inputs))),
    Baseline("answer_length", "length of the answer", "after",
             lambda inputs: _by_number(inputs.num_answer_tokens)),
    Baseline("answer_probability", "mean log-probability of the answer", "after",
             lambda inputs: _by_number(inputs.mean_answer_logprob)),
)  # fmt: skip
"""Every single baseline, simplest first."""

JOINT_BASELINE = Baseline(
    JOINT, "everything known before the answer, together", "before", joint_candidates
)
"""Candidates are the single ones and models of all inputs; the best inside training is chosen."""
