"""Replace a model's attention implementation temporarily.

The library looks up a configuration's attention by name at every call, in a public registry. So a
faster implementation needs no change of a model's code: it is registered under its own name, set in
the configurations of one part of the model for the duration of a call, and reset, so that
``reference.py`` always runs the model as it was loaded. The model lock is held meanwhile
(``computing``); a thread that calls the model without it gets an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlmscope.model.computing import check_thread, undone_at_exit

GROUPED = "vlmscope_grouped"
"""Name of ``grouped_attention`` in the registry."""

SPECIAL_OPTIONS = ("position_bias", "softcap", "cache")
"""Options that change what ``sdpa`` computes, or that it does not support."""

WIDE_HEAD = 128
"""Width of a head beyond which torch's choice of a kernel for a step is not the fastest."""

OFTEN = 3000
"""Calls after which a plan for a shape pays: about 100 batches. After 10 batches of Gemma 3, a plan
took 1.9 s, and its kernel was the slower one."""

_FOR_ANY_SHAPE = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.MATH,
]
"""torch's kernels, those first that need no preparation for a shape."""

_calls: Counter[tuple[Any, ...]] = Counter()
"""Shapes of attentions over prompts and images, and how often each one was computed."""

MOST_SHAPES = 4096
"""Most shapes counted; of more, those seen least are forgotten."""


@contextmanager
def attending_with(
    name: str, function: Callable[..., tuple[Tensor, None]], part: nn.Module | Sequence[Any]
) -> Iterator[None]:
    """Use another implementation for every attention of a part of the model, within the context.

    Args:
        name: The name in the library's registry.
        function: The implementation.
        part: The module, or its ``configurations``; only those whose attention currently is
            ``sdpa`` are changed, which all implementations here replace.
    """
    register(name, function)
    with _replacing_sdpa(name, part):
        yield


@contextmanager
def attending_eagerly(part: nn.Module) -> Iterator[None]:
    """Use the library's eager attention instead of ``sdpa`` within the context.

    Args:
        part: The module. Not a complete model: its configuration would set that of its parts.
    """
    with _replacing_sdpa("eager", part):
        yield


@contextmanager
def _replacing_sdpa(name: str, part: nn.Module | Sequence[Any]) -> Iterator[None]:
    configs = configurations(part) if isinstance(part, nn.Module) else part
    changed: list[Any] = [
        config for config in configs if getattr(config, "_attn_implementation", None) == "sdpa"
    ]

    def restore() -> None:
        for config in changed:
            config._attn_implementation = "sdpa"

    with undone_at_exit(restore):
        for config in changed:
            config._attn_implementation = name
        yield


def configurations(part: nn.Module) -> list[Any]:
    """Return the configurations of all modules in a part of the model, without duplicates."""
    found = {
        id(module.config): module.config for module in part.modules() if hasattr(module, "config")
    }
    return list(found.values())


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention from few query tokens to many keys, without a copy of the keys for every head.

    Heads that share keys and values are laid out as if they were tokens, which is possible if the
    mask is the same for all heads: the products are the same. The library's ``sdpa`` repeats keys
    and values for every head if there is a mask: 34 GB for a prefill of 32 rows with images.

    Args:
        module: The attention module that calls this function.
        query: ``[batch, heads, tokens, width]``.
        key: ``[batch, key heads, length, width]``.
        value: Like ``key``.
        attention_mask: ``[batch, 1, tokens, length]``, boolean or additive; None for no mask.
        dropout: Passed on.
        scaling: Factor of the products; by default one over the square root of the width.
        options: Passed to the library's ``sdpa`` if there are more tokens.

    Returns:
        ``[batch, tokens, heads, width]``, and None for the attention weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    check_thread()
    batch, heads, tokens, _ = query.shape
    groups = heads // key.shape[1]
    attention_mask = effective_mask(module, attention_mask, batch)
    shared = attention_mask is None or attention_mask.shape[1] == 1
    few = tokens == 1 or (attention_mask is not None and tokens * groups <= key.shape[2])
    if not (few and shared) or options.get("position_bias") is not None:
        with kernels_for_prompts(query, key):
            return sdpa_attention_forward(  # type: ignore[no-any-return]
                module, query, key, value, attention_mask, dropout, scaling, **options
            )
    grouped = query.reshape(batch, key.shape[1], groups * tokens, -1)
    if attention_mask is not None and tokens > 1:
        attention_mask = attention_mask.expand(-1, -1, tokens, -1).repeat(1, 1, groups, 1)
    with _kernels_of_step(query) if tokens == 1 else kernels_for_prompts(query, key):
        found = F.scaled_dot_product_attention(
            grouped, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
        )
    return found.reshape(batch, heads, tokens, -1).transpose(1, 2).contiguous(), None


