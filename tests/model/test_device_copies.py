"""Copies to a GPU start from pinned memory, and memory is pinned once."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from vlmscope.model.device_copies import pinned, to_device


class Memory:
    """Stands for a tensor of a host with a GPU."""

    def __init__(self, *, pinned: bool) -> None:
        self.is_pinned = lambda: pinned
        self.pins = 0
        self.copies: list[tuple[torch.device, bool]] = []

    def pin_memory(self) -> Memory:
        self.pins += 1
        return self

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Memory:
        self.copies.append((device, non_blocking))
        return self


@pytest.mark.parametrize(
    ("device", "is_pinned", "pins"),
    [("cuda", False, 1), ("cuda", True, 0), ("cpu", False, 0), ("cpu", True, 0)],
)
def test_memory_is_pinned_for_a_gpu_once(device: str, is_pinned: bool, pins: int) -> None:
    tensor: Any = Memory(pinned=is_pinned)
    there = to_device(tensor, torch.device(device))
    assert cast("Any", there) is tensor
    assert tensor.pins == pins
    assert tensor.copies == [(torch.device(device), True)]


def test_a_tensor_of_the_cpu_stays_the_same() -> None:
    tensor = torch.arange(3)
    assert to_device(tensor, torch.device("cpu")) is tensor


@pytest.mark.parametrize("is_pinned", [False, True])
def test_what_is_pinned_stays(is_pinned: bool) -> None:
    tensor: Any = Memory(pinned=is_pinned)
    pinned(tensor)
    assert tensor.pins == (not is_pinned)
