"""FlashAttention 4, where it is installed: attention without a mask, a third faster on Hopper.

The library's kernels know heads of 64 and 128 numbers. Llama-3.2-Vision's encoder has 80, which
cuDNN computes as 128 and FlashAttention 4 as 80: on an H200 0.35 against 0.55 ms a layer and
picture, with the same error. The package is optional (``pip install vlmscope[flash]``) and young,
so whatever it cannot do is left to torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vlmscope.errors import one_line
from vlmscope.said_once import warn

OLDEST_GPU = (9, 0)
"""Compute capability of the first GPU that it is used on: Hopper."""


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Attend from everything to everything, with the fastest kernel there is.

    Args:
        query: ``[batch, heads, tokens, width]``.
        key: ``[batch, heads, length, width]``.
        value: Like ``key``.
        scale: Factor of the products.

    Returns:
        ``[batch, heads, tokens, width]``.
    """
    kernel = _kernel() if _is_for_it(query) else None
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
            f"flash-attn-4 failed ({_broken[-1]}); torch's attention takes its place", stacklevel=2
        )
        return attend(query, key, value, scale)
    whole: Tensor = found[0] if isinstance(found, tuple) else found
    return whole.transpose(1, 2)


_broken: list[str] = []


def _is_for_it(query: Tensor) -> bool:
    half = query.dtype in {torch.bfloat16, torch.float16}
    return query.is_cuda and half and torch.cuda.get_device_capability(query.device) >= OLDEST_GPU


@cache
def _kernel() -> Callable[..., Any] | None:
    """Return the package's function; None where it is not installed, or failed before."""
    if _broken:
        return None
    try:
        from flash_attn.cute import flash_attn_func
    except Exception:  # noqa: BLE001 - a young package: torch can do it too
        return None
    return flash_attn_func  # type: ignore[no-any-return]
