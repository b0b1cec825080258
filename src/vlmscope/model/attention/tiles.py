"""The vision encoder's attention over padded tiles, without its mask.

Mllama splits an image into tiles of 1,601 patches, pads each to 1,608, and each image to four
tiles. Its mask prevents one thing only: padding does not attend to padding. Real patches do attend
to padding, and the released weights were trained with that. A dense mask rules out the fast
kernels: on an H200 1.00 ms per layer and image, compared with 0.56. But the same rows result from

    real patches  attending to everything, and
    padding       attending to the real patches,

neither of which needs a mask over the square. For an image of one tile that is also less than half
of the work.

The library's kernels support head widths of 64 and 128. Llama-3.2-Vision's encoder has 80, which
cuDNN computes as 128 and FlashAttention 4 as 80: on an H200 0.55 and 0.35 ms per layer and image,
with the same error. The package is optional (``pip install vlmscope[flash]``) and young, so torch
is used for everything that it does not support.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vlmscope.errors import one_line
from vlmscope.model.attention.switch import attending_with
from vlmscope.model.computing import check_thread, undone_at_exit
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.shown_once import warn

OLDEST_GPU = (9, 0)
"""Compute capability of the oldest GPU that FlashAttention 4 is used on: Hopper."""


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Attention without a mask, with the fastest kernel available.

    Args:
        query: ``[batch, heads, tokens, width]``.
        key: ``[batch, heads, length, width]``.
        value: Like ``key``.
        scale: Factor of the products.

    Returns:
        ``[batch, heads, tokens, width]``.
    """
    kernel = _kernel() if _is_supported(query) else None
    if kernel is None:
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    try:
        found: Any = kernel(
            *(part.transpose(1, 2) for part in (query, key, value)), softmax_scale=scale
        )
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):
            raise
        _kernel.cache_clear()
        _broken.append(one_line(error))
        warn(
            f"flash-attn-4 failed ({_broken[-1]}); torch's attention is used instead", stacklevel=2
        )
        return attend(query, key, value, scale)
    output: Tensor = found[0] if isinstance(found, tuple) else found
    return output.transpose(1, 2)


_broken: list[str] = []


def _is_supported(query: Tensor) -> bool:
    half = query.dtype in {torch.bfloat16, torch.float16}
    return query.is_cuda and half and torch.cuda.get_device_capability(query.device) >= OLDEST_GPU


@cache
def _kernel() -> Callable[..., Any] | None:
    """Return the package's function; None if it is not installed, or failed before."""
    if _broken:
        return None
    try:
        from flash_attn.cute import flash_attn_func
    except Exception:  # noqa: BLE001 - a young package, and torch is an alternative
        return None
    return flash_attn_func  # type: ignore[no-any-return]


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
