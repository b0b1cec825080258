"""Trials: whether a kernel computes the same as a part of the library, with made-up numbers.

A part is tried as a copy with small layers of made-up weights, in float32 and with inputs of
several sizes: a limit shows with large ones only, the model's own weights may hide a factor, and
hooks of users see nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from vlmscope.errors import one_line
from vlmscope.shown_once import warn

TOLERANCE = 1e-5
"""Relative to the largest number, in float32."""

TOLERANCE_OF_HALF = 3e-2
"""The same in half precision."""

SIZES = (1e-3, 1.0, 1e4)
"""Sizes of the inputs."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def made_up(shape: tuple[int, ...], device: torch.device | str, seed: int = 1) -> Tensor:
    """Return numbers between about -1.7 and 1.7 in float32, without the random state.

    >>> made_up((2, 3), "cpu").shape
    torch.Size([2, 3])
    """
    count = int(torch.Size(shape).numel())
    numbers = torch.arange(count, dtype=torch.float64) * (seed + 0.7) + seed
    return (1.7 * (numbers * 1.3).sin() * (numbers * 0.37).cos()).float().view(shape).to(device)


def is_same(found: Tensor, expected: Tensor) -> bool:
    """Return whether two results are equal but for rounding, of one shape and type, and not zero.

    >>> is_same(torch.ones(2), torch.ones(2)), is_same(torch.ones(2), torch.ones(2).half())
    (True, False)
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    tolerance = TOLERANCE if found.dtype == torch.float32 else TOLERANCE_OF_HALF
    size = expected.float().abs().max()
    error = (found.float() - expected.float()).abs().max()
    return bool((error <= tolerance * size) & (size > 0))


def layer(inputs: int, outputs: int, device: torch.device, seed: int) -> nn.Linear:
    """Return a linear layer of made-up weights in float32."""
    made = nn.Linear(inputs, outputs, device=device, dtype=torch.float32)
    made.weight.data = made_up((outputs, inputs), device, seed)
    made.bias.data = made_up((outputs,), device, seed + 1)
    return made


def with_parts(module: nn.Module, **parts: nn.Module) -> nn.Module:
    """Return a copy of a module with other parts, the ``forward`` of its class and no hooks."""
    other = copy(module)
    vars(other).update(
        {hooks: {} for hooks in HOOKS}, _modules=dict(module.named_children()) | parts
    )
    vars(other).pop("forward", None)
    return other


def is_untouched(module: nn.Module) -> bool:
    """Return whether nobody replaced the ``forward`` of a module or put hooks on it."""
    return "forward" not in vars(module) and not any(getattr(module, name) for name in HOOKS)


def settings_of(module: nn.Module) -> tuple[Any, ...]:
    """Return the simple attributes of a module, on which its ``forward`` may depend."""
    simple = (bool, int, float, str)
    found = {k: v for k, v in vars(module).items() if isinstance(v, simple) and k != "training"}
    return tuple(sorted(found.items()))


def agrees(
    compute: Callable[[Tensor], Tensor], expected: Callable[[Tensor], Tensor], like: Tensor
) -> bool:
    """Return whether two functions have the same results for inputs of several sizes.

    Raises:
        torch.OutOfMemoryError, RuntimeError: The GPU has no memory, or cannot be used any more.
    """
    with torch.no_grad():
        try:
            return all(is_same(compute(like * size), expected(like * size)) for size in SIZES)
        except Exception as error:  # noqa: BLE001 - it wants other numbers
            raise_if_fatal(error)
            return False


def raise_if_fatal(error: Exception) -> None:
    """Raise an error again that is not about a kernel."""
    if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):
        raise error


def note_failure(error: Exception) -> None:
    """Warn that a kernel failed; the library's function is used from now on.

    Raises:
        torch.OutOfMemoryError, RuntimeError: As ``agrees``.
    """
    raise_if_fatal(error)
    warn(
        f"a kernel of Triton failed ({type(error).__name__}: {one_line(error)}); the library's "
        "function is used from now on, which is slower",
        stacklevel=3,
    )
