"""Parts of an architecture or decoder that nobody described, found by what they return in one pass.

Names differ where the conventions of the library are silent: the norm behind the last block is
``norm`` in most decoders, and ``embedding_norm`` or ``final_layernorm`` in others. What it *is*
does not differ: the module whose output is the last hidden state. And where an encoder ends behind
a merger of its own (in another width than its configuration says, or with a fraction of the
positions) it is read before: at the last module that returns all of its positions in that width.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vlmscope.model.computing import computing, removing_hooks
from vlmscope.model.loading.checks import (
    TOLERANCE,
    blank_inputs,
    encoder_widths,
    relative_error,
    unexpected,
)
from vlmscope.model.vlm import VisionLanguageModel

_MERGED = (4, 9, 16)
"""Positions of which a merger makes one."""


@dataclass(frozen=True, slots=True, eq=False)
class _Returned:
    """What a module returned."""

    path: str
    """Its path, relative to the part that is searched."""
    shape: tuple[int, ...]
    """The shape of the tensor."""
    output: Tensor | None = None
    """The tensor, if it was to be kept."""

    @property
    def positions(self) -> int:
        """Vectors in it."""
        return math.prod(self.shape[:-1])


def with_found_parts(vlm: VisionLanguageModel, *, encoder: bool = True) -> VisionLanguageModel:
    """Return the model with the paths of its final norm and of its encoder before any merger.

    What its description names is left as it is.

    Args:
        vlm: The model.
        encoder: Whether to look for the encoder too: that of a described wrapper is known, whatever
            decoder it wraps.

    Raises:
        ModelError: It cannot be asked about a blank image.
    """
    given = vlm.description or {}
    try:
        tower, decoder = vlm.vision_encoder, vlm.decoder
    except AttributeError:
        return vlm  # a path that leads nowhere: the proof says so
    blocks = re.compile(re.escape(vlm.family.layers) + r"\.\d+\.")
    inputs = blank_inputs(vlm)
    moved = vlm.on_device(inputs)
    with (
        computing(),
        _returned_by(tower, lambda _: True, keep=False) as seen,
        _returned_by(decoder, lambda path: not blocks.match(path), keep=True) as decoded,
    ):
        try:
            outputs = vlm.model(**moved, output_hidden_states=True, use_cache=False)
        except Exception as error:
            raise unexpected(vlm, "it fails on a blank image", error) from error
        found: dict[str, Any] = {}
        states = getattr(outputs, "hidden_states", None)
        if states and "final_norm" not in given:
            found["final_norm"] = _find_norm(vlm, decoded, states[-1])
        if encoder and "vision_encoder" not in given:
            found["vision_encoder"] = _find_encoder(vlm, seen)
    return dataclasses.replace(vlm, family=dataclasses.replace(vlm.family, **found))


@contextmanager
def _returned_by(
    part: nn.Module, wanted: Callable[[str], bool], *, keep: bool
) -> Iterator[dict[str, _Returned]]:
    """Note what the modules of a part return, in the order in which they end; of each the first.

    Args:
        part: The part.
        wanted: Whether a module of this path is of interest.
        keep: Whether to keep the tensors, and not their shapes alone.
    """
    found: dict[str, _Returned] = {}

    def note(path: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            output = getattr(output, "last_hidden_state", output)
            output = output[0] if isinstance(output, tuple) and output else output
            if isinstance(output, Tensor) and path not in found:
                tensor = output.detach() if keep else None
                found[path] = _Returned(path, tuple(output.shape), tensor)

        return hook

    with removing_hooks() as handles:
        for path, module in part.named_modules():
            if wanted(path):
                handles.append(module.register_forward_hook(note(path)))
        yield found


def _find_norm(vlm: VisionLanguageModel, decoded: Mapping[str, _Returned], last: Tensor) -> str:
    """Return the path of the module whose output is the last hidden state.

    Of several it is the first to end outside the blocks: what follows changes nothing. A decoder
    without a norm has its last block.
    """
    same = [
        path
        for path, one in decoded.items()
        if path and one.output is not None and one.shape == tuple(last.shape)
        and relative_error(one.output, last) <= TOLERANCE
    ]  # fmt: skip
    if vlm.family.final_norm in same:
        return vlm.family.final_norm
    blocks = f"{vlm.family.layers}."
    return min(same, key=lambda path: path.startswith(blocks), default=vlm.family.final_norm)


def _find_encoder(vlm: VisionLanguageModel, seen: Mapping[str, _Returned]) -> str:
    """Return the path of the encoder, or of the last module in it before a merger.

    A merger returns another width than the encoder's, or as much less as a square of positions is
    more than one. Only modules with the most positions count.
    """
    path, widths = vlm.family.vision_encoder, encoder_widths(vlm)
    if "" not in seen or not widths:
        return path
    inside = [one for one in seen.values() if len(one.shape) in {2, 3} and one.shape[-1] in widths]
    most = max((one.positions for one in inside), default=0)
    own = seen[""]
    if own.shape[-1] in widths and most not in {own.positions * size for size in _MERGED}:
        return path
    full = [one.path for one in inside if one.positions == most > 1]
    return f"{path}.{full[-1]}" if full else path
