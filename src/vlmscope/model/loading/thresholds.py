"""Sequence lengths that a decoder's configuration names, and the check of batches beyond them.

A short prompt does not show how a decoder behaves beyond its attention chunk, its sliding window or
the length from which it scales its attention: Llama 4 counts padding there. For a pair of wrapper
and decoder that the test suite does not cover, prompts around each such length are run together and
alone when the model is loaded. Rows longer than a length at which the results differ, or which
cannot be tried, are run alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, fromarray

from vlmscope.model.lengths import MARGIN
from vlmscope.model.loading.batching import ERRORS, is_batched_as_alone
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.prompt import encode, render

OPERATIONS_ON_CPU, OPERATIONS_ON_GPU = 1e12, 1e15
"""Floating-point operations that the check at one length may take: seconds."""

_SIZE = (64, 48)
_QUESTION, _WORD = "Is there anything", " at all"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A length that a configuration names."""

    name: str
    """The name."""
    length: int
    """The length, in tokens."""
    fine: bool = False
    """Whether its effect is small: in half precision the check could not detect it."""


def named_thresholds(config: Any) -> list[Threshold]:
    """Return the lengths that a decoder's configuration names, ascending."""
    found = []
    if size := getattr(config, "attention_chunk_size", None):
        found.append(Threshold("attention_chunk_size", int(size)))
    kinds = getattr(config, "layer_types", None)
    slides = getattr(config, "use_sliding_window", None) is not False
    slides = any("sliding" in str(kind) for kind in kinds) if kinds else slides
    if slides and (size := getattr(config, "sliding_window", None)):
        found.append(Threshold("sliding_window", int(size)))
    if getattr(config, "attn_temperature_tuning", None) and (size := _floor_scale(config)):
        found.append(Threshold("floor_scale", size, fine=True))
    for parameters in _rope_parameters(config):
        size = parameters.get("original_max_position_embeddings")
        if size and parameters.get("llama_4_scaling_beta"):
            found.append(Threshold("llama_4_scaling_beta", int(size), fine=True))
    return sorted(found, key=lambda threshold: threshold.length)


def _floor_scale(config: Any) -> int:
    return int(getattr(config, "floor_scale", None) or 0)


def _rope_parameters(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the parameters of the rotary embeddings, of each layer type."""
    parameters = getattr(config, "rope_parameters", None) or {}
    yield parameters
    yield from (own for own in parameters.values() if isinstance(own, Mapping))


def with_verified_lengths(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """Return the model with the length beyond which its rows are run alone, if there is one."""
    if vlm.one_at_a_time:
        return vlm
    named = named_thresholds(vlm.model.config.get_text_config(decoder=True))
    named += [Threshold("rope threshold", length) for length in vlm.lengths.switches]
    for threshold in sorted(named, key=lambda threshold: threshold.length):
        limit = vlm.lengths.alone_beyond
        if (limit is not None and threshold.length >= limit) or (
            threshold.length >= vlm.max_prompt_tokens
        ):
            break
        if why := _why_not_batched(vlm, threshold):
            lengths = dataclasses.replace(
                vlm.lengths, alone_beyond=threshold.length, why=f"{threshold.name}: {why}"
            )
            return dataclasses.replace(vlm, lengths=lengths)
    return vlm


def _why_not_batched(vlm: VisionLanguageModel, threshold: Threshold) -> str:
    """Return why rows beyond a threshold may not be batched; empty if they may."""
    if threshold.fine and vlm.dtype != torch.float32:
        return f"its effect is smaller than the rounding of {vlm.dtype}".replace("torch.", "")
    switches = threshold.length in vlm.lengths.switches
    beyond = [threshold.length + more for more in (2 * MARGIN, 4 * MARGIN, 10 * MARGIN)]
    wanted = beyond if switches else [threshold.length // 2, threshold.length - 2, *beyond]
    weights = sum(parameter.numel() for parameter in vlm.model.parameters())
    allowed = OPERATIONS_ON_GPU if vlm.cuda_devices else OPERATIONS_ON_CPU
    if 4 * weights * sum(wanted) > allowed or wanted[-1] > vlm.max_prompt_tokens:
        return "a check with prompts of that length would take too long"
    try:
        same = _is_same_in_batch(vlm, wanted)
    except ERRORS:
        same = False
    return "" if same else "beyond it, questions in a batch and alone differ"


def _is_same_in_batch(vlm: VisionLanguageModel, lengths: list[int]) -> bool:
    """Return whether prompts of these lengths give the same results in a batch as alone."""
    rng = np.random.default_rng(0)
    width, height = _SIZE
    images = [fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in lengths]
    shortest, longer = (_tokens(vlm, images[0], words) for words in (0, 64))
    words = [
        max(0, round((length - shortest) * 64 / max(1, longer - shortest))) for length in lengths
    ]
    texts = [render(vlm.processor, _QUESTION + _WORD * count) for count in words]
    return is_batched_as_alone(vlm, texts, images)


def _tokens(vlm: VisionLanguageModel, image: Image, words: int) -> int:
    text = render(vlm.processor, _QUESTION + _WORD * words)
    return int(encode(vlm.processor, [text], [[image]])["input_ids"].shape[1])
