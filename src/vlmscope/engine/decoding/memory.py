"""How many rows are decoded at once: what their keys, values and recorded states take."""

from __future__ import annotations

from collections.abc import (
    Sequence,
)

import numpy as np
import torch
from torch import (
    Tensor,
)

from vlmscope.engine.answer_states import (
    State,
)
from vlmscope.engine.decoding.slots import (
    bytes_of_a_row,
)
from vlmscope.model import (
    ResolvedSpec,
    VisionLanguageModel,
)
from vlmscope.signals import (
    ATTENTION_MAP,
    OF_CROSS_ATTENTION,
    PREVIOUS,
)

MEMORY_SHARE = 0.5
"""Fraction of a GPU's free memory that slots may take; the rest is for prefills."""


KEYS_PER_WEIGHTS = 2
"""Bytes of keys and values in all slots per byte of weights, from which more slots add little: a
step reads the weights once for all rows, and the keys of each row."""


SMALLEST_STEP = 12 * 10**9
"""Bytes that are read in the time in which a step's kernels start, if its weights are fewer."""


HOST_BYTES = 8 * 2**30
"""Bytes of memory of the host that recorded image tokens of the rows in slots may take."""


Layers = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of a prefill, layer by layer."""


def widths_of_answers(
    vlm: VisionLanguageModel, spec: ResolvedSpec, *, imaged: bool, length: int = 0, patches: int = 0
) -> dict[State, int]:
    """Return what is recorded of each token of an answer, and its width.

    Args:
        vlm: The model.
        spec: What to record.
        imaged: Whether the questions are about images.
        length: Number of tokens of a slot.
        patches: Number of keys of layers of cross-attention.
    """
    signals = spec.signals
    found: dict[State, int] = {}
    reads_states = bool(spec.answer_positions or signals.sampling.count)
    for part, layer in spec.states(imaged=imaged, vlm=vlm) if reads_states else ():
        if part and not spec.answer_positions:
            continue  # of samples only hidden states are recorded
        width = signals.widths[f"{part}/layer_{layer}"] if part else vlm.hidden_size
        found[part, layer] = width
    for name, (layers, parts) in signals.divisions.items():
        if imaged or name not in OF_CROSS_ATTENTION:
            found |= {(name, layer): signals.attention_heads * parts for layer in layers}
    if imaged:
        keys = patches or length
        found |= {(ATTENTION_MAP, layer): keys for layer in signals.map_layers}
    found |= {(PREVIOUS, layer): signals.attention_heads for layer in signals.attention_layers}
    return found


def rows_in_memory(
    vlm: VisionLanguageModel, layers: Layers, fixed: frozenset[int], length: int, more: int = 0
) -> int:
    """Return how many slots are useful and fit into a GPU's memory; unlimited on a CPU.

    Args:
        vlm: The model.
        layers: Keys and values of a prefill.
        fixed: Layers whose keys do not grow.
        length: Maximum number of tokens of a row.
        more: Bytes of a row besides keys and values.
    """
    if not vlm.cuda_devices:
        return np.iinfo(np.int64).max
    [device] = vlm.cuda_devices
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    weights = sum(p.numel() * p.element_size() for p in vlm.decoder.parameters())
    useful = KEYS_PER_WEIGHTS * max(weights, SMALLEST_STEP)
    keys, space = bytes_of_a_row(layers, fixed, length), int(MEMORY_SHARE * (free + unused))
    return min(space // (keys + more), useful // keys)
