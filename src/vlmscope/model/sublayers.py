"""The parts of a decoder block that signals are read from, found by the library's conventions.

A block of the library has an attention module, whose ``forward`` calls the attention interface and
then projects the heads to the model's width, and a feed-forward module, dense or a mixture of
experts. Blocks with another mixer (linear attention, convolutions) have no heads and no attention
weights; that is stated before a run starts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeGuard

from torch import nn

from vlmscope.errors import InputError
from vlmscope.model.image_grids import layout_of
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.schema import CaptureSpec
from vlmscope.signals import (
    ATTENTION,
    ATTENTION_MAP,
    LENS,
    OF_END,
    SUBLAYERS,
    RecordedSignals,
    single_positions,
)

FEED_FORWARD = ("mlp", "feed_forward", "block_sparse_moe", "moe", "ffn")
"""Names of the feed-forward module of a block."""

_CALLED = re.compile(r"self\.(\w+)\(attn_output")
"""Calls at the end of an attention's ``forward``, of its output projection among them."""


_CALL = "attention_interface("
"""The call of the library's attention interface."""


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
    projection = None if attention is None else _projection(attention)
    named = (getattr(block, name, None) for name in FEED_FORWARD)
    feed_forward = next((part for part in named if isinstance(part, nn.Module)), None)
    return Sublayers(attention, projection, feed_forward)


@cache
def source_of(forward: Callable[..., Any]) -> str:
    """Return the source of a function; empty if there is none."""
    try:
        return inspect.getsource(forward)
    except (OSError, TypeError):
        return ""


def _calls_interface(module: nn.Module) -> bool:
    """Return whether a module calls the library's attention interface."""
    return "attention_interface" in source_of(type(module).forward)


def _projection(attention: nn.Module) -> nn.Module | None:
    """Return the output projection of an attention; None if unknown.

    A dropout that follows it, as in GPT-2, or a norm before it is none.
    """
    names = _CALLED.findall(source_of(type(attention).forward))
    called = [getattr(attention, name, None) for name in reversed(names)]
    linear = (part for part in called if isinstance(getattr(part, "in_features", None), int))
    return next((part for part in linear if isinstance(part, nn.Module)), None)


def heads_of(attention: nn.Module) -> int:
    """Return the number of query heads of an attention module."""
    for owner in (attention, getattr(attention, "config", None)):
        for name in ("num_heads", "num_attention_heads"):
            if isinstance(number := getattr(owner, name, None), int):
                return number
    raise InputError(f"the number of heads of {type(attention).__name__} is unknown")


def resolve_signals(
    spec: CaptureSpec, layers: Sequence[int], vlm: VisionLanguageModel
) -> RecordedSignals:
    """Return which signals can be recorded of a model, and at which layers.

    Args:
        spec: What to record.
        layers: The chosen decoder layers.
        vlm: The model.

    Raises:
        InputError: The model has one of them at none of its layers, or attention with different
            numbers of heads.
    """
    names = spec.signals
    read_in_blocks = {ATTENTION, ATTENTION_MAP, *SUBLAYERS}.intersection(names)
    parts = [sublayers_of(block) for block in vlm.layers] if read_in_blocks else []
    widths: dict[str, int] = {}
    for name in names:
        if name in SUBLAYERS:
            found = {k: _width(parts[k], name, vlm) for k in layers if parts[k].module(name)}
            if not found:
                having = [k for k, part in enumerate(parts) if part.module(name)]
                raise _no_signal(name, vlm, having)
            widths |= {f"{name}/layer_{layer}": width for layer, width in found.items()}
    lens = _lens_positions(spec, vlm) if LENS in names else ()
    read = tuple(layers) if LENS in names else ()
    if not {ATTENTION, ATTENTION_MAP}.intersection(names):
        return RecordedSignals(names, widths, lens_positions=lens, lens_layers=read)
    tiles = _tiles(vlm)
    cross = vlm.skipped_without_image if tiles else frozenset()
    attentions = _attentions(parts, cross)
    if ATTENTION_MAP in names:
        having = [k for k in attentions if k in cross or not cross]
        mapped = [k for k in layers if k in having]
        if not mapped:
            raise _no_signal(ATTENTION_MAP, vlm, having)
        widths |= {f"{ATTENTION_MAP}/layer_{layer}": 1 for layer in mapped}
    if ATTENTION not in names:
        return RecordedSignals(names, widths, lens_positions=lens, lens_layers=read)
    if not attentions:
        raise _no_signal(ATTENTION, vlm)
    return RecordedSignals(
        names,
        widths,
        tuple(k for k in attentions if k not in cross),
        _equal_heads(attentions),
        tuple(k for k in attentions if k in cross),
        tiles,
        lens,
        read,
    )


