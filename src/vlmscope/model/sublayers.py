"""The parts of a decoder block that signals are read from, found by the library's conventions.

A block of the library has an attention module, whose ``forward`` calls the attention interface and
then projects the heads to the model's width, and a feed-forward module, dense or a mixture of
experts. Blocks with another mixer (linear attention, convolutions) have no heads and no attention
weights; that is stated before a run starts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

from vlmscope.errors import InputError
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.signals import ATTENTION, SUBLAYERS, RecordedSignals

FEED_FORWARD = ("mlp", "feed_forward", "block_sparse_moe", "moe", "ffn")
"""Names of the feed-forward module of a block."""

_PROJECTED = re.compile(r"self\.(\w+)\(attn_output")
"""The call of the output projection at the end of an attention's ``forward``."""


@dataclass(frozen=True, slots=True)
class Sublayers:
    """The parts of one decoder block."""

    attention: nn.Module | None
    """The attention module; None if the block has another mixer."""
    projection: nn.Module | None
    """The attention's output projection, whose input is the heads' outputs."""
    feed_forward: nn.Module | None
    """The feed-forward module."""

    def module(self, sublayer: str) -> nn.Module | None:
        """Return the module that a signal is read from: its input for ``heads``, else its output.

        Args:
            sublayer: One of ``SUBLAYERS``.
        """
        parts = (self.projection, self.attention, self.feed_forward)
        return dict(zip(SUBLAYERS, parts, strict=True))[sublayer]


def sublayers_of(block: nn.Module) -> Sublayers:
    """Return the parts of a decoder block."""
    attention = next((m for m in block.modules() if _calls_interface(m)), None)
    name = "" if attention is None else _projection_name(attention)
    projection = getattr(attention, name, None) if name else None
    feed_forward = next((getattr(block, n) for n in FEED_FORWARD if hasattr(block, n)), None)
    return Sublayers(
        attention, projection if isinstance(projection, nn.Module) else None, feed_forward
    )


@cache
def _source(forward: Callable[..., Any]) -> str:
    """Return the source of a function; empty if there is none."""
    try:
        return inspect.getsource(forward)
    except (OSError, TypeError):
        return ""


def _calls_interface(module: nn.Module) -> bool:
    """Return whether a module calls the library's attention interface."""
    return "attention_interface" in _source(type(module).forward)


def _projection_name(attention: nn.Module) -> str:
    """Return the attribute of the output projection of an attention; empty if unknown."""
    found = _PROJECTED.findall(_source(type(attention).forward))
    return str(found[-1]) if found else ""


def heads_of(attention: nn.Module) -> int:
    """Return the number of query heads of an attention module."""
    for owner in (attention, getattr(attention, "config", None)):
        for name in ("num_heads", "num_attention_heads"):
            if isinstance(number := getattr(owner, name, None), int):
                return number
    raise InputError(f"the number of heads of {type(attention).__name__} is unknown")


def resolve_signals(
    names: Sequence[str], layers: Sequence[int], vlm: VisionLanguageModel
) -> RecordedSignals:
    """Return which signals can be recorded of a model, and at which layers.

    Args:
        names: The signals that were selected.
        layers: The chosen decoder layers.
        vlm: The model.

    Raises:
        InputError: The model has one of them at none of its layers.
    """
    parts = [sublayers_of(block) for block in vlm.layers]
    widths: dict[str, int] = {}
    for name in names:
        if name in SUBLAYERS:
            found = {k: _width(parts[k], name, vlm) for k in layers if parts[k].module(name)}
            if not found:
                raise _no_signal(name, vlm)
            widths |= {f"{name}/layer_{layer}": width for layer, width in found.items()}
    if ATTENTION not in names:
        return RecordedSignals(tuple(names), widths)
    attentions = {k: p.attention for k, p in enumerate(parts) if p.attention is not None}
    if not attentions:
        raise _no_signal(ATTENTION, vlm)
    cross = vlm.skipped_without_image
    return RecordedSignals(
        tuple(names),
        widths,
        tuple(k for k in attentions if k not in cross),
        max(heads_of(attention) for attention in attentions.values()),
        tuple(k for k in attentions if k in cross),
        int(vlm.model.config.vision_config.max_num_tiles) if cross else 0,
    )


def _width(part: Sublayers, sublayer: str, vlm: VisionLanguageModel) -> int:
    """Return the width of a sub-layer's vector."""
    if sublayer != "heads":
        return vlm.hidden_size
    projection: Any = part.projection
    return int(projection.in_features)


def _no_signal(name: str, vlm: VisionLanguageModel) -> InputError:
    kinds = ", ".join(sorted({type(block).__name__ for block in vlm.layers}))
    return InputError(
        f"--signals {name}: none of the chosen layers of {vlm.family.title} ({kinds}) has it; omit "
        "this signal, or choose other --layers"
    )


def notes_on(
    signals: RecordedSignals, layers: Sequence[int], vlm: VisionLanguageModel
) -> tuple[str, ...]:
    """Return what the user should know of signals that some layers do not have.

    Args:
        signals: The signals.
        layers: The chosen decoder layers.
        vlm: The model.
    """
    notes = []
    for name in signals.sublayers:
        if missing := [str(k) for k in layers if k not in signals.layers(name)]:
            notes.append(f"no {name} of layers {', '.join(missing)}: they have no such part")
    if signals.attention_layers:
        known = {*signals.attention_layers, *signals.cross_attention_layers}
        if missing := [str(k) for k in range(vlm.num_layers) if k not in known]:
            notes.append(
                f"no attention of layers {', '.join(missing)}: they have no attention weights"
            )
    return tuple(notes)
