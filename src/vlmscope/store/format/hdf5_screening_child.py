"""Reads HDF5 files within limits of time and memory and reports problems; run as a script.

libhdf5 trusts the content of a file: it may loop forever, allocate any size in a header, or crash.
So ``hdf5_screening`` lets this script read whatever its own process will read. If this process
dies, the file is refused and nothing else is lost. It imports h5py and NumPy only.

Each line of stdin is a request, answered by a line of stdout: the problem, or an empty text. An
exception from h5py is no problem here: the reader gets the same exception, and reports it.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import resource
import signal
import sys
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t

IDLE = 10
"""Seconds without a request after which the process ends; it is restarted when needed."""

DEEPEST = 8
"""Maximum nesting of groups; the reader itself refuses deeper ones."""

MOST_CHUNKED = 2**30
"""Bytes of the largest chunked dataset, which may be compressed; vectors have kilobytes."""

_ROWS = 256
_EXPANSION = 1100
_COLUMNS, _TOKENS = b"_columns", b"_tokens"
_OURS = (_COLUMNS, _TOKENS)
_IDS, _HASHES = b"question_id", b"image_sha256"
_VECTORS = (b"_representation", b"_heads", b"_attn_out", b"_mlp")
_IN_A_ROW = frozenset(
    b"image_id question ground_truth_answer answer answer_token_ids answer_logprobs "
    b"first_token_ids first_token_logprobs signals".split()
)
_NUMBERS = (h5t.FLOAT, h5t.INTEGER)


class RefusedError(Exception):
    """The file must not be read; the message has the reason."""


class Proxy(io.RawIOBase):
    """A file in an object store, whose bytes the parent process reads."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in the file."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        """Return the position in the file."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the parent."""
        count = min(len(buffer), self._size - self._at)
        if count <= 0:
            return 0
        answer({"read": [self._at, count]})
        buffer[:count] = sys.stdin.buffer.read(count)
        self._at += count
        return count


class Screening:
    """Reads what vlmscope reads of one file.

    Args:
        file: The open file.
        size: Its bytes.
    """

    def __init__(self, file: Any, size: int) -> None:
        self._root, self._size = file.id, size
        self._seen: set[tuple[int, int, bool, bool]] = set()
        self._sources: set[bytes] = set()

    def run(self, depth: str) -> None:
        """Read the attributes of the root, the ids, and what ``hdf5_screening.Depth`` adds.

        Raises:
            RefusedError: Something is larger than the file.
        """
        self._attributes(self._root)
        columns = self._open(self._root, _COLUMNS)
        kind, _, path = depth.partition(" ")
        if kind == "all" or not isinstance(columns, h5g.GroupID):
            self._rows()
        elif kind == "columns":
            with tolerated():
                for _ in self._root:  # the reader looks up rows by their names
                    pass
            self._walk(columns, 1)
            self._walk_tokens()
        else:
            if kind == "headers":
                self._walk(columns, 1, contents=False)
                self._walk_tokens(contents=False)
            for name in (_IDS, _HASHES) if kind == "headers" else (_IDS, path.encode()):
                self._member(columns, name)
        for source in self._sources:
            self._member(self._root, source)

    def _walk_tokens(self, *, contents: bool = True) -> None:
        """Read the arrays of several tokens of each row, if there are any."""
        tokens = self._open(self._root, _TOKENS)
        if isinstance(tokens, h5g.GroupID):
            self._walk(tokens, 1, contents=contents)

    def _rows(self) -> None:
        """Read each row's attributes, texts, lists and vectors; of anything else only its kind."""
        names: list[bytes] = []
        with tolerated():
            names.extend(self._root)
        for row in (self._open(self._root, name) for name in names if name not in _OURS):
            if isinstance(row, h5g.GroupID):
                self._attributes(row)
                self._walk(row, 1, is_row=True)

    def _member(self, group: Any, path: bytes) -> None:
        """Read the dataset of this path, if there is one."""
        for name in path.split(b"/"):
            if isinstance(group, h5g.GroupID):
                group = self._open(group, name)
        if isinstance(group, h5d.DatasetID):
            self._dataset(group)

    def _open(self, group: Any, name: bytes) -> Any:
        """Open the target of a hard link; None for other links, which the reader refuses."""
        with tolerated():
            if group.links.get_info(name).type == h5l.TYPE_HARD:
                return h5o.open(group, name)
        return None

    def _walk(self, group: Any, depth: int, *, contents: bool = True, is_row: bool = False) -> None:
        names: list[bytes] = []
        with tolerated():
            # A group may also be linked where more of it is read, so its address is not enough.
            visit = (int(h5o.get_info(group).addr), depth, contents, is_row)
            if visit in self._seen or depth > DEEPEST:
                return
            self._seen.add(visit)
            names.extend(group)
        for name in names:
            found = self._open(group, name)
            read = contents and (not is_row or name.endswith(_VECTORS) or name in _IN_A_ROW)
            if isinstance(found, h5g.GroupID):
                self._walk(found, depth + 1, contents=read)
            elif read and isinstance(found, h5d.DatasetID):
                self._dataset(found)

    def _attributes(self, item: Any) -> None:
        names: list[bytes] = []
        with tolerated():
            if h5a.get_num_attrs(item):
                h5a.iterate(item, names.append)
        for name in names:
            with tolerated():
                attribute = h5a.open(item, name)
                if attribute.shape is not None:
                    values = np.empty(attribute.shape, attribute.dtype)
                    attribute.read(values)
                    self._add_up(values)

    def _dataset(self, dataset: Any) -> None:
        """Read values that have an index or are in a heap; contiguous values are just bytes."""
        self._attributes(dataset)
        with tolerated():
            stored, listed = dataset.get_storage_size(), is_listed(dataset)
            if stored > self._size:
                raise RefusedError(f"finds {stored:,} bytes of values in {self._size:,}")
            contiguous = dataset.get_offset() is not None
            if contiguous and not listed:
                return
            created = dataset.get_create_plist()
            layout = created.get_layout()
            count = 0 if dataset.shape is None else math.prod(dataset.shape)
            if layout == h5d.VIRTUAL:
                self._sources |= sources_here(created)
            if created.get_external_count() or layout == h5d.VIRTUAL or not count:
                return  # the reader refuses values in other files
            declared = count * dataset.get_type().get_size()
            if declared > _EXPANSION * stored:
                return  # refused by the reader
            if layout == h5d.CHUNKED and declared > MOST_CHUNKED:
                raise RefusedError(f"finds {declared:,} bytes of compressed values")
            if listed:
                self._listed(dataset)
            elif layout == h5d.CHUNKED:
                h5py.Dataset(dataset)[()]

    def _listed(self, dataset: Any) -> None:
        """Read texts or lists of variable length, some rows at a time, up to the file's size."""
        if len(dataset.shape) != 1:
            values = np.empty(dataset.shape, dataset.dtype)
            dataset.read(h5s.ALL, h5s.ALL, values)
            self._add_up(values)
            return
        total, column = 0, h5py.Dataset(dataset)
        for start in range(0, dataset.shape[0], _ROWS):
            total = self._add_up(column[start : start + _ROWS], total)

    def _add_up(self, values: Any, total: int = 0) -> int:
        if values.dtype.kind == "O":
            for value in values.flat:
                total += getattr(value, "nbytes", None) or len(value or ())
        if total > self._size:
            raise RefusedError(f"finds {total:,} bytes of texts or lists in {self._size:,}")
        return total


