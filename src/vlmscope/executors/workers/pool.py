"""``Workers``: processes that prepare rows, beside a model on a GPU.

Decoding images, resizing and tiling them is Python and small calls of C, which share one
interpreter lock: eight threads prepare as many rows as sixteen, and keep the thread that launches
the GPU's work from running. So each batch is prepared in another process (``process``),
called by a thread that only waits, and receives the inputs into pinned memory with one system call.

A worker may die: the kernel kills it if memory runs out, or a decoder crashes on a damaged image.
Its rows are then prepared again one by one, and a row with which a worker dies alone is recorded.

What cannot be sent to a process is prepared in this one, with the same result: a processor whose
code is not an installed library's, or a row with an object that cannot be pickled.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import warnings
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile

from vlmscope.dataset import known_formats
from vlmscope.engine import Batch, open_image, prepare
from vlmscope.errors import VlmscopeError, named_line
from vlmscope.executors.journal import PREPARE_STAGE
from vlmscope.executors.workers.process import Answer, PackedBatch, Setup, Task
from vlmscope.executors.workers.server import WITH_SERVER, Server, Worker
from vlmscope.model import Preprocessing, ResolvedSpec
from vlmscope.model.preprocessing import packed
from vlmscope.schema import Failure, Sample, failure_of
from vlmscope.shown_once import show_messages, warn

SECONDS_BETWEEN_LOOKS = 0.1
"""Time between two looks whether the workers have started, while all threads prepare rows."""

MOST_SECONDS_TO_FORK = 10.0
"""Time that rows wait for workers which only have to be forked, before threads prepare them."""

DEATHS = 3
"""Rows in succession that end a worker alone, before any row succeeded, that count as a bug."""


class WorkersError(VlmscopeError):
    """Worker processes die with every row."""


class _DiedError(Exception):
    """A worker died; the message describes how."""


class _NotStartedError(Exception):
    """No worker can be started."""


class Workers:
    """Processes that prepare rows. ``prepare`` may be called by as many threads as there are.

    A context manager; leaving it ends the processes. They also end with this process, however it
    ends. The processes are started by ``start``, which takes seconds in the background, or by
    ``begin``; ``close`` ends them, and ``begin`` starts new ones.

    Args:
        count: Number of workers.
        wait: Whether rows wait until the workers have started; else they are prepared by threads
            of this process until then, unless the workers only have to be forked.
    """

    def __init__(self, count: int, *, wait: bool = True) -> None:
        self.count = count
        self._wait = wait
        self._starts_soon = False
        self._server: Server | None = None
        self._settings: Setup | None = None
        self._lock = threading.Lock()
        self._begun = threading.Event()
        self._beginning: threading.Thread | None = None
        # As many threads as prepare rows without workers: more only contend for one lock.
        self._here = threading.Semaphore(max(2, min(8, (count + 2) // 2)))
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        self._busy: set[Worker] = set()
        self._closed = True
        self._succeeded = False
        self._deaths = 0
        self.problem = ""
        """Why rows are prepared in this process; empty if they are not."""

    def start(self) -> None:
        """Start the process that starts the workers.

        Raises:
            OSError: It cannot be started.
        """
        if self._server is None:
            self._server = Server()
            weakref.finalize(self, self._server.stop)

    def begin(self, model: Preprocessing, spec: ResolvedSpec) -> None:
        """Start the workers; those of an earlier call end.

        Args:
            model: What they need of the model.
            spec: What to record.
        """
        if self._beginning is not None:
            self._beginning.join()
        filters = [each for each in warnings.filters if _is_sendable(each)]
        level = logging.getLogger("transformers").getEffectiveLevel()
        self._settings = Setup(model, spec, filters, level, known_formats())
        self._closed, self.problem, self._deaths = False, "", 0
        self._begun.clear()
        self._stop_idle()
        while self._idle.qsize() < self.count:
            self._idle.put(None)
        try:
            self.start()
        except OSError as error:
            self._give_up(error)
            self._begun.set()
            return
        self._starts_soon = self._server is not None and self._server.is_ready()
        self._beginning = threading.Thread(target=self._begin, daemon=True)
        self._beginning.name = "vlmscope-workers"
        self._beginning.start()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers at once; rows in them are lost."""
        self._closed = True
        if self._server is not None:
            self._server.interrupt()
        for worker in self._busy.copy():
            worker.interrupt()  # its thread then closes it
        with self._lock:
            server, self._server = self._server, None
        self._stop_idle()
        if server is not None:
            server.stop()

    def _stop_idle(self) -> None:
        """Let the workers without rows end."""
        idle: list[Worker | None] = []
        with suppress(queue.Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for worker in filter(None, idle):
            worker.stop()
        for _ in idle:  # for threads that wait for a worker
            self._idle.put(None)

    def wait(self) -> None:
        """Wait until the workers can be started: no more rows are prepared in this process."""
        self._begun.wait()

    def prepare(self, samples: Sequence[Sample]) -> tuple[list[Batch], list[Failure]]:
        """Prepare a batch as ``engine.prepare`` does, in a worker.

        Raises:
            WorkersError: Workers die with every row.
            Exception: As ``engine.prepare``.
        """
        if self._starts_soon:  # threads would hold the first batches longer
            self._begun.wait(MOST_SECONDS_TO_FORK)
        while not (self._wait or self._begun.is_set()):
            # Batches are used in order: none may wait for workers while later ones are prepared.
            if (found := self._prepared_within(samples, SECONDS_BETWEEN_LOOKS)) is not None:
                return found
        self._begun.wait()
        task = self._task_of(samples) if not self.problem else None
        if task is None:
            return self._prepared_here(samples)
        try:
            return self._prepared(samples, task)
        except _DiedError:
            return self._one_by_one(samples)

    def share_no_prefix(self) -> None:
        """Prepare every prompt as a whole from now on, until ``begin`` is called again."""
        model = replace(self._setup.model, shares_prefix=False)
        self._settings = replace(self._setup, model=model)

    def _task_of(self, samples: Sequence[Sample]) -> memoryview | None:
        """Return rows as bytes for a worker, or None if they cannot be sent."""
        return _packed_task(samples, shares_prefix=self._setup.model.shares_prefix)

    @property
    def _setup(self) -> Setup:
        assert self._settings is not None, "begin first"  # noqa: S101
        return self._settings

    def _begin(self) -> None:
        """Set up the server, on a thread of its own."""
        try:
            with self._lock:
                self._set_up_server()
        except Exception as error:  # noqa: BLE001 - pickling a processor may raise anything
            self._give_up(error)
        finally:
            self._begun.set()

    def _give_up(self, error: Exception) -> None:
        """Prepare rows in this process from now on."""
        if self._closed or self.problem:
            return
        self.problem = named_line(error)
        if self._server is not None:
            self._server.interrupt()
        warn(
            "rows are prepared by threads instead of worker processes, which is slower: these "
            f"cannot be started with this processor ({self.problem})"
        )

    def _set_up_server(self) -> Server:
        # Only this process has pinned memory.
        model = replace(self._setup.model, pin_memory=False, image_by_image=True)
        setup = replace(self._setup, model=model)
        modules, data = packed(setup)
        self.start()
        server = self._server
        assert server is not None  # noqa: S101
        server.set_up(modules, data)
        return server

    def _one_by_one(self, samples: Sequence[Sample]) -> tuple[list[Batch], list[Failure]]:
        """Prepare rows with which a worker died, each in its own task; record those that end it."""
        batches: list[Batch] = []
        failures: list[Failure] = []
        for sample in samples:
            try:
                own, failed = self._prepared_alone(sample)
            except _DiedError as death:
                failures.append(self._failure_by(sample, death))
            else:
                batches += own
                failures += failed
        return batches, failures

    def _prepared_alone(self, sample: Sample) -> tuple[list[Batch], list[Failure]]:
        """Prepare one row in a worker; again if that died only because the server did.

        Raises:
            _DiedError: The worker died.
        """
        task = self._task_of([sample])
        try:
            return self._prepared([sample], task)
        except _DiedError as death:
            if str(death) != WITH_SERVER:
                raise
        return self._prepared([sample], None if self.problem else task)

    def _failure_by(self, sample: Sample, death: _DiedError) -> Failure:
        """Return the failure of a row with which a worker died alone."""
        self._deaths += 1
        if self._deaths >= DEATHS and not self._succeeded:
            raise WorkersError(
                f"worker processes died on {self._deaths} rows one after the other ({death}), and "
                "no row succeeded: memory may be too small, or a library crashes; give fewer "
                "--num-workers, or --num-workers 0 to prepare rows without processes"
            )
        return failure_of(
            sample,
            PREPARE_STAGE,
            f"the worker process that prepared this row alone died ({death}); memory may be too "
            "small for its images, or a decoder crashes on them: give more memory, or save the "
            "images anew; the same command tries it again, last",
        )

    def _prepared(
        self, samples: Sequence[Sample], task: memoryview | None
    ) -> tuple[list[Batch], list[Failure]]:
        """Prepare rows in a worker, or here if that is not possible.

        Raises:
            _DiedError: The worker died.
        """
        try:
            result = self._run(task) if task is not None else None
        except _NotStartedError as error:
            self._give_up(error)
            result = None
        if result is None or result[0].problem == "error":
            return self._prepared_here(samples)
        answer, inputs = result
        if answer.messages:
            show_messages(answer.messages)
        if answer.problem == "memory":
            raise MemoryError("a worker process ran out of memory while it prepared rows")
        batches = [
            _unpacked(each, own, samples) for each, own in zip(answer.batches, inputs, strict=True)
        ]
        failed = [failure_of(samples[row], stage, why) for row, stage, why in answer.failures]
        return batches, failed

    def _prepared_here(self, samples: Sequence[Sample]) -> tuple[list[Batch], list[Failure]]:
        """Prepare rows in this process."""
        found = self._prepared_within(samples, None)
        assert found is not None  # noqa: S101
        return found

    def _prepared_within(
        self, samples: Sequence[Sample], seconds: float | None
    ) -> tuple[list[Batch], list[Failure]] | None:
        """Prepare rows in this process, or return None if too many threads do so for ``seconds``.

        None for ``seconds`` is no limit.
        """
        if not self._here.acquire(timeout=seconds):
            return None
        try:
            return prepare(samples, self._setup.model, self._setup.spec)
        finally:
            self._here.release()

    def _run(self, task: memoryview) -> tuple[Answer, list[dict[str, torch.Tensor]]]:
        """Run a task in the next idle worker, which is started if needed.

        Raises:
            _DiedError: It died.
            _NotStartedError: It cannot be started.
        """
        worker = self._idle.get()
        try:
            if worker is not None and not worker.is_alive():  # killed from outside
                worker.stop()
                worker = None
            worker = worker or self._start_worker()
            self._busy.add(worker)
            result = worker.run(task, pin_memory=self._setup.model.pin_memory)
        except (EOFError, OSError) as error:
            died, worker = worker, None
            assert died is not None  # noqa: S101
            raise self._death_of(died) from error
        except BaseException:  # for example Ctrl-C: the answer would belong to another task
            if worker is not None:
                self._busy.discard(worker)
                worker.stop()
            worker = None
            raise
        finally:
            if worker is not None:
                self._busy.discard(worker)
                if self._closed:
                    worker.stop()
                    worker = None
            self._idle.put(worker)
        self._succeeded = True
        return result

    def _start_worker(self) -> Worker:
        """Start a worker, and the server before it if that has died.

        Raises:
            _NotStartedError: It cannot be started.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the workers are closed")
            try:
                if self._server is not None:
                    with suppress(EOFError, OSError):
                        return self._server.start_worker()
                    self._server.stop()
                    self._server = None
                return self._set_up_server().start_worker()
            except Exception as error:
                raise _NotStartedError(named_line(error)) from error

    def _death_of(self, worker: Worker) -> Exception:
        """Return the error for a worker that died."""
        self._busy.discard(worker)
        worker.stop()
        with self._lock:
            if self._closed:
                return RuntimeError("the workers are closed")
            if self._server is not worker.server:  # replaced by another one meanwhile
                return _DiedError(WITH_SERVER)
            return _DiedError(worker.server.end_of(worker))


def _is_sendable(item: Any) -> bool:
    try:
        packed(item)
    except Exception:  # noqa: BLE001 - pickling may raise anything
        return False
    return True


def _packed_task(samples: Sequence[Sample], *, shares_prefix: bool) -> memoryview | None:
    """Return rows as bytes for a worker, or None if they cannot be sent."""
    try:
        folder = os.getcwd()  # noqa: PTH109 - the text
    except OSError:
        folder = None
    try:
        rows = tuple(
            Sample(str(row), tuple(map(_sendable, sample.images)), sample.question)
            for row, sample in enumerate(samples)
        )
        limits = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        task = Task(rows, folder, *limits, shares_prefix)
        return packed(task)[1]
    except Exception:  # noqa: BLE001 - preparing them here reports the error, if it is one
        return None


def _sendable(image: Any) -> Any:
    """Return an image as another process can open it, with the same pixels.

    Raises:
        RowError: It cannot be decoded.
    """
    if isinstance(image, Image.Image):  # pickled, it would lose the orientation and more
        return np.asarray(open_image(image))
    if isinstance(image, memoryview):
        return bytes(image)
    if isinstance(image, PathLike):
        path = os.fspath(image)
        if not isinstance(path, str):
            raise TypeError("a path of bytes")
        return path
    return image


def _unpacked(
    packed_batch: PackedBatch, inputs: dict[str, torch.Tensor], samples: Sequence[Sample]
) -> Batch:
    """Return a batch with its samples and inputs."""
    rows = tuple(samples[row] for row in packed_batch.rows)
    return packed_batch.batch.with_tensors(inputs, rows)
