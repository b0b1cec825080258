"""The device: copies that nobody waits for, and what its errors mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Fetch:
    """Copies of tensors that arrive by themselves.

    From a GPU they go into pinned memory, in the order of the stream, and nobody waits for them
    until they are looked at. On a CPU there is nothing to copy.

    Args:
        tensors: Name → tensor; it may be changed later, the copy has the values of now.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._copies: dict[str, Tensor] = {}
        self._events: list[Any] = []
        for name, tensor in tensors.items():
            if tensor.is_cuda:
                copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                self._copies[name] = copy.copy_(tensor, non_blocking=True)
            else:
                self._copies[name] = tensor.cpu().clone()
        for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(device))
            self._events.append(event)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return one of them, when it is here."""
        while self._events:
            self._events[-1].synchronize()
            self._events.pop()
        return self._copies[name].numpy()

    def __iter__(self) -> Any:
        """Iterate over the names."""
        return iter(self._copies)


def pinned(tensor: Tensor) -> Tensor:
    """Return a tensor of the host in memory that a GPU can read by itself."""
    return tensor if tensor.is_pinned() else tensor.pin_memory()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on the model's device; nobody waits for the copy to a GPU."""
    ready = pinned(tensor) if device.type == "cuda" else tensor
    return ready.to(device, non_blocking=True)


_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "STATUS_ALLOC_FAILED",
)
"""What libraries say, beside ``torch.OutOfMemoryError``, when memory runs out."""

_DEAD_DEVICE = ("CUDA error", "device-side assert", "HIP error")
"""What a GPU says that will not answer again in this process."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that a device or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def is_dead_device(error: BaseException) -> bool:
    """Return whether ``error`` says that a device will not answer again in this process."""
    return not is_out_of_memory(error) and any(sign in str(error) for sign in _DEAD_DEVICE)
