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
from vlmscope.model.changes import undoing
from vlmscope.model.computing import check_thread
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

    def forget() -> None:
        for module in attentions:
            module.__dict__.pop(_TILES, None)

    with undoing(forget), attending_with(SPLIT, split_attention, encoder):
        for module in attentions:
            module.__dict__[_TILES] = tiles
        yield


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
    check_thread()
    used, patches, tiles = module.__dict__[_TILES]
    if query.shape[2] == tiles * patches:  # nothing fills up, and the library's mask means another
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout, scaling
        )
    tile = query.shape[2] // tiles
    if set(used) == {tiles}:  # nothing to put together, so nothing is copied
        found = attend(query, key, value, scaling)
        _mend(query, key, value, found, used=tiles, patches=patches, scale=scaling)
        return found.transpose(1, 2), None
    whole = torch.empty_like(query.transpose(1, 2))
    for start, stop in _runs(used):
        share = slice(start, stop)
        _attend(
            query[share], key[share], value[share], whole[share].transpose(1, 2),
            used=int(used[start]), patches=patches, tile=tile, scale=scaling,
        )  # fmt: skip
    return whole, None


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
    found[:, :, :end] = attend(query[:, :, :end], key, value, scale)
    _mend(
        query[:, :, :end], key[:, :, :end], value[:, :, :end], found[:, :, :end],
        used=used, patches=patches, scale=scale,
    )  # fmt: skip
    if end < query.shape[2]:
        real = [_by_tile(part[:, :, :end], used)[:, :, :, :patches] for part in (key, value)]
        keys, values = (part.flatten(2, 3) for part in real)
        found[:, :, end:] = attend(query[:, :, end:], keys, values, scale)


def _mend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    found: Tensor,
    *,
    used: int,
    patches: int,
    scale: float | None,
) -> None:
    """Attend once more for the few padding rows between real ones, to the real keys only."""
    end = query.shape[2]
    real = torch.arange(end, device=query.device) % (end // used) < patches
    filler = _by_tile(query, used)[:, :, :, patches:].flatten(2, 3)
    mask = real.expand(len(query), 1, filler.shape[2], end)
    again = F.scaled_dot_product_attention(filler, key, value, mask, scale=scale)
    _by_tile(found, used)[:, :, :, patches:] = again.view(
        *again.shape[:2], used, -1, again.shape[3]
    )


def _by_tile(rows: Tensor, used: int) -> Tensor:
    """Return ``[pictures, heads, tiles × patches, width]`` with the tiles apart; a view."""
    return rows.view(*rows.shape[:2], used, -1, rows.shape[3])


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
