r"""The streams of the command line, whatever they lead to: a full disk, a closed pipe, nothing.

Results go to stdout: if they cannot be written, the command says so in a line and fails. What goes
to stderr is about the work: if that cannot be written, the work goes on without it. A run of days
must not end because the disk of its log is full.

stdout may have an encoding without some characters, and no encoding has half a surrogate pair,
which a table or a path may hold. They are written as JSON would, ``\u6708``.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from vlmscope.errors import VlmscopeError

ESCAPE = "vlmscope.escape"
"""Name of the error handler that writes characters as ``\\u6708``."""

_STREAMS = ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w"))


class StdoutError(VlmscopeError):
    """A result could not be printed."""


class _Stream:
    """A text stream of which only writing is another."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Results(_Stream):
    """stdout. An error of it is no error of whatever file a command is writing."""

    def write(self, text: str) -> int:
        """Write a text."""
        try:
            self._stream.write(text)
        except OSError as error:
            raise _cannot_print(error) from error
        return len(text)

    def flush(self) -> None:
        """Write what waits."""
        try:
            self._stream.flush()
        except OSError as error:
            raise _cannot_print(error) from error


class _Messages(_Stream):
    """stderr. What it cannot write is lost."""

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        with suppress(OSError, ValueError):  # a ValueError: the stream was closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what waits, if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def _cannot_print(error: OSError) -> StdoutError:
    return StdoutError(f"stdout: cannot be written: {error.strerror or error}; send it elsewhere")


@contextmanager
def safe_streams() -> Iterator[None]:
    """Make the three streams such that nothing that is printed can do harm.

    One that was closed (``>&-``) is opened again, because the next file that is opened would take
    its number, and what a library prints would get into that file.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    for number, name, mode in _STREAMS:
        _open_again(number)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    codecs.register_error(ESCAPE, _escape)
    stdout, stderr = sys.stdout, sys.stderr
    errors = [_with_errors(stream, ESCAPE) for stream in (stdout, stderr)]
    sys.stdout, sys.stderr = cast("Any", _Results(stdout)), cast("Any", _Messages(stderr))
    try:
        yield
    finally:
        for stream, handler in zip((stdout, stderr), errors, strict=True):
            _let_go(stream)
            _with_errors(stream, handler)
        sys.stdin, sys.stdout, sys.stderr = before


def _with_errors(stream: Any, handler: str | None) -> str | None:
    """Give a stream another error handler, if it can have one, and return its own."""
    before: str | None = getattr(stream, "errors", None)
    if before is not None and hasattr(stream, "reconfigure"):
        with suppress(OSError):  # of what it could not write before
            stream.reconfigure(errors=handler)
    return before


def _let_go(stream: Any) -> None:
    """Send what a stream cannot write nowhere, or Python would fail with it at its end."""
    try:
        stream.flush()
    except OSError:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)


def _open_again(number: int) -> None:
    """Open the file of a stream that was closed; what is written to stdout fails as before."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
        os.set_inheritable(opened, True)  # a process of ours would start without it


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    numbers = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(f"\\u{number:04x}" for number in numbers), error.end
