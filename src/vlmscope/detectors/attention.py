"""Detectors that read attention: how the heads divide it among image, prompt and answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlmscope.detectors.detector import AFTER, BEFORE, Detector, Paper
from vlmscope.detectors.methods import Features, Probe, Score
from vlmscope.detectors.rows import AN_IMAGE, ANSWER_LOGPROBS, Floats, Rows
from vlmscope.signals import ATTENDED, OF_ANSWER

SVAR = Paper(
    "Devils in Middle Layers of Large Vision-Language Models: Interpreting, Detecting and "
    "Mitigating Object Hallucinations via Attention Lens",
    "Z. Jiang et al.", 2025, "2411.16724", "CVPR",
)  # fmt: skip
LOOKBACK = Paper(
    "Lookback Lens: Detecting and Mitigating Contextual Hallucinations in Large Language Models "
    "Using Only Attention Maps",
    "Chuang et al.", 2024, "2407.07071", "EMNLP",
)  # fmt: skip
DHCP = Paper(
    "DHCP: Detecting Hallucinations by Cross-modal Attention Pattern in Large Vision-Language "
    "Models",
    "Zhang et al.", 2025, "2411.18659", "ACM Multimedia",
)  # fmt: skip
RAUQ = Paper(
    "Efficient Hallucination Detection for LLMs Using Uncertainty-Aware Attention Heads",
    "Vazhentsev et al.", 2025, "2505.20045",
)  # fmt: skip

IMAGE, TEXT, ANSWER, FIRST = range(len(ATTENDED))
MEAN = OF_ANSWER.index("mean")

PROMPT_SHARES, ANSWER_SHARES = "attention_prompt", "attention_answer"
CROSS = "cross_attention_prompt"
PREVIOUS = "attention_previous"
"""Signal ``[T, L]``: attention of each token of the answer to the one before it, by one head of
each layer."""

CROSS_LAYERS = (
    "A decoder with cross-attention (Llama-3.2-Vision) has one image token per image in these "
    "layers."
)


def svar_layers(layers: Sequence[int], depth: int) -> list[int]:
    """Return which of the recorded layers SVAR sums over: layers 5 to 18 of 32, in proportion.

    Args:
        layers: The layers with attention weights.
        depth: Number of decoder layers.

    >>> svar_layers(range(32), 32) == list(range(5, 19)), svar_layers(range(8), 8)
    (True, [1, 2, 3, 4])
    """
    low, high = 5 / 32 * depth, 19 / 32 * depth
    chosen = [index for index, layer in enumerate(layers) if round(low) <= layer < round(high)]
    return chosen or list(range(len(layers)))


def svar(image_share: NDArray[np.floating], layers: Sequence[int]) -> Floats:
    """Return the summed visual attention ratio, ``[N]``: over layers, mean over heads.

    Args:
        image_share: Share of each head's attention on image tokens, ``[N, L, H]``.
        layers: Indices of the layers to sum over.

    >>> share = np.array([[[0.5, 0.25], [0.25, 0.25], [1.0, 1.0]]])
    >>> svar(share, [0, 1]).tolist()  # (0.5 + 0.25) / 2 + (0.25 + 0.25) / 2
    [0.625]
    """
    return np.asarray(image_share[:, list(layers)].mean(axis=2).sum(axis=1), np.float64)


def lookback_ratio(
    prompt: NDArray[np.floating],
    answer: NDArray[np.floating],
    prompt_tokens: NDArray[np.floating],
    answer_tokens: NDArray[np.floating],
) -> Floats:
    """Return the lookback ratio of each head: mean weight on the prompt, over both mean weights.

    Args:
        prompt: Share of attention on the prompt, ``[N, ...]``.
        answer: Share on the answer, likewise.
        prompt_tokens: Tokens of the prompt, ``[N]``.
        answer_tokens: Tokens of the answer that are attended to, on average, ``[N]``.

    >>> share, ones = np.array([[0.8]]), np.ones(1)
    >>> lookback_ratio(share, 1 - share, 8 * ones, 1 * ones).round(6).tolist()  # 0.1 / (0.1 + 0.2)
    [[0.333333]]
    """
    shape = (-1, *[1] * (prompt.ndim - 1))
    context = prompt / np.asarray(prompt_tokens, np.float64).reshape(shape)
    new = answer / np.asarray(answer_tokens, np.float64).reshape(shape)
    return np.asarray(context / np.maximum(context + new, 1e-12))


def rauq(logprobs: Floats, previous: Floats, layers: Sequence[int], alpha: float = 0.2) -> float:
    """Return the uncertainty of an answer by RAUQ: the largest one of some layers.

    The confidence of the first token is its probability, that of the others ``alpha`` times their
    probability plus ``1 - alpha`` times the attention to the previous token times its confidence.
    A layer's uncertainty is the mean negative logarithm.

    Args:
        logprobs: Log-probability of each token, ``[T]``.
        previous: Attention of each token to the one before it, ``[T, L]``; the first is not used.
        layers: Indices of the layers.
        alpha: Weight of the probability; the paper's default.

    >>> round(rauq(np.log([0.5, 0.5]), np.array([[0.0], [0.5]]), [0]), 4)  # 0.5, then 0.3
    0.9486
    """
    probability = np.exp(logprobs)
    confidence = np.full(len(layers), probability[0])
    total = -np.log(np.maximum(confidence, 1e-12))
    for index in range(1, len(probability)):
        weight = previous[index, list(layers)]
        confidence = alpha * probability[index] + (1 - alpha) * weight * confidence
        total -= np.log(np.maximum(confidence, 1e-12))
    return float(total.max() / len(probability))


def rauq_layers(count: int) -> list[int]:
    """Return the middle third of the layers, which RAUQ uses.

    >>> rauq_layers(32)[0], rauq_layers(32)[-1], rauq_layers(1)
    (10, 22, [0])
    """
    return list(range(count // 3, min(count, math.ceil(count * 2 / 3) + 1)))


def _svar_of(rows: Rows, shares: NDArray[np.floating]) -> Floats:
    layers = svar_layers(rows.attention_layers, rows.num_layers)
    return -svar(shares[..., IMAGE], layers)


def svar_of_answer(rows: Rows) -> Floats:
    """Return the negative SVAR of the answer, the mean over its tokens."""
    return _svar_of(rows, rows.signals[ANSWER_SHARES][:, MEAN])


def svar_of_prompt(rows: Rows) -> Floats:
    """Return the negative SVAR of the last prompt token."""
    return _svar_of(rows, rows.signals[PROMPT_SHARES])


def lookback(rows: Rows) -> Features:
    """Return the lookback ratio of every head of every layer."""

    def read() -> Floats:
        shares = rows.signals[ANSWER_SHARES][:, MEAN]
        tokens = np.array([len(each) for each in rows.of_answer(ANSWER_LOGPROBS)])
        found = lookback_ratio(
            shares[..., [IMAGE, TEXT, FIRST]].sum(axis=-1),
            shares[..., ANSWER],
            np.asarray(rows.table["num_prompt_tokens"], np.float64),
            (np.maximum(tokens, 1) + 1) / 2,
        )
        return found.reshape(len(rows), -1)

    return {"lookback ratio": read}


def image_attention(rows: Rows) -> Features:
    """Return the share of attention on the image of every head, and of its tiles if there are."""

    def read() -> Floats:
        parts = [rows.signals[PROMPT_SHARES][..., IMAGE].reshape(len(rows), -1)]
        if CROSS in rows.signals:
            tiles = rows.signals[CROSS].reshape(len(rows), -1)
            parts.append(np.where(np.isnan(tiles).all(axis=1)[:, None], 0.0, tiles))
        return np.concatenate(parts, axis=1)

    return {"attention on the image": read}


def rauq_of(rows: Rows) -> Floats:
    """Return RAUQ of every row; NaN without a token."""
    found = np.full(len(rows), np.nan)
    pairs = zip(rows.per_token(ANSWER_LOGPROBS), rows.signals[PREVIOUS], strict=True)
    for number, (logprobs, previous) in enumerate(pairs):
        if previous is None or not len(logprobs) or not np.size(previous):
            continue
        weights = np.asarray(previous, np.float64).reshape(-1, len(rows.attention_layers))
        count = min(len(weights), len(logprobs))  # without the end-of-turn token
        found[number] = rauq(logprobs[:count], weights[:count], rauq_layers(weights.shape[1]))
    return found


DETECTORS = (
    Detector(
        "svar_prompt", "attention on the image, last prompt token", "attention", SVAR,
        "negative SVAR of the last prompt token: share of attention on image tokens, mean over "
        "heads, summed over layers 5 to 18 of 32 (in proportion for other depths)",
        (AN_IMAGE, "signals/attention_prompt"), BEFORE, "prefill", CROSS_LAYERS,
        Score(svar_of_prompt),
        "The paper reads it where an object is named; this is its value before the answer, where "
        "the first token is predicted.",
    ),
    Detector(
        "svar", "attention on the image, answer (SVAR)", "attention", SVAR,
        "negative mean over the answer's tokens of SVAR: share of attention on image tokens, mean "
        "over heads, summed over layers 5 to 18 of 32 (in proportion for other depths)",
        (AN_IMAGE, "signals/attention_answer"), AFTER, "answer", CROSS_LAYERS,
        Score(svar_of_answer),
        "The paper scores one object, in its public code at a position before its first token; "
        "here the mean is over the tokens of an answer, each at its own position. That code also "
        "trains a network on the shares of single heads.",
    ),
    Detector(
        "dhcp", "attention on the image, every head (DHCP)", "attention", DHCP,
        "logistic probe of the last prompt token's attention on the image, every head of every "
        "layer, and on its tiles where the decoder has cross-attention",
        (AN_IMAGE, "signals/attention_prompt"), BEFORE, "prefill",
        "Many features for few rows.",
        Probe(image_attention),
        "The paper trains a network with one hidden layer on the weight of every image token, in "
        "its public code the mean over all generated tokens; a run stores the sum over image "
        "tokens, which is read before the answer.",
    ),
    Detector(
        "lookback", "lookback ratio, every head", "attention", LOOKBACK,
        "logistic probe of every head's lookback ratio: mean attention weight on a token of the "
        "prompt, over the sum with the mean weight on a token of the answer",
        (
            "signals/attention_answer", ANSWER_LOGPROBS, "column num_prompt_tokens",
            "column finish_reason",
        ),
        AFTER, "answer",
        "The first token of the prompt, to which many heads attend by default, is in the prompt.",
        Probe(lookback),
        "A run stores the mean share over the answer's tokens: the ratio is of the means, where "
        "the paper takes the mean of the ratios. The attending token itself counts as answer, as "
        "in the public code; there, tokens attend from the position that predicts them, and the "
        "end of the prompt, which announces the answer, counts as answer too.",
    ),
    Detector(
        "rauq", "attention to the previous token (RAUQ)", "attention", RAUQ,
        "of each layer of the middle third, the head that attends most to the previous token: "
        "confidence c1 = p1, ci = 0.2 pi + 0.8 a(i, i-1) c(i-1); largest mean of -log c",
        ("signals/attention_previous", ANSWER_LOGPROBS), AFTER, "answer",
        "An answer of one token has no previous one: its score is its own probability.",
        Score(rauq_of),
        "The end-of-turn token is left out. a(i, i-1) is the attention of token i at its own "
        "position; the authors' public code (lm-polygraph) reads it at the position that predicts "
        "token i, where it is that of token i-1 to itself. It adds 1 to the score, and has an "
        "option of 0.5 in place of 0.2 for instruction-tuned models.",
    ),
)  # fmt: skip
"""The detectors of this module."""
