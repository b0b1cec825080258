"""Detectors that compare several sampled answers: in words, in meaning, and in hidden states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vlmscope.detectors.detector import AFTER_SAMPLES, Detector, Paper
from vlmscope.detectors.meaning import prepare, sets_of_rows
from vlmscope.detectors.methods import Score
from vlmscope.detectors.rows import Floats, Rows
from vlmscope.detectors.states import middle_layer
from vlmscope.sampling import LAST_TOKEN, LOGPROBS, TEXTS
from vlmscope.score import normalise

SEMANTIC = Paper(
    "Semantic Uncertainty: Linguistic Invariances for Uncertainty Estimation in Natural Language "
    "Generation",
    "Kuhn et al.", 2023, "2302.09664", "ICLR",
)  # fmt: skip
FARQUHAR = Paper(
    "Detecting hallucinations in large language models using semantic entropy",
    "Farquhar et al.", 2024, "", "Nature", "10.1038/s41586-024-07421-0",
)  # fmt: skip
SETS = Paper(
    "Generating with Confidence: Uncertainty Quantification for Black-box Large Language Models",
    "Lin et al.", 2024, "2305.19187", "TMLR",
)  # fmt: skip
INSIDE = Paper(
    "INSIDE: LLMs' Internal States Retain the Power of Hallucination Detection",
    "Chen et al.", 2024, "2402.03744", "ICLR",
)  # fmt: skip
LEXICAL = Paper(
    "Unsupervised Quality Estimation for Neural Machine Translation",
    "Fomicheva et al.", 2020, "2005.10608", "TACL",
)  # fmt: skip
CONSISTENCY = Paper(
    "Self-Consistency Improves Chain of Thought Reasoning in Language Models",
    "Wang et al.", 2022, "2203.11171",
)  # fmt: skip
SELFCHECK = Paper(
    "SelfCheckGPT: Zero-Resource Black-Box Hallucination Detection for Generative Large Language "
    "Models",
    "Manakul et al.", 2023, "2303.08896", "EMNLP",
)  # fmt: skip

TOGETHER = 512
"""Rows whose comparisons are announced together, to a model that decides in batches."""

ALPHA = 1e-3
"""Regularisation of EigenScore."""


def entropy(shares: Sequence[float] | Floats) -> float:
    """Return the entropy in nats of shares that add up to 1.

    >>> round(entropy([0.5, 0.5]), 4), entropy([1.0])
    (0.6931, 0.0)
    """
    found = np.asarray(shares, np.float64)
    found = found[found > 0]
    return float(-(found * np.log(found)).sum()) + 0.0


def discrete_semantic_entropy(sets: Sequence[int]) -> float:
    """Return the entropy of the shares of samples in each set.

    >>> round(discrete_semantic_entropy([0, 0, 0, 1]), 4)  # of 3/4 and 1/4
    0.5623
    """
    return entropy([count / len(sets) for count in Counter(sets).values()])


def semantic_entropy(sets: Sequence[int], logprobs: Sequence[Floats]) -> float:
    """Return the entropy of the sets, weighted by the samples' probabilities.

    A sample weighs the exponential of its mean log-probability per token; the weights of all sets
    add up to 1.

    >>> weights = [np.log([0.5]), np.log([0.3]), np.log([0.2])]
    >>> round(semantic_entropy([0, 1, 0], weights), 4)  # of 0.7 and 0.3
    0.6109
    """
    weights = np.array([np.exp(np.mean(each)) if len(each) else 1.0 for each in logprobs])
    total = np.bincount(np.asarray(sets), weights=weights)
    return entropy(total / total.sum())


def rouge_l(one: str, other: str) -> float:
    """Return ROUGE-L of two texts: the F1 of their longest common subsequence of words.

    >>> rouge_l("A red car.", "a big red car"), rouge_l("", "")
    (0.8, 1.0)
    """
    a, b = normalise(one).split(), normalise(other).split()
    if not a or not b:
        return float(a == b)
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for index, candidate in enumerate(b, 1):
            before, row[index] = (
                row[index],
                before + 1 if word == candidate else max(row[index], row[index - 1]),
            )
    return 2 * row[-1] / (len(a) + len(b))


def lexical_similarity(texts: Sequence[str]) -> float:
    """Return the mean ROUGE-L of all pairs of texts."""
    return float(np.mean([rouge_l(one, other) for one, other in combinations(texts, 2)]))


def exact_agreement(texts: Sequence[str]) -> float:
    """Return the share of texts that equal the most frequent one in normal form.

    >>> exact_agreement(["Yes.", "yes", "no", "Yes"])
    0.75
    """
    return Counter(map(normalise, texts)).most_common(1)[0][1] / len(texts)


def eigenscore(states: NDArray[np.floating], alpha: float = ALPHA) -> float:
    """Return EigenScore: the mean logarithm of the eigenvalues of the samples' covariance.

    With the rows of Z as states, each centred over its own D numbers, it is the logarithm of the
    determinant of Z Zᵀ + alpha I, divided by K.

    Args:
        states: State of each sample's last token, ``[K, D]``.
        alpha: Added to the diagonal.

    >>> states = np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])  # Z Zᵀ = [[2, 0], [0, 0]]
    >>> round(eigenscore(states), 4)  # (log 2.001 + log 0.001) / 2
    -3.1071
    """
    centred = np.asarray(states, np.float64)
    centred = centred - centred.mean(axis=1, keepdims=True)
    values = np.linalg.eigvalsh(centred @ centred.T)
    return float(np.log(np.maximum(values, 0) + alpha).mean())


def _of_texts(statistic: Callable[[Sequence[str]], float]) -> Callable[[Rows], Floats]:
    """Return a score that is a statistic of the samples' texts; NaN with fewer than two."""

    def score(rows: Rows) -> Floats:
        each = rows.signals[TEXTS]
        return np.array([statistic(list(texts)) if len(texts) > 1 else np.nan for texts in each])

    return score


