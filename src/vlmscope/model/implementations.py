"""Which attention implementation a model is loaded with: the ``--attention`` option.

``auto`` is what the library takes for each part of a model by itself: ``sdpa``, or ``eager`` where
a part has none (Gemma 2 caps its attention scores, GPT-OSS has attention sinks). ``sdpa`` and
``eager`` are for all parts; ``sdpa`` fails where a part has none. Others are refused: kernels from
the hub are code that somebody else wrote, and flash attention computes in half precision only, so
that no test could hold it against the three-pass method in float32.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vlmscope.errors import ModelError
from vlmscope.model.attention import configurations

AUTO = "auto"
"""What the library takes for each part."""

CHOICES = (AUTO, "sdpa", "eager")
"""Names of the ``--attention`` option."""


def attention_options(attention: str) -> dict[str, Any]:
    """Return what ``from_pretrained`` is told.

    An implementation that ``config.json`` names is not taken: it is the one of somebody's GPU.

    Args:
        attention: One of ``CHOICES``.

    Raises:
        ModelError: It is none of them.
    """
    if attention not in CHOICES:
        raise ModelError(f"--attention {attention!r}: choose from {', '.join(CHOICES)}")
    return {"attn_implementation": None if attention == AUTO else attention}


def requested_by(record: str) -> str:
    """Return the choice that gives the implementations which a run recorded.

    >>> requested_by("sdpa"), requested_by("eager, vision encoder sdpa")
    ('sdpa', 'auto')
    """
    return record if record in CHOICES else AUTO


def implementations(part: nn.Module) -> str:
    """Return the implementations in a part of a model, ``sdpa`` for example.

    While a pass runs, those of our own are in the place of ``sdpa``.
    """
    named = (getattr(config, "_attn_implementation", None) for config in configurations(part))
    return "+".join(sorted({"sdpa" if _is_ours(name) else name for name in named if name}))


def _is_ours(name: str) -> bool:
    return name.startswith("vlmscope_")


def is_chosen_by_library(model: nn.Module) -> bool:
    """Return whether each part attends as the library would have chosen: what the suite holds."""
    from transformers import PreTrainedModel

    return all(
        part.config._attn_implementation == ("sdpa" if part._supports_sdpa else "eager")
        for part in model.modules()
        if isinstance(part, PreTrainedModel)
    )
