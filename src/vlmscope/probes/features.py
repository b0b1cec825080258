"""Features of what is known before the answer: indicators, splines, interactions, words, tokens.

They are computed on all rows at once, without labels. Each form of the joint baseline is one of
these functions. The linear ones hold what hidden states may hold as it is: kinds, numbers, the
logarithm of a number, first tokens, words. A probe of vectors with nothing but such facts is then
no better specified than the baseline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri  # type: ignore[import-untyped,unused-ignore]
from scipy.stats import rankdata  # type: ignore[import-untyped,unused-ignore]
from sklearn.decomposition import TruncatedSVD  # type: ignore[import-untyped,unused-ignore]
from sklearn.feature_extraction.text import (  # type: ignore[import-untyped,unused-ignore]
    CountVectorizer,
    TfidfVectorizer,
)
from sklearn.preprocessing import (  # type: ignore[import-untyped,unused-ignore]
    SplineTransformer,  # type: ignore[import-untyped,unused-ignore]
)

KNOTS = 5
"""Knots of a spline, evenly over the ranks of a number."""

FEWEST_ROWS = 5
"""Fewest rows of a pair of kinds or a word with its own column."""

FEWEST_OF_A_KIND = 2
"""Fewest rows of a kind with its own column: one that is tested, and one to learn from."""

MOST_KINDS, MOST_PAIRS, MOST_WORDS = 100, 120, 200
"""Most columns of each."""

OF_FIRST_TOKEN = ("entropy", "logprob", "margin")
"""Numbers of the first token's distribution."""

MOST_TOKENS, MOST_LINEAR_TOKENS = 40, 8
"""Most first tokens whose log-probability is a column, in all features and in the linear ones."""

WORD_DIRECTIONS = 8
"""Number of principal directions of the words' matrix used by trees."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PreAnswerFeatures:
    """Everything known before the answers; aligned, ``[N]``."""

    kinds: dict[str, Sequence[str]]
    """By name: category, type of answer, likeliest first token, as available."""
    numbers: dict[str, Matrix]
    """By name: entropy, margin, lengths …, each ``[N]`` and finite, as available."""
    questions: Sequence[str]
    columns: dict[str, Sequence[str]] = field(default_factory=dict)
    """Further kinds, by column of the table."""
    tokens: NDArray[np.int64] | None = None
    """The likeliest first tokens, ``[N, K]``."""
    logprobs: Matrix | None = None
    """Their natural-log probabilities, ``[N, K]``, descending."""


def spline(values: Matrix) -> Matrix:
    """Return cubic splines over the ranks of a number, ``[N, 6]``.

    Ranks are used so that neither outliers nor many equal values leave a knot without rows.
    Constant values give a constant.

    >>> spline(np.array([1.0, 5.0, 2.0])).shape
    (3, 6)
    """
    share = (rankdata(values) - 0.5) / len(values)
    knots = np.linspace(0, 1, KNOTS)[:, None]
    made = SplineTransformer(knots=knots, degree=3, include_bias=False, extrapolation="constant")
    return np.asarray(made.fit_transform(share[:, None]))


def one_hot(
    names: Sequence[str], most: int | None = None, fewest: int = FEWEST_OF_A_KIND
) -> Matrix:
    """Return an indicator column for each name with enough rows, the most frequent first.

    >>> one_hot(list("aaaaaabbbbbc")).sum(axis=0).tolist()
    [6.0, 5.0]
    """
    counts = Counter(names).most_common(most)
    kept = [name for name, count in counts if count >= fewest]
    column = {name: number for number, name in enumerate(kept)}
    matrix = np.zeros((len(names), len(kept)))
    for row, name in enumerate(names):
        if name in column:
            matrix[row, column[name]] = 1
    return matrix


def words(questions: Sequence[str]) -> Any:
    """Return sparse TF-IDF weights of words and pairs of words; None without words."""
    try:
        return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit_transform(questions)
    except ValueError:  # not a word in any question
        return None


def linear_effects(known: PreAnswerFeatures) -> Matrix:
    """Return the kinds, and the numbers themselves with their normal scores.

    A linear probe of vectors that hold these, or the logarithm of a number, sees no more of them.
    """
    numbers = known.numbers.values()
    columns = [each for values in numbers for each in (_standardised(values), _scores(values))]
    return _joined([*_indicators(known), *(c[:, None] for c in columns)], len(known.questions))


def linear_tokens(known: PreAnswerFeatures) -> Matrix | None:
    """Return ``linear_effects``, with log-probabilities of the most frequent first tokens.

    They replace the numbers of the same distribution, so that there are few features: "yes" less
    "no" is all that a probe needs. None without alternatives of the first token.
    """
    if known.logprobs is None:
        return None
    others = {name: v for name, v in known.numbers.items() if name not in OF_FIRST_TOKEN}
    tokens = _tokens(known, MOST_LINEAR_TOKENS)
    effects = linear_effects(replace(known, numbers=others))
    return _joined([effects, *tokens], len(known.questions))


def linear_words(known: PreAnswerFeatures) -> Matrix | None:
    """Return ``linear_effects``, the first tokens' as ``linear_tokens``, and which words occur.

    None if no word occurs in some questions only.
    """
    found = _occurring_words(known.questions)
    if found is None:
        return None
    tokens = _tokens(known, MOST_LINEAR_TOKENS)
    return _joined([linear_effects(known), *tokens, found], len(known.questions))


def main_effects(known: PreAnswerFeatures) -> Matrix:
    """Return the kinds, and splines of the numbers: few features, for small tables."""
    splines = [spline(values) for values in known.numbers.values()]
    return _joined([*_indicators(known), *splines], len(known.questions))


def _indicators(known: PreAnswerFeatures) -> list[Matrix]:
    kinds = [*known.kinds.values(), *known.columns.values()]
    return [one_hot(names, MOST_KINDS) for names in kinds]


def with_interactions(known: PreAnswerFeatures) -> Matrix:
    """Return ``main_effects``, pairs of kinds, and interactions of numbers with question kinds."""
    parts = [main_effects(known)]
    names = list(known.kinds)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            pairs = zip(known.kinds[one], known.kinds[other], strict=True)
            parts.append(_pairs([f"{a}\n{b}" for a, b in pairs]))
    parts += _pairs_with_columns(known)
    if "category" in known.kinds:
        kind = one_hot(known.kinds["category"], MOST_KINDS)
        for name in OF_FIRST_TOKEN:
            if name in known.numbers:
                parts.append(kind * _standardised(known.numbers[name])[:, None])
    return _joined(parts, len(known.questions))


def _pairs_with_columns(known: PreAnswerFeatures) -> Iterator[Matrix]:
    """Yield pairs of a column with a kind or another column, if neither determines the other."""
    earlier = list(known.kinds.values())
    for cells in known.columns.values():
        for other in earlier:
            pairs = [f"{a}\n{b}" for a, b in zip(cells, other, strict=True)]
            if len(set(pairs)) > max(len(set(cells)), len(set(other))):
                yield _pairs(pairs)
        earlier.append(cells)


def _pairs(names: Sequence[str]) -> Matrix:
    return one_hot(names, MOST_PAIRS, FEWEST_ROWS)


def all_features(known: PreAnswerFeatures) -> Matrix:
    """Return ``with_interactions``, the words, and the first token's likeliest alternatives."""
    parts = [with_interactions(known)]
    if (found := _frequent_words(known)) is not None:
        parts.append(found)
    parts += list(_alternatives(known))
    return _joined(parts, len(known.questions))


