"""FlashAttention 4 for attention without a mask, where torch computes wider heads than there are.

torch's kernels are made for heads of 64 and 128. SigLIP has heads of 72 and Llama-3.2-Vision's
encoder of 80, which cuDNN computes as 128; FlashAttention 4 computes both as 80. The package is
optional (``pip install vlmscope[flash]``) and young, so torch is used for everything that it does
not support and after it has failed, and its first result for every width is compared with torch's.

    ``tiles``                     calls ``attend``, for Llama-3.2-Vision
    ``attending_at_own_width``    lets every other vision encoder do so, in a session of many rows

Many rows, because the first call in a process compiles the kernel, in 6 to 12 s. The library passes
no mask to an encoder if no patch is padding; with a mask, and in the decoder, nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vlmscope.errors import one_line
from vlmscope.model.attention.packed import packing_configurations
from vlmscope.model.attention.pieces import attention_in_pieces
from vlmscope.model.attention.switch import SPECIAL_OPTIONS, attending_with, configurations
from vlmscope.model.computing import HALF, HOPPER, check_thread
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.shown_once import warn

OWN_WIDTH = "vlmscope_own_width"
"""Name of ``own_width_attention`` in the library's registry. With "flash" in it, the library would
pass bounds of packed images instead of calling it for each image."""

ROWS_FOR_KERNEL = 3000
"""Rows from which the kernel takes less time than it saves: 6 to 12 s to compile it the first time,
against 1 to 3 ms per row."""

TOLERANCE = 2e-2
"""Relative difference from torch's result above which a kernel is wrong. Both round to bfloat16,
which makes a difference of 2e-3."""


@contextmanager
def attending_at_own_width(vlm: VisionLanguageModel) -> Iterator[None]:
    """Let the vision encoder attend with FlashAttention 4, where that pays, within the context.

    Changes nothing if the model is not on a GPU in half precision, if attention is not ``sdpa``, or
    if it is replaced for a prefill by ``packed`` or ``tiles``; see ``own_width_attention`` for the
    calls that pay.
    """
    with attending_with(OWN_WIDTH, own_width_attention, configurations_of_encoder(vlm)):
        yield


def configurations_of_encoder(vlm: VisionLanguageModel) -> list[Any]:
    """Return the configurations of the vision encoder that nothing else changes or uses.

    None if the model is not on a GPU in half precision, or if its tiles are padded. One that
    contains others is left out too: to set it would set them.
    """
    if not _may_support(vlm) or vlm.family.pads_tiles:
        return []
    others = configurations(vlm.decoder)
    if vlm.family.packs_images:
        others += packing_configurations(vlm.vision_tower)
    taken = {id(config) for config in others}
    return [
        config
        for config in configurations(vlm.vision_tower)
        if id(config) not in taken and not _has_parts(config)
    ]


def worth_own_width(vlm: VisionLanguageModel, rows: int) -> bool:
    """Return whether compiling the kernel pays for the encoder of a run of so many rows."""
    plain = not vlm.quantization and not vlm.adapter
    return rows >= ROWS_FOR_KERNEL and len(vlm.cuda_devices) == 1 and vlm.dtype in HALF and plain


def _may_support(vlm: VisionLanguageModel) -> bool:
    return bool(vlm.cuda_devices) and vlm.dtype in HALF


def _has_parts(config: Any) -> bool:
    names = getattr(config, "sub_configs", ())
    return any(getattr(config, name, None) is not None for name in names)


def own_width_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend with FlashAttention 4 if nothing is masked and torch would pad the heads.

    Args:
        module: The attention module that calls this function.
        query: ``[batch, heads, tokens, width]``.
        key: Like ``query``.
        value: Like ``query``.
        attention_mask: If there is one, the library's ``sdpa`` is called.
        dropout: Likewise.
        scaling: Factor of the products; by default one over the square root of the width.
        options: Passed to the library's ``sdpa``, if that is called.

    Returns:
        ``[batch, tokens, heads, width]``, and None for the attention weights.
    """
    compiling = torch.compiler.is_compiling()
    if not compiling:
        check_thread()
    if (
        compiling
        or attention_mask is not None
        or dropout
        or _is_special(module, options)
        or not query.shape == key.shape == value.shape
        or not _is_padded_by_torch(query.shape[-1])
        or not _can_use_kernel(query)
    ):
        return attention_in_pieces(
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
    return attend(query, key, value, scaling).transpose(1, 2).contiguous(), None


def _is_special(module: nn.Module, options: Mapping[str, Any]) -> bool:
    """Return whether a call is causal, or has an option that changes what is computed."""
    causal = options.get("is_causal")
    if causal is None:
        causal = getattr(module, "is_causal", True)
    return (
        bool(causal)
        or bool(options.get("output_attentions"))
        or any(options.get(name) is not None for name in SPECIAL_OPTIONS)
    )


def _is_padded_by_torch(width: int) -> bool:
    """Return whether torch computes a wider head than one of this width.

    >>> [width for width in range(64, 136, 4) if _is_padded_by_torch(width)]
    [72, 80, 88, 96, 104, 112, 120]
    """
    return width % 8 == 0 and 8 < width < 256 and width & (width - 1) != 0


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Attention without a mask, with the fastest kernel available.

    Args:
        query: ``[batch, heads, tokens, width]``.
        key: ``[batch, heads, length, width]``.
        value: Like ``key``.
        scale: Factor of the products; by default one over the square root of the width.

    Returns:
        ``[batch, heads, tokens, width]``.
    """
    found = _by_kernel(query, key, value, scale) if _can_use_kernel(query) else None
    if found is None:
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    return found


def _by_kernel(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor | None:
    """Return what ``attend`` returns; None if the kernel failed, which is then not used again."""
    kernel: Any = _load_kernel()
    try:
        found = kernel(*(part.transpose(1, 2) for part in (query, key, value)), softmax_scale=scale)
        output: Tensor = (found[0] if isinstance(found, tuple) else found).transpose(1, 2)
        _compare_once(output, query, key, value, scale)
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):
            raise
        _broken.append(one_line(error))
        warn(
            f"flash-attn-4 failed ({_broken[-1]}); torch's attention is used instead", stacklevel=2
        )
        return None
    return output


def _compare_once(
    found: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float | None
) -> None:
    """Compare the kernel's first result for a width and a type with torch's, for one image.

    The host waits for the device here, once in a process.

    Raises:
        ValueError: It is another.
    """
    kind = (query.shape[-1], query.dtype)
    if kind in _compared:
        return
    expected = F.scaled_dot_product_attention(query[:1], key[:1], value[:1], scale=scale).float()
    error, size = (found[:1].float() - expected).norm().item(), expected.norm().item()
    if size != size or size == float("inf"):  # NaN or infinity in the model: nothing to compare
        return
    if not error <= TOLERANCE * size:
        raise ValueError(
            f"its result for heads of {kind[0]} differs from torch's by {error / (size or 1.0):.1e}"
        )
    _compared.add(kind)


_compared: set[tuple[int, torch.dtype]] = set()
"""Widths and types whose first result was torch's."""

_broken: list[str] = []
"""The kernel's error, if it has failed."""


def _can_use_kernel(query: Tensor) -> bool:
    """Return whether the kernel is installed, has not failed, and supports a tensor."""
    return not _broken and _is_supported(query) and _load_kernel() is not None


def _is_supported(query: Tensor) -> bool:
    """Return whether the kernel supports a tensor's device, type and width.

    It runs on the current device, and counts elements with 32 bits.
    """
    if not query.is_cuda or query.dtype not in HALF:
        return False
    capability, width = torch.cuda.get_device_capability(query.device), query.shape[-1]
    return (
        capability >= HOPPER
        and query.device.index == torch.cuda.current_device()
        and query.numel() < 2**31
        and width % 8 == 0
        and width <= (256 if capability[0] == HOPPER[0] else 128)
    )


@cache
def _load_kernel() -> Callable[..., Any] | None:
    """Return the package's function; None if it cannot be imported."""
    try:
        from flash_attn.cute import flash_attn_func
    except Exception:  # noqa: BLE001 - a young package, and torch is an alternative
        return None
    return flash_attn_func  # type: ignore[no-any-return]
