"""Chains of element-wise operations as single kernels while a pass runs, without compiling a model.

- ``kernels``: ``ElementwiseKernels``, those that can be used for a model
- ``norms``: RMS norms; ``rotary``: rotary embeddings; ``gates``: gated MLPs; ``epilogues``: GELU;
  ``recurrence``: a step of linear attention
- ``trial``: whether a kernel computes the same as a part of the library
- ``triton_kernels``: the kernels that torch does not have; imports Triton
"""

from vlmscope.model.elementwise.kernels import ROWS_FOR_TRITON, ElementwiseKernels

__all__ = ["ROWS_FOR_TRITON", "ElementwiseKernels"]
