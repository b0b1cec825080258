"""A batch through the model, whatever happens to it.

When memory runs out, or the model raises on some row, the batch is halved and each half tried
again, down to the one row that cannot be done: that row is recorded, its neighbours are not harmed.
Errors that no smaller batch can mend are not hidden in records: a dead GPU is raised at once, and
so is an unknown error that several single rows in a row end in, because then the fault is ours.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence

import torch

from vlmscope.engine import Batch, capture_batch, prepare
from vlmscope.executors.sizing import BatchSizer
from vlmscope.model import VisionLanguageModel
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample

ERRORS_IN_A_ROW = 3
"""So many single rows that end in an unknown error, one after the other, are a bug."""

_CPU_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
_DEAD_DEVICE = ("CUDA error", "device-side assert", "HIP error")

Prepared = tuple[Batch | None, list[Failure]]


class ResilientRunner:
    """Runs batches, splits those that fail, and remembers what fits.

    Args:
        vlm: The model.
        spec: What to record.
        sizer: The batch size, which learns from every batch.
    """

    def __init__(self, vlm: VisionLanguageModel, spec: CaptureSpec, sizer: BatchSizer) -> None:
        self._vlm = vlm
        self._spec = spec
        self._sizer = sizer
        self._errors_in_a_row = 0

    def prepare(self, samples: Sequence[Sample]) -> Prepared | Exception:
        """Prepare a batch; an unexpected error is returned, for ``run`` to find who is to blame."""
        try:
            return prepare(samples, self._vlm)
        except Exception as error:  # noqa: BLE001 - raised or recorded by ``run``
            return error

    def run(
        self, samples: Sequence[Sample], prepared: Prepared | Exception | None = None
    ) -> Iterator[list[Capture | Failure]]:
        """Yield the results of ``samples``, in as many pieces as it took."""
        prepared = self.prepare(samples) if prepared is None else prepared
        try:
            if isinstance(prepared, Exception):
                raise prepared
            batch, failures = prepared
            results = [*failures, *(self._capture(batch) if batch else [])]
        except Exception as error:  # noqa: BLE001 - raised or recorded by ``_split``
            yield from self._split(samples, error)
        else:
            self._errors_in_a_row = 0
            yield results

    def _capture(self, batch: Batch) -> list[Capture | Failure]:
        """Run the model and tell the sizer how it went."""
        cuda = self._vlm.device.type == "cuda"
        idle = peak = 0.0
        if cuda:
            total = torch.cuda.mem_get_info(self._vlm.device)[1]
            torch.cuda.reset_peak_memory_stats(self._vlm.device)
            idle = torch.cuda.memory_allocated(self._vlm.device) / total
        start = time.perf_counter()
        results = capture_batch(batch, self._vlm, self._spec)
        seconds = time.perf_counter() - start
        if cuda:
            peak = torch.cuda.max_memory_reserved(self._vlm.device) / total
        self._sizer.learn(
            rows=len(batch.samples), seconds=seconds, memory_used=peak, memory_idle=idle
        )
        return results

    def _split(
        self, samples: Sequence[Sample], error: Exception
    ) -> Iterator[list[Capture | Failure]]:
        """Try both halves, or record the one row that is left."""
        if any(sign in str(error) for sign in _DEAD_DEVICE):
            raise error
        out_of_memory = is_out_of_memory(error)
        if out_of_memory:
            self._sizer.shrink(len(samples))
            _free_memory()
        if len(samples) == 1:
            yield [self._blame(samples[0], error, out_of_memory)]
            return
        half = len(samples) // 2
        for piece in (samples[:half], samples[half:]):
            yield from self.run(piece)

    def _blame(self, sample: Sample, error: Exception, out_of_memory: bool) -> Failure:
        place = sample.origin or sample.id
        if out_of_memory:
            message = (
                f"{place}: memory runs out on this row alone; "
                "try fewer --max-new-tokens, a smaller --dtype, or another --device"
            )
            return Failure(sample.id, "capture", message)
        self._errors_in_a_row += 1
        if self._errors_in_a_row >= ERRORS_IN_A_ROW:
            raise error
        first_line = (str(error).strip() or "no message").splitlines()[0]
        return Failure(sample.id, "capture", f"{place}: {type(error).__name__}: {first_line}")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that a device or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _CPU_MEMORY)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
