"""How the reference method runs the model: a prompt, or a prompt and its answer, one at a time.

Part of the oracle (``reference``), as slow and as literal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlmscope.model import VisionLanguageModel
from vlmscope.model.computing import removing_hooks
from vlmscope.model.lengths import ALONE
from vlmscope.schema import LayerStates

Inputs = dict[str, Tensor]
"""The inputs of the model for one question, by name."""

_PER_TOKEN = frozenset(
    {
        "attention_mask",
        "cross_attention_mask",
        "token_type_ids",
        "mm_token_type_ids",
        "moe_mm_token_type_ids",
    }
)
"""Inputs with one entry per token of the prompt."""


def run_decoder(
    vlm: VisionLanguageModel, inputs: Inputs, layer_states: LayerStates, *, imaged: bool
) -> tuple[list[Tensor], Tensor]:
    """Run the complete model; return the states of ``layer_k``, for every k, and the logits."""
    with outputs_of(vlm.layers[-1]) as last:
        outputs = vlm.model(**inputs, output_hidden_states=True, return_dict=True)
    # Mllama's cross-attention layers skip a prompt without an image, and return no entry.
    skipped = frozenset() if imaged else vlm.skipped_without_image
    given = iter(outputs.hidden_states)
    every = [next(given)]
    for k in range(vlm.num_layers):
        every.append(every[-1] if k in skipped else next(given))
    if layer_states == "hidden_states[k]":
        return every[:-1], outputs.logits
    return [*every[1:-1], *(last if layer_states == "block output" else every[-1:])], outputs.logits


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Record the outputs of a module, call by call, within the context."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        seen.append(output if isinstance(output, Tensor) else output[0])

    with removing_hooks() as handles:
        handles.append(module.register_forward_hook(keep))
        yield seen


def content_of(vlm: VisionLanguageModel, answer_token_ids: np.ndarray) -> list[int]:
    """Return the tokens of an answer without those that end it."""
    ends = np.atleast_1d(vlm.model.generation_config.eos_token_id)
    return [token for token in answer_token_ids.tolist() if token not in ends]


def run_with_answer(
    vlm: VisionLanguageModel, inputs: Inputs, content: list[int]
) -> tuple[list[Tensor], Tensor]:
    """Run a prompt and its answer; return every layer's states, and the logits of the answer.

    The logits ``[tokens + 1, vocabulary]`` are those of each token of the answer and of the one
    that follows it.
    """
    start = inputs["input_ids"].shape[1]
    # For an image token in an answer, the model would expect an image if run in one pass.
    by_step = not _media_tokens(vlm).isdisjoint(content)
    by_step |= vlm.lengths.band(start, len(content) + 1) == ALONE
    return (_step_by_step if by_step and content else _all_at_once)(vlm, inputs, content)


def _media_tokens(vlm: VisionLanguageModel) -> set[Any]:
    """Return the tokens by which the model recognizes images, videos and sounds in a prompt."""
    named = re.compile(r"(image|video|vision|audio)\w*_token_(id|index)")
    settings = vlm.model.config.to_dict().items()
    found = {value for name, value in settings if named.fullmatch(name) and type(value) is int}
    return found | {vlm.image_token_id}


def _all_at_once(
    vlm: VisionLanguageModel, inputs: Inputs, content: list[int]
) -> tuple[list[Tensor], Tensor]:
    """Return states and logits of a prompt and its answer, from one pass."""
    answer, count = torch.tensor([content], dtype=torch.int64), len(content)
    extended = dict(inputs)
    extended["input_ids"] = torch.cat([inputs["input_ids"], answer.to(vlm.device)], dim=1)
    for name in _PER_TOKEN & inputs.keys():  # each new token attends to what the last one does
        last = inputs[name][:, -1:]
        if name == "token_type_ids" and vlm.family.prefix_sees_question:
            last = torch.ones_like(last)  # the answer comes after the prefix
        extended[name] = torch.cat([inputs[name], last.repeat_interleave(count, dim=1)], dim=1)
    imaged = bool((inputs["input_ids"] == vlm.image_token_id).any())
    layers, logits = run_decoder(vlm, extended, "hidden_states[k+1]", imaged=imaged)
    return layers, logits[0, -count - 1 :]


def _step_by_step(
    vlm: VisionLanguageModel, inputs: Inputs, content: list[int]
) -> tuple[list[Tensor], Tensor]:
    """Return states and logits of a prompt and its answer, decoded token by token.

    For answers whose states depend on the length of the sequence at the time, or which contain the
    image token. ``generate`` is forced to generate the answer, and its states are returned.
    """
    start = inputs["input_ids"].shape[1]
    outputs = vlm.model.generate(
        **inputs,
        max_new_tokens=len(content) + 1,  # the states of the last token exist a step later
        do_sample=False,
        return_dict_in_generate=True,
        output_hidden_states=True,
        output_logits=True,
        eos_token_id=[vlm.model.config.get_text_config(decoder=True).vocab_size],  # none stops it
        pad_token_id=0,
        prefix_allowed_tokens_fn=lambda _, ids: content[ids.shape[-1] - start :][:1] or content[:1],
    )
    prompt, *steps = outputs.hidden_states
    layers = [
        torch.cat([prompt[k + 1], *(step[k + 1][:, -1:] for step in steps)], dim=1)
        for k in range(vlm.num_layers)
    ]
    return layers, torch.cat(outputs.logits)
