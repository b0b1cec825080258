"""Asynchronous copies from the device, and the classification of its errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Fetch:
    """Asynchronous copies of tensors to the host.

    From a GPU they are copied into pinned memory, in the order of the stream; reading one waits for
    it. On a CPU the tensors are cloned.

    Args:
        tensors: Name → tensor; later changes do not affect the copy.
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
        """Return one of the copies, waiting for it if needed."""
        return self.tensor(name).numpy()

    def tensor(self, name: str) -> Tensor:
        """Return one of the copies as a tensor, waiting for it if needed."""
        while self._events:
            self._events[-1].synchronize()
            self._events.pop()
        return self._copies[name]

    def __iter__(self) -> Any:
        """Iterate over the names."""
        return iter(self._copies)


_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "STATUS_ALLOC_FAILED",
)
"""Error texts of libraries, besides ``torch.OutOfMemoryError``, if memory runs out."""

_DEAD_DEVICE = ("CUDA error", "device-side assert", "HIP error")
"""Error texts of a GPU that cannot be used any more in this process."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` means that a device or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def is_dead_device(error: BaseException) -> bool:
    """Return whether ``error`` means that a device cannot be used any more in this process."""
    return not is_out_of_memory(error) and any(sign in str(error) for sign in _DEAD_DEVICE)
