"""float32 that is float32: no TensorFloat-32 while a model computes in it.

On NVIDIA GPUs torch lets convolutions round float32 to 10 bits of mantissa by default, and every
vision encoder begins with a convolution: its vectors then differ by up to 1e-4 from batch to batch.
Who asks for float32 wants the digits. The switch belongs to the whole process, so it is set for the
time of one call and put back; ``computing`` does that, for one thread at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vlmscope.model.changes import undoing


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 convolutions and products in float32 while the ``with`` block runs."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32

    def put_back() -> None:
        convolutions.allow_tf32, products.allow_tf32 = before

    with undoing(put_back):
        convolutions.allow_tf32 = products.allow_tf32 = False
        yield
