"""Which rows a session has in work, written down so that a killed session leaves it behind.

When the kernel kills a process because memory runs out, nobody is left to say on which row. So the
ids of the rows that are being prepared, or are in the model, go into a small file of the run folder
before the work begins: ``.in-progress-<writer>``, lines of JSON, appended and never flushed to the
disk, because what a killed process has written the system still has. A clean end removes the file.

The next session finds the rows that were in work when the last one died. It tries them last, in
small groups: they are suspects. Of a suspect that was in work alone when a session died again it is
known that it was the one. A kill from outside makes suspects too; they end like other rows.

Where nothing can be written, and in an object store, to which nothing can be appended, no suspects
are known, and the run goes on.
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
from vlmscope.store.storage.paths import IN_PROGRESS, is_remote, place

REWRITTEN_AT = 2**20
"""Bytes after which the file is written anew with what still holds."""

_LARGEST = 16 * REWRITTEN_AT
_UNREADABLE = (
    ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip


@dataclass(slots=True)
class _State:
    """What the lines of a file say together."""

    suspects: dict[str, int] = field(default_factory=dict)
    """Id → how often it was in work when a session died."""
    working: dict[str, str] = field(default_factory=dict)
    """Id → the stage that it is in."""

    def take(self, line: Mapping[str, Any]) -> None:
        """Do what a line says.

        Raises:
            KeyError: It says nothing that is known. AttributeError, TypeError: Nor of that form.
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
        """Return the suspect that was alone in work, and its stage; empty if it was not so."""
        alone = len(self.working) == 1 and self.working.keys() <= self.suspects.keys()
        return dict(self.working) if alone else {}


class InProgress:
    """The rows that a session has in work. A context manager; threads may use it at once.

    Args:
        run: The run folder, which this session alone writes under this name.
        writer: The name to write as.
    """

    def __init__(self, run: Path, writer: str) -> None:
        self._path = place(run) / f"{IN_PROGRESS}{writer}"
        self._writer = writer
        self._state = _State()
        self._found: Set[str] = frozenset()
        self._lock = threading.Lock()
        self._file: int | None = None
        self._size = 0
        self.blamed: Mapping[str, str] = {}
        """Rows that were alone in work when the last session died → their stage."""

    @property
    def suspects(self) -> dict[str, int]:
        """Rows that were in work when a session died, and how often."""
        return dict(self._state.suspects)

    def __enter__(self) -> InProgress:
        """Read what dead sessions left."""
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
        """Write the file of this session, in the place of what was left behind.

        Args:
            suspects: Rows that are tried apart from the others: alone in work, one of them is to
                blame if the session dies.
        """
        with self._lock:
            self._state.suspects = dict(suspects)
            self._rewrite()
        for path in self._left_behind():
            if path != self._path:
                _remove(path)

    def begin(self, stage: str, ids: Iterable[str]) -> None:
        """Take note that work on some rows begins.

        Args:
            stage: What is done to them.
            ids: The rows.
        """
        self._note({"begin": stage, "ids": list(ids)})

    def leave(self, ids: Iterable[str]) -> None:
        """Take note that nothing is done to some rows for now."""
        self._note({"leave": list(ids)})

    def finish(self, ids: Iterable[str]) -> None:
        """Take note that some rows are done, whatever came of them: they are no suspects more."""
        self._note({"finish": list(ids)})

    def close(self) -> None:
        """End in order: nothing is in work any more. Suspects that were not tried are kept."""
        with self._lock:
            suspects, found = self._state.suspects, self._found
            self._state = _State({i: n for i, n in suspects.items() if i in found})
            if self._file is not None and self._state.suspects:
                self._rewrite()
            elif self._file is not None:
                _remove(self._path)
            self._let_go()

    def _left_behind(self) -> Iterator[Path]:
        """Yield the files of dead sessions: one's own, and those of all if one writes alone."""
        if is_remote(self._path):
            return
        if self._writer != ALONE:
            yield self._path
            return
        yield from sorted(self._path.parent.glob(f"{IN_PROGRESS}*"))

    def _note(self, line: Mapping[str, Any]) -> None:
        """Write a line, and remember what it says."""
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
            if written != len(data):  # a full disk: rather no suspects than wrong ones
                self._let_go()
                _remove(self._path)
            elif self._size > REWRITTEN_AT:
                self._rewrite()

    def _rewrite(self) -> None:
        """Put a file with what holds now in the place of the old one, and open it to append."""
        self._let_go()
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

    def _let_go(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _encoded(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _read(path: Path) -> _State:
    """Return what a file says; lines that a kill tore, or that are no such lines, say nothing."""
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
    """Open a regular file, following no link and waiting for no pipe.

    Raises:
        OSError: It cannot be opened, or is something else.
    """
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no regular file")
    return descriptor


def _remove(path: Path) -> None:
    """Remove a file; one that stays is read once more, which is harmless."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
