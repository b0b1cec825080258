"""Gated MLPs whose activation and product are one kernel, without compiling the model.

``down_proj(act_fn(gate_proj(x)) * up_proj(x))``: the library writes the activation and reads it
again for the product. Each class is tried with made-up layers (``trial``); an MLP that computes
anything else keeps its own ``forward``. Half precision on one GPU only.
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
from vlmscope.model.elementwise.trial import (
    agrees,
    is_untouched,
    layer,
    made_up,
    note_failure,
    settings_of,
    with_parts,
)

_LAYERS = ("gate_proj", "up_proj", "down_proj")


class GatedKernel:
    """The gated MLPs of a model.

    Args:
        model: The model.
        kernels: The module ``triton_kernels``.
    """

    def __init__(self, model: nn.Module, kernels: ModuleType) -> None:
        self._kernels = kernels
        self._failed = False
        known: dict[Any, int | None] = {}
        self._modules: list[tuple[Any, nn.Module, Callable[..., Tensor]]] = []
        for module in model.modules():
            if not _is_plain(module):
                continue
            activation: Any = module.act_fn
            device = next(module.parameters()).device
            key = type(module), str(activation), device, settings_of(module)
            if key not in known:
                known[key] = _activation_of(module, kernels, device)
            if (number := known[key]) is not None:
                self._modules.append((module, activation, partial(self._forward, module, number)))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model use the kernel within the context, except where somebody changed a part."""
        with replacing_forwards(
            (module, forward)
            for module, activation, forward in self._modules
            if not self._failed and module.act_fn is activation and is_untouched(activation)
        ):
            yield

    def _forward(self, module: Any, activation: int, x: Tensor) -> Tensor:
        """Compute a gated MLP."""
        gate, up = module.gate_proj(x), module.up_proj(x)
        found: Tensor = module.down_proj(self._product(module, activation, gate, up))
        return found

    def _product(self, module: Any, activation: int, gate: Tensor, up: Tensor) -> Any:
        same = gate.shape == up.shape and gate.dtype == up.dtype
        if same and gate.is_contiguous() and up.is_contiguous() and not self._failed:
            try:
                return self._kernels.gated(gate, up, activation)
            except Exception as error:  # noqa: BLE001 - the library has its own function
                note_failure(error)
                self._failed = True
        return module.act_fn(gate) * up


def _is_plain(module: nn.Module) -> bool:
    """Return whether a module of the library has the layers of a gated MLP, and nothing else."""
    layers = [getattr(module, name, None) for name in _LAYERS]
    return (
        type(module).__module__.startswith("transformers.models.")
        and all(isinstance(each, nn.Module) for each in layers)
        and isinstance(getattr(module, "act_fn", None), nn.Module)
        and len(list(module.children())) == len(_LAYERS) + 1
        and not list(module.parameters(recurse=False))
        and not list(module.buffers(recurse=False))
        and "forward" not in vars(module)
        and not any(own.device.type == "meta" for own in module.parameters())
    )


def _activation_of(module: Any, kernels: ModuleType, device: torch.device) -> int | None:
    """Return the activation of a gated MLP; None if it is none, or has an unknown activation."""
    candidates: dict[int, Callable[[Tensor], Tensor]] = {
        kernels.SILU: F.silu,
        kernels.GELU: F.gelu,
        kernels.GELU_TANH: partial(F.gelu, approximate="tanh"),
    }
    act = with_parts(module.act_fn)
    layers = (layer(16, 24, device, 1), layer(16, 24, device, 3), layer(24, 16, device, 5))
    small: Any = with_parts(module, act_fn=act, **dict(zip(_LAYERS, layers, strict=True)))
    gate, up, down = layers
    x = made_up((1, 5, 16), device)
    own = partial(type(module).forward, small)

    def by_kernel(activation: int, x: Tensor) -> Tensor:
        found: Tensor = down(kernels.gated(gate(x), up(x), activation))
        return found

    for activation, function in candidates.items():
        if agrees(function, act, 3 * x) and agrees(partial(by_kernel, activation), own, x):
            return activation
    return None