def _kernels_of_step(query: Tensor) -> AbstractContextManager[None]:
    """Return a context in which the fastest kernel for a decoding step is chosen.

    For heads wider than 128 (Gemma), torch prefers cuDNN's, which computes a tile of 64 queries for
    each one: 0.32 ms per layer for 192 rows on an H200, the memory-efficient kernel 0.17.
    """
    if not query.is_cuda or query.shape[-1] <= WIDE_HEAD:
        return nullcontext()
    return sdpa_kernel(_FOR_ANY_SHAPE, set_priority=True)


def kernels_for_prompts(query: Tensor, key: Tensor) -> AbstractContextManager[None]:
    """Return a context in which the fastest kernel for prompts of these shapes is chosen.

    torch prefers cuDNN's kernels, which are planned for each shape: 45 to 70 ms on an H200, and up
    to 2 s for the first of a kind, where the kernel takes a few hundredths of a millisecond less
    per layer. Prompts of other questions have another shape in almost every batch. So cuDNN is used
    for shapes that occur often.

    Args:
        query: ``[batch, heads, tokens, width]``.
        key: ``[batch, key heads, length, width]``.
    """
    if not query.is_cuda or torch.compiler.is_compiling() or is_frequent(query, key):
        return nullcontext()
    return sdpa_kernel(_FOR_ANY_SHAPE, set_priority=True)


def is_frequent(query: Tensor, key: Tensor) -> bool:
    """Return whether a plan for an attention of these shapes pays; count this call of it."""
    shape = (query.device, query.dtype, *query.shape, *key.shape)
    _calls[shape] += 1
    if len(_calls) > MOST_SHAPES:
        for rare, _ in _calls.most_common()[MOST_SHAPES // 2 :]:
            del _calls[rare]
    return _calls[shape] > OFTEN


def effective_mask(module: nn.Module, mask: Tensor | None, rows: int) -> Tensor | None:
    """Return the mask that an attention uses: that of ``masking_keys``, or else its own.

    Args:
        module: The attention module.
        mask: The mask that it is given.
        rows: Number of rows of this call.
    """
    if _KEY_MASK in module.__dict__:
        return module.__dict__[_KEY_MASK][:rows, None, None]  # type: ignore[no-any-return]
    return mask


def register(name: str, function: Callable[..., tuple[Tensor, None]]) -> None:
    """Register an implementation in the library, with the masks of ``sdpa``."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(name, function)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, sdpa_mask)


@contextmanager
def masking_keys(parts: Iterable[nn.Module], mask: Tensor) -> Iterator[None]:
    """Restrict some attentions of the model to some keys, whatever mask they are given.

    For keys that are the same at every step, creating the mask at every step would be wasteful.

    Args:
        parts: The modules.
        mask: ``[rows, length]``, boolean; a call uses as many rows as it has, from the first.
    """
    modules = [module for part in parts for module in part.modules() if hasattr(module, "q_proj")]

    def remove_masks() -> None:
        for module in modules:
            module.__dict__.pop(_KEY_MASK, None)

    with undone_at_exit(remove_masks):
        for module in modules:
            module.__dict__[_KEY_MASK] = mask
        yield


_KEY_MASK = "_vlmscope_key_mask"
"""Attribute of an attention module: the mask of the keys to attend to."""
