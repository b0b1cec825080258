"""The vision encoder's attention over packed images: one call per layer, not one per window.

Encoders that take images of any size concatenate all patches of a batch into one row and attend
within windows of it (a complete image, or a part of one), whose bounds they call ``cu_seqlens``.
With ``sdpa`` the library splits the row at the bounds and attends window by window: 27,008 launches
for 32 images of Qwen2.5-VL, so that the GPU waits for Python. Pixtral's encoder instead builds a
mask over the square of the complete row. The library passes the bounds only to an attention whose
*name* contains "flash", so ours is named that way:

    GPU, half precision     ``torch.nn.attention.varlen``, one kernel for all windows of a layer
    otherwise               windows of the same length as one batch of ``sdpa``

Both compute the same as the library's ``sdpa``, without a mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vlmscope.errors import one_line
from vlmscope.model.attention.switch import SPECIAL_OPTIONS, attending_with, is_frequent
from vlmscope.model.computing import HALF, check_thread
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.shown_once import warn

varlen_attn: Any = None
"""torch's function, once it is loaded; None before torch 2.10."""

_OPTIONS: frozenset[str] = frozenset()
"""Its options, which differ from version to version."""

PACKED = "vlmscope_packed_flash"
"""Name of ``packed_attention`` in the library's registry. The library looks for "flash" in it, and
treats a digit after that as a version of the flash-attn package: there must be none."""

MOST_WINDOWS = 2**15
"""Maximum number of windows in one call of ``sdpa``: CUDA's kernels take fewer than 2**16."""

_UNSUPPORTED = ("attention_mask", *SPECIAL_OPTIONS)
"""What an attention within windows must not be given."""


@contextmanager
def packed(vlm: VisionLanguageModel) -> Iterator[None]:
    """Let a vision encoder that packs images attend in one call per layer within the context.

    Changes nothing if it does not pack them, or if its attention is not ``sdpa``.
    """
    configs = packing_configurations(vlm.vision_tower) if vlm.family.packs_images else []
    with attending_with(PACKED, packed_attention, configs):
        yield


def packing_configurations(tower: nn.Module) -> list[Any]:
    """Return the configurations of the modules that pass on the bounds of packed windows."""
    found = {
        id(module.config): module.config
        for module in tower.modules()
        if hasattr(module, "config") and _passes_bounds(type(module).forward)
    }
    return list(found.values())


@cache
def _passes_bounds(forward: Callable[..., Any]) -> bool:
    """Return whether a module passes the bounds to an attention whose name contains "flash".

    This is decided by its source: Pixtral's does not in transformers 5.17, and under such a name
    would let all images of a batch attend to each other.
    """
    try:
        return "cu_seq_lens_q=" in inspect.getsource(forward)
    except (OSError, TypeError):
        return False


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    is_causal: bool | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend within windows of packed patches.

    Args:
        module: The attention module that calls this function.
        query: ``[1, heads, patches, width]``.
        key: ``[1, key heads, patches, width]``.
        value: Like ``key``.
        attention_mask: None; with a mask the library attends window by window.
        dropout: Likewise.
        scaling: Factor of the products; by default one over the square root of the width.
        is_causal: Whether attention is causal; by default the attribute of ``module``.
        cu_seq_lens_q: Bounds of the windows, ``[windows + 1]``; None if called window by window.
        cu_seq_lens_k: Bounds of the windows of the keys.
        max_length_q: Length of the longest window.
        max_length_k: Likewise.
        options: Passed to the library's ``sdpa``, if that is called.

    Returns:
        ``[1, patches, heads, width]``, and None for the attention weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if not torch.compiler.is_compiling():
        check_thread()
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    options |= {"is_causal": is_causal}
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
    states = (query, key, value)
    special = options | {"attention_mask": attention_mask}
    if (
        causal
        or dropout
        or len(query) != 1
        or (cu_seq_lens_k is not None and cu_seq_lens_k is not cu_seq_lens_q)
        or any(special.get(name) is not None for name in _UNSUPPORTED)
    ):
        bounds = (cu_seq_lens_q, cu_seq_lens_q if cu_seq_lens_k is None else cu_seq_lens_k)
        return _one_by_one(module, states, attention_mask, bounds, dropout, scaling, options), None
    longest = max_length_q if max_length_q is not None else max_length_k
    return _within_windows(states, cu_seq_lens_q, longest, scaling).unsqueeze(0), None


