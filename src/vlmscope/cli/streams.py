r"""The streams of the command line, which may be a full disk, a closed pipe, or closed.

Results go to stdout: if they cannot be written, the command fails with a one-line error. Messages
go to stderr: if they cannot be written, the command continues without them. A run of days must not
end because the disk of its log is full.

The encoding of stdout may lack some characters, and lone surrogates, which a table or a path may
contain, cannot be encoded at all. They are written as in JSON, ``\u6708``.
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
    """A wrapper of a text stream, for subclasses that change how it is written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Results(_Stream):
    """stdout. Its errors are distinguished from those of other files."""

    def write(self, text: str) -> int:
        """Write a text."""
        try:
            self._stream.write(text)
        except OSError as error:
            raise _cannot_print(error) from error
        return len(text)

    def flush(self) -> None:
        """Flush the buffer."""
        try:
            self._stream.flush()
        except OSError as error:
            raise _cannot_print(error) from error


class _Messages(_Stream):
    """stderr. Text that cannot be written is dropped."""

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        with suppress(OSError, ValueError):  # a ValueError: the stream was closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the buffer, if possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def _cannot_print(error: OSError) -> StdoutError:
    return StdoutError(
        f"stdout: cannot be written: {error.strerror or error}; redirect it to another file"
    )


@contextmanager
def safe_streams() -> Iterator[None]:
    """Make printing to the three streams safe.

    A closed stream (``>&-``) is opened again, because the next opened file would get its
    descriptor, and output of libraries would be written to that file.
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
            _discard_rest(stream)
            _with_errors(stream, handler)
        sys.stdin, sys.stdout, sys.stderr = before


def _with_errors(stream: Any, handler: str | None) -> str | None:
    """Set the error handler of a stream, if it has one, and return the old one."""
    before: str | None = getattr(stream, "errors", None)
    if before is not None and hasattr(stream, "reconfigure"):
        with suppress(OSError):  # from text that could not be written before
            stream.reconfigure(errors=handler)
    return before


def _discard_rest(stream: Any) -> None:
    """Discard text that a stream cannot write; otherwise Python would fail at exit."""
    try:
        stream.flush()
    except OSError:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)


def _open_again(number: int) -> None:
    """Reopen the file descriptor of a closed stream; writing to stdout still fails."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
        os.set_inheritable(opened, True)  # child processes need it too


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    numbers = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(f"\\u{number:04x}" for number in numbers), error.end
