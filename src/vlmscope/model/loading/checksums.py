"""SHA-256 checksums of large files, computed once and later confirmed by a sample of the bytes.

The sample is the header of a safetensors file, the beginning, middle and end of every tensor, and
four kilobytes every four megabytes: 20 MB of a checkpoint of 22 GB.

Hashing a checkpoint of 22 GB takes ten seconds or more, reading a sample of it less than one. So
the checksum of a file is cached in a folder of the user, keyed by device and inode: ``checksums``
in ``$VLMSCOPE_CACHE``, by default ``$XDG_CACHE_HOME/vlmscope`` or ``~/.cache/vlmscope``. It is used
again only if size, modification time and change time are the same, and if a sample of the bytes is:
the header of a safetensors file, the beginning, middle and end of every tensor, and four kilobytes
every four megabytes. The times show every ordinary change, ``os.utime`` included, because no
program can set the change time; the sample is for file systems without a change time and for clocks
that were set back.

The cache is optional: without one, or with one that cannot be used, every file is hashed. An entry
contains a checksum of itself, and is used only if it is a regular file owned by the user. One
process hashes a file while others wait for its result; if the lock cannot be acquired, each hashes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vlmscope.errors import ModelError, one_line

PIECE = 4096
"""Bytes of one piece of the sample."""
STRIDE = 1 << 22
"""Distance in bytes of the pieces that are sampled independently of the tensors."""

_LONGEST_HEADER = 1 << 25
"""Bytes of the longest safetensors header that is parsed; of others only the stride is sampled."""
_LONGEST_RUN = 256
"""Pieces that are read in one call at most."""


def hash_sample(file: int) -> str:
    """Return the SHA-256 of a sample of an open file; for pickles, without a header."""
    size = os.fstat(file).st_size
    header, tensors = _read_header(file, size)
    strides = ((at, min(at + PIECE, size)) for at in range(0, size, STRIDE))
    spans = (*tensors, *strides, (max(0, size - PIECE), size))
    pieces = sorted({at // PIECE for span in spans for at in _ends_and_middle(*span) if at >= 0})
    runs = _runs(pieces)
    if hasattr(os, "posix_fadvise"):  # lets the disk read the pieces together, not one by one
        for first, count in runs:
            os.posix_fadvise(file, first * PIECE, count * PIECE, os.POSIX_FADV_WILLNEED)
    digest = hashlib.sha256(f"{size} ".encode() + header)
    for first, count in runs:
        digest.update(os.pread(file, count * PIECE, first * PIECE))
    return digest.hexdigest()


def _runs(pieces: Sequence[int]) -> list[tuple[int, int]]:
    """Return consecutive pieces as runs: the first piece and the number of pieces.

    >>> _runs([3, 4, 5, 9])
    [(3, 3), (9, 1)]
    """
    runs: list[tuple[int, int]] = []
    for piece in pieces:
        first, count = runs[-1] if runs else (piece, 0)
        if piece == first + count and count < _LONGEST_RUN:
            runs[-1:] = [(first, count + 1)]
        else:
            runs.append((piece, 1))
    return runs


def _ends_and_middle(begin: int, end: int) -> tuple[int, ...]:
    """Return offsets whose pieces cover both ends of a tensor, and its middle."""
    first, last = min(begin + PIECE, end) - 1, max(end - PIECE, begin)
    return begin, first, (begin + end) // 2, last, end - 1


def _read_header(file: int, size: int) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """Return the header of a safetensors file, and where its tensors begin and end.

    The file begins with the header's length as little-endian uint64, then the header as JSON:
    tensor name → type, shape, and where its bytes begin and end after the header. Invalid
    entries are ignored: loading the file will fail on them.
    """
    length = int.from_bytes(os.pread(file, 8, 0), "little")
    if length > min(size - 8, _LONGEST_HEADER):
        return b"", ()
    header = os.pread(file, length, 8)
    try:
        tensors = json.loads(header)
        offsets = [tensor["data_offsets"] for name, tensor in tensors.items() if name[:2] != "__"]
        start = 8 + length
        return header, tuple(
            (start + begin, start + end)
            for begin, end in offsets
            if type(begin) is type(end) is int and 0 <= begin < end <= size - start
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return header, ()


_LARGEST_ENTRY = 1 << 16
_BUFFER = 1 << 22
SETTLED = 2.0
"""Seconds after which a further change has another time stamp on every file system."""
_LOCK_TIMEOUT = 600.0
"""Seconds to wait for another process that hashes the same file."""
_THREADS = 8

Stamp = tuple[int, int, int, int, int]
"""Device, inode, size, modification time and change time of a file."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """Size and SHA-256 of a file."""

    size: int
    sha256: str


class Checksumming:
    """Checksums of files, computed in background threads.

    Args:
        files: Any name → the file.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._stop = threading.Event()
        threads = max(1, min(len(files), os.cpu_count() or 1, _THREADS))
        self._pool = ThreadPoolExecutor(threads, "vlmscope-checksum")
        self._found: dict[str, Future[Checksum]] = {
            name: self._pool.submit(checksum, path, self._stop) for name, path in files.items()
        }

    def result(self) -> dict[str, Checksum]:
        """Wait for the threads; return the checksum of every file.

        Raises:
            ModelError: A file cannot be read, or was changed meanwhile.
        """
        return {name: found.result() for name, found in self._found.items()}

    def cancel(self) -> None:
        """Stop the threads."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


def checksum(path: Path, stop: threading.Event | None = None) -> Checksum:
    """Return the checksum of a regular file, from the cache if the file is still the same.

    Args:
        path: The file.
        stop: Cancels the computation when set.

    Raises:
        CancelledError: ``stop`` was set.
        ModelError: It is not a regular file, cannot be read, or was changed meanwhile.
    """
    stop = stop or threading.Event()
    try:
        with _open_regular(path) as file:
            before = stamp_of(os.fstat(file))
            kept = _Entry.of(before)
            if found := kept.read(file):
                return Checksum(before[2], found)
            with kept.lock(stop):
                if found := kept.read(file):  # another process has hashed it
                    return Checksum(before[2], found)
                settled = time.time() - max(before[3:]) / 1e9 > SETTLED
                found = _hash_all(file, stop)
                if stamp_of(os.fstat(file)) != before:
                    raise changed(path)
                if settled:
                    kept.write(file, found)
            return Checksum(before[2], found)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {one_line(error)}") from error


def stamp_of(found: os.stat_result) -> Stamp:
    """Return what changes whenever a file does."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def changed(path: Path) -> ModelError:
    """Return the error for a file that was written to while the model was loaded."""
    return ModelError(
        f"{path}: was changed while the model was being loaded; wait until nothing writes to the "
        "checkpoint, and load it again"
    )


