"""The loop around one model: batches are prepared ahead, run, retried row by row, and written.

When memory runs out, or the model raises on a row, the batch is halved and each half is tried
again, down to the single row that fails: that row is recorded, the others are not affected. Rows
that were being decoded when a step failed are tried again. Errors that a smaller batch cannot avoid
are not hidden in records: a dead GPU is raised at once, and so is the same error on several rows
before any row succeeded, because that is a bug.
"""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import torch

from vlmscope.engine import (
    Batch,
    CaptureSession,
    capture_batch,
    prepare,
    preprocessing_of,
    until_error,
)
from vlmscope.engine.device import is_dead_device, is_out_of_memory
from vlmscope.engine.row_errors import has_unusual_shape, row_error
from vlmscope.executors.batching import BatchSizer, rows_at_once
from vlmscope.executors.journal import MODEL_STAGE, PREPARE_STAGE, Journal, NoJournal
from vlmscope.executors.prefetching import AHEAD, Prepared, batches_ahead, batches_to_prepare
from vlmscope.executors.request import Request
from vlmscope.executors.time_limit import Restarts, TimeLimit, end_process
from vlmscope.executors.workers import Workers, WorkersError
from vlmscope.executors.writing import StrictStop, WritingThread
from vlmscope.locking import model_lock
from vlmscope.model import ResolvedSpec, VisionLanguageModel, resolve_spec
from vlmscope.model.attention.flash import worth_own_width
from vlmscope.model.attention.packed import load_kernel
from vlmscope.model.elementwise import ROWS_FOR_TRITON, ElementwiseKernels
from vlmscope.schema import Capture, Failure, Sample, failure_of
from vlmscope.store import InProgress

SAME_ERRORS = 3
"""Number of rows with the same unknown error, before any row succeeded, that count as a bug."""

