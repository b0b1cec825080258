"""The vision encoder's attention over padded tiles, without its mask.

Mllama splits an image into tiles of 1,601 patches, pads each to 1,608, and each image to four
tiles. Its mask prevents one thing only: padding does not attend to padding. Real patches do attend
to padding, and the released weights were trained with that. A dense mask rules out the fast
kernels: on an H200 1.00 ms per layer and image, compared with 0.56. But the same rows result from

    real patches  attending to everything, and
    padding       attending to the real patches,

neither of which needs a mask over the square. For an image of one tile that is also less than half
of the work.

The encoder's heads of 80 are computed by FlashAttention 4 if that is installed (``flash``): on an
H200 0.35 ms per layer and image, 0.55 with cuDNN, with the same error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vlmscope.model.attention.flash import attend
from vlmscope.model.attention.switch import attending_with
from vlmscope.model.computing import check_thread, undone_at_exit
from vlmscope.model.vlm import VisionLanguageModel

SPLIT = "vlmscope_split"
"""Name of ``split_attention`` in the library's registry."""


@contextmanager
def splitting_attention(vlm: VisionLanguageModel, inputs: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the vision encoder attend without its mask within the context.

    Changes nothing if the family's encoder has no such mask, or if attention is not ``sdpa``.

    Args:
        vlm: The model.
        inputs: The encoder's inputs, on the host: the number of used tiles per image determines
            how the work is split, and reading it from the device would wait for the device.
    """
    if not vlm.family.pads_tiles:
        yield
        return
    encoder: Any = vlm.vision_encoder
    mask = inputs["aspect_ratio_mask"]
    tiles = (mask.flatten(0, -2).sum(dim=1).tolist(), encoder.num_patches, mask.shape[-1])
    attentions = [module for module in encoder.modules() if hasattr(module, "q_proj")]

    def remove_tiles() -> None:
        for module in attentions:
            module.__dict__.pop(_TILES, None)

    with undone_at_exit(remove_tiles), attending_with(SPLIT, split_attention, encoder):
        for module in attentions:
            module.__dict__[_TILES] = tiles
        yield


_TILES = "_vlmscope_tiles"
"""Attribute of the encoder's attentions: used tiles of each image, patches per tile, maximum number
of tiles."""


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
    """Compute attention as with the mask, without using it.

    Args:
        module: The attention module that calls; ``splitting_attention`` has set its tiles.
        query: ``[images, heads, tiles × padded patches, width]``.
        key: Like ``query``.
        value: Like ``query``.
        attention_mask: The mask that is replaced.
        dropout: Passed on.
        scaling: Factor of the products.

    Returns:
        ``[images, tiles × padded patches, heads, width]``, and None for the attention weights.
    """
    check_thread()
    used, patches, tiles = module.__dict__[_TILES]
    if query.shape[2] == tiles * patches:  # no padding, and the library's mask has another meaning
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout, scaling
        )
    tile = query.shape[2] // tiles
    if set(used) == {tiles}:  # one call covers all images, so nothing is copied
        found = attend(query, key, value, scaling)
        _correct_padding(query, key, value, found, used=tiles, patches=patches, scale=scaling)
        return found.transpose(1, 2), None
    output = torch.empty_like(query.transpose(1, 2))
    for start, stop in _runs(used):
        share = slice(start, stop)
        _attend(
            query[share], key[share], value[share], output[share].transpose(1, 2),
            used=int(used[start]), patches=patches, tile=tile, scale=scaling,
        )  # fmt: skip
    return output, None


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
    """Write the attention of images that all use the same number of tiles to ``found``."""
    end = used * tile
    found[:, :, :end] = attend(query[:, :, :end], key, value, scale)
    _correct_padding(
        query[:, :, :end], key[:, :, :end], value[:, :, :end], found[:, :, :end],
        used=used, patches=patches, scale=scale,
    )  # fmt: skip
    if end < query.shape[2]:
        real = [_by_tile(part[:, :, :end], used)[:, :, :, :patches] for part in (key, value)]
        keys, values = (part.flatten(2, 3) for part in real)
        found[:, :, end:] = attend(query[:, :, end:], keys, values, scale)


def _correct_padding(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    found: Tensor,
    *,
    used: int,
    patches: int,
    scale: float | None,
) -> None:
    """Recompute the few padding rows between real ones, attending to the real keys only."""
    end = query.shape[2]
    real = torch.arange(end, device=query.device) % (end // used) < patches
    padding = _by_tile(query, used)[:, :, :, patches:].flatten(2, 3)
    mask = real.expand(len(query), 1, padding.shape[2], end)
    again = F.scaled_dot_product_attention(padding, key, value, mask, scale=scale)
    _by_tile(found, used)[:, :, :, patches:] = again.view(
        *again.shape[:2], used, -1, again.shape[3]
    )


def _by_tile(rows: Tensor, used: int) -> Tensor:
    """Return ``[images, heads, tiles × patches, width]`` with tiles as a dimension; a view."""
    return rows.view(*rows.shape[:2], used, -1, rows.shape[3])


def _runs(values: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of equal values.

    >>> list(_runs([4, 4, 1, 4]))
    [(0, 2), (2, 3), (3, 4)]
    """
    start = 0
    for i in range(1, len(values) + 1):
        if i == len(values) or values[i] != values[start]:
            yield start, i
            start = i
