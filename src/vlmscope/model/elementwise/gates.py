"""Gated MLPs whose activation and product are one kernel, without compiling the model.

``down_proj(act_fn(gate_proj(x)) * up_proj(x))``: the library writes the activation and reads it
again for the product. A class is tried with made-up numbers, and its activation in float32; an MLP
that computes anything else keeps its own ``forward``. Half precision on one GPU only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vlmscope.model.computing import replacing_forwards
from vlmscope.model.elementwise.trial import is_same, made_up

_LAYERS = ("gate_proj", "up_proj", "down_proj")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class GatedKernel:
    """The gated MLPs of a model.

    Args:
        model: The model.
        kernels: The module ``triton_kernels``.
    """

    def __init__(self, model: nn.Module, kernels: ModuleType) -> None:
        known: dict[Any, int | None] = {}
        self._modules: list[tuple[nn.Module, Callable[..., Tensor]]] = []
        for module in model.modules():
            if not _is_plain(module):
                continue
            if (key := _key(module)) not in known:
                known[key] = _activation_of(module, kernels)
            activation = known[key]
            if activation is not None:
                forward = partial(_forward, module, activation, kernels)
                self._modules.append((module, forward))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model use the kernel within the context, except where a hook would miss it."""
        with replacing_forwards(pair for pair in self._modules if not _is_watched(pair[0])):
            yield


def _forward(module: Any, activation: int, kernels: ModuleType, x: Tensor) -> Tensor:
    """Compute a gated MLP."""
    gate, up = module.gate_proj(x), module.up_proj(x)
    same = gate.shape == up.shape and gate.dtype == up.dtype
    if same and gate.is_contiguous() and up.is_contiguous():
        product = kernels.gated(gate, up, activation)
    else:
        product = module.act_fn(gate) * up
    found: Tensor = module.down_proj(product)
    return found


def _is_watched(module: Any) -> bool:
    """Return whether the activation has hooks."""
    return any(getattr(module.act_fn, hooks, None) for hooks in _HOOKS)


def _is_plain(module: nn.Module) -> bool:
    """Return whether a module of the library has the layers of a gated MLP."""
    return (
        type(module).__module__.startswith("transformers.models.")
        and all(isinstance(getattr(module, name, None), nn.Module) for name in _LAYERS)
        and callable(getattr(module, "act_fn", None))
        and "forward" not in vars(module)
        and not any(own.device.type == "meta" for own in module.parameters())
    )


def _key(module: Any) -> tuple[Any, ...]:
    """Return what an MLP computes, besides its weights: its class, settings and kinds of layers."""
    settings = {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str)}
    settings.pop("training", None)
    kinds = (type(layer).__name__ for _, layer in module.named_modules())
    first = next(module.parameters(), torch.empty(0))
    return type(module), str(module.act_fn), str(first.device), *kinds, *sorted(settings.items())


def _activation_of(module: Any, kernels: ModuleType) -> int | None:
    """Return the activation of a gated MLP; None if it is none, or has an unknown activation."""
    own = next(module.parameters())
    width = getattr(module.gate_proj, "in_features", None)
    if not isinstance(width, int) or not own.dtype.is_floating_point:
        return None
    candidates: dict[int, Callable[[Tensor], Tensor]] = {
        kernels.SILU: F.silu,
        kernels.GELU: F.gelu,
        kernels.GELU_TANH: partial(F.gelu, approximate="tanh"),
    }
    numbers = 5 * made_up((1, 3, 64), own.device)
    with torch.no_grad():
        try:
            active = module.act_fn(numbers)
            for activation, function in candidates.items():
                found = kernels.gated(numbers, torch.ones_like(numbers), activation)
                if is_same(found, active) and is_same(function(numbers), active):
                    x = made_up((1, 3, width), own.device).to(own.dtype)
                    expected = type(module).forward(module, x)
                    same = is_same(_forward(module, activation, kernels, x), expected)
                    return activation if same else None
        except Exception:  # noqa: BLE001 - it wants more than its input
            return None
    return None
