"""Who watches ``extract``: a progress bar, an observer of the user's own, or both."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from vlmscope.errors import InputError
from vlmscope.executors import Observer
from vlmscope.progress_bars import is_watched

_HINT = "progress=True shows a bar, note=print prints what there is to say of the table"


def check_observer(observer: Any) -> None:
    """Refuse what would fail at the first batch.

    Raises:
        InputError: It has no such method ``advance``, or is a class.
    """
    if observer is None:
        return
    if isinstance(observer, type):
        raise InputError(
            f"observer: {observer.__name__} is a class, expected an object of it; give "
            f"{observer.__name__}(...)"
        )
    advance = getattr(observer, "advance", None)
    if not callable(advance):
        raise InputError(
            f"observer: found {type(observer).__name__}, expected an object with a method "
            f"advance(*, captured, failed, batch_size); {_HINT}"
        )
    try:
        inspect.signature(advance).bind(captured=0, failed=0, batch_size=0)
    except TypeError as error:
        raise InputError(
            f"observer: advance of {type(observer).__name__} is called as advance(captured=…, "
            f"failed=…, batch_size=…), and does not take that: {error}"
        ) from error
    except ValueError:  # nobody knows its arguments
        return


def wants_bar(progress: Any) -> bool:
    """Return whether to show a bar; None: on a terminal and in a notebook.

    Raises:
        InputError: It is no truth value.
    """
    if progress is None:
        return is_watched()
    if not isinstance(progress, bool):
        raise InputError(
            f"progress: found {type(progress).__name__}, expected True, False or None; pass "
            "observer an object to be notified of every batch"
        )
    return progress


class Bar:
    """A bar on stderr that counts rows, and notifies another observer too."""

    def __init__(self, total: int, other: Observer | None) -> None:
        self._bar = tqdm(
            total=total, desc="extract", unit="row", file=sys.stderr, disable=not total
        )
        self._other = other
        self._failed = 0

    def advance(self, *, captured: int, failed: int, batch_size: int) -> None:
        """Show rows that were just published or recorded as failed."""
        self._failed += failed
        if self._failed:
            self._bar.set_postfix(failed=self._failed, refresh=False)
        self._bar.update(captured + failed)
        if self._other is not None:
            self._other.advance(captured=captured, failed=failed, batch_size=batch_size)

    def close(self) -> None:
        """Leave the bar as it is and write no more."""
        self._bar.close()


@contextmanager
def watching(total: int, observer: Observer | None, *, bar: bool) -> Iterator[Observer | None]:
    """Return the observer of a run: with a bar, where one is wanted.

    Args:
        total: Rows that are to do.
        observer: The user's own.
        bar: Whether to show one.
    """
    if not bar:
        yield observer
        return
    shown = Bar(total, observer)
    try:
        yield shown
    finally:
        shown.close()
