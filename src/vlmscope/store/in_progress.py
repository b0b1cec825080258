"""Records which rows a session is processing, so that the record survives a kill.

When the kernel kills a process because memory runs out, the process cannot report the row that
caused it. So the ids of the rows that are being prepared, or are in the model, are written to a
small file of the run folder before the work begins: ``.in-progress-<writer>``, lines of JSON,
appended and never flushed to the disk, because the operating system keeps what a killed process has
written. A normal end removes the file.

The next session reads the rows that were in progress when the last one died. These are suspects: it
tries them last, in small groups. A suspect that was in progress alone when a session died again is
the cause. A kill from outside makes suspects too; they complete like other rows.

Where nothing can be written, and in an object store, which has no appending, there are no suspects,
and the run continues.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

from vlmscope.errors import StoreError
from vlmscope.jsontext import json_lines
from vlmscope.store.storage.atomic import publish
from vlmscope.store.storage.locks import ALONE
from vlmscope.store.storage.paths import IN_PROGRESS, as_path, is_remote

REWRITTEN_AT = 2**20
"""Size in bytes at which the file is rewritten with the current state only."""

_LARGEST = 16 * REWRITTEN_AT
_UNREADABLE = (
    ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip


@dataclass(slots=True)
class _State:
    """The state after all lines of a file."""

    suspects: dict[str, int] = field(default_factory=dict)
    """Id → how often it was in progress when a session died."""

    working: dict[str, str] = field(default_factory=dict)
    """Id → its current stage."""

    def take(self, line: Mapping[str, Any]) -> None:
        """Apply a line.

        Raises:
            KeyError: The line has none of the known keys.
            AttributeError, TypeError: A value has the wrong type.
        """
        if "suspects" in line:
            self.suspects = {str(id_): int(deaths) for id_, deaths in line["suspects"].items()}
        elif "begin" in line:
            self.working |= dict.fromkeys(map(str, line["ids"]), str(line["begin"]))
        else:
            ids = list(map(str, line["finish"] if "finish" in line else line["leave"]))
            for id_ in ids:
                self.working.pop(id_, None)
                if "finish" in line:
                    self.suspects.pop(id_, None)

    def blamed(self) -> dict[str, str]:
        """Return the suspect that was in progress alone, and its stage; else an empty mapping."""
        alone = len(self.working) == 1 and self.working.keys() <= self.suspects.keys()
        return dict(self.working) if alone else {}


class InProgress:
    """The rows that a session is processing. A context manager; safe to use from several threads.

    Args:
        run: The run folder; only this session writes to it under this name.
        writer: The writer name of this session.
    """

    def __init__(self, run: Path, writer: str) -> None:
        self._path = as_path(run) / f"{IN_PROGRESS}{writer}"
        self._writer = writer
        self._state = _State()
        self._found: Set[str] = frozenset()
        self._lock = threading.Lock()
        self._file: int | None = None
        self._size = 0
        self.blamed: Mapping[str, str] = {}
        """Rows that were in progress alone when the last session died → their stage."""

    @property
    def suspects(self) -> dict[str, int]:
        """Rows that were in progress when a session died, and how often."""
        return dict(self._state.suspects)

    def __enter__(self) -> InProgress:
        """Read the files that killed sessions left."""
        suspects: dict[str, int] = {}
        blamed: dict[str, str] = {}
        for left in map(_read, self._left_behind()):
            blamed |= left.blamed()
            suspects |= left.suspects
            suspects |= {id_: left.suspects.get(id_, 0) + 1 for id_ in left.working}
        self._state.suspects = suspects
        self._found = frozenset(suspects)
        self.blamed = blamed
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, suspects: Mapping[str, int]) -> None:
        """Write the file of this session, replacing the files of killed sessions.

        Args:
            suspects: Rows that are tried separately from the others: if the session dies while one
                of them is in progress alone, that row is the cause.
        """
        with self._lock:
            self._state.suspects = dict(suspects)
            self._rewrite()
        for path in self._left_behind():
            if path != self._path:
                _remove(path)

    def begin(self, stage: str, ids: Iterable[str]) -> None:
        """Record that processing of some rows begins.

        Args:
            stage: The stage of the processing.
            ids: The rows.
        """
        self._note({"begin": stage, "ids": list(ids)})

    def leave(self, ids: Iterable[str]) -> None:
        """Record that some rows are not being processed for now."""
        self._note({"leave": list(ids)})

    def finish(self, ids: Iterable[str]) -> None:
        """Record that some rows are done, whatever the result: they are no longer suspects."""
        self._note({"finish": list(ids)})

    def close(self) -> None:
        """Record a normal end: no rows are in progress. Suspects that were not tried are kept."""
        with self._lock:
            suspects, found = self._state.suspects, self._found
            self._state = _State({i: n for i, n in suspects.items() if i in found})
            if self._file is not None and self._state.suspects:
                self._rewrite()
            elif self._file is not None:
                _remove(self._path)
            self._close_file()

    def _left_behind(self) -> Iterator[Path]:
        """Yield the files of killed sessions: this writer's, or all if this is the only writer."""
        if is_remote(self._path):
            return
        if self._writer != ALONE:
            yield self._path
            return
        yield from sorted(self._path.parent.glob(f"{IN_PROGRESS}*"))

    def _note(self, line: Mapping[str, Any]) -> None:
        """Write a line and apply it to the state."""
        with self._lock:
            self._state.take(line)
            if self._file is None:
                return
            data = _encoded(line)
            try:
                written = os.write(self._file, data)
            except OSError:
                written = -1
            self._size += written
            if written != len(data):  # a full disk: no suspects are better than wrong ones
                self._close_file()
                _remove(self._path)
            elif self._size > REWRITTEN_AT:
                self._rewrite()

    def _rewrite(self) -> None:
        """Replace the file by one with the current state, and open it for appending."""
        self._close_file()
        if is_remote(self._path):
            return
        stages = dict.fromkeys(self._state.working.values())
        lines: list[Mapping[str, Any]] = [{"suspects": self._state.suspects}]
        for stage in stages:
            ids = [id_ for id_, own in self._state.working.items() if own == stage]
            lines.append({"begin": stage, "ids": ids})
        data = b"".join(map(_encoded, lines))
        with suppress(StoreError, OSError):
            publish(self._path, data)
            self._file = _open(self._path, os.O_WRONLY | os.O_APPEND)
            self._size = len(data)

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _encoded(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _read(path: Path) -> _State:
    """Return the state in a file; truncated or foreign lines are ignored."""
    state = _State()
    try:
        descriptor = _open(path, os.O_RDONLY)
    except OSError:
        return state
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(_LARGEST)
    for line in json_lines(BytesIO(data), _LARGEST + 1):
        with suppress(*_UNREADABLE):
            state.take(line)
    return state


def _open(path: Path, flags: int) -> int:
    """Open a regular file without following a link or blocking on a pipe.

    Raises:
        OSError: It cannot be opened, or is not a regular file.
    """
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return descriptor


def _remove(path: Path) -> None:
    """Remove a file; if that fails it is read once more later, without further effect."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
