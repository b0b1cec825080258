"""Copies of tensors to the device for which the host does not wait.

A copy to a GPU is asynchronous only from pinned memory: from other memory the host waits until the
GPU has finished what was launched before.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pinned(tensor: Tensor) -> Tensor:
    """Return a tensor of the host in pinned memory."""
    return tensor if tensor.is_pinned() else tensor.pin_memory()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on the model's device; copies to a GPU are asynchronous."""
    ready = pinned(tensor) if device.type == "cuda" else tensor
    return ready.to(device, non_blocking=True)
