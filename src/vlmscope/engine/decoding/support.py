"""Whether answers can be decoded step by step by vlmscope, or only by the library's ``generate``.

vlmscope's own decoding takes the most likely token of the model's logits. ``generate`` is used for
a checkpoint whose settings change the logits first (a repetition penalty), for an architecture
whose steps were not compared with ``reference.py``, and for a model on several devices: the same
answers, more slowly.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from vlmscope.model.attention.implementations import implementations
from vlmscope.model.families import find_family
from vlmscope.model.support import decoder_type, is_tested
from vlmscope.model.vlm import VisionLanguageModel


def why_not_in_slots(vlm: VisionLanguageModel) -> str:
    """Return why ``generate`` is needed to decode the answers; empty if it is not."""
    if vlm.one_at_a_time:
        return vlm.one_at_a_time
    if vlm.description is not None or find_family(vlm.model.config) is None:
        return "this architecture was not verified step by step"
    if not is_tested(vlm.family, vlm.model.config):
        decoder = decoder_type(vlm.model.config)
        return f"{vlm.family.title} with this decoder ({decoder}) was not verified step by step"
    if vlm.family.writes_with_generate:
        return f"{vlm.family.title} {vlm.family.writes_with_generate}"
    if (attention := implementations(vlm.decoder)) != "sdpa":
        return f"its attention is {attention!r}"
    if len(vlm.cuda_devices) > 1:
        return "the model is spread over several GPUs"
    if settings := _settings(vlm.model):
        return f"the checkpoint's generation settings ask for {settings}"
    return ""


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
