"""Trials: whether a kernel computes the same as a part of the library, with made-up numbers."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-5
"""Relative to the largest number, in float32."""

TOLERANCE_OF_HALF = 3e-2
"""The same in half precision."""


def made_up(shape: tuple[int, ...], device: torch.device | str, seed: int = 1) -> Tensor:
    """Return numbers between about -1.7 and 1.7 in float32, without the random state.

    >>> made_up((2, 3), "cpu").shape
    torch.Size([2, 3])
    """
    count = int(torch.Size(shape).numel())
    numbers = torch.arange(count, dtype=torch.float64) * (seed + 0.7) + seed
    return (1.7 * (numbers * 1.3).sin() * (numbers * 0.37).cos()).float().view(shape).to(device)


def is_same(found: Tensor, expected: Tensor) -> bool:
    """Return whether two results are equal but for rounding, and of one shape and type.

    >>> is_same(torch.ones(2), torch.ones(2)), is_same(torch.ones(2), torch.ones(2).half())
    (True, False)
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    tolerance = TOLERANCE if found.dtype == torch.float32 else TOLERANCE_OF_HALF
    error = (found.float() - expected.float()).abs().max()
    return bool(error <= tolerance * expected.float().abs().max())
