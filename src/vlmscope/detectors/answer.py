"""Detectors that are one number of the answer: its tokens' probabilities and entropies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vlmscope.detectors.detector import AFTER, WITH_FIRST, Detector, Paper
from vlmscope.detectors.methods import Features, Probe, Score
from vlmscope.detectors.rows import ANSWER_LOGPROBS, Floats, Rows

SELFCHECK = Paper(
    "SelfCheckGPT: Zero-Resource Black-Box Hallucination Detection for Generative Large Language "
    "Models",
    "Manakul et al.", 2023, "2303.08896", "EMNLP",
)  # fmt: skip
REN = Paper(
    "Out-of-Distribution Detection and Selective Generation for Conditional Language Models",
    "Ren et al.", 2023, "2209.15558", "ICLR",
)  # fmt: skip
FIRST_TOKEN = Paper(
    "The First to Know: How Token Distributions Reveal Hidden Knowledge in Large Vision-Language "
    "Models?",
    "Zhao et al.", 2024, "2403.09037",
)  # fmt: skip
MALININ = Paper(
    "Uncertainty Estimation in Autoregressive Structured Prediction",
    "Malinin and Gales", 2021, "2002.07650", "ICLR",
)  # fmt: skip

TOKENS = (
    "The end-of-turn token counts, as the model generated it; short answers are dominated by it."
)
LENGTH = "Grows with the length of the answer."
WHOLE = "The paper scores each sentence of a text; here an answer is scored as a whole."


def of_tokens(name: str, statistic: Callable[[Floats], float]) -> Callable[[Rows], Floats]:
    """Return a score that is a statistic of one value per token; NaN without a token.

    Args:
        name: The signal.
        statistic: Values of a row → its score.
    """

    def score(rows: Rows) -> Floats:
        each = rows.per_token(name)
        return np.array([statistic(values) if len(values) else np.nan for values in each])

    return score


def perplexity(logprobs: Floats) -> float:
    """Return the exponential of the mean negative log-probability.

    >>> round(perplexity(np.log([0.5, 0.125])), 6)
    4.0
    """
    return float(np.exp(-np.mean(logprobs)))


def first_entropy(rows: Rows) -> Floats:
    """Return the entropy of the first token's distribution."""
    return np.asarray(rows.table["first_token_entropy"], np.float64)


def first_margin(rows: Rows) -> Floats:
    """Return the log-probability of the second likeliest first token minus the likeliest's."""
    logprobs = _first_logprobs(rows)
    return np.asarray(logprobs[:, 1] - logprobs[:, 0])


def first_distribution(rows: Rows) -> Features:
    """Return the log-probabilities of the likeliest first tokens by rank, and the entropy."""

    def read() -> Floats:
        logprobs = np.maximum(_first_logprobs(rows), -50.0)
        return np.concatenate([logprobs, first_entropy(rows)[:, None]], axis=1)

    return {"first token's distribution": read}


def _first_logprobs(rows: Rows) -> Floats:
    if rows.inputs is None or rows.inputs.first_token_logprobs is None:
        return np.full((len(rows), 2), np.nan)
    return np.asarray(rows.inputs.first_token_logprobs, np.float64)


DETECTORS = (
    Detector(
        "perplexity", "perplexity of the answer", "answer", REN,
        "exp of the mean negative log-probability of the answer's tokens",
        (ANSWER_LOGPROBS,), AFTER, "answer", TOKENS,
        Score(of_tokens(ANSWER_LOGPROBS, perplexity)),
    ),
    Detector(
        "mean_logprob", "mean negative log-probability", "answer", SELFCHECK,
        "mean of the negative log-probabilities of the answer's tokens",
        (ANSWER_LOGPROBS,), AFTER, "answer",
        f"{TOKENS} Orders answers as perplexity does.",
        Score(of_tokens(ANSWER_LOGPROBS, lambda each: float(-np.mean(each)))), WHOLE,
    ),
    Detector(
        "min_logprob", "least likely token", "answer", SELFCHECK,
        "largest negative log-probability of a token of the answer",
        (ANSWER_LOGPROBS,), AFTER, "answer", LENGTH,
        Score(of_tokens(ANSWER_LOGPROBS, lambda each: float(-np.min(each)))), WHOLE,
    ),
    Detector(
        "sequence_probability", "probability of the answer", "answer", MALININ,
        "negative log-probability of the complete answer: the sum over its tokens",
        (ANSWER_LOGPROBS,), AFTER, "answer", LENGTH,
        Score(of_tokens(ANSWER_LOGPROBS, lambda each: float(-np.sum(each)))),
        "The paper's probability is that of an ensemble of models.",
    ),
    Detector(
        "mean_entropy", "mean entropy", "answer", SELFCHECK,
        "mean entropy of the distributions of the answer's tokens, in nats",
        ("signals/entropy",), AFTER, "answer", TOKENS,
        Score(of_tokens("entropy", lambda each: float(np.mean(each)))), WHOLE,
    ),
    Detector(
        "max_entropy", "largest entropy", "answer", SELFCHECK,
        "largest entropy of a token's distribution, in nats",
        ("signals/entropy",), AFTER, "answer", LENGTH,
        Score(of_tokens("entropy", lambda each: float(np.max(each)))), WHOLE,
    ),
    Detector(
        "first_token_entropy", "entropy of the first token", "answer", None,
        "entropy of the first token's distribution, in nats",
        ("column first_token_entropy",), WITH_FIRST, "prefill",
        "For a yes/no question it is the answer's own uncertainty; for an open one it may be that "
        "of the wording.",
        Score(first_entropy),
    ),
    Detector(
        "first_token_margin", "margin of the first token", "answer", None,
        "negative distance of the log-probabilities of the two likeliest first tokens",
        ("column first_token_logprob",), WITH_FIRST, "prefill",
        "Two spellings of one answer (Yes, yes) have a small margin.",
        Score(first_margin),
    ),
    Detector(
        "first_token_distribution", "distribution of the first token", "answer", FIRST_TOKEN,
        "logistic probe of the log-probabilities of the 20 likeliest first tokens, by rank, and of "
        "their entropy",
        ("column first_token_logprob",), WITH_FIRST, "prefill",
        "Ranks lose which token it is.",
        Probe(first_distribution),
        "The paper trains on the logits of the complete vocabulary; a run stores the 20 likeliest.",
    ),
)  # fmt: skip
"""The detectors of this module."""
