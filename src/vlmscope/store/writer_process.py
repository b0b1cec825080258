"""Writing a run in a separate process.

Writing a row takes milliseconds of HDF5 calls, which hold the interpreter's lock. If a thread of
the same interpreter has to keep a GPU busy, the GPU waits for that time. So the run is opened,
written, packed and indexed by another process, which receives the results through a pipe and
imports neither torch nor transformers.

    RunWriterProcess    ──►       RunWriter
    add(results)        ──►       add(results)
                        ◄──       None, or the error

If one of the two dies, the other ends: published rows are kept, and the operating system
releases the lock.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from vlmscope.errors import StoreError
from vlmscope.schema import Capture, Failure
from vlmscope.store.format.manifest import Manifest
from vlmscope.store.storage.locks import ALONE
from vlmscope.store.writer import OpenRun, RunWriter

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that a terminal or scheduler sends to every process of a job; the parent handles them."""


class RunWriterProcess(OpenRun):
    """A ``RunWriter`` in a separate process, to be used by one thread at a time.

    A context manager; leaving it waits until the run is packed. Leaving it with an exception only
    releases the lock. If this process dies, the other one ends too.

    Args:
        run: The run folder; it is created if needed.
        manifest: The settings that its rows are made with.
        writer: The writer name.
        expected: Number of results that will be added, if known.

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
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._run = run
        self._pipe, self._theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(self._theirs, run, manifest, writer, expected),
            name="vlmscope-write",
        )
        self.done_ids: Set[str] = frozenset()
        """The questions that had a published row when the run was opened."""

    def __enter__(self) -> RunWriterProcess:
        try:
            with self._theirs, _without_main(), _without_signals():
                self._process.start()
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
        self._ask([_without_images(item) for item in results])

    def close(self) -> None:
        """Wait until the other process has packed and indexed the run. May be called twice."""
        if self._pipe.closed:
            return
        finished = False
        try:
            self._ask(None)
            finished = True
        finally:
            self._end(kill=not finished)  # safe during packing: published files never change

    def release(self) -> None:
        """End the other process without packing: every row added is already durable."""
        self._end(kill=True)

    def _ask(self, results: Sequence[Capture | Failure] | None) -> None:
        """Send a batch, or None after the last one, and wait until it is done."""
        try:
            self._pipe.send(results)
        except ConnectionError as error:
            raise self._died() from error
        self._wait()

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
        self._process.join()


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the running script, which a new process would import, with all of its imports.

    A script without a check of ``__name__`` would even run again.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _without_signals() -> Iterator[None]:
    """Block signals in a process that is started here, until it ignores them itself."""
    resource_tracker.ensure_running()  # starting it later would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _without_images(item: Capture | Failure) -> Capture | Failure:
    """Drop images that are in memory: only the name and hashes of an image are stored.

    Paths are kept, because a row whose table has no name for its image is identified by the path.
    """
    if isinstance(item, Failure):
        return item
    names = tuple(image for image in item.sample.images if isinstance(image, str | os.PathLike))
    return replace(item, sample=replace(item.sample, image=names))


def _serve(
    pipe: Connection, run: Path, manifest: Manifest, writer: str, expected: int | None
) -> None:
    """Write the batches received through the pipe, in the other process."""
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with pipe:
        try:
            with RunWriter(run, manifest, writer, expected=expected) as rows:
                pipe.send(rows.done_ids)
                _record_all(pipe, rows)
            pipe.send(None)
        except (EOFError, ConnectionError):
            return  # the parent has ended
        except Exception as error:  # noqa: BLE001 - raised on the other side
            pipe.send(_noted(error))


def _record_all(pipe: Connection, rows: RunWriter) -> None:
    """Record each batch; the parent decides whether to continue after an error."""
    while (results := pipe.recv()) is not None:
        try:
            rows.add(results)
        except Exception as error:  # noqa: BLE001 - raised on the other side
            pipe.send(_noted(error))
        else:
            pipe.send(None)


def _noted(error: Exception) -> Exception:
    """Return an error with its traceback as a note, because tracebacks cannot be sent."""
    error.add_note("In the writing process:\n" + "".join(traceback.format_exception(error)))
    return error


def _die_with_parent() -> None:
    """End at once when the parent does, even during a pack or an index: both are rebuilt."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
