"""How libraries say that there is no memory left, in many words, or that a device is dead."""

from __future__ import annotations

import torch

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
