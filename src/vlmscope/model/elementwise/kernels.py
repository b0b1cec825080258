"""Which element-wise kernels a model can use, and using them during a pass.

For models in half precision on GPUs; on a CPU and in float32 the library's results are kept bit by
bit. RMS norms are a kernel of torch, and GELU a part of its matrix products. Rotary embeddings,
gated MLPs and steps of linear attention need Triton, and a model on a single GPU, because a kernel
of Triton is launched on the current one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import nn

from vlmscope.locking import model_lock
from vlmscope.model.computing import HALF, start_clean
from vlmscope.model.elementwise.epilogues import GeluEpilogue
from vlmscope.model.elementwise.gates import GatedKernel
from vlmscope.model.elementwise.norms import NormKernel
from vlmscope.model.elementwise.recurrence import DeltaRuleKernel
from vlmscope.model.elementwise.rotary import RotaryKernel
from vlmscope.model.elementwise.trial import note_failure
from vlmscope.model.vlm import VisionLanguageModel

Part = NormKernel | GeluEpilogue | RotaryKernel | GatedKernel | DeltaRuleKernel

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
        self.parts: list[Part] = []
        if not suits(vlm):
            return
        with model_lock(), torch.no_grad():
            start_clean()  # else the parts that a pass has replaced would not be found
            kernels = triton_for(vlm) if many else None
            with ExitStack() as stack:
                for device in vlm.cuda_devices[:1]:  # a kernel of Triton runs on the current GPU
                    stack.enter_context(torch.cuda.device(device))
                self._find(vlm.model, kernels, many=many)

    def _find(self, model: nn.Module, kernels: ModuleType | None, *, many: bool) -> None:
        self.parts.append(NormKernel(model, kernels))
        if many:
            self.parts.append(GeluEpilogue(model))
        if kernels is not None:
            of_triton = (RotaryKernel, GatedKernel, DeltaRuleKernel)
            self.parts += [part(model, kernels) for part in of_triton]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model use the kernels within the context."""
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.in_place())
            yield


def suits(vlm: VisionLanguageModel) -> bool:
    """Return whether parts of a model may be replaced: in half precision, on GPUs."""
    return bool(vlm.cuda_devices) and vlm.dtype in HALF


def triton_for(vlm: VisionLanguageModel) -> ModuleType | None:
    """Return the module ``triton_kernels`` if a model can use it: on a single GPU, with Triton."""
    return triton_kernels(vlm.cuda_devices[0]) if len(vlm.cuda_devices) == 1 else None


@cache
def triton_kernels(device: Any) -> ModuleType | None:
    """Return the module ``triton_kernels``; None if there is no Triton or it does not work here.

    Args:
        device: The GPU.
    """
    try:
        kernels = import_module("vlmscope.model.elementwise.triton_kernels")
    except ImportError:
        return None
    try:
        with torch.cuda.device(device):
            some = torch.ones(16, device="cuda", dtype=torch.bfloat16)
            kernels.gated(some, some, kernels.SILU)
    except Exception as error:  # noqa: BLE001 - the library has its own function
        note_failure(error)
        return None
    return kernels
