"""Building the bytes of shards: in this process, or in several others at once.

The tree of a row in an HDF5 file takes milliseconds, in its part and again in its pack, and HDF5
runs one thread at a time. Where rows come faster, child processes of the writing process build the
shards. They only return bytes: the writing process alone publishes, numbers and removes files.

    writing process                   each builder
    a block, or names of parts  ──►   ``build``
    publishes                   ◄──   the bytes

Whatever goes wrong in a builder, the shard is built here instead, and its error is raised here.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias

from vlmscope.errors import StoreError
from vlmscope.store.catalog import read_shard
from vlmscope.store.child_process import be_child, start
from vlmscope.store.format.batch import Block, concatenate
from vlmscope.store.format.checksums import forget
from vlmscope.store.format.manifest import Manifest
from vlmscope.store.format.shard import build_shard
from vlmscope.store.storage.atomic import note_published
from vlmscope.store.storage.object_store import Identity

Pieces: TypeAlias = tuple[bytes, bytes]
"""The bytes of a shard: its seal, and the rest."""

_PRIORITY = 5
"""How much a builder yields to the thread that launches the GPU's work (``nice``)."""

_OOM_SCORE = "500"
"""If memory runs out, the kernel ends a builder first, which loses nothing."""

_FAILED = b""
"""Sent instead of a seal."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """A shard to be built: of a block, or of parts."""

    manifest: Manifest
    writer: str
    block: Block | None = None
    """The rows of a part."""
    parts: tuple[Path, ...] = ()
    """The parts of a pack, in their order."""
    published: tuple[Identity, ...] = ()
    """Identities of the parts that this process published: they need no screening."""


def build(task: ShardTask) -> Pieces:
    """Return the bytes of a shard.

    Raises:
        StoreError: A part is damaged.
    """
    block = task.block or concatenate([read_shard(path) for path in task.parts])
    names = [path.name for path in task.parts]
    return build_shard(block, task.manifest, writer=task.writer, supersedes=names)


def build_here(task: ShardTask) -> Future[Pieces]:
    """Build a shard at once.

    Raises:
        StoreError: As ``build``.
    """
    built: Future[Pieces] = Future()
    built.set_result(build(task))
    return built


class Builders:
    """Processes that build shards, to be used by one thread.

    A thread waits for each of them. They end with this process, whatever ends it.

    Args:
        count: Number of processes. They are started here, and ready half a second later.
    """

    def __init__(self, count: int) -> None:
        self._children: list[_Builder] = []
        with suppress(OSError):  # of fewer, or none
            for _ in range(count):
                self._children.append(_Builder())
        self._idle: SimpleQueue[_Builder] = SimpleQueue()
        self._stopped = False
        self._threads = ThreadPoolExecutor(max(1, len(self._children)), "vlmscope-build")
        self._starting = [
            self._threads.submit(self._await_start, child) for child in self._children
        ]

    def __len__(self) -> int:
        return len(self._children)

    @property
    def are_ready(self) -> bool:
        """Whether all have started; False if none could be."""
        return bool(self._starting) and all(each.done() for each in self._starting)

    def submit(self, task: ShardTask) -> Future[Pieces]:
        """Start to build a shard; its bytes, or the error of ``build``, are in the result."""
        return self._threads.submit(self._build, task)

    def stop(self) -> None:
        """End the processes. What is being built is lost."""
        self._stopped = True
        for child in self._children:
            child.kill()
        self._threads.shutdown(cancel_futures=True)
        for child in self._children:
            child.close()

    def _await_start(self, child: _Builder) -> None:
        child.await_start()
        self._idle.put(child)

    def _build(self, task: ShardTask) -> Pieces:
        """Build a shard in an idle process, or else here, on a thread for it."""
        child = self._idle.get()
        try:
            pieces = child.build(task)
        finally:
            self._idle.put(child)
        if self._stopped:
            raise StoreError("the run was released while a shard was built; run it again")
        return pieces or build(task)


class _Builder:
    """A process that builds shards, used by one thread at a time. Its death is no error."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_serve, args=(theirs,), name="vlmscope-build", daemon=True
        )
        try:
            with theirs:
                start(self._process)
        except OSError:
            self._pipe.close()
            raise

    def await_start(self) -> None:
        """Wait until it has started, or died."""
        with suppress(EOFError, OSError):
            self._pipe.recv_bytes()

    def build(self, task: ShardTask) -> Pieces | None:
        """Return the bytes of a shard, or None if there are none: an error, or it died.

        After an error on this side, as of memory, the rest of a reply may still be in the pipe: the
        process is not used again.
        """
        try:
            self._pipe.send(task)
            seal = self._pipe.recv_bytes()
            return None if seal == _FAILED else (seal, self._pipe.recv_bytes())
        except Exception:  # noqa: BLE001 - the shard is built here, and its error raised there
            self._pipe.close()
            self.kill()
            return None

    def kill(self) -> None:
        """End it, which wakes the thread that waits for it."""
        self._process.kill()

    def close(self) -> None:
        """Wait until it has ended."""
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection) -> None:
    """Be a builder: build shards until the writing process closes the pipe."""
    be_child()
    with suppress(OSError):
        os.nice(_PRIORITY)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    with pipe, suppress(EOFError, OSError):
        pipe.send_bytes(_FAILED)  # everything is imported
        while True:
            task: ShardTask = pipe.recv()
            for piece in _built(task):
                pipe.send_bytes(piece)


def _built(task: ShardTask) -> tuple[bytes, ...]:
    """Return the bytes of a shard, or ``_FAILED``: the writing process finds the error again."""
    note_published(task.published)
    try:
        return build(task)
    except Exception:  # noqa: BLE001 - raised in the writing process
        return (_FAILED,)
    finally:
        forget(task.parts)
