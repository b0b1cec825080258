"""An HDF5 file that this process did not write is first read in a process of its own.

libhdf5 takes what stands in a file at its word: a crafted or damaged one may have it follow sizes
in circles, fill the memory, or crash. Nothing within a process can end that. So
``hdf5_screening_child``, which has limits of CPU time and memory, first reads what is to be read
here; if that goes wrong, the file is refused in one line. Why so: docs/adr/0015.

One process screens all files, one after the other, and ends when there is nothing to do. A file is
screened once: what tells it from a later one of its name is remembered. Files of a run are screened
ahead of being read.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import h5py
import numpy as np

from vlmscope.errors import StoreError
from vlmscope.store.storage.atomic import is_published_here
from vlmscope.store.storage.object_store import Identity, RemoteFile, identity_of
from vlmscope.store.storage.paths import is_remote

Depth: TypeAlias = str
"""What is read beside the root's attributes and the ids.

``ids``: nothing else; ``headers``: the columns' types and shapes, and the images' hashes; ``column
PATH``: that column; ``columns``: all of them; ``all``: the rows too.
"""

SECONDS = 10.0
"""CPU time that HDF5 may take for a file, beside what its size allows."""

MEMORY = 2 * 2**30
"""Bytes of memory that HDF5 may take; columns are read some rows at a time."""

START_SECONDS = 120
"""Seconds that the process may take to start, also on a busy machine with a slow disk."""

_SECONDS_PER_BYTE = 1 / (4 * 2**20)
_MOST_SECONDS = 600.0
_FAULTS = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
_ATTEMPTS = 3
_AHEAD = 8
_REMEMBERED = 2**16
_SCRIPT = Path(__file__).with_name("hdf5_screening_child.py")
_START = (
    "import runpy, sys; sys.path[:0] = sys.argv[2:]; runpy.run_path(sys.argv[1], None, '__main__')"
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A file that is to be screened."""

    path: str
    """Where it is; empty if its bytes are read here."""
    depth: Depth
    identity: Identity

    def request(self) -> dict[str, Any]:
        size = int(self.identity[-1])
        seconds = min(SECONDS + size * _SECONDS_PER_BYTE, _MOST_SECONDS)
        limits = {"seconds": seconds, "memory": MEMORY}
        return {"path": self.path, "depth": self.depth, "size": size, **limits}


class _DiedError(Exception):
    """The process is gone; says how."""


class _Child:
    """The process that screens; killed when it is let go of."""

    def __init__(self) -> None:
        folders = [str(Path(module.__file__ or "").parents[1]) for module in (h5py, np)]
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable or "", "-I", "-S", "-c", _START, str(_SCRIPT), *dict.fromkeys(folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for this process
            env={**os.environ, **one_thread},
        )
        self._pipes = [pipe for pipe in (self._process.stdin, self._process.stdout) if pipe]
        self._to, self._from = (pipe.fileno() for pipe in self._pipes)
        self._read = b""
        self.sent: deque[_Asked] = deque()
        """What was not answered yet."""

    def is_ready(self) -> bool:
        """Wait until it says so; what is no Python, where this one is embedded, never does."""
        poll = select.poll()
        poll.register(self._from, select.POLLIN)
        return bool(poll.poll(START_SECONDS * 1000)) and bool(self.receive())

    def send(self, asked: _Asked) -> None:
        """Ask for a file; the answers come in the same order."""
        self.write(json.dumps(asked.request()).encode() + b"\n")
        self.sent.append(asked)

    def write(self, data: bytes) -> None:
        """Write to the process.

        Raises:
            _DiedError: It is gone.
        """
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._to, left) :]
        except BrokenPipeError:
            self.died()

    def receive(self) -> Any:
        """Return the next line.

        Raises:
            _DiedError: It is gone.
        """
        while b"\n" not in self._read:
            data = os.read(self._from, 2**16)
            if not data:
                self.died()
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return json.loads(line)

    def died(self) -> NoReturn:
        """Raise what the process died of; empty where that has nothing to do with a file."""
        code = -self._process.wait()
        if code == signal.SIGPROF:
            raise _DiedError("takes too much time")
        raise _DiedError(f"crashes ({signal.Signals(code).name})" if code in _FAULTS else "")

    def let_go(self, *, forked: bool = False) -> None:
        """End the process; in a fork of this one only forget it."""
        for pipe in self._pipes:
            pipe.close()
        if forked:
            self._process.returncode = 0
        else:
            self._process.kill()
            self._process.wait()


_LOCK = threading.Lock()
_CHILD: list[_Child] = []
"""The process, if one runs."""
_WAITING: deque[tuple[Path, Depth]] = deque()
"""Files that are going to be read, in this order."""
_KNOWN: dict[Identity, tuple[frozenset[Depth], str]] = {}
"""What was screened, how deep, and what was found."""
_NOTHING: tuple[frozenset[Depth], str] = (frozenset(), "")


