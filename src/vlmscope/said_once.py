"""What libraries say again for every row is said once.

Python shows a warning once for each line of code, until a filter is set anywhere: opening an image
sets one. And the loggers of libraries repeat themselves for every call.
"""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from typing import Any

from vlmscope.locking import warnings_lock

_LOGGERS = ("transformers",)
"""Loggers with handlers of their own; libraries without one share Python's last resort."""

_VERDICT = "vlmscope_is_new"
"""Attribute of a log record that was asked about."""

_NUMBER = re.compile(r"\d+")


class _Once(ContextDecorator):
    """Drops what was said before, in the threads that are at work for vlmscope."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._said: set[tuple[str, str]] = set()
        self._at_work = 0
        self._show: Any = None
        self._shown = self._show_new
        self._filtered = self._filter

    def __enter__(self) -> None:
        if not self._depth:
            self._come(1)
        self._own.depth = self._depth + 1

    def __exit__(self, *_: object) -> None:
        self._own.depth = self._depth - 1
        if not self._depth:
            self._come(-1)

    @property
    def _depth(self) -> int:
        """How many blocks this thread is in."""
        return getattr(self._own, "depth", 0)

    def forget(self) -> None:
        """Let everything be said again."""
        self._said.clear()

    def _filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is new, the same for each of several handlers."""
        known: bool | None = record.__dict__.get(_VERDICT)
        if known is None:
            known = record.__dict__[_VERDICT] = self._is_new(record.name, record.getMessage())
        return known

    def _is_new(self, who: str, what: str) -> bool:
        if not self._depth:
            return True
        said = (who, _NUMBER.sub("0", what))
        known = said in self._said
        self._said.add(said)
        return not known

    def _come(self, one: int) -> None:
        """Take note of a thread that begins or ends; the first and the last one switch."""
        with warnings_lock():
            self._at_work += one
            if one > 0 and self._at_work == 1:
                self._switch_on()
            elif not self._at_work:
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
        """Warn of what vlmscope found, each time."""
        self._own.is_ours = True
        try:
            warnings.warn(message, RuntimeWarning, stacklevel=stacklevel + 1)
        finally:
            self._own.is_ours = False

    def _show_new(self, message: Any, category: Any, *rest: Any, **more: Any) -> None:
        """Stand for ``warnings.showwarning``."""
        ours = getattr(self._own, "is_ours", False)
        if ours or self._is_new(category.__name__, str(message)):
            self._show(message, category, *rest, **more)


def _handlers() -> list[logging.Handler]:
    found = [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers]
    return [*found, *([logging.lastResort] if logging.lastResort else [])]


_ONCE = _Once()


def said_once() -> ContextDecorator:
    """Return a decorator in whose function this thread's warnings and log records are shown once.

    Numbers do not tell two of them apart.
    """
    return _ONCE


def forget_said() -> None:
    """Show warnings and log records again that were shown before: another model may have them."""
    _ONCE.forget()


def warn(message: str, *, stacklevel: int = 1) -> None:
    """Warn of what vlmscope found (``RuntimeWarning``): it is shown each time.

    Args:
        message: The warning.
        stacklevel: As of ``warnings.warn``.
    """
    _ONCE.warn(message, stacklevel + 1)


@contextmanager
def saying_once() -> Iterator[None]:
    """Show this thread's warnings and log records once in the ``with`` block: see ``said_once``."""
    with _ONCE:
        yield