def _within_windows(
    states: Sequence[Tensor], bounds: Tensor, longest: int | None, scaling: float | None
) -> Tensor:
    """Attend within windows: in one kernel if it supports the tensors, else by window length.

    Args:
        states: Queries, keys and values, ``[1, heads, patches, width]``.
        bounds: Bounds of the windows, ``[windows + 1]``.
        longest: Length of the longest window, if it is known.
        scaling: Factor of the products.

    Returns:
        ``[patches, heads, width]``.
    """
    query, _, value = states
    # [patches, heads, width]; keys and values shared by several heads are copied for each
    packed_states = [
        part[0].repeat_interleave(query.shape[1] // part.shape[1], dim=0).transpose(0, 1)
        if part.shape[1] != query.shape[1]
        else part[0].transpose(0, 1)
        for part in states
    ]
    found = None
    if is_supported(query, value, scaling):
        if longest is None:
            longest = int(bounds.diff().max())
        found = varlen(packed_states, bounds.to(torch.int32), longest, scaling=scaling)
    return _by_length(packed_states, bounds, scaling) if found is None else found


def _one_by_one(
    module: nn.Module,
    states: Sequence[Tensor],
    mask: Tensor | None,
    bounds: tuple[Tensor, Tensor],
    dropout: float,
    scaling: float | None,
    options: Mapping[str, Any],
) -> Tensor:
    """Attend as the library does: one call of its ``sdpa`` per window."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    own, seen = (_lengths(bound) for bound in bounds)
    query = torch.split(states[0], own, dim=2)
    key, value = (torch.split(part, seen, dim=2) for part in states[1:])
    masks: Sequence[Tensor | None] = [None] * len(own)
    if mask is not None:
        rows = torch.split(mask, own, dim=2)
        masks = [torch.split(row, seen, dim=3)[i] for i, row in enumerate(rows)]
    found = [
        sdpa_attention_forward(module, q, k, v, m, dropout, scaling, **options)[0]
        for q, k, v, m in zip(query, key, value, masks, strict=True)
    ]
    return torch.cat(found, dim=1)


def varlen(
    states: Sequence[Tensor],
    bounds: Tensor,
    longest: int,
    *,
    causal: bool = False,
    scaling: float | None = None,
) -> Tensor | None:
    """Attend within sequences of a concatenated row, in one kernel.

    Args:
        states: Queries, keys and values, ``[tokens, heads, width]``; fewer heads for keys and
            values may be shared by the queries'.
        bounds: Bounds of the sequences, ``[sequences + 1]``, int32; a sequence may be empty.
        longest: Length of the longest sequence, or more.
        causal: Whether a token attends only to those before it.
        scaling: As ``is_supported`` accepts it.

    Returns:
        ``[tokens, heads, width]``; None if the kernel failed, which is then not used again for
        such attention: causal or not.
    """
    query, key, value = states
    if query.shape[1] != key.shape[1] and not _takes_fewer_heads(
        query.device, query.dtype, query.shape[1] // key.shape[1], query.shape[2]
    ):
        key, value = _for_every_head(query, key, value)
    shared = query.shape[1] != key.shape[1]
    options = _kernel_options(shared=shared, causal=causal, scaling=scaling)
    taken: Any = (query, key, value, bounds, bounds, longest, longest)
    if torch.compiler.is_compiling():
        return varlen_attn(*taken, **options)  # type: ignore[no-any-return]
    if not is_frequent(query, key):
        options |= _without_plans()
    try:
        return varlen_attn(*taken, **options)  # type: ignore[no-any-return]
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):
            raise
        _broken[causal] = one_line(error)
        warn(
            f"torch's variable-length attention failed ({_broken[causal]}); sdpa is used instead, "
            "which is slower",
            stacklevel=2,
        )
        return None


def _for_every_head(query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    """Return keys and values, repeated for every head of the queries."""
    groups = query.shape[1] // key.shape[1]
    return [part.repeat_interleave(groups, dim=1) for part in (key, value)]


@cache
def _takes_fewer_heads(device: torch.device, dtype: torch.dtype, groups: int, width: int) -> bool:
    """Return whether the kernel itself serves several heads of queries with one of keys.

    torch 2.11 has no option for it, but its kernel may support it: the result of a trial says so.
    """
    if "enable_gqa" in _OPTIONS:
        return True
    tokens, heads = 6, 2
    numbers = (
        torch.arange(3 * tokens * heads * groups * width, device=device).float().mul(1.7).cos()
    )
    query, key, value = numbers.to(dtype).view(3, tokens, heads * groups, width)
    key, value = key[:, :heads], value[:, :heads]
    bounds = torch.tensor([0, tokens], dtype=torch.int32, device=device)
    options = _kernel_options(shared=False, causal=True, scaling=None)
    try:
        found = varlen_attn(query, key, value, bounds, bounds, tokens, tokens, **options)
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):
            raise
        return False
    repeated = _for_every_head(query, key, value)
    expected = varlen_attn(query, *repeated, bounds, bounds, tokens, tokens, **options)
    return found.shape == expected.shape and bool((found - expected).abs().max() < 1e-2)


def _kernel_options(*, shared: bool, causal: bool, scaling: float | None) -> dict[str, Any]:
    """Return the options of the kernel by their names in this version of torch.

    Args:
        shared: Whether several heads of the queries share keys and values.
        causal: Whether a token attends only to those before it.
        scaling: Factor of the products.
    """
    options: dict[str, Any] = {"scale": scaling} if "scale" in _OPTIONS else {}
    if shared and "enable_gqa" in _OPTIONS:
        options["enable_gqa"] = True
    if causal:
        options |= {"window_size": (-1, 0)} if "window_size" in _OPTIONS else {"is_causal": True}
    return options


def _without_plans() -> dict[str, Any]:
    """Return the option that excludes cuDNN's kernels, which torch 2.14 uses on Hopper GPUs.

    They are planned for each shape, as ``switch.kernels_for_prompts`` describes, and images of
    other sizes have another one in almost every batch. AMD's kernel refuses the option.
    """
    return {"num_splits": 1} if "num_splits" in _OPTIONS and torch.version.hip is None else {}


_broken: dict[bool, str] = {}
"""Whether attention is causal → the error of the kernel, which fails on GPUs before Ampere.

Causal is a decoder's, the other a vision encoder's; the kernel may support one of them alone.
"""


@cache
def load_kernel() -> None:
    """Import torch's function: only if a GPU needs it, as this imports torch's compiler (2 s)."""
    global varlen_attn, _OPTIONS
    with suppress(ImportError):
        from torch.nn.attention import varlen as module

        varlen_attn = module.varlen_attn
        _OPTIONS = frozenset(signature(varlen_attn).parameters)


def is_supported(
    query: Tensor, value: Tensor, scaling: float | None, *, causal: bool = False
) -> bool:
    """Return whether ``varlen`` supports the tensors: half precision, heads of 8, 16, ... 256.

    Before torch 2.11 it scales by one over the square root of the width, and by nothing else.
    """
    width = query.shape[-1]
    if not (query.is_cuda and query.dtype in HALF):
        return False
    if not torch.compiler.is_compiling():
        load_kernel()
    return (
        varlen_attn is not None
        and causal not in _broken
        and width == value.shape[-1]
        and width % 8 == 0
        and width <= 256
        and ("scale" in _OPTIONS or scaling is None or abs(scaling * width**0.5 - 1) < 1e-6)
    )


def _by_length(states: Sequence[Tensor], bounds: Tensor, scaling: float | None) -> Tensor:
    """Return ``[patches, heads, width]``, with one call of ``sdpa`` per window length.

    Raises:
        ValueError: The windows do not cover the patches.
    """
    query, _, value = states
    lengths = tuple(_lengths(bounds))
    if sum(lengths) != len(query):
        raise ValueError(f"windows of {sum(lengths)} patches in total, the row has {len(query)}")
    found = query.new_empty(len(query), query.shape[1], value.shape[2])
    for length, rows in _groups(lengths):
        chosen = rows if isinstance(rows, slice) else rows.to(query.device)
        own, keys, values = (
            part[chosen].reshape(-1, length, *part.shape[1:]).transpose(1, 2) for part in states
        )
        attended = F.scaled_dot_product_attention(own, keys, values, scale=scaling)
        found[chosen] = attended.transpose(1, 2).flatten(0, 1)
    return found


def _lengths(bounds: Tensor) -> list[int]:
    return bounds.diff().tolist()


@lru_cache(maxsize=16)
def _groups(lengths: tuple[int, ...]) -> list[tuple[int, slice | Tensor]]:
    """Return (length, rows of its windows) for each length; a slice if they are contiguous.

    >>> _groups((4, 4, 2))
    [(4, slice(0, 8, None)), (2, slice(8, 10, None))]
    >>> _groups((1, 2, 1))
    [(1, tensor([0, 3])), (2, slice(1, 3, None))]
    """
    starts: dict[int, list[int]] = {}
    start = 0
    for length in lengths:
        if length:
            starts.setdefault(length, []).append(start)
        start += length
    groups: list[tuple[int, slice | Tensor]] = []
    for length, found in starts.items():
        for i in range(0, len(found), MOST_WINDOWS):
            some = found[i : i + MOST_WINDOWS]
            end = some[0] + len(some) * length
            if some[-1] + length == end:
                groups.append((length, slice(some[0], end)))
            else:
                rows = torch.tensor(some).unsqueeze(1) + torch.arange(length)
                groups.append((length, rows.flatten()))
    return groups