UNUSUAL_ERRORS = 30
"""The same for rows with images of unusual shapes, which may cause errors on their own."""

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
    """Runs batches, splits those that fail, and adapts the batch size.

    Args:
        vlm: The model.
        spec: What to record.
        sizer: The batch size, updated after every batch.
        session: Session in which rows of a batch may finish during later ones; call ``drain`` last.
        went_well: Whether rows of this run succeeded before, so that errors are caused by rows.
        limit: Time limit of the model for a batch; none by default.
        journal: Records which rows are in progress.
        workers: Processes that prepare rows; by default they are prepared by the calling thread.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        spec: ResolvedSpec,
        sizer: BatchSizer,
        session: CaptureSession,
        *,
        went_well: bool = False,
        limit: TimeLimit | None = None,
        journal: Journal | None = None,
        workers: Workers | None = None,
    ) -> None:
        self._vlm = vlm
        self._spec = spec
        self._sizer = sizer
        self._went_well = went_well
        self._session = session
        self._limit = limit or TimeLimit(None)
        self._journal = journal or NoJournal()
        self._workers = workers
        self._in_model: dict[str, Sample] = {}
        self._blamed: tuple[list[str], list[str]] = ([], [])

    @property
    def in_model(self) -> list[Sample]:
        """The rows that are in the model."""
        return list(self._in_model.values())

    def prepare(self, samples: Sequence[Sample]) -> Prepared | Exception:
        """Prepare a batch; an unexpected error is returned for ``run`` to handle.

        Raises:
            WorkersError: Worker processes die with every row.
        """
        ids = [sample.id for sample in samples]
        self._journal.begin(PREPARE_STAGE, ids)
        try:
            if self._workers is not None:
                if not self._session.shares_prefix:
                    self._workers.share_no_prefix()
                return self._workers.prepare(samples)
            return prepare(samples, self._session.prepares_with, self._spec)
        except WorkersError:
            raise
        except Exception as error:  # noqa: BLE001 - raised or recorded by ``run``
            return error
        finally:
            self._journal.leave(ids)

    def prepare_here(self) -> None:
        """Prepare rows that are tried again without workers from now on."""
        self._workers = None

    def run(
        self, samples: Sequence[Sample], prepared: Prepared | Exception | None = None
    ) -> Iterator[Results]:
        """Yield results of ``samples`` and of earlier ones, in as many pieces as needed."""
        if len(samples) > self._sizer.size:  # prepared before memory ran out
            del prepared
            yield from self._in_pieces(samples, self._sizer.size)
            return
        prepared = self.prepare(samples) if prepared is None else prepared
        if isinstance(prepared, Exception):
            yield from self._after(_trouble(prepared), samples)
            return
        batches, failures = list(prepared[0]), list[Capture | Failure](prepared[1])
        del prepared  # its tensors must not outlive the attempt while the halves are tried
        if failures:
            self._mark_finished(failures)
            yield failures
        while batches:
            yield from self._run_batch(batches.pop(0), asked=len(samples))

    def drain(self) -> Iterator[Results]:
        """Yield the remaining results."""
        while True:
            with self._limit.limiting():
                results = self._session.drain()
            self._mark_finished(results)
            yield results
            lost = self._session.pop_failed()
            if not lost:
                return
            yield from self._in_pieces(lost, self._sizer.size)

    def _in_pieces(self, samples: Sequence[Sample], size: int) -> Iterator[Results]:
        """Yield the results of ``samples``, ``size`` at a time, fewer if memory runs out."""
        start = 0
        while start < len(samples):
            piece = samples[start : start + min(size, self._sizer.size)]
            start += len(piece)
            yield from self.run(piece)

    def _run_batch(self, batch: Batch, asked: int) -> Iterator[Results]:
        """Yield the results of one batch; ``asked`` rows were prepared with it."""
        outcome, samples = self._attempt(batch, asked), batch.samples
        del batch
        if isinstance(outcome, _Trouble):
            yield from self._after(outcome, samples)
        else:
            # The session returns the rows later; that it accepted the batch counts as success.
            self._went_well = True
            yield outcome
        if lost := self._session.pop_failed():
            yield from self._in_pieces(lost, self._sizer.size)

    def _after(self, trouble: _Trouble, samples: Sequence[Sample]) -> Iterator[Results]:
        """Try the halves of a failed batch; record a row that fails alone."""
        if trouble.out_of_memory:
            with model_lock():
                self._session.forget()
                _free_memory()
                self._sizer.shrink(len(samples))
        if len(samples) == 1 and trouble.out_of_memory and self._empty_slots():
            yield from self.run(samples)  # with all of the memory
            return
        if len(samples) == 1:
            failure = self._failure_from(samples[0], trouble)
            self._mark_finished([failure])
            yield [failure]
            self._raise_if_a_bug(samples[0], trouble)
            return
        yield from self._in_pieces(samples, len(samples) // 2)

    def _empty_slots(self) -> bool:
        """Drop the rows being decoded and free their memory; return whether there were any."""
        with self._limit.limiting():
            freed = self._session.forget(slots=True)
        if freed:
            _free_memory()
        return freed

    def _attempt(self, batch: Batch, asked: int) -> Results | _Trouble:
        """Run the model; return its results, or why it failed."""
        with model_lock():  # so that the memory of another thread's batch is not measured
            try:
                return self._measured(batch, asked)
            except Exception as error:  # noqa: BLE001 - raised or recorded by ``_after``
                for sample in batch.samples:
                    self._in_model.pop(sample.id, None)
                self._journal.leave([sample.id for sample in batch.samples])
                return _trouble(error)

    def _measured(self, batch: Batch, asked: int) -> Results:
        """Run the model, and update the batch size by the memory used."""
        _watch_memory(self._vlm)
        self._in_model |= {sample.id: sample for sample in batch.samples}
        self._journal.begin(MODEL_STAGE, [sample.id for sample in batch.samples])
        with self._limit.limiting():
            results = capture_batch(batch, self._vlm, self._spec, self._session)
        self._mark_finished(results)
        idle, peak = _memory(self._vlm)
        # Extrapolated to all rows of the batch.
        grown = max(0.0, peak - idle) * asked / len(batch.samples)
        shared = self._vlm.cuda_devices and batch.prefix is not None
        tokens = batch.computed_tokens * asked // len(batch.samples) if shared else 0
        self._sizer.learn(rows=asked, tokens=tokens, memory_used=idle + grown, memory_idle=idle)
        return results

    def _mark_finished(self, results: Results) -> None:
        """Record that rows are finished."""
        ids = [item.id if isinstance(item, Failure) else item.sample.id for item in results]
        for id_ in ids:
            self._in_model.pop(id_, None)
        if ids:
            self._journal.finish(ids)

    def _failure_from(self, sample: Sample, trouble: _Trouble) -> Failure:
        return failure_of(sample, "capture", str(row_error(sample, trouble.error)))

    def _raise_if_a_bug(self, sample: Sample, trouble: _Trouble) -> None:
        if self._went_well or trouble.out_of_memory:
            return
        # A few images of unusual shapes may cause the error themselves; many do not.
        unusual = has_unusual_shape(sample)
        blamed, limit = self._blamed[unusual], UNUSUAL_ERRORS if unusual else SAME_ERRORS
        blamed.append(trouble.text)
        if blamed[-limit:] == [trouble.text] * limit:
            raise trouble.error


def _trouble(error: Exception) -> _Trouble:
    """Return why a batch failed; an error of a dead device is raised."""
    if is_dead_device(error):
        raise error
    return _Trouble(_without_frames(error), is_out_of_memory(error))


def _without_frames(error: Exception) -> Exception:
    """Return ``error`` with its traceback as a note: frames keep a failed batch's tensors alive."""
    error.add_note("".join(traceback.format_exception(error)))
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _watch_memory(vlm: VisionLanguageModel) -> None:
    """Reset the measurement of the peak GPU memory."""
    for device in vlm.cuda_devices:
        torch.cuda.reset_peak_memory_stats(device)


