"""Screening: an HDF5 file that this process did not write is first read in a child process.

libhdf5 trusts the content of a file: a crafted or damaged one may make it loop forever, fill the
memory, or crash, and a process cannot interrupt that from within. So ``hdf5_screening_child``,
which has limits on CPU time and memory, first reads what will be read here; if that fails, the file
is refused with one line. Reasons: docs/adr/0015.

One child process screens all files, one after the other, and ends when it is idle. A file is
screened once: its identity is cached. The files of a run are screened before they are read.
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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import h5py
import numpy as np

from vlmscope.errors import StoreError, shortened
from vlmscope.store.storage.atomic import is_published_here
from vlmscope.store.storage.object_store import Identity, RemoteFile, identity_of
from vlmscope.store.storage.paths import is_remote

Depth: TypeAlias = str
"""What is read in addition to the root's attributes and the ids.

``ids``: nothing else; ``headers``: the columns' types and shapes, and the images' hashes; ``column
PATH``: that column; ``columns``: all of them; ``all``: the rows too.
"""

SECONDS = 10.0
"""CPU time that HDF5 may take for a file, in addition to a time in proportion to its size."""

MEMORY = 2 * 2**30
"""Bytes of memory that HDF5 may use; columns are read some rows at a time."""

START_SECONDS = 120
"""Seconds that the process may take to start, also on a busy machine with a slow disk."""

_SECONDS_PER_BYTE = 1 / (4 * 2**20)
_SPARSE_SECONDS = 600.0
"""Most CPU time for what a file declares as its size, and does not take on the disk."""
_FAULTS = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
_ATTEMPTS = 3
_AHEAD = 8
_REMEMBERED = 2**16
_READY = {"ready": True}
_SCRIPT = Path(__file__).with_name("hdf5_screening_child.py")
_START = (
    "import runpy, sys; sys.path[:0] = sys.argv[2:]; runpy.run_path(sys.argv[1], None, '__main__')"
)


@dataclass(frozen=True, slots=True)
class _Request:
    """A file to be screened."""

    path: str
    """The path; empty if the bytes are read by this process."""
    depth: Depth
    identity: Identity

    def as_json(self) -> dict[str, Any]:
        size = int(self.identity[-1])
        limits = {"seconds": _seconds_for(size, _stored(self.path, size)), "memory": MEMORY}
        return {"path": self.path, "depth": self.depth, "size": size, **limits}


def _stored(path: str, size: int) -> int:
    """Return how many bytes of a file are stored; of a remote file, as far as is known, all."""
    if not path:
        return size
    try:
        return min(size, 512 * Path(path).stat().st_blocks)
    except OSError:
        return 0


def _seconds_for(size: int, stored: int) -> float:
    """Return the CPU time that HDF5 may take for a file.

    In proportion to the size without an upper limit, so that no file is refused because it is
    large; but a sparse file of terabytes costs its sender nothing.

    >>> _seconds_for(40 * 2**20, 40 * 2**20), _seconds_for(40 * 2**20, 0)
    (20.0, 20.0)
    >>> _seconds_for(2**40, 2**40), _seconds_for(2**40, 4096)
    (262154.0, 600.0)
    """
    most = max(_SPARSE_SECONDS, SECONDS + stored * _SECONDS_PER_BYTE)
    return min(SECONDS + size * _SECONDS_PER_BYTE, most)


class _DiedError(Exception):
    """The child process died; the message describes how."""


class _Child:
    """The child process that screens files; ``stop`` kills it."""

    def __init__(self) -> None:
        folders = [str(Path(module.__file__ or "").parents[1]) for module in (h5py, np)]
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable or "", "-I", "-S", "-c", _START, str(_SCRIPT), *dict.fromkeys(folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is handled by this process
            env={**os.environ, **one_thread},
        )
        self._pipes = [pipe for pipe in (self._process.stdin, self._process.stdout) if pipe]
        self._to, self._from = (pipe.fileno() for pipe in self._pipes)
        self._read = b""
        self.sent: deque[_Request] = deque()
        """Requests without an answer yet."""

    def is_ready(self) -> bool:
        """Wait for its first line; an executable that is not Python writes none, or another."""
        poll = select.poll()
        poll.register(self._from, select.POLLIN)
        if not poll.poll(START_SECONDS * 1000):
            return False
        try:
            return self.receive() == _READY
        except StoreError:
            return False

    def send(self, request: _Request) -> None:
        """Request the screening of a file; answers arrive in the same order."""
        self.write(json.dumps(request.as_json()).encode() + b"\n")
        self.sent.append(request)

    def write(self, data: bytes) -> None:
        """Write to the process.

        Raises:
            _DiedError: The process died.
        """
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._to, left) :]
        except BrokenPipeError:
            self.died()

    def receive(self) -> dict[str, Any]:
        """Return the next line.

        Raises:
            _DiedError: The process died.
            StoreError: The line is none of the script's: something else writes to its stdout.
        """
        while b"\n" not in self._read:
            data = os.read(self._from, 2**16)
            if not data:
                self.died()
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        with suppress(ValueError):
            reply = json.loads(line)
            if isinstance(reply, dict):
                return reply
        raise StoreError(
            "the process that reads HDF5 files first answers "
            f"{shortened(repr(line.decode(errors='replace')))}, expected a JSON object; check that "
            f"{sys.executable} is a Python interpreter, and that importing h5py prints nothing"
        )

    def died(self) -> NoReturn:
        """Raise the cause of the process's death; an empty message if no file was the cause."""
        code = -self._process.wait()
        if code == signal.SIGPROF:
            raise _DiedError("takes too much time")
        raise _DiedError(f"crashes ({signal.Signals(code).name})" if code in _FAULTS else "")

    def stop(self, *, forked: bool = False) -> None:
        """Kill the process; in a fork of this process, only close the pipes."""
        for pipe in self._pipes:
            pipe.close()
        if forked:
            self._process.returncode = 0
        else:
            self._process.kill()
            self._process.wait()


