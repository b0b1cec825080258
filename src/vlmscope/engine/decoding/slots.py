"""Slots: tensors of a fixed size for the rows that are being answered.

The first ``active`` slots are in use; if a row ends, the last one in use is moved into its slot. So
a step always works on the beginning of every tensor, and its cost depends on the active rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vlmscope.engine.answer_states import AnswerStates
from vlmscope.engine.decoding.drawing import Draws, make_draws
from vlmscope.model.attention.kv_cache import Recurrent
from vlmscope.model.device_copies import to_device
from vlmscope.signals import ATTENDED, PATCHES, TOKEN_STATISTICS

STEP_OF_LENGTH = 64
"""Lengths are rounded up to a multiple of this, so that slightly longer prompts fit too."""


@dataclass(slots=True, eq=False)
class Slots:
    """Everything that a decoding step reads and changes. Made by ``make_slots``."""

    keys: list[Tensor]
    """For each layer ``[rows, heads, length, width]``, or the first part of its state."""
    values: list[Tensor]
    """Like ``keys``."""
    fixed: frozenset[int]
    """Layers whose keys do not grow: those of cross-attention."""
    recurrent: frozenset[int]
    """Layers that have a state in place of keys and values: ``kv_cache.Recurrent``."""
    tokens: Int[Tensor, "rows one"]
    """The next input token of each row."""
    cache_positions: Int[Tensor, " rows"]
    """The index at which its keys are written."""
    positions: Int[Tensor, "dims rows one"]
    """Its position in the decoder: one dimension, or several for multimodal rotary embeddings."""
    attention_mask: Bool[Tensor, "rows length"]
    """Attention mask: the keys that a row attends to."""
    cross_attention_mask: Bool[Tensor, "rows _images"] | None
    """Attention mask of the fixed layers; None if there are none."""
    chosen: Int[Tensor, "rows limit"]
    """The tokens chosen so far; the last column is for rows that have ended."""
    logprobs: Tensor
    """Their log-probabilities, like ``chosen``."""
    statistics: Tensor
    """Statistics of their distributions, ``[rows, limit, 3]``: ``signals.TOKEN_STATISTICS``."""
    count: Int[Tensor, " rows"]
    """Number of tokens chosen so far."""
    ended: Bool[Tensor, " rows"]
    """Whether a row has chosen its last token."""
    ends: Int[Tensor, " ends"]
    """The tokens that end an answer; the same for all rows."""
    states: AnswerStates | None
    """What is recorded of the answers' tokens, if anything is."""
    draws: Draws | None
    """How the tokens of sampled answers are drawn; None if all answers are greedy."""
    members: Tensor | None
    """The group of each token, ``[rows, length, 4]``, if attention is recorded: ``members_of``."""
    patches: Tensor | None = None
    """The group of each patch of the images, ``[rows, keys, 3]``, if the attention of the fixed
    layers is recorded: ``patch_members``."""
    image_lens: Tensor | None = None
    """The lens of the image tokens, ``[rows, layers, vocabulary]``, if it is recorded:
    ``lens.ImageLens``. Undefined for questions without an image, and for sampled answers."""
    answer_tokens: dict[int, Tensor] = field(default_factory=dict)
    """Decoder layer → states of the tokens of each row's answer, ``[rows, limit + 1, hidden]``, if
    they are recorded; the last column is for rows that have ended. Then an answer ends one step
    later, so that its end-of-turn token is processed too."""
    active: int = 0
    """Number of slots in use."""

    @property
    def rows(self) -> int:
        """Number of slots."""
        return len(self.tokens)

    @property
    def length(self) -> int:
        """Maximum number of tokens of a row."""
        return self.attention_mask.shape[1]

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor, with rows as the first dimension."""
        yield from self.keys
        yield from self.values
        yield self.tokens
        yield self.cache_positions
        yield self.positions.transpose(0, 1)
        yield self.attention_mask
        if self.cross_attention_mask is not None:
            yield self.cross_attention_mask
        yield from (self.chosen, self.logprobs, self.statistics, self.count, self.ended)
        if self.draws is not None:
            yield from (self.draws.temperatures, self.draws.integers)
        if self.members is not None:
            yield self.members
        if self.patches is not None:
            yield self.patches
        if self.image_lens is not None:
            yield self.image_lens
        yield from self.answer_tokens.values()
        if self.states is not None:
            yield from self.states.tensors()

    def release(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Release some slots; return which rows were moved, as (from, to)."""
        released, last = set(rows), self.active
        self.active -= len(released)
        holes = sorted(row for row in released if row < self.active)
        left = [row for row in range(self.active, last) if row not in released]
        moves = list(zip(left, holes, strict=True))
        if moves:
            source, target = to_device(torch.tensor(moves), self.tokens.device).unbind(1)
            for tensor in self.tensors():
                tensor.index_copy_(0, target, tensor.index_select(0, source))
        return moves