def _sets(rows: Rows) -> list[list[int]]:
    """Return the sets of the same meaning of every row's samples."""
    asked = [
        (question, list(map(str, texts)))
        for question, texts in zip(rows.text("question"), rows.signals[TEXTS], strict=True)
    ]
    return [
        each
        for start in range(0, len(asked), TOGETHER)
        for each in sets_of_rows(asked[start : start + TOGETHER], rows.same_meaning)
    ]


def _of_sets(statistic: Callable[[Sequence[int]], float]) -> Callable[[Rows], Floats]:
    """Return a score that is a statistic of the sets; NaN with fewer than two samples."""

    def score(rows: Rows) -> Floats:
        return np.array([statistic(each) if len(each) > 1 else np.nan for each in rows.once(_sets)])

    return score


def weighted(rows: Rows) -> Floats:
    """Return the weighted semantic entropy of every row."""
    pairs = zip(rows.once(_sets), rows.signals[LOGPROBS], strict=True)
    return np.array([semantic_entropy(*pair) if len(pair[0]) > 1 else np.nan for pair in pairs])


def disagreement(rows: Rows) -> Floats:
    """Return the share of the samples whose meaning is another than that of the greedy answer."""
    asked = [
        [(question, answer, str(text)) for text in texts]
        for question, answer, texts in zip(
            rows.text("question"), rows.text("answer"), rows.signals[TEXTS], strict=True
        )
    ]
    found: list[float] = []
    for start in range(0, len(asked), TOGETHER):
        block = asked[start : start + TOGETHER]
        prepare(rows.same_meaning, [one for each in block for one in each])
        other = [[not rows.same_meaning(*one) for one in each] for each in block]
        found += [float(np.mean(each)) if each else np.nan for each in other]
    return np.array(found)


