"""Detectors that compare the answer with what the states of image tokens encode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlmscope.detectors.detector import AFTER, Detector, Paper
from vlmscope.detectors.methods import Score
from vlmscope.detectors.rows import Floats, Rows
from vlmscope.detectors.states import middle_layer
from vlmscope.signals import (
    IMAGE_LENS,
    IMAGE_MAX,
    INTERNAL_CONFIDENCE,
    LAST_PROMPT,
    SIMILARITY,
    similarity_name,
)

CONFIDENCE = Paper(
    "Interpreting and Editing Vision-Language Representations to Mitigate Hallucinations",
    "N. Jiang et al.", 2025, "2410.02762", "ICLR",
)  # fmt: skip
CONTEXTUAL = Paper(
    "Beyond Logit Lens: Contextual Embeddings for Robust Hallucination Detection & Grounding in "
    "VLMs",
    "Phukan et al.", 2024, "2411.19187",
)  # fmt: skip
GLSIM = Paper(
    "GLSim: Detecting Object Hallucinations in LVLMs via Global-Local Similarity",
    "Park and Li", 2025, "2508.19972", "NeurIPS",
)  # fmt: skip
PATCHES = 32
"""Number of image tokens that GLSim's local similarity is the mean of."""

ENDED = "column finish_reason"
"""Whether the last token is the end of turn, which is left out: it is no part of the answer."""

GLOBAL_WEIGHT = 0.6
"""Weight of GLSim's global similarity."""


def cosine(one: NDArray[np.floating], other: NDArray[np.floating]) -> Floats:
    """Return the cosine of vectors along the last axis.

    >>> cosine(np.array([1.0, 0]), np.array([[1.0, 1], [0, 2]])).round(4).tolist()
    [0.7071, 0.0]
    """
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return np.asarray((one * other).sum(axis=-1) / np.maximum(norms, 1e-12))


def glsim(
    answer: NDArray[np.floating],
    instruction: NDArray[np.floating],
    image: NDArray[np.floating],
    probabilities: NDArray[np.floating],
    *,
    patches: int = PATCHES,
    weight: float = GLOBAL_WEIGHT,
) -> float:
    """Return GLSim of one token: a weighted mean of its global and its local similarity.

    The global one is its cosine with the last token of the instruction; the local one its mean
    cosine with the image tokens whose logit lens gives it the highest probability.

    Args:
        answer: State of the token, ``[D]``.
        instruction: State of the last token of the prompt, ``[D]``.
        image: States of the image tokens, ``[V, D]``.
        probabilities: Probability of the token by the logit lens of each image token, ``[V]``.
        patches: Number of image tokens of the local similarity.
        weight: Weight of the global similarity.

    >>> right, up = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    >>> glsim(right, right, np.array([right, up, up]), np.array([0.9, 0.5, 0.1]), patches=2)
    0.8
    """
    likeliest = np.argsort(-np.asarray(probabilities), kind="stable")[:patches]
    local = float(cosine(answer, np.asarray(image)[likeliest]).mean())
    return weight * float(cosine(answer, instruction)) + (1 - weight) * local


def contextual_lens(answer: NDArray[np.floating], image: NDArray[np.floating]) -> float:
    """Return the largest cosine of an image token with the mean of the answer's tokens.

    Args:
        answer: States of the answer's tokens at a middle layer, ``[T, D]``.
        image: States of the image tokens at a middle layer, ``[V, D]``.

    >>> contextual_lens(np.array([[2.0, 0], [0, 2]]), np.array([[1.0, 1], [1, 0]])) > 0.999
    True
    """
    return float(cosine(np.asarray(answer, np.float64).mean(axis=0), image).max())


def internal_confidence(rows: Rows) -> Floats:
    """Return one minus the largest internal confidence over layers, mean over the answer's tokens.

    NaN without an image or a token.
    """
    layers = rows.layers_of(rows.signals, INTERNAL_CONFIDENCE)
    found: list[Sequence[Floats]] = [rows.of_answer(name) for name in layers.values()]
    return np.array([_confidence(each) for each in zip(*found, strict=True)])


