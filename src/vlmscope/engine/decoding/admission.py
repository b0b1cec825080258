"""New questions in slots: the first token of each answer, and what its later tokens attend to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmscope.engine.answers import token_statistics
from vlmscope.engine.attention import members_in_slots
from vlmscope.engine.decoding.memory import Layers
from vlmscope.engine.decoding.slots import Slots
from vlmscope.engine.hooks import RecordedTensors
from vlmscope.engine.prefill import DeviceBatch
from vlmscope.model import VisionLanguageModel


def for_each_answer(tensor: Tensor, answers: int) -> Tensor:
    """Return a tensor with one entry for each answer, given one for each question.

    >>> for_each_answer(torch.tensor([3, 5]), 2)
    tensor([3, 3, 5, 5])
    """
    if answers == 1:
        return tensor
    return tensor.unsqueeze(1).expand(-1, answers, *tensor.shape[1:]).flatten(0, 1)


def dimensions(recorded: RecordedTensors) -> int:
    """Return the number of dimensions of a token's position; some models use one without images."""
    positions = recorded.positions
    return 1 if positions is None or positions.dim() < 3 else len(positions)


def copy_layers(slots: Slots, rows: slice, layers: Layers) -> None:
    """Copy the keys and values of new questions into the slots of their answers.

    Args:
        slots: The slots.
        rows: Those of the new answers: several of each question, one after the other.
        layers: Keys and values of the questions.
    """
    for index, pair in enumerate(layers):
        for slot, part in zip((slots.keys[index], slots.values[index]), pair, strict=True):
            each = slot[rows].view(len(part), -1, *slot.shape[1:])
            if index in slots.recurrent:
                each[:] = part.unsqueeze(1)
                continue
            end = part.shape[2]
            each[:, :, :, :end] = part.unsqueeze(1)
            each[:, :, :, end:] = 0  # a NaN of a previous row would pass every mask


def begin(slots: Slots, rows: slice, recorded: RecordedTensors, mask: Tensor) -> None:
    """Put the first tokens of the answers to new questions into their slots.

    Args:
        slots: The slots; how tokens are drawn is already set.
        rows: Those of the new answers: several of each question, one after the other.
        recorded: What was recorded of the prefill.
        mask: The attention mask of the prompts.
    """
    tokens, answers = mask.shape[1], (rows.stop - rows.start) // len(mask)
    logits = for_each_answer(recorded.first_logits, answers)
    if slots.draws is None:
        chosen = logits.argmax(dim=1)
    else:
        first = torch.zeros(len(logits), 1, dtype=torch.int64, device=logits.device)
        chosen = slots.draws.choose(logits, rows.start, first)
    logprobs, statistics = token_statistics(logits, chosen)
    last = mask.sum(dim=1) - 1 if recorded.positions is None else recorded.positions[..., -1]
    last = last.reshape(dimensions(recorded), -1).expand(len(slots.positions), len(mask))
    slots.tokens[rows] = chosen.unsqueeze(1)
    slots.cache_positions[rows] = tokens
    slots.positions[:, rows, 0] = for_each_answer(last.T, answers).T + 1
    slots.attention_mask[rows] = False
    slots.attention_mask[rows, :tokens] = for_each_answer(mask.bool(), answers)
    slots.attention_mask[rows, tokens] = True
    slots.chosen[rows, 0] = chosen
    slots.logprobs[rows, 0] = logprobs
    slots.statistics[rows, 0] = statistics
    slots.count[rows] = 1
    over = (chosen.unsqueeze(1) == slots.ends).any(dim=1) & (not slots.answer_tokens)
    slots.ended[rows] = over | (slots.chosen.shape[1] <= 2)
    if slots.states is not None:
        slots.states.begin(chosen, rows.start)
    if slots.members is not None and recorded.members is not None:
        members = members_in_slots(recorded.members, slots.members.shape[1])
        slots.members[rows] = for_each_answer(members, answers)
    if slots.patches is not None:
        slots.patches[rows] = 0
        if recorded.patches is not None:
            keys = recorded.patches.shape[1]
            slots.patches[rows, :keys] = for_each_answer(recorded.patches, answers)
    if slots.image_lens is not None and recorded.image_lens is not None:
        slots.image_lens[rows][::answers] = recorded.image_lens  # of the greedy answers


def set_cross_attention_mask(
    slots: Slots, rows: slice, device_batch: DeviceBatch, layers: Layers, vlm: VisionLanguageModel
) -> bool:
    """Set the image keys that new rows attend to; return whether some are masked."""
    if slots.cross_attention_mask is None:
        return False
    name, layer = vlm.family.cross_attention_mask, min(slots.fixed)
    attended: Any = device_batch.inputs[name][:, -1].flatten(1).bool()
    length = layers[layer][0].shape[2]
    attended = attended.repeat_interleave(length // attended.shape[1], dim=1)
    slots.cross_attention_mask[rows] = False
    slots.cross_attention_mask[rows, :length] = for_each_answer(
        attended, (rows.stop - rows.start) // len(attended)
    )
    full = length == slots.cross_attention_mask.shape[1]
    return not (full and bool(np.all(device_batch.batch.inputs[name][:, -1].numpy())))