@contextlib.contextmanager
def _open_regular(path: Path) -> Iterator[int]:
    """Open a regular file; raise an error for anything else without blocking."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ModelError(f"{path}: is not a regular file")
        yield file
    finally:
        os.close(file)


def _hash_all(file: int, stop: threading.Event) -> str:
    digest, buffer, position = hashlib.sha256(), bytearray(_BUFFER), 0
    view = memoryview(buffer)
    while count := os.preadv(file, [buffer], position):
        if stop.is_set():
            raise CancelledError
        digest.update(view[:count])
        position += count
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Entry:
    """The checksum of one file in the cache; ``path`` is None if there is no cache."""

    stamp: Stamp
    path: Path | None

    @classmethod
    def of(cls, stamp: Stamp) -> _Entry:
        """Return the entry for a file; its folder is made."""
        try:
            folder = cache_folder() / "checksums"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, RuntimeError, ValueError):  # unwritable, no home, no path
            return cls(stamp, None)
        return cls(stamp, folder / f"{stamp[0]:x}-{stamp[1]:x}.json")

    def read(self, file: int) -> str:
        """Return the cached SHA-256; empty if there is none that is valid for the file."""
        known = self._read()
        valid = known and known.get("check") == _check(known) and known["stamp"] == [*self.stamp]
        return known["sha256"] if valid and known["sample"] == hash_sample(file) else ""

    def _read(self) -> dict[str, Any]:
        """Return the content of the entry; empty if it is missing or invalid."""
        if self.path is None:
            return {}
        try:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(self.path, flags), "rb") as entry:  # noqa: PTH123 - opened with flags
                found = os.fstat(entry.fileno())
                if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                    return {}
                known = json.loads(entry.read(_LARGEST_ENTRY))
        except (OSError, ValueError, RecursionError):
            return {}
        return known if isinstance(known, dict) else {}

    def write(self, file: int, sha256: str) -> None:
        """Write a checksum to the cache; errors of the disk are ignored."""
        if self.path is None:
            return
        known = {"stamp": [*self.stamp], "sample": hash_sample(file), "sha256": sha256}
        known["check"] = _check(known)
        with contextlib.suppress(OSError):
            handle, temporary = tempfile.mkstemp(prefix=".", dir=self.path.parent)
            try:
                with open(handle, "w", encoding="ascii") as entry:  # noqa: PTH123 - a descriptor
                    json.dump(known, entry)
                Path(temporary).replace(self.path)
            except OSError:
                Path(temporary).unlink()
                raise

    @contextlib.contextmanager
    def lock(self, stop: threading.Event) -> Iterator[None]:
        """Hold the entry's lock if possible; without it two processes may hash the same file."""
        with contextlib.ExitStack() as held:
            if self.path is not None:
                lock = FileLock(self.path.with_suffix(".lock"), thread_local=False)
                end = time.monotonic() + _LOCK_TIMEOUT
                with contextlib.suppress(OSError, RuntimeError):
                    while time.monotonic() < end and not stop.is_set():
                        with contextlib.suppress(Timeout):
                            held.enter_context(lock.acquire(timeout=0.5))
                            break
            yield


def cache_folder() -> Path:
    """Return the folder of vlmscope's per-user cache, which may not exist yet.

    Raises:
        RuntimeError: The home directory cannot be determined.
    """
    if own := os.environ.get("VLMSCOPE_CACHE"):
        return Path(own)
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))  # counts only if it is absolute
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "vlmscope"


def _check(known: Mapping[str, Any]) -> str:
    """Return the checksum of an entry, so that a damaged entry is not used."""
    parts = [known.get(name) for name in ("stamp", "sample", "sha256")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
