"""The attention of a vision encoder over tiles, in calls of a few sizes.

From Hopper on, torch attends with cuDNN's kernels, the fastest for encoders: 1.4 to 1.7 times as
fast as FlashAttention 2. They are planned for each shape, in 45 to 70 ms on an H200, and images of
other sizes become another number of tiles in almost every batch. Tiles do not attend to each other.
So attention is computed for 64 tiles at a time, and at the end for a power of two of them, some of
which were computed before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vlmscope.model.attention.switch import attending_with, is_frequent
from vlmscope.model.computing import HALF, HOPPER, check_thread

IN_PIECES = "vlmscope_pieces"
"""Name of ``attention_in_pieces`` in the library's registry."""

LARGEST = 64
"""Tiles of one call: enough to keep a GPU busy."""


@contextmanager
def attending_in_pieces(configs: list[Any]) -> Iterator[None]:
    """Let encoders attend in pieces within the context.

    Args:
        configs: Their configurations; only those whose attention is ``sdpa`` are changed.
    """
    with attending_with(IN_PIECES, attention_in_pieces, configs):
        yield


def attention_in_pieces(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend with the library's ``sdpa``, a few tiles at a time where that saves plans.

    Args:
        module: The attention module that calls this function.
        query: ``[tiles, heads, tokens, width]``.
        key: ``[tiles, key heads, length, width]``.
        value: Like ``key``.
        attention_mask: ``[tiles or 1, heads or 1, tokens, length]``; None for no mask.
        dropout: Passed on.
        scaling: Factor of the products; by default one over the square root of the width.
        options: Passed on.

    Returns:
        ``[tiles, tokens, heads, width]``, and None for the attention weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if not torch.compiler.is_compiling():
        check_thread()
    rows = len(query)
    masked = attention_mask is not None and len(attention_mask) == rows
    whole = (
        not _is_planned(query)
        or options.get("position_bias") is not None
        or not len(key) == len(value) == rows
        or (attention_mask is not None and not masked and len(attention_mask) != 1)
        or list(pieces(rows)) == [slice(0, rows)]
        or is_frequent(query, key)
    )
    if whole:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
    found = query.new_empty(rows, query.shape[2], query.shape[1], value.shape[3])
    for part in pieces(rows):
        mask = attention_mask[part] if masked and attention_mask is not None else attention_mask
        found[part], _ = sdpa_attention_forward(
            module, query[part], key[part], value[part], mask, dropout, scaling, **options
        )
    return found, None


def _is_planned(query: Tensor) -> bool:
    """Return whether torch may attend with kernels that are planned for each shape."""
    if not query.is_cuda or query.dtype not in HALF or torch.compiler.is_compiling():
        return False
    return torch.cuda.get_device_capability(query.device) >= HOPPER


def pieces(rows: int) -> Iterator[slice]:
    """Yield slices that cover all rows: of ``LARGEST`` rows, or of a power of two below.

    The last two may overlap.

    >>> [(piece.start, piece.stop) for piece in pieces(150)]
    [(0, 64), (64, 128), (118, 150)]
    >>> [(piece.start, piece.stop) for piece in pieces(13)], list(pieces(0))
    ([(0, 8), (5, 13)], [])
    """
    size = LARGEST
    while size > max(rows, 1):
        size //= 2
    start = 0
    while rows - start >= size:
        yield slice(start, start + size)
        start += size
    if rest := rows - start:
        yield slice(rows - (1 << (rest - 1).bit_length()), rows)
