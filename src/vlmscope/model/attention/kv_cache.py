"""Caches of keys and values: of fixed size for decoding, and of an image for cross-attention.

A cache of fixed size: every row has its own length, and a step can be replayed on it. The library's
dynamic cache grows by a copy at every step, and its static one has a single length for all rows.
Here each row writes to its own next place, so that rows of any age go through a step together, and
nothing about a step depends on the host: it can be a CUDA graph. What may be seen of a row is said
by the two-dimensional attention mask alone.

Keys and values of an image, computed once and without any prompt. Where the decoder looks at images
through blocks of its own, what these blocks keep of an image depends on the image alone. So it is
computed once for all the questions about it, by the model's own modules, and the prompt is given it
as if it were in the cache already. Hooks of a user on these modules see that call too: one token an
image, whose output nobody takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from vlmscope.model.vlm import VisionLanguageModel


class RowLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one decoder block; each row is written at a place of its own.

    Args:
        keys: ``[rows, heads, length, width]``.
        values: Like ``keys``.
        places: ``[rows]``, where the token of this step goes.
    """

    def __init__(self, keys: Tensor, values: Tensor, places: Tensor | None) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self._places = places
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the states of one new token a row; return everything."""
        if self._places is None:
            raise RuntimeError("nobody said where the keys of a step go")
        rows, heads, _one, width = key_states.shape
        places = self._places.view(rows, 1, 1, 1).expand(rows, heads, 1, width)
        self.keys.scatter_(2, places, key_states)
        self.values.scatter_(2, places[..., :1].expand_as(value_states), value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length of the keys, and that they begin at the beginning."""
        del query_length
        return int(self.keys.shape[2]), 0

    def get_seq_length(self) -> int:
        """Return the place of the query as the causal mask takes it: behind all others."""
        return int(self.keys.shape[2]) - 1


class FixedLayer(RowLayer):
    """Keys and values that no step adds to: those of a cross-attention.

    Args:
        keys: ``[rows, heads, length, width]``.
        values: Like ``keys``.
        places: Not looked at.
    """

    def __init__(self, keys: Tensor, values: Tensor, places: Tensor | None = None) -> None:
        super().__init__(keys, values, places)

    def update(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Refuse: the vision encoder must not run again."""
        raise RuntimeError("a decoding step computed keys of the image again")


def cache_over(layers: Sequence[DynamicLayer]) -> Cache:
    """Return the library's cache over these layers, one for each decoder block."""
    return Cache(layers=list(layers))


def cache_with(given: Mapping[int, tuple[Tensor, Tensor]], blocks: int) -> Cache:
    """Return a cache for a prompt that holds only keys and values that were computed beforehand.

    Args:
        given: Block → keys and values ``[rows, heads, length, width]``.
        blocks: Blocks of the decoder.
    """
    return cache_over(
        [FixedLayer(*given[block]) if block in given else DynamicLayer() for block in range(blocks)]
    )


def keys_and_values(cache: Any, length: int) -> list[tuple[Tensor, Tensor]] | None:
    """Return what a prefill left in the library's cache, layer by layer.

    Args:
        cache: The cache that ``generate`` returned.
        length: Tokens that the longest row will have. A sliding window must not be shorter.

    Returns:
        One pair ``[batch, heads, tokens, width]`` a layer; None where there is a layer of a kind
        that is not known, or is empty.
    """
    found = []
    for layer in getattr(cache, "layers", ()):
        if type(layer) is DynamicSlidingWindowLayer:
            if layer.sliding_window < length:
                return None
        elif type(layer) not in {DynamicLayer, FixedLayer}:
            return None
        if layer.keys is None or layer.keys.numel() == 0:
            return None
        found.append((layer.keys, layer.values))
    return found or None


KeysAndValues = tuple[Tensor, Tensor]
"""Of one block, each ``[images, heads, length, width]``."""


def keys_of_images(vlm: VisionLanguageModel, states: Tensor) -> dict[int, KeysAndValues]:
    """Return what each block that attends to images keeps of them.

    Args:
        vlm: A model whose family names the attention of these blocks.
        states: What the projector made of the images, ``[images, ..., width of the decoder]``.

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
