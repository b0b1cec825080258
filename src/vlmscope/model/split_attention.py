"""The vision encoder's attention without its mask: the same result from two unmasked problems.

Mllama lays a picture out as tiles of 1,601 patches, fills each up to 1,608, and each picture up to
four tiles. Its mask forbids one thing only: what fills up does not attend to what fills up. Real
patches do attend to padding, and the released weights were trained so. A dense mask keeps the fast
kernels away: on an H200 1.00 ms a layer and picture against 0.56. But the same rows come from

    real patches  attending to everything, and
    padding       attending to the real patches,

neither of which needs a mask over the square. For a picture of one tile that is also less than half
of the work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vlmscope.model.attention import attending_with
from vlmscope.model.flash import attend
from vlmscope.model.vlm import VisionLanguageModel

SPLIT = "vlmscope_split"
"""Name of ``split_attention`` in the library's registry."""


@contextmanager
def exact_split(vlm: VisionLanguageModel, inputs: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the vision encoder attend without its mask while the ``with`` block runs.

    Changes nothing where the family's encoder has no such mask, or where attention is not ``sdpa``.

    Args:
        vlm: The model.
        inputs: What the encoder will be called with, on the host: how many tiles of each picture
            are used decides how the work is split, and a look at the device would wait for it.
    """
    if not vlm.family.fills_up_tiles:
        yield
        return
    encoder: Any = vlm.vision_encoder
    mask = inputs["aspect_ratio_mask"]
    tiles = (mask.flatten(0, -2).sum(dim=1).tolist(), encoder.num_patches, mask.shape[-1])
    attentions = [module for module in encoder.modules() if hasattr(module, "q_proj")]
    for module in attentions:
        module.__dict__[_TILES] = tiles
    try:
        with attending_with(SPLIT, split_attention, encoder):
            yield
    finally:
        for module in attentions:
            del module.__dict__[_TILES]


_TILES = "_vlmscope_tiles"
"""Attribute of the encoder's attentions: tiles of each picture that are used, patches of one, tiles
that there can be."""


def split_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as the mask says, without looking at it.

    Args:
        module: The attention that calls; ``exact_split`` has told it the tiles.
        query: ``[pictures, heads, tiles × filled-up patches, width]``.
        key: Like ``query``.
        value: Like ``query``.
        attention_mask: What is replaced.
        dropout: Passed on.
        scaling: Factor of the products.

    Returns:
        ``[pictures, tiles × filled-up patches, heads, width]``, and no weights.
    """
    used, patches, tiles = module.__dict__[_TILES]
    if query.shape[2] == tiles * patches:  # nothing fills up, and the library's mask means another
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout, scaling
        )
    found = torch.empty_like(query.transpose(1, 2))
    for start, stop in _runs(used):
        share = slice(start, stop)
        _attend(
            query[share], key[share], value[share], found[share].transpose(1, 2),
            used=int(used[start]), patches=patches, tile=query.shape[2] // tiles, scale=scaling,
        )  # fmt: skip
    return found, None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    found: Tensor,
    *,
    used: int,
    patches: int,
    tile: int,
    scale: float | None,
) -> None:
    """Fill ``found`` for pictures that all use as many tiles."""
    end = used * tile

    def by_tile(rows: Tensor) -> Tensor:
        return rows[:, :, :end].view(len(rows), rows.shape[1], used, tile, -1)

    found[:, :, :end] = attend(query[:, :, :end], key, value, scale)
    # The few padding rows between real ones came out wrong: once more, real keys only.
    real = torch.arange(end, device=query.device) % tile < patches
    filler = by_tile(query)[:, :, :, patches:].flatten(2, 3)
    mask = real.expand(len(query), 1, filler.shape[2], end)
    again = F.scaled_dot_product_attention(
        filler, key[:, :, :end], value[:, :, :end], mask, scale=scale
    )
    by_tile(found)[:, :, :, patches:] = again.view(*again.shape[:2], used, -1, again.shape[3])
    if end < query.shape[2]:
        keys, values = (by_tile(part)[:, :, :, :patches].flatten(2, 3) for part in (key, value))
        found[:, :, end:] = attend(query[:, :, end:], keys, values, scale)


def _runs(values: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the stretches of equal values.

    >>> list(_runs([4, 4, 1, 4]))
    [(0, 2), (2, 3), (3, 4)]
    """
    start = 0
    for i in range(1, len(values) + 1):
        if i == len(values) or values[i] != values[start]:
            yield start, i
            start = i
