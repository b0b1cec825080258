"""The cache of fixed size against the library's that grows, row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    StaticLayer,
)

from vlmscope.model.attention.kv_cache import (
    FixedLayer,
    RowLayer,
    cache_over,
    keeping_first_states,
    keys_and_values,
)

AGES = (5, 2, 9)
"""Tokens that each row has at first."""
ROWS, HEADS, LENGTH, KEY_WIDTH, VALUE_WIDTH = len(AGES), 2, 14, 6, 4
LAYERS, STEPS = 2, 4


def states(tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return keys and values of so many new tokens a row."""
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.randn(ROWS, HEADS, tokens, KEY_WIDTH, generator=rng),
        torch.randn(ROWS, HEADS, tokens, VALUE_WIDTH, generator=rng),
    )


def test_rows_of_any_age_hold_what_the_librarys_cache_holds_of_each() -> None:
    places = torch.tensor(AGES)
    grown = [DynamicCache() for _ in AGES]
    room = []
    for layer in range(LAYERS):
        keys = torch.full((ROWS, HEADS, LENGTH, KEY_WIDTH), torch.nan)
        values = torch.full((ROWS, HEADS, LENGTH, VALUE_WIDTH), torch.nan)
        first = states(max(AGES), layer)
        for row, age in enumerate(AGES):
            own = [part[row : row + 1, :, :age] for part in first]
            grown[row].update(*own, layer)
            keys[row, :, :age], values[row, :, :age] = own[0][0], own[1][0]
        room.append((keys, values))
    cache = cache_over([RowLayer(*pair, places) for pair in room])
    for step in range(STEPS):
        for layer in range(LAYERS):
            new = states(1, 100 * step + layer)
            found = cache.update(*new, layer)
            for row, age in enumerate(AGES):
                expected = grown[row].update(*(part[row : row + 1] for part in new), layer)
                for mine, theirs in zip(found, expected, strict=True):
                    assert torch.equal(mine[row, :, : age + step + 1], theirs[0])
                    assert mine[row, :, age + step + 1 :].isnan().all()
        places += 1  # in place: the layers look at the tensor that the step moves on


def test_it_tells_the_library_its_whole_length() -> None:
    """What may be seen is said by the two-dimensional mask, and nothing is ahead of the query."""
    layer = RowLayer(*(torch.zeros(ROWS, HEADS, LENGTH, 3) for _ in "kv"), torch.tensor(AGES))
    cache = cache_over([layer])
    assert cache.get_seq_length() == LENGTH - 1
    assert cache.get_mask_sizes(1, 0) == (LENGTH, 0)
    assert cache.get_mask_sizes(torch.zeros(1).shape[0], 0) == (LENGTH, 0)


def test_the_images_keys_are_never_written() -> None:
    pair = [torch.zeros(ROWS, HEADS, LENGTH, KEY_WIDTH) for _ in "kv"]
    cache = cache_over([FixedLayer(pair[0], pair[1], torch.tensor(AGES))])
    with pytest.raises(RuntimeError, match="image again"):
        cache.update(*states(1, 0), 0)
    assert not pair[0].any()


def filled(layer: DynamicLayer, tokens: int = 7) -> DynamicLayer:
    layer.update(*states(tokens, 1))
    return layer


def test_what_a_prefill_left_is_found() -> None:
    cache = Cache(layers=[filled(DynamicLayer()), filled(DynamicSlidingWindowLayer(20))])
    found = keys_and_values(cache, 20)
    assert found is not None
    for pair, layer in zip(found, cache.layers, strict=True):
        assert pair[0] is layer.keys
        assert pair[1] is layer.values


class OddLayer(DynamicLayer):
    """A layer that behaves in a way that we do not know: quantised ones are made like this."""


@pytest.mark.parametrize(
    "layer",
    [
        filled(OddLayer()),
        StaticLayer(32),
        filled(DynamicSlidingWindowLayer(19)),
        DynamicLayer(),
        DynamicSlidingWindowLayer(20),
        filled(DynamicLayer(), 0),
    ],
    ids=["unknown", "static", "short window", "untouched", "untouched window", "empty"],
)
def test_a_cache_that_steps_cannot_go_on_from_is_refused(layer: DynamicLayer) -> None:
    assert keys_and_values(Cache(layers=[filled(DynamicLayer()), layer]), 20) is None


@pytest.mark.parametrize("cache", [None, Cache(layers=[])], ids=["no cache", "no layers"])
def test_where_there_is_no_cache_there_is_nothing(cache: Cache | None) -> None:
    assert keys_and_values(cache, 20) is None


def test_the_states_of_a_prompt_are_kept_without_a_copy() -> None:
    keys, values = torch.randn(2, 5, 3, 4).transpose(1, 2), torch.randn(2, 3, 5, 4)
    more = torch.randn(2, 3, 1, 4)
    plain, layer = DynamicLayer(), DynamicLayer()
    plain.update(keys, values)
    with keeping_first_states():
        assert layer.update(keys, values)[0] is keys
        layer.update(more, more)
    assert DynamicLayer().update(keys, values)[0] is not keys
    plain.update(more, more)
    assert layer.get_seq_length() == 6
    assert torch.equal(layer.keys, plain.keys)
    assert torch.equal(layer.values, plain.values)


def test_a_part_of_a_tensor_is_copied() -> None:
    """Keys, values and queries of one projection: kept, they would keep the queries too."""
    keys, values, _ = torch.randn(2, 3, 5, 12).split(4, dim=-1)
    layer = DynamicLayer()
    with keeping_first_states():
        layer.update(keys, values)
    assert layer.keys.untyped_storage().nbytes() == keys.numel() * keys.element_size()
