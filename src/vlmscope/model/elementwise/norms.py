"""RMS norms by one kernel, without compiling the model.

The library writes an RMS norm as six operations, most of them in float32: a tenth of a prefill of
a short prompt. ``torch.nn.functional.rms_norm`` reads its input once and writes its result once;
``1 + weight`` needs a second kernel there, so it is one of ``triton_kernels`` if those can be used.

What a norm computes is not told by its name, so each class is tried with made-up numbers: its
result must be that of one of the two known formulas, the input over its root mean square times
``weight`` or times ``1 + weight``. Only for half precision on GPUs; elsewhere the library's results
are kept bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from vlmscope.model.computing import replacing_forwards
from vlmscope.model.elementwise.trial import is_same, note_failure, raise_if_fatal, settings_of

_SIZES = (1e-3, 30.0)
"""Sizes of the numbers that a norm is tried with: the squares of the small ones are of the size of
epsilon, and large ones show whether it has limits."""


class NormKernel:
    """The RMS norms of a model that are known formulas.

    Args:
        model: The model; each class of norms is tried once for each of its settings.
        kernels: The module ``triton_kernels``; None for those of torch alone.
    """

    def __init__(self, model: nn.Module, kernels: ModuleType | None = None) -> None:
        own = () if kernels is None else (_ByKernel(kernels),)
        known: tuple[_Formula, ...] = (*own, *_FORMULAS)
        formulas: dict[Any, _Formula | None] = {}
        self._modules: list[tuple[nn.Module, Callable[..., Tensor]]] = []
        for module in model.modules():
            if not _is_plain(module):
                continue
            if (key := _key(module)) not in formulas:
                formulas[key] = _formula_of(module, known)
            if (formula := formulas[key]) is not None:
                forward = partial(_normalized, formula, module, _epsilon(module))
                self._modules.append((module, forward))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model use the one kernel within the context."""
        with replacing_forwards(self._modules):
            yield


_Formula = Callable[[Tensor, Tensor, float], Tensor]
"""Input ``[..., D]``, weight ``[D]`` and epsilon → result, ``[..., D]``."""


def _times_weight(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return rms_norm(states, weight.shape, weight, epsilon)


def _times_one_plus_weight(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """As Gemma has it. ``1 + weight`` has too few digits in half precision, so it is not made."""
    normed = rms_norm(states, weight.shape, None, epsilon)
    return torch.addcmul(normed, normed, weight)


class _ByKernel:
    """As ``_times_one_plus_weight``, by one kernel; by torch's if that fails.

    Args:
        kernels: The module ``triton_kernels``.
    """

    def __init__(self, kernels: ModuleType) -> None:
        self._kernels: ModuleType | None = kernels

    def __call__(self, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        kernels = self._kernels
        if kernels is not None and len(weight) <= kernels.MOST_NUMBERS:
            try:
                found: Tensor = kernels.normed_times_one_plus(states.contiguous(), weight, epsilon)
            except Exception as error:  # noqa: BLE001 - the library has its own function
                note_failure(error)
                self._kernels = None
            else:
                return found
        return _times_one_plus_weight(states, weight, epsilon)


_FORMULAS: tuple[_Formula, ...] = (_times_weight, _times_one_plus_weight)


def _normalized(
    formula: _Formula, module: nn.Module, epsilon: float, *args: Any, **kwargs: Any
) -> Tensor:
    """Call a norm by its formula, or as it was loaded if the types differ or it is given a gate."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    if kwargs or len(args) != 1 or args[0].dtype != weight.dtype:
        found: Tensor = type(module).forward(module, *args, **kwargs)
        return found
    states: Tensor = args[0]
    if states.dim() == 4 and (turned := states.transpose(1, 2)).is_contiguous():
        return formula(turned, weight, epsilon).transpose(1, 2)  # heads, with no copy
    return formula(states, weight, epsilon)


def _is_plain(module: nn.Module) -> bool:
    """Return whether a module is an RMS norm of the library with nothing but a weight."""
    kind, weight = type(module), getattr(module, "weight", None)
    return (
        isinstance(weight, Tensor)
        and "RMSNorm" in kind.__name__
        and kind.__module__.startswith("transformers.models.")
        and [name for name, _ in module.named_parameters()] == ["weight"]
        and not list(module.buffers())
        and weight.dim() == 1
        and weight.device.type != "meta"  # on the disk, or in the memory of the host
        and "forward" not in vars(module)
        and _epsilon(module) is not None
    )


def _key(module: nn.Module) -> tuple[Any, ...]:
    """Return what the results of a norm depend on, besides its weight: its class and settings."""
    return type(module), str(module.weight.device), *settings_of(module)


def _epsilon(module: nn.Module) -> Any:
    """Return the number that is added to the mean square; None if it is not known."""
    named = [value for name in ("variance_epsilon", "eps") if (value := vars(module).get(name))]
    return named[0] if len(named) == 1 and isinstance(named[0], float) else None


def _formula_of(module: nn.Module, known: tuple[_Formula, ...]) -> _Formula | None:
    """Return the formula that a norm computes, if it is a known one."""
    own: Tensor = module.weight  # type: ignore[assignment]
    numbers = torch.linspace(-1.3, 1.7, 3 * len(own), device=own.device).view(1, 3, -1)
    weight = 1.4 * (9 * numbers[0, 0]).cos()  # of both signs: all zeros or ones tell nothing
    trials = [
        (weight.to(dtype), (numbers * numbers.cos() * size).to(dtype))
        for size in _SIZES
        for dtype in (torch.float32, own.dtype)
    ]
    with torch.no_grad():
        try:
            expected = [_with_weight(module, trial[0])(trial[1]) for trial in trials]
            for formula in known:
                found = [formula(trial[1], trial[0], _epsilon(module)) for trial in trials]
                if all(map(is_same, found, expected)):
                    return formula
        except Exception as error:  # noqa: BLE001 - it wants other numbers
            raise_if_fatal(error)
            return None
    return None


def _with_weight(module: nn.Module, weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the own ``forward`` of a norm, with another weight."""
    other = copy(module)
    vars(other)["_parameters"] = {"weight": nn.Parameter(weight)}
    return partial(type(module).forward, other)
