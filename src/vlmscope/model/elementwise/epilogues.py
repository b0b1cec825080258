"""MLPs of vision encoders whose GELU is part of the matrix product, without compiling the model.

``fc2(gelu(fc1(x)))``: cuBLAS can apply the approximation of GELU by tanh to a product before it is
written, so it is not read and written again. torch has an operation for it, which computes other
kinds of GELU on other devices: what it computes here is tried with made-up numbers in float32, and
every kind of MLP in its own type. Half precision on GPUs only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlmscope.model.computing import replacing_forwards
from vlmscope.model.elementwise.trial import is_same, made_up

_LAYERS = (("fc1", "fc2"), ("linear_fc1", "linear_fc2"))
_ACTIVATIONS = ("activation_fn", "act_fn", "act")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class GeluEpilogue:
    """The MLPs of a model whose GELU is computed with the matrix product before it.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        known: dict[Any, bool] = {}
        self._modules: list[tuple[nn.Module, _Parts]] = []
        for module in model.modules():
            parts = _parts_of(module)
            if parts is None:
                continue
            key = type(module), str(parts[1]), parts[0].weight.dtype, parts[0].weight.device
            if key not in known:
                known[key] = _agrees(module, parts)
            if known[key]:
                self._modules.append((module, parts))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model use the operation within the context, except where a hook would miss it."""
        with replacing_forwards(
            (module, partial(_forward, *parts))
            for module, parts in self._modules
            if not any(getattr(part, hooks) for part in parts[:2] for hooks in _HOOKS)
        ):
            yield


_Parts = tuple[nn.Linear, nn.Module, nn.Linear]
"""The first layer, the activation, and the last layer."""


def _parts_of(module: nn.Module) -> _Parts | None:
    """Return the parts of an MLP of the library; None for any other module."""
    if not type(module).__module__.startswith("transformers.models.") or "forward" in vars(module):
        return None
    for names in _LAYERS:
        first, last = (getattr(module, name, None) for name in names)
        found = [getattr(module, name, None) for name in _ACTIVATIONS]
        activations = [each for each in found if isinstance(each, nn.Module)]
        if type(first) is nn.Linear and type(last) is nn.Linear and len(activations) == 1:
            usable = first.bias is not None and first.weight.device.type != "meta"
            return (first, activations[0], last) if usable else None
    return None


def _forward(first: nn.Linear, activation: nn.Module, last: nn.Linear, x: Tensor) -> Tensor:
    """Compute an MLP."""
    if x.dtype == first.weight.dtype:
        middle = _product(first.weight, first.bias, x)
    else:
        middle = activation(first(x))
    found: Tensor = last(middle)
    return found


def _product(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """Return the activated product, ``[..., inner]``."""
    rows = x.reshape(-1, x.shape[-1])
    found = torch._addmm_activation(bias, rows, weight.t(), use_gelu=True)
    return found.view(*x.shape[:-1], len(weight))


def _agrees(module: nn.Module, parts: _Parts) -> bool:
    """Return whether an MLP computes this, with the kind of GELU that the operation has here."""
    first, activation, _ = parts
    device, own = first.weight.device, first.weight.dtype
    weight, bias, x = (made_up(shape, device) for shape in ((64, 32), (64,), (5, 32)))
    forward: Any = type(module).forward
    with torch.no_grad():
        try:
            expected = activation(nn.functional.linear(x, weight, bias))
            if not is_same(_product(weight, bias, x), expected):
                return False
            x = made_up((1, 3, first.in_features), device).to(own)
            return is_same(_forward(*parts, x), forward(module, x))
        except Exception:  # noqa: BLE001 - it wants more than its input
            return False
