"""Attention for a while: another implementation in the place of the loaded one.

The library looks up a configuration's attention by name at every call, in a registry that anyone
may add to. So a faster implementation needs no change of any model's code: it is registered under a
name of ours, put into the configurations of one part of the model for the time of a call, and taken
out again, so that ``reference.py`` always meets the model as it was loaded. The lock of the models
is held meanwhile (``computing``), and a thread that calls the model without it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vlmscope.model.computing import check_thread, undoing

GROUPED = "vlmscope_grouped"
"""Name of ``grouped_attention`` in the registry."""


@contextmanager
def attending_with(
    name: str, function: Callable[..., tuple[Tensor, None]], part: nn.Module | Sequence[Any]
) -> Iterator[None]:
    """Let every attention of a part of the model use another implementation.

    Args:
        name: The name that it gets in the library's registry.
        function: The implementation.
        part: The module, or its ``configurations``; only where it attends with ``sdpa`` now, which
            every implementation of ours stands for.
    """
    register(name, function)
    configs = configurations(part) if isinstance(part, nn.Module) else part
    changed: list[Any] = [
        config for config in configs if getattr(config, "_attn_implementation", None) == "sdpa"
    ]

    def put_back() -> None:
        for config in changed:
            config._attn_implementation = "sdpa"

    with undoing(put_back):
        for config in changed:
            config._attn_implementation = name
        yield


def configurations(part: nn.Module) -> list[Any]:
    """Return the configurations of all modules in a part of the model, each once."""
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
    """Attend from few tokens to many, without a copy of the keys for every head.

    Heads that share keys and values are laid side by side as if they were tokens, which a mask
    common to all heads allows: the same products. The library's ``sdpa`` repeats keys and values
    for every head as soon as there is a mask: 34 GB for a prefill of 32 rows that look at images.

    Args:
        module: The attention that calls.
        query: ``[batch, heads, tokens, width]``.
        key: ``[batch, key heads, length, width]``.
        value: Like ``key``.
        attention_mask: ``[batch, 1, tokens, length]``, boolean or to be added; None: all.
        dropout: Passed on.
        scaling: Factor of the products; None is the square root of the width.
        options: Passed on to the library's ``sdpa`` where there are more tokens.

    Returns:
        ``[batch, tokens, heads, width]``, and no weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    check_thread()
    batch, heads, tokens, _ = query.shape
    groups = heads // key.shape[1]
    if _SEEN in module.__dict__:
        attention_mask = module.__dict__[_SEEN][:batch, None, None]
    shared = attention_mask is None or attention_mask.shape[1] == 1
    few = tokens == 1 or (attention_mask is not None and tokens * groups <= key.shape[2])
    if not (few and shared) or options.get("position_bias") is not None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
    grouped = query.reshape(batch, key.shape[1], groups * tokens, -1)
    if attention_mask is not None and tokens > 1:
        attention_mask = attention_mask.expand(-1, -1, tokens, -1).repeat(1, 1, groups, 1)
    found = F.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
    )
    return found.reshape(batch, heads, tokens, -1).transpose(1, 2).contiguous(), None


def register(name: str, function: Callable[..., tuple[Tensor, None]]) -> None:
    """Make an implementation known to the library, with the masks of ``sdpa``."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(name, function)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, sdpa_mask)


@contextmanager
def seeing(parts: Iterable[nn.Module], mask: Tensor) -> Iterator[None]:
    """Let the attentions in some parts of the model see only some keys, whatever mask they get.

    For keys that are the same at every step, a mask that is made anew at every step is a waste.

    Args:
        parts: The modules.
        mask: ``[rows, length]``, boolean; a call is about the first of the rows.
    """
    modules = [module for part in parts for module in part.modules() if hasattr(module, "q_proj")]

    def forget() -> None:
        for module in modules:
            module.__dict__.pop(_SEEN, None)

    with undoing(forget):
        for module in modules:
            module.__dict__[_SEEN] = mask
        yield


_SEEN = "_vlmscope_seen"
"""Attribute of an attention: the keys that it may see."""