_LOCK = threading.Lock()
_CHILD: list[_Child] = []
"""The child process, if one is running."""
_WAITING: deque[tuple[Path, Depth]] = deque()
"""Files that will be read next, in this order."""
_KNOWN: dict[Identity, tuple[frozenset[Depth], str]] = {}
"""Cache: identity of a file → the depths screened, and the problem found, if any."""
_NOTHING: tuple[frozenset[Depth], str] = (frozenset(), "")


def screen(path: Path, depth: Depth) -> Identity:
    """Screen a local file, unless it was screened before or written by this process.

    Args:
        path: A local file.
        depth: What will be read from it.

    Returns:
        The identity of the file: compare it once the file is open.

    Raises:
        OSError: There is no such file.
        StoreError: HDF5 does not return, exhausts the memory, or crashes on it.
    """
    with _LOCK:
        for _ in range(_ATTEMPTS):
            identity = identity_of(path)
            request = _Request(os.path.realpath(path), _deepened(depth, identity), identity)
            if not _is_known(request):
                _screen(request)
            if identity_of(path) == identity and _is_known(request):
                _refuse(path, request)
                return identity
    raise StoreError(f"{path}: is being replaced while it is read; wait until nothing writes it")


def screen_remote(path: Path, file: RemoteFile, depth: Depth) -> None:
    """Screen an open file of an object store, whose bytes are read by this process.

    Raises:
        StoreError: As ``screen``.
        UnreachableError: The object store does not answer.
    """
    with _LOCK:
        identity = (str(path), *file.identity)
        request = _Request("", _deepened(depth, identity), identity)
        if not _is_known(request):
            _screen(request, file)
        _refuse(path, request)


def screen_ahead(files: Iterable[tuple[Path, Depth]]) -> None:
    """Set the files that will be read next, in this order; replaces earlier ones."""
    with _LOCK:
        _WAITING.clear()
        _WAITING.extend((path, depth) for path, depth in files if not is_remote(path))


def _deepened(depth: Depth, identity: Identity) -> Depth:
    """Return the depth to request: from the second column on, all columns at once."""
    depths, _ = _KNOWN.get(identity, _NOTHING)
    is_second = depth not in depths and any(each.startswith("column ") for each in depths)
    return "columns" if depth.startswith("column ") and is_second else depth


def _is_known(request: _Request) -> bool:
    if request.path and is_published_here(request.identity):
        return True
    depths, found = _KNOWN.get(request.identity, _NOTHING)
    if found or "all" in depths or request.depth in depths:
        return True
    return request.depth != "all" and (
        "columns" in depths or (request.depth == "ids" and bool(depths))
    )


def _refuse(path: Path, request: _Request) -> None:
    _, found = _KNOWN.get(request.identity, _NOTHING)
    if found:
        raise StoreError(
            f"{path}: damaged or malicious, HDF5 {found}; get a complete copy, or remove it"
        )


def _screen(request: _Request, file: RemoteFile | None = None) -> None:
    """Screen a file and wait for the result; retry if another file or a kill ended the process."""
    for _ in range(_ATTEMPTS):
        try:
            _ask(request, file)
        except _DiedError as death:
            blamed = _CHILD[0].sent[0] if _CHILD and _CHILD[0].sent else None
            _end()
            if blamed and str(death):
                _remember(blamed, str(death))
            if blamed == request and str(death):
                return
        except BaseException:  # Ctrl-C, or the object store: later answers would be out of order
            _end()
            raise
        else:
            return
    raise StoreError(
        "the process that screens HDF5 files ended without an answer; free some memory, check "
        f"that {sys.executable} can import h5py, and try again"
    )


def _ask(request: _Request, file: RemoteFile | None) -> None:
    child = _running()
    if file is None and request in child.sent:
        pass  # sent ahead
    else:
        child.send(request)
    while request in child.sent:
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
    """Request some of the files that are read next, so that the process never waits."""
    while besides is None and _WAITING and len(child.sent) < _AHEAD:
        path, depth = _WAITING.popleft()
        try:
            identity = identity_of(path)
            request = _Request(os.path.realpath(path), _deepened(depth, identity), identity)
        except OSError:
            continue
        if not _is_known(request) and request not in child.sent:
            child.send(request)


def _remember(request: _Request, found: str) -> None:
    depths, _ = _KNOWN.pop(request.identity, _NOTHING)
    _KNOWN[request.identity] = (depths | {request.depth}, found)
    while len(_KNOWN) > _REMEMBERED:
        del _KNOWN[next(iter(_KNOWN))]


def _running() -> _Child:
    if not _CHILD:
        try:
            _CHILD.append(_Child())
        except OSError as error:
            raise StoreError(
                "the process that screens HDF5 files cannot be started: "
                f"{error.strerror or error}; allow one more process, and try again"
            ) from error
        if not _CHILD[0].is_ready():
            _end()
            raise StoreError(
                "the process that reads HDF5 files first does not answer; check that "
                f"{sys.executable} is a Python interpreter"
            )
    return _CHILD[0]


def _end() -> None:
    """Kill the child process, if one is running."""
    while _CHILD:
        _CHILD.pop().stop()


def _after_fork() -> None:
    """Detach from the parent's child process; replace the lock, which a thread may have held."""
    global _LOCK
    _LOCK = threading.Lock()
    while _CHILD:
        _CHILD.pop().stop(forked=True)


atexit.register(_end)
os.register_at_fork(after_in_child=_after_fork)
