"""Rows keep what is theirs, however they come and go."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlmscope.engine.answer_states import AnswerStates
from vlmscope.engine.decoding.slots import Slots, bytes_of_a_row, make_slots
from vlmscope.signals import ATTENTION, PREVIOUS

ROWS, LENGTH, IMAGES, LIMIT = 7, 64, 12, 5
KEYS = [torch.zeros(1, 2, tokens, width) for tokens, width in ((9, 4), (IMAGES, 4), (9, 6))]
LAYERS = [(keys, keys[..., :3]) for keys in KEYS]


def empty_slots() -> Slots:
    """Return slots of three layers, of which the second is fixed, with states of answers."""
    states = AnswerStates([1], ROWS, LIMIT)
    for state in (("", 0), ("heads", 2), (ATTENTION, 2), (PREVIOUS, 2)):
        states.expect(state, 8, torch.device("cpu"))
    states.begin(torch.zeros(ROWS, dtype=torch.int64), 0)
    return make_slots(
        LAYERS,
        frozenset({1}),
        rows=ROWS,
        length=LENGTH,
        limit=LIMIT,
        dims=3,
        ends=[1],
        states=states,
        sampled=True,
        divides=True,
        tables=(2, 5),
    )


def mark(like: Tensor, name: int) -> Tensor:
    """Return what a row of that name has in a tensor: its number, or as many of its bits as go."""
    if like.dtype == torch.bool:
        return (torch.arange(like.numel()) + name).view(like.shape) % 3 == 0
    return torch.full_like(like, name)


def write(slots: Slots, place: int, name: int) -> None:
    for tensor in slots.tensors():
        tensor[place] = mark(tensor[place], name)


moves = st.lists(
    st.tuples(st.integers(0, 4), st.lists(st.integers(0, ROWS - 1), unique=True)), max_size=12
)
"""How many rows come in, and which of the slots are then released if they are in use."""


@given(moves)
@settings(max_examples=25, deadline=None)
def test_what_is_a_rows_goes_with_it(moves: Sequence[tuple[int, Sequence[int]]]) -> None:
    slots, names = empty_slots(), 0
    here: dict[int, int] = {}  # slot → name
    for coming, released in moves:
        for _ in range(min(coming, slots.rows - slots.active)):
            names += 1
            write(slots, slots.active, names)
            here[slots.active] = names
            slots.active += 1
        gone = [place for place in released if place < slots.active]
        moved = slots.release(gone)
        staying = {place: name for place, name in here.items() if place not in gone}
        for source, target in moved:
            assert target not in staying
            staying[target] = staying.pop(source)
        here = staying
        assert sorted(here) == list(range(slots.active))
        for place, name in here.items():
            for tensor in slots.tensors():
                assert torch.equal(tensor[place], mark(tensor[place], name))


def test_no_row_moves_that_need_not() -> None:
    slots = empty_slots()
    slots.active = 6
    assert slots.release([1, 5, 4]) == [(3, 1)]
    assert slots.active == 3
    assert slots.release([0, 1, 2]) == []
    assert slots.active == 0


def test_the_slots_have_room_for_what_goes_into_them() -> None:
    slots = empty_slots()
    assert (slots.rows, slots.length) == (ROWS, LENGTH)
    assert [keys.shape[2] for keys in slots.keys] == [LENGTH, IMAGES, LENGTH]
    assert [values.shape[3] for values in slots.values] == [3, 3, 3]
    assert slots.cross_attention_mask is not None
    assert slots.cross_attention_mask.shape == (ROWS, IMAGES)
    assert slots.chosen.shape[1] == LIMIT + 1  # the last is for rows that have ended
    held = [*slots.keys, *slots.values]
    assert bytes_of_a_row(LAYERS, frozenset({1}), LENGTH) * ROWS == sum(t.nbytes for t in held)


def test_without_fixed_layers_there_is_nothing_to_see_of_images() -> None:
    slots = make_slots(
        LAYERS, frozenset(), rows=2, length=LENGTH, limit=LIMIT, dims=1, ends=[1], states=None
    )
    assert slots.cross_attention_mask is None
    assert {keys.shape[2] for keys in slots.keys} == {LENGTH}