def eigenscores(rows: Rows) -> Floats:
    """Return EigenScore at the middle layer, without empty samples; NaN with fewer than two."""
    layers = rows.layers_of(rows.signals, LAST_TOKEN)
    states = rows.signals[layers[middle_layer(layers, rows.num_layers)]]
    found = []
    for each in states:
        kept = each[np.isfinite(each).all(axis=1)]
        found.append(eigenscore(kept) if len(kept) > 1 else np.nan)
    return np.array(found)


FEW = "Has few distinct values with few samples: ties count half."
RULES = (
    "Meaning is compared by rules for short answers, or by a model of natural language inference "
    "that is given."
)
TEXT = (f"signals/{TEXTS}", "column question")

DETECTORS = (
    Detector(
        "lexical_similarity", "lexical self-consistency", "samples", LEXICAL,
        "negative mean ROUGE-L (F1, normalised words) of all pairs of sampled answers",
        TEXT, AFTER_SAMPLES, "k answers", "Another wording counts as another answer.",
        Score(_of_texts(lambda texts: -lexical_similarity(texts))),
        "The paper uses METEOR on translations; later work uses ROUGE-L, in public code "
        "(lm-polygraph) of stems.",
    ),
    Detector(
        "exact_match", "exact-match self-consistency", "samples", CONSISTENCY,
        "negative share of sampled answers that equal the most frequent one in normal form",
        TEXT, AFTER_SAMPLES, "k answers", FEW,
        Score(_of_texts(lambda texts: -exact_agreement(texts))),
        "The paper takes the vote on the results of chains of reasoning; here its share is the "
        "score.",
    ),
    Detector(
        "semantic_sets", "number of semantic sets", "samples", SETS,
        "number of sets of sampled answers with the same meaning",
        TEXT, AFTER_SAMPLES, "k answers", FEW,
        Score(_of_sets(lambda sets: float(max(sets) + 1))),
        f"In the public code, two answers mean the same unless one contradicts the other. {RULES}",
    ),
    Detector(
        "semantic_entropy_discrete", "semantic entropy, discrete", "samples", FARQUHAR,
        "entropy in nats of the shares of sampled answers in each set of the same meaning",
        TEXT, AFTER_SAMPLES, "k answers", FEW,
        Score(_of_sets(discrete_semantic_entropy)),
        "With a model, meaning is entailment both ways after the question, as in the public code "
        f"by default; an answer that fits several sets joins the first, there the last. {RULES}",
    ),
    Detector(
        "semantic_entropy", "semantic entropy", "samples", SEMANTIC,
        "entropy in nats of the sets of the same meaning, each weighted by the sum of exp(mean "
        "log-probability) of its samples, normalised",
        (*TEXT, f"signals/{LOGPROBS}"), AFTER_SAMPLES, "k answers",
        "A sample that was drawn twice counts twice.",
        Score(weighted),
        "The weights are those of the authors' code of both papers on semantic entropy. That of "
        "2023 takes the mean of the sets' negative log-weights, not normalised; that of 2024 "
        f"takes the entropy, as here. {RULES}",
    ),
    Detector(
        "selfcheck", "disagreement with samples", "samples", SELFCHECK,
        "share of sampled answers whose meaning is another than that of the greedy answer",
        (*TEXT, "column answer"), AFTER_SAMPLES, "k answers", FEW,
        Score(disagreement),
        "The paper's NLI variant averages the probability that a sample contradicts a sentence of "
        f"the answer, of contradiction and entailment alone. {RULES}",
    ),
    Detector(
        "eigenscore", "EigenScore", "samples", INSIDE,
        "mean logarithm of the eigenvalues of Z Zᵀ + 0.001 I, where Z has the centred states of "
        "the samples' last tokens at the middle layer",
        (f"signals/{LAST_TOKEN}",), AFTER_SAMPLES, "k answers",
        "Answers of different length or wording differ in their states too.",
        Score(eigenscores),
        "The authors' public code divides the covariance by D - 1 and uses log10, which the "
        "paper's formula and lm-polygraph do not, and reads the position that predicts the last "
        "token. The paper also clips extreme features while it samples.",
    ),
)  # fmt: skip
"""The detectors of this module."""
