"""Let torchvision be imported beside a CPU build of torch that its wheel was not made for.

The wheel's compiled operators do not load there, and its Python code stops at the first that is not
declared. Image processors use none of them: declared, without an implementation, they are enough to
run the families whose processors exist for torchvision only (``make test-extras``).
"""

from __future__ import annotations

import torch

_OPERATORS = ("nms", "qnms")


def declare() -> torch.library.Library:
    """Declare the operators; they live as long as what is returned."""
    library = torch.library.Library("torchvision", "DEF")
    for name in _OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
