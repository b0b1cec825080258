"""Writing a run in a separate process.

Writing a row takes milliseconds of HDF5 calls, which hold the interpreter's lock. If a thread of
the same interpreter has to keep a GPU busy, the GPU waits for that time. So the run is opened,
written, packed and indexed by another process, which receives the results through a pipe and
imports neither torch nor transformers.

    RunWriterProcess    ──►       RunWriter
    begin(results)      ──►       begin(results)
    finish()            ◄──       finish(): None, or the error

Batches may be sent while earlier ones are being written: each has its reply, in their order. If
rows keep waiting, builders are started, which build shards at the same time (``builders``).

If one of the two dies, the other ends: published rows are kept, and the operating system
releases the lock.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections import deque
from collections.abc import Sequence, Set
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from vlmscope.errors import StoreError
from vlmscope.schema import Capture, Failure
from vlmscope.store.builders import Builders
from vlmscope.store.child_process import be_child, start
from vlmscope.store.format.manifest import Manifest
from vlmscope.store.storage.locks import ALONE
from vlmscope.store.writer import Batch, OpenRun, RunWriter

BEHIND_ROWS = 200
"""Rows written while others wait, without a pause, after which builders are started: a second."""

_PAUSE = 0.005
"""Seconds to wait for a batch before looking whether an earlier one is built."""


class RunWriterProcess(OpenRun):
    """A ``RunWriter`` in a separate process, to be used by one thread at a time.

    Only ``begin`` and ``finish`` may be called by two threads, so that batches are sent while
    earlier ones are written. A context manager; leaving it waits until the run is packed. Leaving
    it with an exception only releases the lock. If this process dies, the other one ends too.

    Args:
        run: The run folder; it is created if needed.
        manifest: The settings that its rows are made with.
        writer: The writer name.
        expected: Number of results that will be added, if known.
        builders: Most processes that build shards; they are started by the other process.
        behind_rows: Rows written while others wait, after which they are started.

    Raises, on entering:
        RunBusyError: Another process is writing the run.
        RunMismatchError: The run was made with other settings.
        StoreError: A file cannot be written, or the writing process died.
    """

    def __init__(
        self,
        run: Path,
        manifest: Manifest,
        writer: str = ALONE,
        *,
        expected: int | None = None,
        builders: int = 0,
        behind_rows: int = BEHIND_ROWS,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._run = run
        self._pipe, self._theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(self._theirs, run, manifest, writer, expected, builders, behind_rows),
            name="vlmscope-write",
        )
        self._ending = threading.Lock()
        self._begun = self._finished = 0
        self.done_ids: Set[str] = frozenset()
        """The questions that had a published row when the run was opened."""

    def start(self) -> None:
        """Start the process, without waiting for its imports and until it has opened the run.

        Raises:
            OSError: It cannot be started.
        """
        if self._process.pid is None:
            with self._theirs:
                start(self._process)

    def __enter__(self) -> RunWriterProcess:
        try:
            self.start()
            self.done_ids = self._wait()
        except BaseException:
            self._end(kill=True)
            raise
        return self

    def add(self, results: Sequence[Capture | Failure]) -> None:
        """Record a batch. When this returns, the batch survives a kill or a power cut.

        Raises:
            StoreError: As ``RunWriter.add``; or the other process died.
        """
        self.begin(results)
        self.finish()

    def begin(self, results: Sequence[Capture | Failure]) -> None:
        """Send a batch, without waiting until it is recorded.

        Raises:
            StoreError: The other process died.
        """
        self._send([_without_images(item) for item in results])
        self._begun += 1

    def finish(self, batch: None = None) -> None:  # noqa: ARG002 - that of ``begin``
        """Wait until the first batch that was begun and not finished is recorded.

        It may be called in another thread than ``begin``.

        Raises:
            StoreError: As ``add``.
        """
        self._finished += 1
        self._wait()

    def close(self) -> None:
        """Wait until the other process has packed and indexed the run. May be called twice."""
        if self._pipe.closed:
            return
        finished = False
        try:
            while self._finished < self._begun:
                self.finish()
            self._send(None)
            self._wait()
            finished = True
        finally:
            self._end(kill=not finished)  # safe during packing: published files never change

    def release(self) -> None:
        """End the other process without packing: every row added is already durable."""
        self._end(kill=True)

    def _send(self, results: Sequence[Capture | Failure] | None) -> None:
        """Send a batch, or None after the last one."""
        try:
            self._pipe.send(results)
        except ConnectionError as error:
            raise self._died() from error

    def _wait(self) -> Any:
        """Return the reply of the other process, or raise its error."""
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise self._died() from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _died(self) -> StoreError:
        with self._ending:  # two threads may find it dead
            self._process.join()
        code = self._process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return StoreError(
            f"{self._run}: the writing process died ({how}); published rows are kept, run the "
            "same command again to continue"
        )

    def _end(self, *, kill: bool) -> None:
        """Wait for the other process to end, killing it first if ``kill``."""
        self._pipe.close()
        if self._process.pid is None:  # it could not be started
            return
        if kill:
            self._process.kill()
        with self._ending:
            self._process.join()


def _without_images(item: Capture | Failure) -> Capture | Failure:
    """Drop images that are in memory: only the name and hashes of an image are stored.

    Paths are kept, because a row whose table has no name for its image is identified by the path.
    """
    if isinstance(item, Failure):
        return item
    names = tuple(image for image in item.sample.images if isinstance(image, str | os.PathLike))
    return replace(item, sample=replace(item.sample, image=names))


def _serve(
    pipe: Connection,
    run: Path,
    manifest: Manifest,
    writer: str,
    expected: int | None,
    builders: int,
    behind_rows: int,
) -> None:
    """Write the batches received through the pipe, in the other process."""
    be_child()
    with pipe:
        try:
            with ExitStack() as stack:
                rows = RunWriter(run, manifest, writer, expected=expected)
                recording = _Recording(pipe, rows, builders, behind_rows)
                stack.callback(recording.stop)  # after the last pack
                stack.enter_context(rows)
                pipe.send(rows.done_ids)
                recording.record_all()
            pipe.send(None)
        except (EOFError, ConnectionError):
            return  # the parent has ended
        except Exception as error:  # noqa: BLE001 - raised on the other side
            pipe.send(_noted(error))


class _Recording:
    """Records batches, in the other process: several at once if they come quickly.

    The parent decides whether to continue after an error.

    Args:
        pipe: Where batches come from, and a reply to each of them goes.
        rows: The run.
        builders: Most processes that build shards.
        behind_rows: Rows written while others wait, after which they are started.
    """

    def __init__(self, pipe: Connection, rows: RunWriter, builders: int, behind_rows: int) -> None:
        self._pipe = pipe
        self._rows = rows
        self._most = builders
        self._behind_rows = behind_rows
        self._written_behind = 0
        self._builders: Builders | None = None
        self._begun: deque[tuple[int, Batch | Exception | None]] = deque()
        """Number of rows of each batch that is being built, and the batch or why there is none."""

    def record_all(self) -> None:
        """Record each batch, until there are no more."""
        has_ended = False
        while not has_ended or self._begun:
            if not has_ended and self._has_next():
                results = self._pipe.recv()
                if results is None:
                    has_ended = True
                else:
                    self._begin(results)
            elif has_ended or self._is_full() or self._is_first_built():
                self._finish_first()

    def stop(self) -> None:
        """End the builders."""
        if self._builders is not None:
            self._builders.stop()

    def _has_next(self) -> bool:
        """Return whether to receive a batch, after a short wait if there is nothing to do."""
        if not self._begun:
            return True
        if self._is_full():
            return False
        return self._pipe.poll(0 if self._is_first_built() else _PAUSE)

    def _is_full(self) -> bool:
        """Whether as many batches are being built as is useful: two for each builder, else one."""
        ready = self._builders is not None and self._builders.are_ready
        return len(self._begun) >= (2 * len(self._builders) if self._builders and ready else 1)

    def _is_first_built(self) -> bool:
        _, batch = self._begun[0]
        return not isinstance(batch, Batch) or batch.pieces.done()

    def _begin(self, results: Sequence[Capture | Failure]) -> None:
        if self._builders is not None and self._builders.are_ready:
            self._rows.build_with(self._builders.submit, len(self._builders))
        try:
            self._begun.append((len(results), self._rows.begin(results)))
        except Exception as error:  # noqa: BLE001 - raised on the other side, in the order of batches
            self._begun.append((len(results), error))

    def _finish_first(self) -> None:
        count, batch = self._begun.popleft()
        reply: Exception | None = None
        try:
            if isinstance(batch, Exception):
                raise batch
            self._rows.finish(batch)
        except Exception as error:  # noqa: BLE001 - raised on the other side
            reply = _noted(error)
        self._start_builders_if_behind(count)  # before the reply, after which another may be sent
        self._pipe.send(reply)

    def _start_builders_if_behind(self, written: int) -> None:
        """Start builders if rows have been waiting for a while without a pause."""
        if self._builders is None and self._most:
            self._written_behind = self._written_behind + written if self._pipe.poll() else 0
            if self._written_behind >= self._behind_rows:
                self._builders = Builders(self._most)


def _noted(error: Exception) -> Exception:
    """Return an error with its traceback as a note, because tracebacks cannot be sent."""
    error.add_note("In the writing process:\n" + "".join(traceback.format_exception(error)))
    return error
