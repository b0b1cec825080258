"""What can be foretold without looking inside the model. A probe has to beat it to mean anything.

Each baseline goes through the same folds as the probes. Some are known before the first token of
the answer is written, as the probes' vectors are; others need the whole answer and are marked so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier  # type: ignore[import-untyped,unused-ignore]
from sklearn.feature_extraction.text import (  # type: ignore[import-untyped,unused-ignore]
    TfidfVectorizer,
)
from sklearn.linear_model import (  # type: ignore[import-untyped,unused-ignore]
    LogisticRegression,
)
from sklearn.model_selection import (  # type: ignore[import-untyped,unused-ignore]
    GridSearchCV,
    StratifiedGroupKFold,
)
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped,unused-ignore]
from sklearn.preprocessing import (  # type: ignore[import-untyped,unused-ignore]
    OneHotEncoder,
    StandardScaler,
)

from vlmscope.probe.folds import Fold

Known = Literal["before", "after"]
"""Whether a baseline is known before the answer is written, or only after."""

INNER_FOLDS = 3
"""Folds inside training that choose the regularisation of the question's words."""


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Baseline:
    """One way to foretell a hallucination from outside."""

    name: str
    """As results call it."""
    title: str
    """As a person reads it."""
    known: Known
    """Before or after the answer is written."""
    features: Callable[[Facts], Any]
    """Facts → features, one row each; None where the facts lack them."""
    model: Callable[[], Any]
    """Makes the classifier."""


def baseline_risks(
    facts: Facts, truth: NDArray[np.bool_], folds: Sequence[Fold], groups: NDArray[np.int64]
) -> Iterator[tuple[Baseline, NDArray[np.float64]]]:
    """Yield every baseline that the facts allow with its out-of-fold risks, ``[N]``.

    Args:
        facts: What is known from outside.
        truth: True where the answer is a hallucination, ``[N]``.
        folds: The outer folds, the probes' own.
        groups: Image group of each row; rows of one group are never on both sides.
    """
    for baseline in BASELINES:
        features = baseline.features(facts)
        if features is None:
            continue
        risk = np.full(len(truth), np.nan)
        for fold in folds:
            model = baseline.model()
            if isinstance(model, GridSearchCV):
                inner = StratifiedGroupKFold(INNER_FOLDS, shuffle=True, random_state=0)
                model.cv = list(inner.split(fold.train, truth[fold.train], groups[fold.train]))
            model.fit(features[fold.train], truth[fold.train])
            risk[fold.test] = model.predict_proba(features[fold.test])[:, 1]
        yield baseline, risk


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


def _column(values: Sequence[str] | None) -> NDArray[Any] | None:
    """Return texts as a column, where there are any that differ."""
    if values is None or len(set(values)) < 2:
        return None
    return np.array([str(value) for value in values], dtype=object)[:, None]


def _number(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """Return numbers as a column; what is missing counts as the mean of the others."""
    if values is None or np.isnan(values).all():
        return None
    return np.where(np.isnan(values), np.nanmean(values), values)[:, None]


def _answer_type(facts: Facts) -> NDArray[Any] | None:
    """Return the type of answer, from the table or else from the question's form."""
    return _column(facts.answer_type or [question_form(text) for text in facts.question])


def _first_token_in_category(facts: Facts) -> NDArray[Any] | None:
    """Return category, first token, and the two together."""
    if facts.category is None or facts.first_token is None or len(set(facts.category)) < 2:
        return None
    pairs = list(zip(facts.category, facts.first_token, strict=True))
    return np.array([[kind, token, f"{kind}\n{token}"] for kind, token in pairs], dtype=object)


def _by_kind() -> Any:
    """Return a classifier of kinds: near each kind's share in training."""
    return make_pipeline(
        OneHotEncoder(handle_unknown="ignore"), LogisticRegression(C=10.0, max_iter=1000)
    )


def _by_number() -> Any:
    """Return a classifier of one number."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=10.0))


def _by_words() -> Any:
    """Return a classifier of texts, its regularisation chosen inside training."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    pipeline = make_pipeline(words, LogisticRegression(max_iter=1000))
    return GridSearchCV(
        pipeline, {"logisticregression__C": [0.1, 1.0, 10.0]}, scoring="roc_auc", n_jobs=1
    )


BASELINES = (
    Baseline("majority", "share of hallucinations in training", "before",
             lambda facts: np.zeros((len(facts.question), 1)),
             lambda: DummyClassifier(strategy="prior")),
    Baseline("category", "the question's category", "before",
             lambda facts: _column(facts.category), _by_kind),
    Baseline("answer_type", "the type of answer asked for", "before", _answer_type, _by_kind),
    Baseline("question_words", "the question's words (TF-IDF)", "before",
             lambda facts: np.array(facts.question, dtype=object), _by_words),
    Baseline("first_token_entropy", "entropy of the first token", "before",
             lambda facts: _number(facts.first_token_entropy), _by_number),
    Baseline("first_token_probability", "probability of the first token", "before",
             lambda facts: _number(facts.first_token_logprob), _by_number),
    Baseline("first_token", "the first token it is about to write", "before",
             lambda facts: _column(facts.first_token), _by_kind),
    Baseline("first_token_in_category", "category and first token", "before",
             _first_token_in_category, _by_kind),
    Baseline("answer_length", "length of the answer", "after",
             lambda facts: _number(facts.num_answer_tokens), _by_number),
    Baseline("answer_probability", "mean log-probability of the answer", "after",
             lambda facts: _number(facts.mean_answer_logprob), _by_number),
)  # fmt: skip
"""Every baseline, simplest first."""