def is_listed(dataset: Any) -> bool:
    """Return whether the values are texts or lists of variable length."""
    kind = dataset.get_type()
    family = kind.get_class()
    if family == h5t.STRING:
        return bool(kind.is_variable_str())
    return family not in _NUMBERS and bool(kind.detect_class(h5t.VLEN))


def sources_here(created: Any) -> set[bytes]:
    """Return the paths of what a virtual dataset shows of its own file."""
    shown = range(created.get_virtual_count())
    here = [number for number in shown if created.get_virtual_filename(number) == "."]
    return {created.get_virtual_dsetname(number).encode().strip(b"/") for number in here}


class tolerated:  # noqa: N801 - a context manager, twice as fast as one made of a generator
    """Context manager that ignores h5py's exceptions on damaged files, except a lack of memory."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> bool:
        """Turn a lack of memory into a refusal."""
        if isinstance(error, MemoryError) or (
            isinstance(error, Exception)
            and not isinstance(error, RefusedError)
            and "alloc" in str(error).lower()
        ):
            raise RefusedError("takes too much memory") from error
        return isinstance(error, Exception) and not isinstance(error, RefusedError)


def screen(request: Any) -> str:
    """Return the problem of a file, or an empty text."""
    source = os.fsencode(request["path"]) if request["path"] else Proxy(request["size"])
    try:
        with tolerated(), h5py.File(source, "r") as file:
            Screening(file, request["size"]).run(request["depth"])
    except RefusedError as error:
        return str(error)
    return ""


def identity(path: str | None) -> list[int] | None:
    """Return the identity of a file, in the form that the parent uses."""
    if not path:
        return None
    try:
        found = os.stat(path)  # noqa: PTH116 - a script of its own
    except OSError:
        return None
    return [found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size]


def answer(reply: Any) -> None:
    """Send a line to the parent."""
    sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Answer requests until the parent exits."""
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer({"ready": True})
    while True:
        signal.alarm(IDLE)
        line = sys.stdin.buffer.readline()
        signal.alarm(0)
        if not line:
            return
        request = json.loads(line)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        with contextlib.suppress(ValueError, OSError):  # not every system limits memory
            resource.setrlimit(resource.RLIMIT_AS, (request["memory"], hard))
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        before = identity(request["path"])
        found = screen(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answer({"found": found, "identity": before})


if __name__ == "__main__":
    main()
