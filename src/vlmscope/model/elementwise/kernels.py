"""Which element-wise kernels a model can use, and using them during a pass.

In half precision on GPUs only; elsewhere the library's results are kept bit by bit. RMS norms are
a kernel of torch, and GELU a part of its matrix products. Rotary embeddings and gated MLPs need
Triton, and a model on a single GPU, because a kernel of Triton is launched on the current one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType

import torch

from vlmscope.errors import one_line
from vlmscope.model.elementwise.epilogues import GeluEpilogue
from vlmscope.model.elementwise.gates import GatedKernel
from vlmscope.model.elementwise.norms import NormKernel
from vlmscope.model.elementwise.rotary import RotaryKernel
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.shown_once import warn

ROWS_FOR_TRITON = 1000
"""Rows from which Triton's kernels take less time than they save: 2 to 4 s to import Triton and to
compile them the first time, against 1 to 3 ms per row."""


class ElementwiseKernels:
    """The element-wise kernels of a model; none on a CPU or in float32.

    Args:
        vlm: The model.
        many: Whether there are enough rows for kernels that must be compiled.
    """

    def __init__(self, vlm: VisionLanguageModel, *, many: bool = False) -> None:
        self.parts: list[NormKernel | GeluEpilogue | RotaryKernel | GatedKernel] = []
        if not suits(vlm):
            return
        kernels = kernels_for(vlm) if many else None
        self.parts += [NormKernel(vlm.model, kernels), GeluEpilogue(vlm.model)]
        if kernels is not None:
            self.parts += [RotaryKernel(vlm.model, kernels), GatedKernel(vlm.model, kernels)]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model use the kernels within the context."""
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.in_place())
            yield


def suits(vlm: VisionLanguageModel) -> bool:
    """Return whether parts of a model may be replaced: in half precision, on GPUs."""
    return bool(vlm.cuda_devices) and vlm.dtype in {torch.bfloat16, torch.float16}


def kernels_for(vlm: VisionLanguageModel) -> ModuleType | None:
    """Return the module ``triton_kernels`` if a model can use it: on a single GPU, with Triton."""
    return triton_kernels() if len(vlm.cuda_devices) == 1 else None


@cache
def triton_kernels() -> ModuleType | None:
    """Return the module ``triton_kernels``; None if there is no Triton or it does not work here."""
    try:
        kernels = import_module("vlmscope.model.elementwise.triton_kernels")
    except ImportError:
        return None
    try:
        some = torch.ones(16, device="cuda", dtype=torch.bfloat16)
        kernels.gated(some, some, kernels.SILU)
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):
            raise
        warn(
            f"Triton failed ({type(error).__name__}: {one_line(error)}); rotary embeddings and "
            "MLPs are left to the library, which is slower",
            stacklevel=2,
        )
        return None
    return kernels