def _attentions(parts: Sequence[Sublayers], cross: Container[int]) -> dict[int, nn.Module]:
    """Return decoder layer → attention of the layers with weights that can be recorded.

    Args:
        parts: The parts of each layer.
        cross: The layers of cross-attention, if they are known.
    """
    return {
        layer: attention
        for layer, part in enumerate(parts)
        if _has_weights(attention := part.attention)
        and (layer in cross or not _attends_to_images(attention))
    }


def _lens_positions(spec: CaptureSpec, vlm: VisionLanguageModel) -> tuple[str, ...]:
    """Return the positions that the logit lens is read at.

    Raises:
        InputError: The model's logits are unlike those of its head, or nothing would be recorded.
    """
    if vlm.lens_fault:
        raise InputError(f"--signals {LENS}: {vlm.lens_fault}; omit this signal")
    positions = single_positions(spec.positions)
    if not positions and not spec.max_new_tokens:
        raise InputError(
            f"--signals {LENS}: none of the positions {', '.join(spec.positions)} is a single "
            "token, and there are no answers; add a position, last_prompt_token for example"
        )
    return positions


_ABOUT_ENDS = ("min_length", "min_new_tokens", "exponential_decay_length_penalty")
"""Generation settings that change when an answer may end."""


def check_ends(names: Sequence[str], vlm: VisionLanguageModel) -> None:
    """Refuse signals of all tokens of an answer if a checkpoint's settings delay its end.

    The end-of-turn token is processed too, so ``generate`` must not know it.

    Raises:
        InputError: One of the signals cannot be recorded.
    """
    found = [name for name in names if name in OF_END]
    if not found:
        return
    settings = [n for n in _ABOUT_ENDS if getattr(vlm.model.generation_config, n, None)]
    if settings:
        raise InputError(
            f"--signals {found[0]}: the checkpoint's generation settings have {settings[0]}, with "
            "which it is not available; omit this signal"
        )


def _attends_to_images(attention: nn.Module) -> bool:
    """Return whether the keys of an attention are not those of the tokens.

    A description of a family names such layers (``skipped_without_image``); without one, their
    attention is not recorded.
    """
    return any("cross" in name for name in inspect.signature(type(attention).forward).parameters)


def _tiles(vlm: VisionLanguageModel) -> int:
    """Return the tiles of an image that layers of cross-attention attend to; 0 if unknown."""
    known = vlm.skipped_without_image and hasattr(vlm.vision_encoder, "num_patches")
    vision = getattr(vlm.model.config, "vision_config", None)
    return int(getattr(vision, "max_num_tiles", 0)) if known else 0


def _has_weights(attention: nn.Module | None) -> TypeGuard[nn.Module]:
    """Return whether each pass computes the weights of an attention once.

    Differential attention, which subtracts the results of two calls, has no weights of its own.
    """
    return attention is not None and source_of(type(attention).forward).count(_CALL) == 1


def _equal_heads(attentions: Mapping[int, nn.Module]) -> int:
    """Return the number of heads of all layers, which are stored in one array."""
    counts = {heads_of(attention): layer for layer, attention in attentions.items()}
    if len(counts) > 1:
        found = ", ".join(f"{heads} in layer {layer}" for heads, layer in counts.items())
        raise InputError(
            f"--signals {ATTENTION}: the layers of this model have different numbers of heads "
            f"({found}), expected equal ones; omit this signal"
        )
    return next(iter(counts))


def _width(part: Sublayers, sublayer: str, vlm: VisionLanguageModel) -> int:
    """Return the width of a sub-layer's vector."""
    if sublayer != "heads":
        return vlm.hidden_size
    projection: Any = part.projection
    return int(projection.in_features)


def _no_signal(name: str, vlm: VisionLanguageModel, having: Sequence[int] = ()) -> InputError:
    """Return the error for a signal that no chosen layer has; ``having`` are the layers with it."""
    kinds = ", ".join(sorted({type(block).__name__ for block in vlm.layers}))
    chosen, other = ("chosen ", "") if having else ("", "")
    if having:
        other = f", or choose --layers of those that have it: {','.join(map(str, having))}"
    return InputError(
        f"--signals {name}: none of the {chosen}layers of {vlm.family.title} ({kinds}) has it; "
        f"omit this signal{other}"
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
    maps = (ATTENTION_MAP,) if signals.map_layers else ()
    for name in (*signals.sublayers, *maps):
        if missing := [str(k) for k in layers if k not in signals.layers(name)]:
            notes.append(f"no {name} of layers {', '.join(missing)}: they have no such part")
    if maps and not vlm.skipped_without_image and layout_of(vlm.family) is None:
        notes.append(
            f"{ATTENTION_MAP}: it is not known which part of an image each image token of "
            f"{vlm.family.title} covers; the values are stored, and no map can be drawn"
        )
    if signals.attention_layers:
        known = {*signals.attention_layers, *signals.cross_attention_layers}
        if missing := [str(k) for k in range(vlm.num_layers) if k not in known]:
            notes.append(
                f"no attention of layers {', '.join(missing)}: they have no weights of tokens"
            )
    return tuple(notes)