def screen(path: Path, depth: Depth) -> Identity:
    """Have a file read within limits, unless that was done or this process wrote it.

    Args:
        path: A local file.
        depth: What of it is going to be read.

    Returns:
        What tells the file from a later one of its name: compare it when the file is open.

    Raises:
        OSError: It is not there.
        StoreError: HDF5 would not come back from it, fill the memory, or crash.
    """
    with _LOCK:
        for _ in range(_ATTEMPTS):
            identity = identity_of(path)
            asked = _Asked(os.path.realpath(path), _deepened(depth, identity), identity)
            if not _is_known(asked):
                _screen(asked)
            if identity_of(path) == identity and _is_known(asked):
                _refuse(path, asked)
                return identity
    raise StoreError(f"{path}: is replaced while it is read; wait until nothing writes it")


def screen_remote(path: Path, file: RemoteFile, depth: Depth) -> None:
    """Do the same with an open file of an object store, whose bytes are read here.

    Raises:
        StoreError: As ``screen``.
        UnreachableError: The object store does not answer.
    """
    with _LOCK:
        identity = (str(path), *file.identity)
        asked = _Asked("", _deepened(depth, identity), identity)
        if not _is_known(asked):
            _screen(asked, file)
        _refuse(path, asked)


def screen_ahead(files: Iterable[tuple[Path, Depth]]) -> None:
    """Name files that are going to be read in this order; those named before are forgotten."""
    with _LOCK:
        _WAITING.clear()
        _WAITING.extend((path, depth) for path, depth in files if not is_remote(path))


def _deepened(depth: Depth, identity: Identity) -> Depth:
    """Return what to ask for: all columns once one of them was read, as more are going to be."""
    depths, _ = _KNOWN.get(identity, _NOTHING)
    is_second = depth not in depths and any(each.startswith("column ") for each in depths)
    return "columns" if depth.startswith("column ") and is_second else depth


def _is_known(asked: _Asked) -> bool:
    if asked.path and is_published_here(asked.identity):
        return True
    depths, found = _KNOWN.get(asked.identity, _NOTHING)
    if found or "all" in depths or asked.depth in depths:
        return True
    return asked.depth != "all" and ("columns" in depths or (asked.depth == "ids" and bool(depths)))


def _refuse(path: Path, asked: _Asked) -> None:
    _, found = _KNOWN.get(asked.identity, _NOTHING)
    if found:
        raise StoreError(
            f"{path}: damaged, or made to do harm: HDF5 {found}; get a whole copy, or remove it"
        )


def _screen(asked: _Asked, file: RemoteFile | None = None) -> None:
    """Ask for a file and wait for the answer; again if the process was ended by something else."""
    for _ in range(_ATTEMPTS):
        try:
            _ask(asked, file)
        except _DiedError as death:
            blamed = _CHILD[0].sent[0] if _CHILD and _CHILD[0].sent else None
            _end()
            if blamed and str(death):
                _remember(blamed, str(death))
            if blamed == asked and str(death):
                return
        except BaseException:  # Ctrl-C, or the object store: what comes next would be out of step
            _end()
            raise
        else:
            return
    raise StoreError(
        "the process that reads HDF5 files first ended without an answer; free some memory, check "
        f"that {sys.executable} can import h5py, and try again"
    )


def _ask(asked: _Asked, file: RemoteFile | None) -> None:
    child = _running()
    if file is None and asked in child.sent:
        pass  # sent ahead
    else:
        child.send(asked)
    while asked in child.sent:
        _send_ahead(child, besides=file)
        reply = child.receive()
        if file is not None and (window := reply.get("read")):
            file.seek(window[0])
            child.write(file.read(window[1]))
            continue
        answered = child.sent.popleft()
        if not answered.path or tuple(reply["identity"] or ()) == answered.identity:
            _remember(answered, reply["found"])


def _send_ahead(child: _Child, *, besides: RemoteFile | None) -> None:
    """Send some of the files that are read next, so that the process never waits."""
    while besides is None and _WAITING and len(child.sent) < _AHEAD:
        path, depth = _WAITING.popleft()
        try:
            identity = identity_of(path)
            asked = _Asked(os.path.realpath(path), _deepened(depth, identity), identity)
        except OSError:
            continue
        if not _is_known(asked) and asked not in child.sent:
            child.send(asked)


def _remember(asked: _Asked, found: str) -> None:
    depths, _ = _KNOWN.pop(asked.identity, _NOTHING)
    _KNOWN[asked.identity] = (depths | {asked.depth}, found)
    while len(_KNOWN) > _REMEMBERED:
        del _KNOWN[next(iter(_KNOWN))]


def _running() -> _Child:
    if not _CHILD:
        try:
            _CHILD.append(_Child())
        except OSError as error:
            raise StoreError(
                "the process that reads HDF5 files first cannot be started: "
                f"{error.strerror or error}; allow this process one more, and try again"
            ) from error
        if not _CHILD[0].is_ready():
            _end()
            raise StoreError(
                "the process that reads HDF5 files first does not answer; check that "
                f"{sys.executable} is a Python interpreter"
            )
    return _CHILD[0]


def _end() -> None:
    """End the process, if one runs."""
    while _CHILD:
        _CHILD.pop().let_go()


def _after_fork() -> None:
    """Leave the parent's process to it; another thread may have held the lock."""
    global _LOCK
    _LOCK = threading.Lock()
    while _CHILD:
        _CHILD.pop().let_go(forked=True)


atexit.register(_end)
os.register_at_fork(after_in_child=_after_fork)
