"""Find the parts of an undescribed architecture or decoder by what they return in one forward pass.

Where the library has no naming convention, names differ: the norm after the last block is ``norm``
in most decoders, and ``embedding_norm`` or ``final_layernorm`` in others. Its role is always the
same: its output is the last hidden state. Some encoders end with a merger of their own, whose
output has another width than the configuration gives, or fewer positions. Such an encoder is read
before the merger: at the last module that returns all of its positions in the configured width.
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
"""How many positions a merger combines into one."""


@dataclass(frozen=True, slots=True, eq=False)
class _Returned:
    """The output of a module."""

    path: str
    """Its path, relative to the part that is searched."""
    shape: tuple[int, ...]
    """The shape of the tensor."""
    output: Tensor | None = None
    """The tensor, if it is kept."""

    @property
    def positions(self) -> int:
        """Number of vectors in the tensor."""
        return math.prod(self.shape[:-1])


def with_found_parts(vlm: VisionLanguageModel, *, encoder: bool = True) -> VisionLanguageModel:
    """Return the model with the paths of its final norm and of its encoder before any merger.

    Paths that a description gives are kept.

    Args:
        vlm: The model.
        encoder: Whether to look for the encoder too. In a described wrapper it is known, whatever
            the decoder is.

    Raises:
        ModelError: The model fails on a blank image.
    """
    given = vlm.description or {}
    try:
        tower, decoder = vlm.vision_encoder, vlm.decoder
    except AttributeError:
        return vlm  # an invalid path: the checks of the parts report it
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
    """Record the first output of every module of a part, in the order in which they finish.

    Args:
        part: The part.
        wanted: Whether to record the module at a path.
        keep: Whether to keep the tensors, not only their shapes.
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

    Of several, the first to finish outside the blocks is returned: later ones change nothing. For a
    decoder without a norm this is its last block.
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

    A merger's output has another width than the encoder's, or fewer positions by the factor of a
    square. Only modules with the most positions are considered.
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
