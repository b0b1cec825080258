"""Sequence lengths at which a decoder computes differently, for all rows of a batch at once.

Two rotary position embeddings of transformers choose their frequencies by the longest sequence of
the call: ``longrope`` switches to other factors beyond a length, ``dynamic`` (NTK) scales with
every token beyond one. A row in a batch with a longer one would get the longer one's frequencies.
So rows are batched by the side of each switch on which they stay from the prompt to the last token
of the answer; a row that crosses a switch, or is in the range where every token counts, is run
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vlmscope.model.computing import undone_at_exit

ALONE = -1
"""The band of a row that must not be batched with others."""

MARGIN = 4
"""Tokens around a switch within which a row is run alone: PaliGemma counts positions from 1, and
Qwen-VL has fewer positions than tokens."""

_SWITCHING, _SCALING, _PLAIN = "longrope", "dynamic", "default"
_SECTIONS = "mrope_section"
"""Parts of a head that encode height, width and time of an image separately."""


@dataclass(frozen=True, slots=True)
class LengthBands:
    """Ranges of length within which rows may be batched."""

    switches: tuple[int, ...] = ()
    """Lengths beyond which other frequencies apply to the complete batch, ascending."""
    alone_beyond: int | None = None
    """Length beyond which rows are run alone; None if there is none."""
    stretch: float = 1.0
    """Factor by which positions may exceed ``max_position_embeddings``: ``dynamic`` scales them."""
    why: str = ""
    """The reason for ``alone_beyond``, if it is not the rotary embedding."""

    def band(self, prompt_tokens: int, new_tokens: int = 0) -> int:
        """Return the band of a row; rows of one band may be batched, unless it is ``ALONE``.

        Args:
            prompt_tokens: Length of its prompt, without padding.
            new_tokens: Maximum number of tokens of its answer.

        >>> bands = LengthBands(switches=(100,))
        >>> bands.band(60, 20), bands.band(90, 20) == ALONE, bands.band(110, 20)
        (0, True, 1)
        """
        last = prompt_tokens + new_tokens
        if self.alone_beyond is not None and last + MARGIN > self.alone_beyond:
            return ALONE
        for switch in self.switches:
            if prompt_tokens <= switch + MARGIN and last + MARGIN > switch:
                return ALONE
        return sum(prompt_tokens > switch for switch in self.switches)

    def notes(self) -> Iterator[str]:
        """Yield notes for the user."""
        for switch in self.switches:
            yield (
                f"rows of more than {switch:,} tokens get other rotary frequencies (longrope): "
                "they are batched separately, and rows that reach it in their answer are run alone"
            )
        if self.alone_beyond is not None:
            why = self.why or "its rotary frequencies depend on the longest row of a batch"
            yield f"rows of more than {self.alone_beyond:,} tokens are run alone: {why}"

    def __bool__(self) -> bool:
        """Return whether the length of a row makes a difference."""
        return bool(self.switches) or self.alone_beyond is not None


ONE_BAND = LengthBands()
"""The bands of a decoder for which lengths make no difference."""


def find_bands(model: nn.Module, without: nn.Module | None = None) -> LengthBands:
    """Return the bands that result from the rotary embeddings of a model.

    They are read from the modules, which know the type for each layer type and whose configuration
    has the parameters under one name, regardless of their name in the checkpoint's file.

    Args:
        model: The model.
        without: A part whose positions are not those of the sequence: the vision encoder.
    """
    left_out = set() if without is None else set(without.modules())
    own_positions = any(hasattr(module, "get_rope_index") for module in model.modules())
    switches: set[int] = set()
    alone: list[int] = []
    stretch = 1.0
    for module in model.modules():
        if module in left_out:
            continue
        for kind, parameters in _rope_of(module):
            if kind == _SWITCHING:
                found = _switches_of(module, parameters)
                # The number of tokens does not determine on which side a row's positions are. The
                # sections of a multimodal embedding have a default: a configuration may omit them.
                sections = parameters.get(_SECTIONS, getattr(module, _SECTIONS, None))
                unrelated = own_positions or not found or sections is not None
                alone += [min(found, default=0)] if unrelated else []
                switches |= set() if unrelated else found
            elif _SCALING in kind:
                alone.append(int(getattr(module, "original_max_seq_len", 0)))
                stretch = max(stretch, float(parameters.get("factor") or 1.0))
    return LengthBands(tuple(sorted(switches)), min(alone, default=None), stretch)


def forget_lengths(model: nn.Module) -> int:
    """Make ``dynamic`` frequencies depend only on the current call; return the number of modules.

    The library keeps the frequencies of the longest sequence so far until a call with a sequence
    shorter than the model was trained on: a row's result would depend on the rows before it.
    """
    found = [m for m in model.modules() if any(_SCALING in kind for kind, _ in _rope_of(m))]
    for module in found:
        module.register_forward_pre_hook(_reset_frequencies)
    return len(found)


@contextmanager
def unscaled(model: nn.Module, lengths: LengthBands) -> Iterator[None]:
    """Let ``dynamic`` embeddings use their initial frequencies within the context.

    For rows within their ``band``, which have these frequencies anyway. The library asks the device
    for the longest row of every call: the host waits, and a step cannot be a CUDA graph.

    Args:
        model: The model.
        lengths: Its bands.
    """
    modules: list[Any] = []
    if lengths.alone_beyond is not None:
        modules += [m for m in model.modules() if any(_SCALING in kind for kind, _ in _rope_of(m))]
    kinds = [module.rope_type for module in modules]

    def restore() -> None:
        for module, kind in zip(modules, kinds, strict=True):
            module.rope_type = kind

    with undone_at_exit(restore):
        for module in modules:
            _reset_frequencies(module)
            module.rope_type = _unscaled(module.rope_type)
        yield


def _unscaled(kinds: Any) -> Any:
    """Return the type of an embedding, or its type for each layer type, without scaling."""
    if isinstance(kinds, Mapping):
        return {layer: _unscaled(kind) for layer, kind in kinds.items()}
    return _PLAIN if _SCALING in str(kinds) else kinds


def _reset_frequencies(module: Any, _args: Any = None) -> None:
    """Restore the initial frequencies of a module."""
    for name in _prefixes(module):
        length = getattr(module, f"{name}max_seq_len_cached", module.original_max_seq_len)
        if length != module.original_max_seq_len:
            present = getattr(module, f"{name}inv_freq")
            original: Tensor = getattr(module, f"{name}original_inv_freq").to(present.device)
            module.register_buffer(f"{name}inv_freq", original, persistent=False)
            setattr(module, f"{name}max_seq_len_cached", module.original_max_seq_len)


def _prefixes(module: Any) -> list[str]:
    """Return the name prefix of a rotary embedding's buffers, for each layer type."""
    kinds = module.rope_type
    if isinstance(kinds, Mapping):
        return [f"{layer}_" for layer, kind in kinds.items() if _SCALING in str(kind)]
    return [""]


def _rope_of(module: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield type and parameters of a rotary embedding, for each layer type; else nothing."""
    kinds = getattr(module, "rope_type", None)
    config = getattr(module, "config", None)
    parameters = getattr(config, "rope_parameters", None) or {}
    if isinstance(kinds, str):
        yield kinds, parameters
    elif isinstance(kinds, Mapping):
        for layer, kind in kinds.items():
            own = parameters.get(layer)
            yield str(kind), own if isinstance(own, Mapping) else parameters


def _switches_of(module: Any, parameters: Mapping[str, Any]) -> set[int]:
    """Return the lengths at which a ``longrope`` embedding, or its model's cache, switches."""
    name = "original_max_position_embeddings"
    found = (parameters.get(name), getattr(module.config, name, None))
    return {int(value) for value in found if value}
