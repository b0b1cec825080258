"""A batch through the model, whatever happens to it.

When memory runs out, or the model raises on some row, the batch is halved and each half tried
again, down to the one row that cannot be done: that row is recorded, its neighbours are not harmed.
Errors that no smaller batch can mend are not hidden in records: a dead GPU is raised at once, and
so is one and the same error on several rows before any row went well, because then the fault is
ours.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from vlmscope.engine import Batch, capture_batch, prepare
from vlmscope.executors.sizing import BatchSizer
from vlmscope.model import VisionLanguageModel
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample, failure_of

SAME_ERRORS = 3
"""So many rows that end in the same unknown error, before any row went well, are a bug."""

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

Prepared = tuple[list[Batch], list[Failure]]
Results = list[Capture | Failure]


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why a batch failed, without the frames that would keep its tensors alive."""

    error: Exception
    out_of_memory: bool

    @property
    def text(self) -> str:
        """The error in one line."""
        first_line = (str(self.error).strip() or "no message").splitlines()[0]
        return f"{type(self.error).__name__}: {first_line}"


class ResilientRunner:
    """Runs batches, splits those that fail, and remembers what fits.

    Args:
        vlm: The model.
        spec: What to record.
        sizer: The batch size, which learns from every batch.
        went_well: Whether rows of this run went well before, so that errors are the rows' own.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        spec: CaptureSpec,
        sizer: BatchSizer,
        *,
        went_well: bool = False,
    ) -> None:
        self._vlm = vlm
        self._spec = spec
        self._sizer = sizer
        self._went_well = went_well
        self._blamed: list[str] = []

    def prepare(self, samples: Sequence[Sample]) -> Prepared | Exception:
        """Prepare a batch; an unexpected error is returned, for ``run`` to find who is to blame."""
        try:
            return prepare(samples, self._vlm, self._spec)
        except Exception as error:  # noqa: BLE001 - raised or recorded by ``run``
            return error

    def run(
        self, samples: Sequence[Sample], prepared: Prepared | Exception | None = None
    ) -> Iterator[Results]:
        """Yield the results of ``samples``, in as many pieces as it took."""
        if len(samples) > self._sizer.size:  # prepared before memory ran out
            del prepared
            yield from self._in_pieces(samples, self._sizer.size)
            return
        outcome = self._attempt(samples, self.prepare(samples) if prepared is None else prepared)
        del prepared  # its tensors must not outlive the attempt while the halves are tried
        if not isinstance(outcome, _Trouble):
            self._went_well = self._went_well or any(isinstance(item, Capture) for item in outcome)
            yield outcome
            return
        if outcome.out_of_memory:
            _free_memory()
            self._sizer.shrink(len(samples))
        if len(samples) == 1:
            yield [self._record(samples[0], outcome)]
            self._raise_if_a_bug(outcome)
            return
        yield from self._in_pieces(samples, len(samples) // 2)

    def _in_pieces(self, samples: Sequence[Sample], size: int) -> Iterator[Results]:
        """Yield the results of ``samples``, ``size`` at a time, fewer if memory runs out."""
        start = 0
        while start < len(samples):
            piece = samples[start : start + min(size, self._sizer.size)]
            start += len(piece)
            yield from self.run(piece)

    def _attempt(
        self, samples: Sequence[Sample], prepared: Prepared | Exception
    ) -> Results | _Trouble:
        """Run the model; return what it gave or why it failed."""
        try:
            if isinstance(prepared, Exception):
                raise prepared
            batches, failures = prepared
            results: Results = list(failures)
            used = idle = 0.0
            for batch in batches:
                idle = max(idle, _memory_in_use(self._vlm))
                results += capture_batch(batch, self._vlm, self._spec)
                # Had all rows been of this kind, it would have been so much more.
                grown = (_peak_memory(self._vlm) - idle) * len(samples) / len(batch.samples)
                used = max(used, idle + grown)
            if batches:
                self._sizer.learn(rows=len(samples), memory_used=used, memory_idle=idle)
            return results
        except Exception as error:
            out_of_memory = is_out_of_memory(error)
            if not out_of_memory and any(sign in str(error) for sign in _DEAD_DEVICE):
                raise
            return _Trouble(_without_frames(error), out_of_memory)

    def _record(self, sample: Sample, trouble: _Trouble) -> Failure:
        why = trouble.text
        if trouble.out_of_memory:
            why = (
                "memory runs out on this row alone; "
                "try fewer --max-new-tokens, a smaller --dtype, or another --device"
            )
        return failure_of(sample, "capture", why)

    def _raise_if_a_bug(self, trouble: _Trouble) -> None:
        if self._went_well or trouble.out_of_memory:
            return
        self._blamed.append(trouble.text)
        if self._blamed[-SAME_ERRORS:] == [trouble.text] * SAME_ERRORS:
            raise trouble.error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that a device or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def _without_frames(error: Exception) -> Exception:
    """Return ``error`` with its traceback as a note: frames keep a failed batch's tensors alive."""
    error.add_note("".join(traceback.format_exception(error)))
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _memory_in_use(vlm: VisionLanguageModel) -> float:
    """Return the largest share of a GPU's memory in use now, and start watching for the peak."""
    shares = [0.0]
    for device in vlm.cuda_devices:
        torch.cuda.reset_peak_memory_stats(device)
        shares.append(torch.cuda.memory_allocated(device) / torch.cuda.mem_get_info(device)[1])
    return max(shares)


def _peak_memory(vlm: VisionLanguageModel) -> float:
    """Return the largest share of a GPU's memory that was taken since."""
    return max(
        [0.0]
        + [
            torch.cuda.max_memory_reserved(device) / torch.cuda.mem_get_info(device)[1]
            for device in vlm.cuda_devices
        ]
    )


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
