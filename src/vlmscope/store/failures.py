"""``failures.jsonl``: one line per attempt that failed.

A line is appended and flushed to the disk as it happens, under a lock, because several ranks may
write one run. A kill may tear the last line: readers skip it, the next writer starts on a fresh
line. The last line of an id wins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vlmscope.errors import StoreError
from vlmscope.schema import Failure
from vlmscope.store.lock import waiting
from vlmscope.store.publish import cannot_write

FAILURES = "failures.jsonl"
"""Name of the file in a run folder."""


class FailureLog:
    """The failure log of a run, open for appending. Other processes may append to it too."""

    def __init__(self, run: Path) -> None:
        self._path = Path(run) / FAILURES
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
        lines = "".join(json.dumps(asdict(failure)) + "\n" for failure in counted)
        try:
            with waiting(self._path.parent, "failures"), self._path.open("ab+") as file:
                file.write(_line_break(file) + lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from error
        self._attempts |= attempts
        return counted


def read_failures(run: Path) -> dict[str, Failure]:
    """Return the last failure of every id, in the order of first appearance."""
    path = Path(run) / FAILURES
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    failures = (_parse(line) for line in lines)
    return {failure.id: failure for failure in failures if failure is not None}


def _parse(line: bytes) -> Failure | None:
    """Return the failure of a line, or None for a torn or foreign one."""
    try:
        found = json.loads(line)
        texts = (found["id"], found["stage"], found["error"])
        attempt = found["attempt"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(isinstance(text, str) for text in texts) or not isinstance(attempt, int):
        return None
    return Failure(*texts, attempt)


def _line_break(file: Any) -> bytes:
    """Return what must come first: a line break if a kill tore the last line."""
    if file.seek(0, os.SEEK_END) == 0:
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"
