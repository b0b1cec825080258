"""Slots: the rows that are being answered, in tensors of one size.

The first ``active`` slots are in use; a row that has ended gives its slot to the last one in use.
So a step always works on the beginning of every tensor, and costs what its rows cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vlmscope.engine.answer_states import AnswerStates
from vlmscope.engine.device import to_device

STEP_OF_LENGTH = 64
"""Lengths are rounded up to this, so that not every longer prompt needs new tensors."""


@dataclass(slots=True, eq=False)
class Slots:
    """Everything that a decoding step reads and changes. Made by ``make_slots``."""

    keys: list[Tensor]
    """For each layer ``[rows, heads, length, width]``."""
    values: list[Tensor]
    """Like ``keys``."""
    fixed: frozenset[int]
    """Layers whose keys no step adds to."""
    tokens: Int[Tensor, "rows one"]
    """The token that each row is fed next."""
    places: Int[Tensor, " rows"]
    """Where its keys go."""
    positions: Int[Tensor, "dims rows one"]
    """Its position as the decoder counts: one dimension, or several where images have rows."""
    seen: Bool[Tensor, "rows length"]
    """Which keys a row may see."""
    tiles: Bool[Tensor, "rows _images"] | None
    """Which keys of the fixed layers a row may see; None: there are no fixed layers."""
    chosen: Int[Tensor, "rows limit"]
    """The tokens chosen so far; the last column is for rows that have ended."""
    logprobs: Tensor
    """Their log-probabilities, like ``chosen``."""
    count: Int[Tensor, " rows"]
    """How many they are."""
    ended: Bool[Tensor, " rows"]
    """Whether a row has chosen its last token."""
    ends: Int[Tensor, " ends"]
    """The tokens that end an answer; the same for all rows."""
    states: AnswerStates | None
    """Hidden states of the answers' tokens, where they are wanted."""
    active: int = 0
    """Slots in use."""

    @property
    def rows(self) -> int:
        """How many rows there is room for."""
        return len(self.tokens)

    @property
    def length(self) -> int:
        """How many tokens a row can have."""
        return self.seen.shape[1]

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor, the rows leading."""
        yield from self.keys
        yield from self.values
        yield self.tokens
        yield self.places
        yield self.positions.transpose(0, 1)
        yield self.seen
        if self.tiles is not None:
            yield self.tiles
        yield from (self.chosen, self.logprobs, self.count, self.ended)
        if self.states is not None:
            yield from self.states.tensors()

    def release(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Give up some slots; return which rows were moved, from where and to where."""
        gone, last = set(rows), self.active
        self.active -= len(gone)
        holes = sorted(row for row in gone if row < self.active)
        left = [row for row in range(self.active, last) if row not in gone]
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
) -> Slots:
    """Return empty slots.

    Args:
        layers: Keys and values of any prefill, for their sizes, types and devices.
        fixed: Layers whose keys no step adds to.
        rows: How many rows there will be room for.
        length: How many tokens a row can have.
        limit: How many of them can be the answer's.
        dims: Dimensions of a position.
        states: Gathers hidden states of the answers.
        ends: The tokens that end an answer.

    Raises:
        torch.OutOfMemoryError: There is no room for so many.
    """

    def room(index: int, like: Tensor) -> Tensor:
        tokens = like.shape[2] if index in fixed else length
        return like.new_zeros(rows, like.shape[1], tokens, like.shape[3])

    device = layers[0][0].device
    whole = partial(torch.zeros, dtype=torch.int64, device=device)
    images = [layers[index][0].shape[2] for index in sorted(fixed)]
    return Slots(
        keys=[room(index, keys) for index, (keys, _) in enumerate(layers)],
        values=[room(index, values) for index, (_, values) in enumerate(layers)],
        fixed=fixed,
        tokens=whole(rows, 1),
        places=whole(rows),
        positions=whole(dims, rows, 1),
        seen=torch.ones(rows, length, dtype=torch.bool, device=device),
        tiles=torch.ones(rows, images[0], dtype=torch.bool, device=device) if images else None,
        chosen=whole(rows, limit + 1),
        logprobs=torch.zeros(rows, limit + 1, device=device),
        count=whole(rows),
        ended=torch.zeros(rows, dtype=torch.bool, device=device),
        ends=torch.tensor(ends, dtype=torch.int64, device=device),
        states=states,
    )


def bytes_of_a_row(
    layers: Sequence[tuple[Tensor, Tensor]], fixed: frozenset[int], length: int
) -> int:
    """Return how much memory the keys and values of one slot take."""
    return sum(
        tensor.element_size()
        * tensor.shape[1]
        * tensor.shape[3]
        * (tensor.shape[2] if index in fixed else length)
        for index, pair in enumerate(layers)
        for tensor in pair
    )


def rounded_up(length: int) -> int:
    """Return a length that a few longer prompts fit in too.

    >>> rounded_up(65), rounded_up(128)
    (128, 128)
    """
    return -(-length // STEP_OF_LENGTH) * STEP_OF_LENGTH
