"""Rotary embeddings by one kernel, without compiling the model.

The library rotates queries and keys by seven operations, in vision encoders in float32: 52 bytes
are read and written per number, where 4 are necessary. That was 2.4 of 20 ms of a row of
Qwen2.5-VL in its encoder, and 0.7 in its decoder.

What a function computes is not told by its name, so it is tried with made-up numbers for each
combination of types and dimensions that it is called with: if the kernel's result differs, the
library's function is used. Half precision on one GPU only.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from vlmscope.model.computing import replacing_globals
from vlmscope.model.elementwise.trial import is_same, made_up, note_failure, raise_if_fatal

Rotary = Callable[..., Any]
"""Queries and keys, or one of them, the cosines and sines of their angles → what is rotated."""

NAME = "apply_rotary_pos_emb"
"""What the names of the library's functions begin with."""

_FIRST = (["q", "k", "cos", "sin"], ["x", "cos", "sin"])
_OTHERS = {"unsqueeze_dim", "position_ids"}
_OF_ENCODERS = -2
"""The dimension of the heads where a function has no argument for it."""

MOST_REGISTERS = 4096
"""Numbers of a token that one program of the kernel may keep."""


class RotaryKernel:
    """The functions of a model that rotate queries and keys.

    Args:
        model: The model.
        kernels: The module ``triton_kernels``.
    """

    def __init__(self, model: nn.Module, kernels: ModuleType) -> None:
        names = {type(module).__module__ for module in model.modules()}
        self._known: dict[Any, bool] = {}
        self._device = next((own.device for own in model.parameters()), None)
        self._functions: list[tuple[dict[str, Any], str, Callable[..., Any]]] = []
        for name in sorted(name for name in names if name.startswith("transformers.models.")):
            space = vars(sys.modules[name])
            for own, function in list(space.items()):
                if own.startswith(NAME) and (count := _states_of(function)):
                    by_kernel = partial(self._rotate, function, count, kernels)
                    self._functions.append((space, own, by_kernel))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model use the kernel within the context."""
        with replacing_globals(self._functions):
            yield

    def _rotate(
        self, function: Rotary, count: int, kernels: ModuleType, *args: Any, **kwargs: Any
    ) -> Any:
        """Rotate by the kernel, or by the library's function if their results may differ."""
        heads = kwargs.get("unsqueeze_dim", _heads_of(function))
        states, angles = args[:count], args[count:]
        if (
            len(args) != count + 2
            or not set(kwargs) <= {"unsqueeze_dim"}
            # The function is the library's, so others may call it, as to train another model.
            or not torch.is_inference_mode_enabled()
            or self._device not in {None, args[0].device}
            or not all(_is_supported(kernels, heads, each, *angles) for each in states)
        ):
            return function(*args, **kwargs)
        first, cos = states[0], angles[0]
        dimensions = first.dim(), first.shape[-1], heads % first.dim()
        key = (function, first.dtype, cos.dtype, *dimensions, first.device)
        if key not in self._known:
            if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                return function(*args, **kwargs)  # a comparison waits for the GPU
            same = _agrees(partial(function, **kwargs), count, first, cos, heads, kernels)
            self._known[key] = same
        if not self._known[key]:
            return function(*args, **kwargs)
        try:
            found = [_rotated(kernels, heads, each, *angles) for each in states]
        except Exception as error:  # noqa: BLE001 - the library has its own function
            note_failure(error)
            self._known[key] = False
            return function(*args, **kwargs)
        return found[0] if count == 1 else tuple(found)


def _states_of(function: Any) -> int:
    """Return how many tensors a function rotates; 0 if it takes anything but them and angles."""
    if not inspect.isfunction(function):
        return 0
    names = list(inspect.signature(function).parameters)
    for first in _FIRST:
        if names[: len(first)] == first and set(names[len(first) :]) <= _OTHERS:
            return len(first) - 2
    return 0


def _heads_of(function: Rotary) -> int:
    """Return the dimension of the heads that a function assumes by default."""
    known = inspect.signature(function).parameters.get("unsqueeze_dim")
    return _OF_ENCODERS if known is None else int(known.default)


def _is_supported(
    kernels: ModuleType, heads: int, states: Tensor, cos: Tensor, sin: Tensor
) -> bool:
    """Return whether the kernel can rotate some states."""
    width = states.shape[-1]
    return (
        states.dim() in (3, 4)
        and cos.dim() == states.dim() - 1
        and cos.shape == sin.shape
        and (states.dim() == 3 or cos.shape[0] in {1, states.shape[0]})
        and cos.shape[-1] == width
        and width % 2 == 0
        and cos.dtype == sin.dtype
        and states.stride(-1) == cos.stride(-1) == sin.stride(-1) == 1
        and heads % states.dim() in range(states.dim() - 3, states.dim() - 1)
        and kernels.registers_of_rotation(states.shape[heads], width) <= MOST_REGISTERS
        and _by_token(states, heads).shape[1] == cos.shape[-2]
    )


def _by_token(states: Tensor, heads: int) -> Tensor:
    """Return a view ``[rows, tokens, heads, width]``."""
    view = states.movedim(heads, -2)
    return view if view.dim() == 4 else view.unsqueeze(0)


def _rotated(kernels: ModuleType, heads: int, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate states by the kernel; the result has their shape and the order of their strides."""
    view = _by_token(states, heads)
    angles = [part.expand(*view.shape[:2], view.shape[3]) for part in (cos, sin)]
    found: Tensor = kernels.rotated(view, *angles)
    found = found if states.dim() == 4 else found.squeeze(0)
    return found.movedim(-2, heads)


def _agrees(
    function: Rotary, count: int, like: Tensor, cos: Tensor, heads: int, kernels: ModuleType
) -> bool:
    """Return whether the kernel's result is that of a function, for made-up numbers."""
    shape = (5, like.shape[-1]) if like.dim() == 3 else (2, 5, like.shape[-1])
    with torch.no_grad():
        for types in ((torch.float32, torch.float32), (like.dtype, cos.dtype)):
            states = made_up((*shape[:-1], 3, shape[-1]), like.device).to(types[0])
            states = states.movedim(-2, heads)
            angles = [made_up(shape, like.device, seed).to(types[1]) for seed in (2, 3)]
            try:
                found = _rotated(kernels, heads, states, *angles)
                expected = function(*[states] * count, *angles)
            except Exception as error:  # noqa: BLE001 - it wants other numbers
                raise_if_fatal(error)
                return False
            if not all(is_same(found, each) for each in ([expected] if count == 1 else expected)):
                return False
    return True
