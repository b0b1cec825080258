"""MLPs of vision encoders whose GELU is part of the matrix product, without compiling the model.

``fc2(gelu(fc1(x)))``: cuBLAS can apply the approximation of GELU by tanh to a product before it is
written, so it is not read and written again. torch has an operation for it, which computes other
kinds of GELU on other devices: what it computes here is tried with made-up layers (``trial``). Half
precision on GPUs only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlmscope.model.computing import replacing_forwards
from vlmscope.model.elementwise.trial import (
    agrees,
    is_untouched,
    layer,
    made_up,
    settings_of,
    with_parts,
)

_LAYERS = (("fc1", "fc2"), ("linear_fc1", "linear_fc2"))
_ACTIVATIONS = ("activation_fn", "act_fn", "act")


class GeluEpilogue:
    """The MLPs of a model whose GELU is computed with the matrix product before it.

    Args:
        model: The model; each class of MLPs is tried once for each of its settings.
    """

    def __init__(self, model: nn.Module) -> None:
        known: dict[Any, bool] = {}
        self._modules: list[tuple[nn.Module, _Parts]] = []
        for module in model.modules():
            parts = _parts_of(module)
            if parts is None:
                continue
            device = _own(module, parts)[0].weight.device
            key = type(module), str(_own(module, parts)[1]), device, settings_of(module)
            if key not in known:
                known[key] = _agrees(module, parts, device)
            if known[key]:
                self._modules.append((module, parts))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model use the operation within the context, except where a part was changed."""
        with replacing_forwards(
            (module, partial(_forward, *_own(module, parts)))
            for module, parts in self._modules
            if _parts_of(module) == parts and all(map(is_untouched, _own(module, parts)[:2]))
        ):
            yield


_Parts = tuple[str, str, str]
"""Names of the first layer, the activation, and the last layer."""


def _own(module: Any, parts: _Parts) -> tuple[Any, Any, Any]:
    """Return the parts of an MLP as they are now."""
    first, activation, last = (getattr(module, name) for name in parts)
    return first, activation, last


def _parts_of(module: nn.Module) -> _Parts | None:
    """Return the names of the parts of an MLP of the library; None for any other module."""
    if not type(module).__module__.startswith("transformers.models.") or "forward" in vars(module):
        return None
    own = dict(module.named_children())
    activations = [name for name in _ACTIVATIONS if own.get(name) is not None]
    for first, last in _LAYERS:
        layer = own.get(first)
        if type(layer) is nn.Linear and type(own.get(last)) is nn.Linear and len(activations) == 1:
            usable = layer.bias is not None and layer.weight.device.type != "meta"
            return (first, activations[0], last) if usable else None
    return None


def _forward(first: nn.Linear, activation: nn.Module, last: nn.Linear, x: Tensor) -> Tensor:
    """Compute an MLP."""
    own = x.dtype == first.weight.dtype
    middle = _product(first, x) if own else activation(first(x))
    found: Tensor = last(middle)
    return found


def _product(first: nn.Linear, x: Tensor) -> Tensor:
    """Return the activated product, ``[..., inner]``."""
    rows = x.reshape(-1, x.shape[-1])
    found = torch._addmm_activation(first.bias, rows, first.weight.t(), use_gelu=True)
    return found.view(*x.shape[:-1], len(first.weight))


def _agrees(module: nn.Module, parts: _Parts, device: torch.device) -> bool:
    """Return whether an MLP computes this, with the kind of GELU that the operation has here."""
    act = with_parts(_own(module, parts)[1])
    first, last = layer(16, 24, device, 1), layer(24, 16, device, 3)
    small = with_parts(module, **dict(zip(parts, (first, act, last), strict=True)))
    x = made_up((1, 5, 16), device)
    forward: Any = type(module).forward
    return agrees(partial(_product, first), lambda x: act(first(x)), x) and agrees(
        partial(_forward, first, act, last), partial(forward, small), x
    )
