"""Which attention implementation a model is loaded with: the ``--attention`` option.

``auto`` is the library's default for each part of a model: ``sdpa``, or ``eager`` where a part has
no ``sdpa`` (Gemma 2 caps its attention scores, GPT-OSS has attention sinks). ``sdpa`` and ``eager``
apply to all parts; ``sdpa`` fails if a part has none. Others are not supported: kernels from the
hub are third-party code, and flash attention computes in half precision only, so that no test could
compare it with the three-pass method in float32.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from vlmscope.errors import ModelError
from vlmscope.model.attention.switch import configurations

AUTO = "auto"
"""The library's default for each part."""

CHOICES = (AUTO, "sdpa", "eager")
"""Values of the ``--attention`` option."""


def choose_attention(attention: str, name: str, config: Any) -> tuple[Any, Any]:
    """Return a configuration that names no implementation, and the one for ``from_pretrained``.

    An implementation that ``config.json`` names is ignored: it was chosen for its author's GPU. A
    part whose configuration caps attention scores gets ``eager``, also with a version of the
    library that would use ``sdpa``, which silently ignores the cap (5.17 and Gemma 2).

    Args:
        attention: One of ``CHOICES``.
        name: The checkpoint, for the message.
        config: Its configuration.

    Raises:
        ModelError: It is none of them, or a part does not support it.
    """
    if attention not in CHOICES:
        raise ModelError(f"--attention {attention!r}: choose from {', '.join(CHOICES)}")
    parts = {key: getattr(config, key, None) for key in config.sub_configs} | {"": config}
    capped = [key for key, part in parts.items() if _caps_scores(part)]
    if attention == "sdpa" and capped:
        raise ModelError(no_sdpa(name, capped[0] or "the model"))
    config = copy.deepcopy(config)
    config._attn_implementation = None if attention == AUTO else attention
    if attention != AUTO:
        return config, attention
    return config, dict.fromkeys(capped, "eager") if capped else None


def no_sdpa(name: str, part: str) -> str:
    """Return the error message for a part of a checkpoint that has no ``sdpa``."""
    return (
        f"{name}: --attention sdpa: a part of it ({part}) has no sdpa in transformers; use auto, "
        "which uses eager for that part"
    )


def _caps_scores(config: Any) -> bool:
    return getattr(config, "attn_logit_softcapping", None) is not None


def requested_by(record: str) -> str:
    """Return the option that results in the implementations that a run recorded.

    A recorded ``sdpa`` is that of decoder and vision encoder; another part may have had no sdpa.

    >>> requested_by("eager"), requested_by("sdpa"), requested_by("eager, vision encoder sdpa")
    ('eager', 'auto', 'auto')
    """
    return "eager" if record == "eager" else AUTO


def implementations(part: nn.Module) -> str:
    """Return the attention implementations of a part of a model, ``sdpa`` for example.

    Temporary replacements by vlmscope are reported as ``sdpa``.
    """
    named = (getattr(config, "_attn_implementation", None) for config in configurations(part))
    return "+".join(sorted({"sdpa" if _is_ours(name) else name for name in named if name}))


def _is_ours(name: str) -> bool:
    return name.startswith("vlmscope_")


def is_chosen_by_library(model: nn.Module) -> bool:
    """Return whether each part has the library's default attention, which the suite tests."""
    from transformers import PreTrainedModel

    def chosen(part: Any) -> str:
        return "sdpa" if part._supports_sdpa and not _caps_scores(part.config) else "eager"

    return all(
        part.config._attn_implementation == chosen(part)
        for part in model.modules()
        if isinstance(part, PreTrainedModel)
    )
