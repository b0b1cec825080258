"""How much disk a row takes: for the plan that is shown before a run starts."""

from __future__ import annotations

from vlmscope.store.manifest import StoreDtype

_PER_ROW = 10_400
"""Bytes of a row without vectors: strings, token lists, attributes, index. Measured."""

_PER_VECTOR = 475
"""Bytes of one vector's window in the row group. Measured."""


def bytes_per_row(
    *,
    vision_size: int,
    hidden_size: int,
    num_layers_captured: int,
    num_positions: int,
    store_dtype: StoreDtype = "float32",
) -> int:
    """Return about how many bytes a packed row takes.

    >>> seed = dict(vision_size=7680, hidden_size=4096, num_layers_captured=5, num_positions=2)
    >>> bytes_per_row(**seed), bytes_per_row(**seed, store_dtype="float16")
    (210185, 112905)
    """
    vectors = 1 + num_layers_captured * num_positions
    values = vision_size + hidden_size * num_layers_captured * num_positions
    width = 2 if store_dtype == "float16" else 4
    return values * width + vectors * _PER_VECTOR + _PER_ROW
