"""Show repeated warnings and log records of libraries only once.

Python shows a warning once per line of code, until any filter is set: opening an image sets one.
And the loggers of libraries repeat themselves at every call.
"""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ContextDecorator, contextmanager
from typing import Any

from vlmscope.locking import warnings_lock

_LOGGERS = ("transformers",)
"""Loggers with handlers of their own; loggers without use ``logging.lastResort``."""

_VERDICT = "vlmscope_is_new"
"""Attribute of a log record with the cached decision whether it is new."""

_NUMBER = re.compile(r"\d+")


class _Once(ContextDecorator):
    """Drops repeated warnings and log records in the threads that are running vlmscope."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._seen: set[tuple[str, str]] = set()
        self._active = 0
        self._show: Any = None
        self._shown = self._show_new
        self._filtered = self._filter

    def __enter__(self) -> None:
        if not self._depth:
            self._count_thread(1)
        self._own.depth = self._depth + 1

    def __exit__(self, *_: object) -> None:
        self._own.depth = self._depth - 1
        if not self._depth:
            self._count_thread(-1)

    @property
    def _depth(self) -> int:
        """Number of blocks that this thread is in."""
        return getattr(self._own, "depth", 0)

    def forget(self) -> None:
        """Show everything again."""
        self._seen.clear()

    def _filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is new; all handlers get the same result."""
        known: bool | None = record.__dict__.get(_VERDICT)
        if known is None:
            known = record.__dict__[_VERDICT] = self._is_new(record.name, record.getMessage())
        return known

    def _is_new(self, source: str, text: str) -> bool:
        if not self._depth:
            return True
        message = (source, _NUMBER.sub("0", text))
        known = message in self._seen
        self._seen.add(message)
        return not known

    def _count_thread(self, change: int) -> None:
        """Count a thread that begins or ends; the first one installs the filters, the last removes.

        They are process-wide.
        """
        with warnings_lock():
            self._active += change
            if change > 0 and self._active == 1:
                self._switch_on()
            elif not self._active:
                self._switch_off()

    def _switch_on(self) -> None:
        for handler in _handlers():
            handler.addFilter(self._filtered)
        if warnings.showwarning is not self._shown:
            self._show, warnings.showwarning = warnings.showwarning, self._shown

    def _switch_off(self) -> None:
        for handler in _handlers():
            handler.removeFilter(self._filtered)
        if warnings.showwarning is self._shown:
            warnings.showwarning = self._show

    def warn(self, message: str, stacklevel: int) -> None:
        """Show a warning of vlmscope's own, each time."""
        self._own.is_ours = True
        try:
            warnings.warn(message, RuntimeWarning, stacklevel=stacklevel + 1)
        finally:
            self._own.is_ours = False

    def _show_new(self, message: Any, category: Any, *rest: Any, **more: Any) -> None:
        """Replacement of ``warnings.showwarning``."""
        ours = getattr(self._own, "is_ours", False)
        if ours or self._is_new(category.__name__, str(message)):
            self._show(message, category, *rest, **more)


def _handlers() -> list[logging.Handler]:
    found = [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers]
    return [*found, *([logging.lastResort] if logging.lastResort else [])]


_ONCE = _Once()


def shown_once() -> ContextDecorator:
    """Return a decorator: within the function, this thread's repeated messages are shown once.

    Messages that differ only in numbers are the same.
    """
    return _ONCE


def forget_shown() -> None:
    """Show messages again that were shown before, as for another model."""
    _ONCE.forget()


def warn(message: str, *, stacklevel: int = 1) -> None:
    """Show a warning of vlmscope's own (``RuntimeWarning``), each time.

    Args:
        message: The warning.
        stacklevel: As in ``warnings.warn``.
    """
    _ONCE.warn(message, stacklevel + 1)


@contextmanager
def showing_once() -> Iterator[None]:
    """Show this thread's repeated messages once within the context; see ``shown_once``."""
    with _ONCE:
        yield


def ignore(message: str, category: type[Warning]) -> None:
    """Ignore a warning of a library from now on, also where warnings are errors.

    The filter stays: with each change of the filters Python shows all other warnings again.

    Args:
        message: Regular expression that the beginning of the warning matches.
        category: Its class.
    """
    wanted = ("ignore", re.compile(message, re.IGNORECASE), category, None, 0)
    with warnings_lock():
        for each in warnings.filters:
            if each == wanted:
                return
            if each[0] == "error" and issubclass(category, each[2]):
                break  # it comes first, and would raise
        warnings.filterwarnings("ignore", message, category)


Message = tuple[str, int, str] | tuple[str, type[Warning], str, int]
"""A log record: logger, level and text. Or a warning: text, category, file and line."""


def collect_messages() -> list[Message]:
    """Collect the warnings and log records of this process from now on, instead of showing them.

    For a process that works for another one, which shows them: ``show_messages``.

    Returns:
        The messages so far, to which later ones are added.
    """
    found: list[Message] = []
    collector = _Collector(found)
    for name in ("", *_LOGGERS):
        logging.getLogger(name).handlers[:] = [collector]

    def collect(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: Any = None, line: str | None = None,
    ) -> None:  # fmt: skip
        del file, line
        found.append((str(message), category, filename, lineno))

    warnings.showwarning = collect
    return found


class _Collector(logging.Handler):
    """Adds log records to a list."""

    def __init__(self, found: list[Message]) -> None:
        super().__init__()
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        """Add a record."""
        self._found.append((record.name, record.levelno, record.getMessage()))


@_ONCE
def show_messages(messages: Iterable[Message]) -> None:
    """Show what ``collect_messages`` collected in another process; repeated messages once."""
    for message in messages:
        if len(message) == 3:
            name, level, text = message
            logging.getLogger(name).log(level, "%s", text)
        else:
            text, category, filename, lineno = message
            warnings.showwarning(_warning(category, text), category, filename, lineno)


def _warning(category: type[Warning], text: str) -> Warning:
    """Return a warning; some categories cannot be made from a text."""
    try:
        return category(text)
    except TypeError:
        return Warning(text)
