"""Whether answers can be decoded step by step by vlmscope, or only by the library's ``generate``.

vlmscope's own decoding takes the most likely token of the model's logits. ``generate`` is used for
a checkpoint whose settings change the logits first (a repetition penalty), for an architecture
whose steps were not compared with ``reference.py``, and for a model on several devices: the same
answers, more slowly.

``IN_SLOTS`` and ``AS_GRAPH`` are the conditions; ``scripts/decoding_table.py`` writes them into the
documentation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vlmscope.model.attention.implementations import implementations
from vlmscope.model.families import find_family
from vlmscope.model.support import decoder_type, is_tested
from vlmscope.model.vlm import VisionLanguageModel


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a way of decoding."""

    unmet: str
    """When it is not met, for the documentation."""
    why_not: Callable[[VisionLanguageModel], str]
    """Returns why a model does not meet it; empty if it does."""


def why_not_in_slots(vlm: VisionLanguageModel) -> str:
    """Return why ``generate`` is needed to decode the answers; empty if it is not."""
    return _first(IN_SLOTS, vlm)


def why_not_as_graph(vlm: VisionLanguageModel) -> str:
    """Return why the kernels of a step are launched one by one; empty if a graph may be tried."""
    return _first(AS_GRAPH, vlm)


def _first(conditions: tuple[Condition, ...], vlm: VisionLanguageModel) -> str:
    return next((why for condition in conditions if (why := condition.why_not(vlm))), "")


def _undescribed(vlm: VisionLanguageModel) -> str:
    known = vlm.description is None and find_family(vlm.model.config) is not None
    return "" if known else "this architecture was not verified step by step"


def _untested(vlm: VisionLanguageModel) -> str:
    if is_tested(vlm.family, vlm.model.config):
        return ""
    decoder = decoder_type(vlm.model.config)
    return f"{vlm.family.title} with this decoder ({decoder}) was not verified step by step"


def _attends_otherwise(vlm: VisionLanguageModel) -> str:
    attention = implementations(vlm.decoder)
    return "" if attention == "sdpa" else f"its attention is {attention!r}"


def _changes_logits(vlm: VisionLanguageModel) -> str:
    settings = _settings(vlm.model)
    return f"the checkpoint's generation settings ask for {settings}" if settings else ""


def _groups_experts_on_host(vlm: VisionLanguageModel) -> str:
    """Torch's grouped product of experts has a kernel for bfloat16 alone; else the host loops."""
    if vlm.dtype == torch.bfloat16:
        return ""
    mixed = any(type(module).__name__.endswith("Experts") for module in vlm.decoder.modules())
    if not mixed or "grouped_mm" not in vlm.model.get_experts_implementation().values():
        return ""
    return f"its experts wait for the host in {vlm.dtype}".replace("torch.", "")


def _loops_over_experts(vlm: VisionLanguageModel) -> str:
    """Older transformers compute Aria's experts in a loop whose bounds the host reads back."""
    loops = any(type(module).__name__.endswith("ExpertsGemm") for module in vlm.decoder.modules())
    return "its experts are computed in a loop that waits for the device" if loops else ""


IN_SLOTS: tuple[Condition, ...] = (
    Condition(
        "questions are run one at a time: 8-bit weights, or an architecture whose results depend "
        "on the batch",
        lambda vlm: vlm.one_at_a_time,
    ),
    Condition("an architecture without a description, or with one of the user's own", _undescribed),
    Condition("a decoder with which the family was not tested (see families.md)", _untested),
    Condition("an attention other than `sdpa`", _attends_otherwise),
    Condition(
        "a model on several GPUs (`--device spread`)",
        lambda vlm: "the model is spread over several GPUs" if len(vlm.cuda_devices) > 1 else "",
    ),
    Condition(
        "generation settings of the checkpoint that change the logits, such as a repetition "
        "penalty",
        _changes_logits,
    ),
)
"""Conditions for decoding a model's answers in slots, in the order in which they are checked."""

AS_GRAPH: tuple[Condition, ...] = (
    Condition("no GPU", lambda vlm: "" if vlm.device.type == "cuda" else "there is no GPU"),
    Condition("quantized weights", lambda vlm: vlm.quantization or ""),
    Condition("a mixture of experts in another type than bfloat16", _groups_experts_on_host),
    Condition("experts in a loop that waits for the device (Aria)", _loops_over_experts),
)
"""Conditions for recording a step as a CUDA graph. One whose code waits for the device cannot be
recorded all the same, which is found out by trying."""


def _settings(model: Any) -> str:
    """Return the names of the processors that change the logits before a token is chosen."""
    config = copy.deepcopy(model.generation_config)
    ends = np.atleast_1d([] if config.eos_token_id is None else config.eos_token_id)
    config._eos_token_tensor = torch.tensor(ends, dtype=torch.int64) if len(ends) else None
    prompt = torch.zeros(1, 1, dtype=torch.int64)
    processors = model._get_logits_processor(
        config, input_ids_seq_length=1, encoder_input_ids=prompt, device="cpu"
    )
    names = [type(processor).__name__ for processor in processors]
    if getattr(config, "token_healing", None):
        names.append("token_healing")
    return ", ".join(names)
