"""Keys and values of a picture, computed once and without any prompt.

Where the decoder looks at pictures through blocks of its own, what these blocks keep of a picture
hangs on the picture alone. So it is computed once for all the questions about it, by the model's
own modules, and the prompt is given it as if it were in the cache already. Hooks of a user on these
modules see that call too: one token a picture, whose output nobody takes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vlmscope.model.vlm import VisionLanguageModel

KeysAndValues = tuple[Tensor, Tensor]
"""Of one block, each ``[pictures, heads, length, width]``."""


def keys_of_pictures(vlm: VisionLanguageModel, states: Tensor) -> dict[int, KeysAndValues]:
    """Return what each block that attends to pictures keeps of them.

    Args:
        vlm: A model whose family names the attention of these blocks.
        states: What the projector made of the pictures, ``[pictures, ..., width of the decoder]``.

    Returns:
        Block → keys and values.
    """
    kept = _Keeping()
    flat = states.flatten(1, -2)
    nothing = flat.new_zeros(len(flat), 1, flat.shape[2])
    for block in sorted(vlm.skipped_without_image):
        attention = vlm.layers[block].get_submodule(vlm.family.cross_attention)
        attention(
            hidden_states=nothing,
            cross_attention_states=flat,
            attention_mask=None,
            past_key_values=kept,
        )
    return kept.layers


class _Keeping:
    """Stands where the library's cache is: notes what it is to keep.

    The question is nobody's and its answer is thrown away, so it is given a single key to look at.
    """

    def __init__(self) -> None:
        self.layers: dict[int, KeysAndValues] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> KeysAndValues:
        self.layers[layer] = keys, values
        return keys[:, :, :1], values[:, :, :1]