def make_slots(
    layers: Sequence[tuple[Tensor, Tensor]],
    fixed: frozenset[int],
    *,
    rows: int,
    length: int,
    limit: int,
    dims: int,
    states: AnswerStates | None,
    ends: Sequence[int],
    dtype: torch.dtype = torch.float32,
    divides: bool = False,
    tables: tuple[int, int] | None = None,
    sampled: bool = False,
    answer_tokens: Mapping[int, int] | None = None,
) -> Slots:
    """Return empty slots.

    Args:
        layers: Keys and values of any prefill, or ``Recurrent`` states, for their sizes, types and
            devices.
        fixed: Layers whose keys do not grow.
        rows: Number of slots.
        length: Maximum number of tokens of a row.
        limit: Maximum number of tokens of an answer.
        dims: Dimensions of a position.
        states: Collects what is recorded of the answers.
        ends: The tokens that end an answer.
        dtype: The type of hidden states.
        divides: Whether the division of attention is recorded.
        tables: Layers and vocabulary of the lens of the image tokens, if it is recorded.
        sampled: Whether some answers are sampled.
        answer_tokens: Decoder layer → width of the states of an answer's tokens, if they are
            recorded.

    Raises:
        torch.OutOfMemoryError: There is not enough memory.
    """
    device = layers[0][0].device
    integers = partial(torch.zeros, dtype=torch.int64, device=device)
    images = [layers[index][0].shape[2] for index in sorted(fixed)]
    empty = [
        (keys.new_zeros(rows, *of_keys), values.new_zeros(rows, *of_values))
        for (keys, values), (of_keys, of_values) in zip(
            layers, shapes_of_a_row(layers, fixed, length), strict=True
        )
    ]
    return Slots(
        keys=[keys for keys, _ in empty],
        values=[values for _, values in empty],
        fixed=fixed,
        recurrent=frozenset(i for i, pair in enumerate(layers) if isinstance(pair, Recurrent)),
        tokens=integers(rows, 1),
        cache_positions=integers(rows),
        positions=integers(dims, rows, 1),
        attention_mask=torch.ones(rows, length, dtype=torch.bool, device=device),
        cross_attention_mask=torch.ones(rows, images[0], dtype=torch.bool, device=device)
        if images
        else None,
        chosen=integers(rows, limit + 1),
        logprobs=torch.zeros(rows, limit + 1, device=device),
        statistics=torch.zeros(rows, limit + 1, len(TOKEN_STATISTICS), device=device),
        count=integers(rows),
        ended=torch.zeros(rows, dtype=torch.bool, device=device),
        ends=torch.tensor(ends, dtype=torch.int64, device=device),
        states=states,
        draws=make_draws(rows, limit, device) if sampled else None,
        members=torch.zeros(rows, length, len(ATTENDED), device=device) if divides else None,
        patches=torch.zeros(rows, images[0], len(PATCHES), device=device)
        if divides and images
        else None,
        image_lens=torch.zeros(rows, *tables, device=device) if tables else None,
        answer_tokens={
            layer: torch.zeros(rows, limit + 1, width, dtype=dtype, device=device)
            for layer, width in (answer_tokens or {}).items()
        },
    )


def shapes_of_a_row(
    layers: Sequence[tuple[Tensor, Tensor]], fixed: frozenset[int], length: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the shapes of both tensors of each layer in one slot.

    Args:
        layers: Keys and values of any prefill, or ``Recurrent`` states.
        fixed: Layers whose keys do not grow.
        length: Maximum number of tokens of a row.
    """

    def shape(index: int, part: Tensor) -> tuple[int, ...]:
        if index in fixed or isinstance(layers[index], Recurrent):
            return tuple(part.shape[1:])
        return part.shape[1], length, part.shape[3]

    return [(shape(i, keys), shape(i, values)) for i, (keys, values) in enumerate(layers)]


def bytes_of_a_row(
    layers: Sequence[tuple[Tensor, Tensor]], fixed: frozenset[int], length: int
) -> int:
    """Return the number of bytes that the keys and values of one slot take."""
    return sum(
        tensor.element_size() * math.prod(shape)
        for pair, shapes in zip(layers, shapes_of_a_row(layers, fixed, length), strict=True)
        for tensor, shape in zip(pair, shapes, strict=True)
    )


def rounded_up(length: int) -> int:
    """Return a length rounded up to a multiple of ``STEP_OF_LENGTH``.

    >>> rounded_up(65), rounded_up(128)
    (128, 128)
    """
    return -(-length // STEP_OF_LENGTH) * STEP_OF_LENGTH
