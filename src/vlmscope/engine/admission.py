"""How a prefilled row comes into its slot: its first token, what it may see, if there is room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmscope.engine.prefill import Ready
from vlmscope.engine.slots import Slots, bytes_of_a_row
from vlmscope.engine.taps import Seen
from vlmscope.model import VisionLanguageModel

MEMORY_SHARE = 0.5
"""Share of a GPU's free memory that slots may take; the rest is for prefills."""

Layers = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of a prefill, layer by layer."""


def begin(slots: Slots, rows: slice, seen: Seen, mask: Tensor) -> None:
    """Put the first token of new rows into their slots."""
    tokens = mask.shape[1]
    chosen = seen.first_logits.argmax(dim=1)
    logprobs = seen.first_logits.gather(1, chosen.unsqueeze(1)).squeeze(1)
    last = mask.sum(dim=1) - 1 if seen.positions is None else seen.positions[..., -1]
    slots.tokens[rows] = chosen.unsqueeze(1)
    slots.places[rows] = tokens
    slots.positions[:, rows, 0] = last.reshape(len(slots.positions), -1) + 1
    slots.seen[rows] = False
    slots.seen[rows, :tokens] = mask.bool()
    slots.seen[rows, tokens] = True
    slots.chosen[rows, 0] = chosen
    slots.logprobs[rows, 0] = logprobs - seen.first_logits.logsumexp(dim=1)
    slots.count[rows] = 1
    over = (chosen.unsqueeze(1) == slots.ends).any(dim=1)
    slots.ended[rows] = over | (slots.chosen.shape[1] <= 2)
    if slots.states is not None:
        slots.states.begin(chosen, rows.start)


def see_tiles(
    slots: Slots, rows: slice, ready: Ready, layers: Layers, vlm: VisionLanguageModel
) -> bool:
    """Note which keys of the picture new rows may see; return whether that is not all."""
    if slots.tiles is None:
        return False
    name, layer = vlm.family.cross_attention_mask, min(slots.fixed)
    seen: Any = ready.inputs[name][:, -1].flatten(1).bool()
    length = layers[layer][0].shape[2]
    slots.tiles[rows] = False
    slots.tiles[rows, :length] = seen.repeat_interleave(length // seen.shape[1], dim=1)
    whole = length == slots.tiles.shape[1]
    return not (whole and bool(np.all(ready.batch.inputs[name][:, -1].numpy())))


def rows_in_memory(
    vlm: VisionLanguageModel, layers: Layers, fixed: frozenset[int], length: int
) -> int:
    """Return how many slots a GPU has room for beside the prefills; on a CPU it is not asked."""
    if not vlm.cuda_devices:
        return np.iinfo(np.int64).max
    [device] = vlm.cuda_devices
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(MEMORY_SHARE * (free + unused)) // bytes_of_a_row(layers, fixed, length)
