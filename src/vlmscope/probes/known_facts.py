"""What is known of a question before its answer, as features for ordinary classifiers.

All features are made of all rows at once, without their labels: counting words or ranking
entropies tells nothing of who hallucinates. What a rare token means cannot be learnt, so kinds
with few rows have no column of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped,unused-ignore]
from sklearn.decomposition import TruncatedSVD  # type: ignore[import-untyped,unused-ignore]
from sklearn.feature_extraction.text import (  # type: ignore[import-untyped,unused-ignore]
    TfidfVectorizer,
)
from sklearn.preprocessing import SplineTransformer  # type: ignore[import-untyped,unused-ignore]

KNOTS = 5
"""Knots of a spline, evenly over the ranks of a number."""

FEWEST_ROWS = 5
"""Rows that a kind, a pair of kinds or a word must have for a column of its own."""

MOST_TOKENS, MOST_PAIRS, MOST_WORDS = 40, 120, 200
"""Most columns of each."""

WORD_DIRECTIONS = 8
"""Directions of the words' matrix that trees see."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Everything known of some rows before their answers; all aligned, ``[N]``."""

    kinds: dict[str, Sequence[str]]
    """By name: category, type of answer, likeliest first token; those that there are."""
    numbers: dict[str, Matrix]
    """By name: entropy, margin, lengths …, each ``[N]`` and finite; those that there are."""
    questions: Sequence[str]
    columns: dict[str, Sequence[str]] = field(default_factory=dict)
    """Further kinds, by the column of the table that says them."""
    tokens: NDArray[np.int64] | None = None
    """The likeliest first tokens, ``[N, K]``."""
    logprobs: Matrix | None = None
    """Their natural-log probabilities, ``[N, K]``, falling."""


def spline(values: Matrix) -> Matrix:
    """Return cubic splines over the ranks of a number, ``[N, 6]``.

    Ranks, so that neither outliers nor many equal values leave a knot without rows. A constant
    number is a constant.

    >>> spline(np.array([1.0, 5.0, 2.0])).shape
    (3, 6)
    """
    share = (rankdata(values) - 0.5) / len(values)
    knots = np.linspace(0, 1, KNOTS)[:, None]
    made = SplineTransformer(knots=knots, degree=3, include_bias=False, extrapolation="constant")
    return np.asarray(made.fit_transform(share[:, None]))


def one_hot(names: Sequence[str], most: int | None = None) -> Matrix:
    """Return a column for each name that enough rows have, the most frequent first.

    >>> one_hot(list("aaaaaabbbbbc")).sum(axis=0).tolist()
    [6.0, 5.0]
    """
    counts = Counter(names).most_common(most)
    kept = [name for name, count in counts if count >= FEWEST_ROWS]
    column = {name: number for number, name in enumerate(kept)}
    matrix = np.zeros((len(names), len(kept)))
    for row, name in enumerate(names):
        if name in column:
            matrix[row, column[name]] = 1
    return matrix


def words(questions: Sequence[str]) -> Any:
    """Return TF-IDF weights of words and pairs of words, sparse; None where there are no words."""
    try:
        return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit_transform(questions)
    except ValueError:  # not a word in any question
        return None


def few_facts(known: Known) -> Matrix:
    """Return the kinds, and splines of the numbers: what a small table can bear."""
    kinds = [*known.kinds.values(), *known.columns.values()]
    parts = [one_hot(names, MOST_TOKENS) for names in kinds]
    parts += [spline(values) for values in known.numbers.values()]
    return _joined(parts, len(known.questions))


def kinds_and_numbers(known: Known) -> Matrix:
    """Return ``few_facts``, pairs of kinds, and every kind of question with its own slopes."""
    parts = [few_facts(known)]
    names = list(known.kinds)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            pairs = zip(known.kinds[one], known.kinds[other], strict=True)
            parts.append(one_hot([f"{a}\n{b}" for a, b in pairs], MOST_PAIRS))
    parts += _pairs_with_columns(known)
    if "category" in known.kinds:
        kind = one_hot(known.kinds["category"], MOST_TOKENS)
        for name in ("entropy", "logprob", "margin"):
            if name in known.numbers:
                parts.append(kind * _standardised(known.numbers[name])[:, None])
    return _joined(parts, len(known.questions))


def _pairs_with_columns(known: Known) -> Iterator[Matrix]:
    """Yield pairs of a column with a kind or another column, where neither tells the other."""
    earlier = list(known.kinds.values())
    for cells in known.columns.values():
        for other in earlier:
            pairs = [f"{a}\n{b}" for a, b in zip(cells, other, strict=True)]
            if len(set(pairs)) > max(len(set(cells)), len(set(other))):
                yield one_hot(pairs, MOST_PAIRS)
        earlier.append(cells)


def all_facts(known: Known) -> Matrix:
    """Return ``kinds_and_numbers``, the words, and the first token's likeliest alternatives."""
    parts = [kinds_and_numbers(known)]
    if (found := _frequent_words(known)) is not None:
        parts.append(found)
    parts += list(_alternatives(known))
    return _joined(parts, len(known.questions))


def for_trees(known: Known) -> tuple[Matrix, list[bool]]:
    """Return the same facts as columns for trees, and which of them are kinds."""
    columns: list[Matrix] = []
    for names in (*known.kinds.values(), *known.columns.values()):
        hot = one_hot(names, MOST_TOKENS)
        columns.append((hot * np.arange(1, hot.shape[1] + 1)).sum(axis=1)[:, None])
    kinds = len(columns)
    columns += [values[:, None] for values in known.numbers.values()]
    if (found := _frequent_words(known)) is not None and found.shape[1] > WORD_DIRECTIONS:
        columns.append(TruncatedSVD(WORD_DIRECTIONS, random_state=0).fit_transform(found))
    columns += list(_alternatives(known))
    matrix = _joined(columns, len(known.questions))
    return matrix, [number < kinds for number in range(matrix.shape[1])]


def _frequent_words(known: Known) -> Matrix | None:
    """Return the TF-IDF weights of the most frequent words and pairs of words."""
    found = words(known.questions)
    if found is None:
        return None
    rows = found.getnnz(axis=0)
    often = np.argsort(-rows, kind="stable")[:MOST_WORDS]
    kept = np.sort(often[rows[often] >= FEWEST_ROWS])
    return np.asarray(found[:, kept].toarray()) if len(kept) else None


def _alternatives(known: Known) -> Iterator[Matrix]:
    """Yield the likeliest first tokens' log-probabilities, by rank and by token."""
    if known.logprobs is None or known.tokens is None:
        return
    yield np.stack([_standardised(column) for column in known.logprobs.T], axis=1)
    frequent = Counter(known.tokens.ravel().tolist()).most_common(MOST_TOKENS)
    for token, count in frequent:
        if count >= FEWEST_ROWS:
            here = known.tokens == token
            # Where it is not among the likeliest it is less likely than the last of them.
            value = np.where(here, known.logprobs, -np.inf).max(axis=1)
            value = np.where(here.any(axis=1), value, known.logprobs[:, -1] - 1)
            yield _standardised(value)[:, None]


def _standardised(values: Matrix) -> Matrix:
    """Return a number with mean 0 and deviation 1; a constant becomes 0. Outliers are drawn in."""
    spread = float(values.std())
    return np.asarray(np.clip((values - values.mean()) / (spread or 1.0), -5, 5))


def _joined(parts: Sequence[Matrix], rows: int) -> Matrix:
    wide = [part for part in parts if part.shape[1]]
    return np.concatenate(wide, axis=1) if wide else np.zeros((rows, 1))