def tree_features(known: PreAnswerFeatures) -> tuple[Matrix, list[bool]]:
    """Return the same properties as columns for trees, and which of them are categorical."""
    columns: list[Matrix] = []
    for names in (*known.kinds.values(), *known.columns.values()):
        hot = one_hot(names, MOST_KINDS)
        columns.append((hot * np.arange(1, hot.shape[1] + 1)).sum(axis=1)[:, None])
    kinds = len(columns)
    columns += [values[:, None] for values in known.numbers.values()]
    if (found := _frequent_words(known)) is not None and found.shape[1] > WORD_DIRECTIONS:
        columns.append(TruncatedSVD(WORD_DIRECTIONS, random_state=0).fit_transform(found))
    columns += list(_alternatives(known))
    matrix = _joined(columns, len(known.questions))
    return matrix, [number < kinds for number in range(matrix.shape[1])]


def _frequent_words(known: PreAnswerFeatures) -> Matrix | None:
    """Return the TF-IDF weights of the most frequent words and pairs of words."""
    found = words(known.questions)
    return None if found is None else _most_frequent(found, len(known.questions))


def _occurring_words(questions: Sequence[str]) -> Matrix | None:
    """Return whether each of the most frequent words is in each question; None without any."""
    try:
        found = CountVectorizer(binary=True).fit_transform(questions)
    except ValueError:  # not a word in any question
        return None
    return _most_frequent(found, len(questions) - 1)


def _most_frequent(found: Any, most_rows: int) -> Matrix | None:
    """Return the columns of words in the most questions, but in at most so many; None if none."""
    rows = found.getnnz(axis=0)
    often = np.argsort(-rows, kind="stable")
    often = often[(rows[often] >= FEWEST_ROWS) & (rows[often] <= most_rows)][:MOST_WORDS]
    return found[:, np.sort(often)].toarray().astype(np.float64) if len(often) else None


def _alternatives(known: PreAnswerFeatures) -> Iterator[Matrix]:
    """Yield the likeliest first tokens' log-probabilities, by rank and by token."""
    if known.logprobs is not None and known.tokens is not None:
        yield np.stack([_standardised(column) for column in known.logprobs.T], axis=1)
        yield from _tokens(known, MOST_TOKENS)


def _tokens(known: PreAnswerFeatures, most: int) -> Iterator[Matrix]:
    """Yield the log-probability of each of the most frequent of the likeliest first tokens."""
    if known.logprobs is None or known.tokens is None:
        return
    for token, count in Counter(known.tokens.ravel().tolist()).most_common(most):
        if count >= FEWEST_ROWS:
            here = known.tokens == token
            # A token not among the likeliest is less likely than the last of them.
            value = np.where(here, known.logprobs, -np.inf).max(axis=1)
            value = np.where(here.any(axis=1), value, known.logprobs[:, -1] - 1)
            yield _standardised(value)[:, None]


def _standardised(values: Matrix) -> Matrix:
    """Return a number with mean 0 and deviation 1, with outliers clipped; a constant becomes 0."""
    spread = float(values.std())
    return np.asarray(np.clip((values - values.mean()) / (spread or 1.0), -5, 5))


def _scores(values: Matrix) -> Matrix:
    """Return the normal quantiles of a number's ranks: of a skewed one, almost its logarithm."""
    return np.asarray(ndtri((rankdata(values) - 0.5) / len(values)))


def _joined(parts: Sequence[Matrix], rows: int) -> Matrix:
    wide = [part for part in parts if part.shape[1]]
    return np.concatenate(wide, axis=1) if wide else np.zeros((rows, 1))
