"""``failures.jsonl``: one line per failed attempt.

Lines are appended and flushed to the disk immediately, under a lock, because several ranks may
write one run. A kill may truncate the last line: readers skip it, and the next writer starts a new
line. The last line of an id is used.

Objects of an object store cannot be appended to. There every session writes its own objects, named
``failures-….jsonl``, with a limited number of lines each, and rewrites the last one to add more.
Their names sort by time. If an id is in several, the highest attempt is used.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import time
import uuid
from collections import Counter, deque
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vlmscope.errors import StoreError
from vlmscope.jsontext import json_lines, line_break
from vlmscope.regular import check_size, open_to_append
from vlmscope.schema import Failure
from vlmscope.store.storage.atomic import cannot_write, publish, sync_descriptor
from vlmscope.store.storage.locks import waiting
from vlmscope.store.storage.object_store import reading
from vlmscope.store.storage.paths import as_path, is_remote, unreachable

FAILURES = "failures.jsonl"
"""Name of the file in a run folder."""

_OBJECTS = "failures-*.jsonl"
_MOST = 2**32
"""Size in bytes of the largest log that is read: a million rows that failed ten times."""

_LONGEST = 2**20
"""Maximum size in bytes of a line that is read; a kill may leave longer ones."""

_LINES = 1_000  # per object: the complete object is rewritten with every batch of failures


class FailureLog:
    """The failure log of a run, open for appending. Other processes may append to it too."""

    def __init__(self, run: Path) -> None:
        self._path = as_path(run) / FAILURES
        self._object: list[str] = []
        self._attempts = {id_: failure.attempt for id_, failure in read_failures(run).items()}

    def add(self, failure: Failure) -> Failure:
        """Append a failure and return it with its ``attempt`` counted up."""
        return self.add_all([failure])[0]

    def add_all(self, failures: Sequence[Failure]) -> list[Failure]:
        """Append failures, flushed to the disk once, and return them as ``add`` does."""
        attempts: dict[str, int] = {}
        counted = []
        for failure in failures:
            before = attempts.get(failure.id, self._attempts.get(failure.id, 0))
            attempts[failure.id] = before + 1
            counted.append(replace(failure, attempt=before + 1))
        lines = [json.dumps(asdict(failure)) + "\n" for failure in counted]
        if is_remote(self._path):
            self._put(lines)
        else:
            self._append("".join(lines))
        self._attempts |= attempts
        return counted

    def _append(self, lines: str) -> None:
        try:
            with waiting(self._path.parent, "failures"), open_to_append(self._path) as file:
                data = line_break(file) + lines.encode()
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                sync_descriptor(file.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def _put(self, lines: list[str]) -> None:
        if not self._object or len(self._object) >= _LINES:
            self._object = []
            name = f"failures-{time.time_ns():016x}{uuid.uuid4().hex[:16]}.jsonl"  # sorted by time
            self._path = self._path.with_name(name)
        self._object += lines
        publish(self._path, "".join(self._object).encode())


def read_failures(run: Path) -> dict[str, Failure]:
    """Return the last failure of every id, in the order of first appearance."""
    found: dict[str, Failure] = {}
    for path in _files(as_path(run)):
        several = path.name != FAILURES
        for failure in logged_failures(path):
            before = found.get(failure.id)
            if before is None or not several or failure.attempt >= before.attempt:
                found[failure.id] = failure
    return found


def last_failures(run: Path, ids: Container[str], number: int) -> list[Failure]:
    """Return the last ``number`` recorded attempts at some rows.

    ``read_failures`` cannot distinguish sessions: it returns one failure for each id.
    """
    found: deque[Failure] = deque(maxlen=number)
    for path in _files(as_path(run)):
        found += (failure for failure in logged_failures(path) if failure.id in ids)
    return list(found)


def failures_shown(run: Path) -> Path:
    """Return the path of a run's failures for display: a file, or a pattern of objects."""
    folder = as_path(run)
    return folder / (_OBJECTS if is_remote(folder) else FAILURES)


def _files(run: Path) -> list[Path]:
    """Return the log of a run, and the objects if it is or was in an object store."""
    try:
        return [run / FAILURES, *sorted(run.glob(_OBJECTS))]
    except Exception as error:
        if is_remote(run):
            raise unreachable(run, error) from error
        raise


def logged_failures(path: Path) -> Iterator[Failure]:
    """Yield the failures of a log, in the order they were written; none if there is no file.

    Raises:
        StoreError: It cannot be read, or is too large.
    """
    try:
        with reading(path) as file:
            check_size(file.seek(0, os.SEEK_END), _MOST, path)
            file.seek(0)
            lines = io.BufferedReader(file) if is_remote(path) else file
            yield from filter(None, map(_parse, json_lines(lines, _LONGEST)))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error


def frequent_reasons(errors: Iterable[str], table: str) -> list[tuple[str, int]]:
    """Return why rows failed and how often for each reason, the most frequent first.

    Reasons that differ only in a name or a number are one reason, represented by the first, which
    is then called an example: the others are about other files or rows.

    Args:
        errors: The errors of the failures.
        table: Name of the table, which they may begin with.

    >>> frequent_reasons(["t.csv line 2: no 'a.png'", "t.csv line 3: no 'b.png'", "odd"], "t.csv")
    [("for example, no 'a.png'", 2), ('odd', 1)]
    """
    origin = re.compile(rf"\A{re.escape(table)}(?: \w+ \d+|\S*\[\d+\]): ")
    reasons = [" ".join(origin.sub("", error).split()) for error in errors]
    kinds = [re.sub(r"'[^']*'|\"[^\"]*\"|\S*[/\\]\S*|\d+", "…", reason) for reason in reasons]
    examples: dict[str, dict[str, None]] = {}
    for kind, reason in zip(kinds, reasons, strict=True):
        examples.setdefault(kind, {})[reason] = None
    return [
        (f"{'for example, ' if len(examples[kind]) > 1 else ''}{next(iter(examples[kind]))}", often)
        for kind, often in Counter(kinds).most_common()
    ]


def _parse(line: Any) -> Failure | None:
    """Return the failure in a line, or None if the line is something else."""
    try:
        texts = (line["id"], line["stage"], line["error"])
        attempt = line["attempt"]
    except (KeyError, TypeError):
        return None
    if not all(isinstance(text, str) for text in texts) or not isinstance(attempt, int):
        return None
    return Failure(*texts, attempt)
