"""Cache of the judge's verdicts on disk, so that none is requested twice.

An append-only file with one JSON object a line. A line is written with one call as soon as its
verdict arrives: every verdict survives an interrupted run, and at worst the last line is
incomplete. Such a line is skipped, and the next one starts on a line of its own.

A run folder may be untrusted: lines without a verdict are skipped, however long they are, and
anything that is not a regular file, or is larger than any judge writes, is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vlmscope.errors import StoreError
from vlmscope.jsontext import json_lines, line_break
from vlmscope.regular import check_size, open_regular, open_to_append
from vlmscope.score.judge.verdict import NOTHING_MASKED, Mask, Verdict, verdict_of

LONGEST_LINE = 2**16
"""Most bytes of a line; those written here take at most a tenth of it."""

LARGEST_FILE = 2**32
"""Most bytes of a file: ten million verdicts."""


def cache_key(prompt: str, model: str, question: str, target: str, answer: str) -> str:
    """Return the key of a verdict: everything that it depends on, hashed.

    The fields go through JSON, so that moving text from one to the next gives another key.
    """
    fields = json.dumps([prompt, model, question, target, answer])
    return hashlib.sha256(fields.encode()).hexdigest()


class VerdictCache:
    """The verdicts in one file. Reading does not create it; the first ``put`` does.

    Args:
        path: The file. It need not exist.
        model: The judge's model, recorded with each verdict.
        mask: Mask applied to reasons when they are read.
    """

    def __init__(self, path: Path, model: str, mask: Mask = NOTHING_MASKED) -> None:
        self._path = path
        self._model = model
        self._mask = mask
        self._verdicts: dict[str, Verdict] = {}
        self._file: FileIO | None = None

    def __enter__(self) -> Self:
        """Read the file, if there is one."""
        try:
            with open_regular(self._path) as file:
                check_size(os.fstat(file.fileno()).st_size, LARGEST_FILE, self._path)
                for record in json_lines(file, LONGEST_LINE):
                    self._add(record)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreError(f"{self._path}: cannot read the judge's verdicts: {error}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def get(self, key: str) -> Verdict | None:
        """Return the verdict stored under ``key``."""
        return self._verdicts.get(key)

    def put(self, key: str, verdict: Verdict) -> None:
        """Store a verdict, on disk before it is used.

        Raises:
            StoreError: It cannot be written; further requests would be paid for and lost.
        """
        record = {
            "key": key,
            "model": self._model,
            "verdict": verdict.word,
            "reason": verdict.reason,
        }
        line = (json.dumps(record) + "\n").encode()
        try:
            file = self._open()
            if file.write(line) != len(line):
                raise OSError("the disk is full")
        except OSError as error:
            raise StoreError(f"{self._path}: cannot write the judge's verdict: {error}") from error
        self._verdicts[key] = verdict

    def _add(self, record: Any) -> None:
        verdict = verdict_of(record, self._mask)
        if verdict is not None and isinstance(record.get("key"), str):
            self._verdicts[record["key"]] = verdict

    def _open(self) -> FileIO:
        """Return the file, open for appending without a buffer, at the start of a line."""
        if self._file is None:
            file = open_to_append(self._path)
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST_FILE:
                file.close()
            check_size(size, LARGEST_FILE, self._path)
            self._file = file
            file.write(line_break(file))
        return self._file
