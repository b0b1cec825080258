"""Caches of keys and values: of fixed size for decoding, and of an image for cross-attention.

A block with linear attention or a convolution has a state of fixed size instead (``Recurrent``),
which each token changes. It has no columns, so it fits into a step of rows of any lengths.

**A cache of fixed size**: every row has its own length, and a step can be replayed on it. The
library's dynamic cache is copied to grow at every step, and its static one has a single length for
all rows. Here each row has its own next position, so that rows of different lengths share a step.
Nothing about a step depends on the host, so it can be a CUDA graph. Which positions of a row are
attended to is defined by the two-dimensional attention mask alone.

**Keys and values of an image**, computed once and without any prompt. If the decoder attends to
images in separate cross-attention blocks, the keys and values in these blocks depend on the image
alone. They are computed once for all questions about it, by the model's own modules, and put into
the cache before the prompt is run. Hooks of a user on these modules see that call too: one token
per image, whose output is discarded.

**Keys and values of a prompt** are concatenated by the library with the cache's, which are empty:
two copies per layer, in another order than the attention's kernels take them, which copy them
again. In a prefill the cache keeps the states themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
)
from transformers.generation.utils import GenerateDecoderOnlyOutput

from vlmscope.model.computing import undone_at_exit
from vlmscope.model.vlm import VisionLanguageModel

KeysAndValues = tuple[Tensor, Tensor]
"""Keys and values of one block, each ``[rows or images, heads, length, width]``."""


class Recurrent(NamedTuple):
    """The state of a block with linear attention or a convolution, in place of keys and values."""

    convolved: Tensor
    """The last inputs of its convolution, ``[rows, channels, width of the kernel]``."""
    summed: Tensor
    """The state of its linear attention, ``[rows, heads, width of keys, width of values]``; of a
    convolution alone zeros, ``[rows, 1]``."""


NAMES = ("cache", "past_key_values")
"""Names of a model's argument for its cache: since transformers 5.24, and before."""


@cache
def cache_argument(function: Callable[..., Any]) -> str:
    """Return the name of a function's argument for the cache, such as a class's ``forward``.

    If it has none of its own, as ``generate``, it is that of the library's outputs.

    >>> cache_argument(lambda input_ids, past_key_values=None: None)
    'past_key_values'
    >>> cache_argument(lambda input_ids, cache=None, **options: None)
    'cache'
    """
    own = inspect.signature(function).parameters
    of_outputs = inspect.signature(GenerateDecoderOnlyOutput).parameters
    return next(name for names in (own, of_outputs) for name in NAMES if name in names)


def cache_of(output: Any) -> Any:
    """Return the cache in an output of ``generate``."""
    return next(output[name] for name in NAMES if name in output)


class RowLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one decoder block; each row is written at its own position.

    Args:
        keys: ``[rows, heads, length, width]``.
        values: Like ``keys``.
        cache_positions: ``[rows]``, where the token of this step is written.
    """

    def __init__(self, keys: Tensor, values: Tensor, cache_positions: Tensor | None) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self._cache_positions = cache_positions
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the states of one new token per row; return all keys and values."""
        if self._cache_positions is None:
            raise RuntimeError("no cache positions were given for the keys of a step")
        rows, heads, _one, width = key_states.shape
        index = self._cache_positions.view(rows, 1, 1, 1).expand(rows, heads, 1, width)
        self.keys.scatter_(2, index, key_states)
        self.values.scatter_(2, index[..., :1].expand_as(value_states), value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length of the keys, and the offset of the first: 0."""
        del query_length
        return int(self.keys.shape[2]), 0

    def get_seq_length(self) -> int:
        """Return the query's position in the causal mask: after all others."""
        return int(self.keys.shape[2]) - 1


class FixedLayer(RowLayer):
    """Keys and values of a cross-attention, which no step adds to.

    Args:
        keys: ``[rows, heads, length, width]``.
        values: Like ``keys``.
        cache_positions: Ignored.
    """

    def __init__(self, keys: Tensor, values: Tensor, cache_positions: Tensor | None = None) -> None:
        super().__init__(keys, values, cache_positions)

    def update(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Raise an error: the vision encoder must not run again."""
        raise RuntimeError("a decoding step computed keys of the image again")


class StateLayer(LinearAttentionLayer):  # type: ignore[misc]
    """The state of a block without keys; the library changes it in place.

    Args:
        convolved: As in ``Recurrent``.
        summed: Likewise.
    """

    def __init__(self, convolved: Tensor, summed: Tensor) -> None:
        super().__init__()
        self.dtype, self.device = convolved.dtype, convolved.device
        self.conv_states[0], self.conv_kernel_size[0] = convolved, convolved.shape[-1]
        self.is_conv_states_initialized[0] = self.has_previous_state[0] = True
        if summed.dim() > 2:
            self.recurrent_states[0] = summed
            self.is_recurrent_states_initialized[0] = True


def cache_over(layers: Sequence[DynamicLayer | StateLayer]) -> Cache:
    """Return a cache of the library with these layers, one for each decoder block."""
    return Cache(layers=list(layers))


def layer_with(keys: Tensor, values: Tensor) -> DynamicLayer:
    """Return a layer of the library's cache that holds these keys and values, and may grow.

    Args:
        keys: ``[rows, heads, length, width]``.
        values: Like ``keys``.
    """
    layer = DynamicLayer()
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer


def cache_with(given: Mapping[int, tuple[Tensor, Tensor]], blocks: int) -> Cache:
    """Return a cache for a prompt that contains only keys and values computed beforehand.

    Args:
        given: Block → keys and values ``[rows, heads, length, width]``.
        blocks: Number of decoder blocks.
    """
    return cache_over(
        [FixedLayer(*given[block]) if block in given else DynamicLayer() for block in range(blocks)]
    )


@contextmanager
def keeping_first_states() -> Iterator[None]:
    """Let the library's caches keep the first states of a layer without a copy, in the context."""
    update = DynamicLayer.update

    def restore() -> None:
        DynamicLayer.update = update

    def keep(layer: Any, keys: Tensor, values: Tensor, *args: Any, **options: Any) -> KeysAndValues:
        own = type(layer) is DynamicLayer and not layer.is_initialized
        if not (own and _is_complete(keys) and _is_complete(values)):
            return update(layer, keys, values, *args, **options)  # type: ignore[no-any-return]
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        return keys, values

    with undone_at_exit(restore):
        DynamicLayer.update = keep
        yield


_SLICED = "_maybe_slice_kv_shared_inputs"
"""The method by which a decoder drops tokens whose keys and values it has."""


@contextmanager
def computing_all_tokens(decoder: nn.Module) -> Iterator[None]:
    """Let a decoder compute every token of a prompt in every layer, within the context.

    In Gemma 4 the last layers use the keys and values of earlier ones. For ``generate`` the library
    computes them for the last token only, so that image tokens would have no states there.
    """
    if not hasattr(type(decoder), _SLICED) or _SLICED in vars(decoder):
        yield
        return
    with undone_at_exit(lambda: vars(decoder).pop(_SLICED, None)):
        vars(decoder)[_SLICED] = _all_tokens
        yield


def _all_tokens(
    states: Tensor, per_layer: Any, embeddings: Any, masks: Any, *_: Any, **__: Any
) -> tuple[Any, ...]:
    return states, per_layer, embeddings, masks


def _is_complete(states: Tensor) -> bool:
    """Return whether a tensor is all of its memory: a part would keep the rest."""
    return states.untyped_storage().nbytes() == states.numel() * states.element_size()


def keys_and_values(cache: Any, length: int) -> list[tuple[Tensor, Tensor]] | None:
    """Return the keys and values of the library's cache after a prefill, layer by layer.

    Args:
        cache: The cache that ``generate`` returned.
        length: Tokens that the longest row will have. A sliding window must not be shorter.

    Returns:
        One pair ``[batch, heads, tokens, width]`` per layer, or ``Recurrent``; None if a layer is
        empty or of an unknown kind.
    """
    found: list[tuple[Tensor, Tensor]] = []
    for layer in getattr(cache, "layers", ()):
        if type(layer) is LinearAttentionLayer:
            state = _state_of(layer)
            if state is None:
                return None
            found.append(state)
            continue
        if type(layer) is DynamicSlidingWindowLayer:
            if layer.sliding_window < length:
                return None
        elif type(layer) not in {DynamicLayer, FixedLayer}:
            return None
        if layer.keys is None or layer.keys.numel() == 0:
            return None
        found.append((layer.keys, layer.values))
    return found or None


def _state_of(layer: LinearAttentionLayer) -> Recurrent | None:
    """Return the state of a block without keys; None if it has several, or none yet."""
    if layer.number_of_states != 1 or layer.record_past or not layer.has_previous_state[0]:
        return None
    convolved, summed = layer.conv_states[0], layer.recurrent_states[0]
    return Recurrent(
        convolved, convolved.new_zeros(len(convolved), 1) if summed is None else summed
    )


def keys_of_images(vlm: VisionLanguageModel, states: Tensor) -> dict[int, KeysAndValues]:
    """Return the keys and values of the images in each block that attends to images.

    Args:
        vlm: A model whose family names the attention of these blocks.
        states: The projector's output, ``[images, ..., width of the decoder]``.

    Returns:
        Block → keys and values.
    """
    recorder = _KeyRecorder()
    flat = states.flatten(1, -2)
    query = flat.new_zeros(len(flat), 1, flat.shape[2])
    for block in sorted(vlm.skipped_without_image):
        attention = vlm.layers[block].get_submodule(vlm.family.cross_attention)
        attention(
            hidden_states=query,
            cross_attention_states=flat,
            attention_mask=None,
            **{cache_argument(type(attention).forward): recorder},
        )
    return recorder.layers


class _KeyRecorder:
    """Takes the role of the library's cache, and records the keys and values given to it.

    The query is a dummy whose output is discarded, so only a single key is returned to attend to.
    """

    def __init__(self) -> None:
        self.layers: dict[int, KeysAndValues] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> KeysAndValues:
        self.layers[layer] = keys, values
        return keys[:, :, :1], values[:, :, :1]