def _memory(vlm: VisionLanguageModel) -> tuple[float, float]:
    """Return the current and peak share of the memory of the GPU that is fullest."""
    shares = [(0.0, 0.0)]
    for device in vlm.cuda_devices:
        total = torch.cuda.mem_get_info(device)[1]
        shares.append(
            (
                torch.cuda.memory_allocated(device) / total,
                torch.cuda.max_memory_allocated(device) / total,
            )
        )
    return max(shares, key=lambda share: share[1])


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Loop:
    """Captures rows. The batch size is kept from one call to the next.

    Args:
        vlm: The model.
        request: What to record of each row, and how.
        results: Writes the results.
        sizer: The batch size.
        went_well: Whether rows of this run succeeded before, so that errors are caused by rows.
        journal: Records which rows are in progress; closed before the process ends because of a
            row.
        restarts: Earlier restarts by the time limit.
        rows: Number of rows to capture, if known.
        stop: Set to stop after the answers in progress are finished.
        workers: Processes that prepare rows, which are started here; by default threads do.
        kernels: What ``kernels_of_run`` returned for this run; it is called here otherwise.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        request: Request,
        results: WritingThread,
        sizer: BatchSizer,
        *,
        went_well: bool,
        stop: threading.Event,
        journal: InProgress | None = None,
        restarts: Restarts = Restarts(),  # noqa: B008 - frozen
        rows: int = 0,
        workers: Workers | None = None,
        kernels: ElementwiseKernels | None = None,
    ) -> None:
        self._vlm = vlm
        self._request = request
        self._results = results
        self._stop = stop
        self._journal = journal
        self._restarts = restarts
        self._sizer = sizer
        self._workers = workers
        spec = resolve_spec(request.spec, vlm)
        slots = rows_at_once(vlm, request.batch_size, answers=request.spec.sampling.answers)
        if workers is not None:
            workers.begin(preprocessing_of(vlm, spec), spec)
        kernels = kernels_of_run(vlm, rows) if kernels is None else kernels
        own_width = worth_own_width(vlm, rows)
        self._limit = TimeLimit(request.time_limit, self._expired)
        self._runner = ResilientRunner(
            vlm,
            spec,
            sizer,
            CaptureSession(vlm, spec, slots, kernels=kernels, own_width=own_width),
            went_well=went_well,
            limit=self._limit,
            journal=journal,
            workers=workers,
        )

    def run(self, rows: Iterator[Sample]) -> None:
        """Capture rows until there are no more, or until a stop request."""
        threads = ahead = batches_to_prepare(self._vlm)
        if self._workers is not None:  # a thread waits for each of them
            threads, ahead = self._workers.count, self._workers.count + AHEAD
        ended: list[StrictStop] = []
        with ThreadPoolExecutor(threads, "vlmscope-prepare") as preparing:
            try:
                for samples, prepared in batches_ahead(
                    until_error(rows, ended, StrictStop),
                    self._sizer,
                    self._runner.prepare,
                    preparing,
                    self._stop.is_set,
                    ahead,
                ):
                    pieces = self._runner.run(samples, prepared)
                    del prepared  # so that the memory of the batch can be freed
                    for results in pieces:
                        self._results.put(results)
                if self._stop.is_set():
                    self._abandon(preparing)
                self._finish()
                if ended:
                    raise ended[0]
            except StrictStop:
                self._abandon(preparing)
                with suppress(StrictStop):
                    self._finish()  # the rows being decoded are almost done
                raise
            except BaseException:
                self._abandon(preparing)
                with suppress(Exception):
                    self._results.flush()
                raise

    def _abandon(self, preparing: ThreadPoolExecutor) -> None:
        """Drop the batches that are being prepared: no more rows will be captured."""
        preparing.shutdown(wait=False, cancel_futures=True)
        if self._workers is not None:
            self._runner.prepare_here()
            self._workers.close()

    def run_isolated(self, groups: Iterator[list[Sample]]) -> None:
        """Capture one group of rows after the other, their images one by one.

        A row that hangs again, or with which the process dies again, must not affect others; and
        the fewer rows are in progress then, the easier it is to identify.
        """
        if self._workers is not None:
            self._workers.wait()
        for group in groups:
            if self._stop.is_set():
                return
            prepared = [(sample, self._runner.prepare([sample])) for sample in group]
            while prepared:
                sample, own = prepared.pop(0)
                for results in self._runner.run([sample], own):
                    self._results.put(results)
            self._finish()

    def _expired(self) -> None:
        """End or restart the process, because the model hangs on the rows in it.

        The thread that runs the model cannot add results in the meantime.
        """
        with suppress(Exception):
            self._results.wait()
        with suppress(Exception):  # whatever fails here, the process must end or restart
            if self._journal is not None:
                self._journal.close()
        # A restart keeps the process id. Where a marker file is the lock, it names a process, and
        # would keep this one out; so would a writing process that nobody waits for any more.
        with suppress(Exception):
            self._results.release()
        with suppress(Exception):
            if self._workers is not None:
                self._workers.close()
        end_process(
            self._request,
            self._runner.in_model,
            self._restarts,
            captured=self._results.captured > 0,
            stopping=self._stop.is_set() or self._limit.asked_to_stop(),
        )

    def _finish(self) -> None:
        """Finish the rows being decoded, and flush all results."""
        for results in self._runner.drain():
            self._results.put(results)
        self._results.flush()


def kernels_of_run(vlm: VisionLanguageModel, rows: int) -> ElementwiseKernels:
    """Return the kernels of a model for a run, after seconds of imports on a GPU.

    Args:
        vlm: The model.
        rows: Number of rows to capture; 0 if unknown.
    """
    if vlm.cuda_devices:
        load_kernel()
    return ElementwiseKernels(vlm, many=rows >= ROWS_FOR_TRITON)