def _confidence(layers: Sequence[Floats]) -> float:
    """Return one minus the confidence of a row, from its values at each layer."""
    if any(not len(values) or not np.isfinite(values).all() for values in layers):
        return float("nan")
    return 1.0 - float(np.max(np.stack(layers), axis=0).mean())


def glsims(rows: Rows) -> Floats:
    """Return minus GLSim at the last recorded layer, mean over the answer's tokens.

    NaN without an image or a token.
    """
    layer = max(_similarity_layers(rows, IMAGE_LENS))
    near = _mean_over_tokens(rows, LAST_PROMPT, layer)
    local = _mean_over_tokens(rows, IMAGE_LENS, layer)
    return -(GLOBAL_WEIGHT * near + (1 - GLOBAL_WEIGHT) * local)


def contextual_lenses(rows: Rows) -> Floats:
    """Return minus the largest cosine with an image token at the middle layer, mean over tokens.

    NaN without an image or a token.
    """
    layers = _similarity_layers(rows, IMAGE_MAX)
    return -_mean_over_tokens(rows, IMAGE_MAX, middle_layer(layers, rows.num_layers))


def _similarity_layers(rows: Rows, kind: str) -> dict[int, str]:
    return rows.layers_of(rows.signals, f"{SIMILARITY}/{kind}")


def _mean_over_tokens(rows: Rows, kind: str, layer: int) -> Floats:
    """Return the mean of a cosine over the tokens of each answer; NaN for none."""
    each = rows.of_answer(similarity_name(kind, layer))
    return np.array([float(values.mean()) if len(values) else np.nan for values in each])


DETECTORS = (
    Detector(
        "internal_confidence", "internal confidence", "lens", CONFIDENCE,
        "one minus the largest probability, over recorded layers and image tokens, that the logit "
        "lens of an image token gives a token of the answer; mean over the answer's tokens",
        (f"signals/{INTERNAL_CONFIDENCE}", ENDED), AFTER, "answer",
        "Words such as yes and no are not in the image. Depends on which layers were recorded.",
        Score(internal_confidence),
        "The paper scores an object; here the mean is over the tokens of an answer, without the "
        "end-of-turn token. Its public code takes the largest probability of any of the "
        "object's tokens, over all layers, by a lens without the final norm, among the 50 "
        "likeliest tokens of each image token.",
    ),
    Detector(
        "glsim", "GLSim", "lens", GLSIM,
        "minus the mean over the answer's tokens of 0.6 times the cosine of the token's state with "
        "that of the last prompt token, plus 0.4 times its mean cosine with the 32 image tokens "
        "whose logit lens gives it the highest probability; at the last recorded layer",
        (*(f"signals/{SIMILARITY}/{kind}" for kind in (LAST_PROMPT, IMAGE_LENS)), ENDED),
        AFTER, "answer",
        "Words such as yes and no are not in the image. Depends on which layers were recorded.",
        Score(glsims),
        "The paper scores an object. Its public code, whose weights and number of image tokens are "
        "those here, reads the object's first token at the position that predicts it, at the last "
        "two layers of LLaVA-1.5-7B, with a lens without the final norm; here the mean is over the "
        "tokens of an answer, without the end-of-turn token, each at its own position.",
    ),
    Detector(
        "contextual_lens", "contextual lens", "lens", CONTEXTUAL,
        "minus the largest cosine of a token's state with that of an image token at the middle "
        "layer, mean over the answer's tokens",
        (f"signals/{SIMILARITY}/{IMAGE_MAX}", ENDED), AFTER, "answer",
        "Words such as yes and no are not in the image.",
        Score(contextual_lenses),
        "The paper compares image tokens with the mean of an answer's tokens, at middle layers; a "
        "run stores the largest cosine of each token. The end-of-turn token is left out.",
    ),
)  # fmt: skip
"""The detectors of this module."""
