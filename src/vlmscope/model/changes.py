"""What a pass changes for its own time, undone whatever happens.

A pass puts hooks on modules, replaces attentions and sets switches of torch; each change is undone
at the end of a ``with`` block. Python may be interrupted right there, by Ctrl-C, or a process be
forked by another thread. So the undoing is written down before the change is made, and the next
pass begins with what is still on the list. It is guarded by the lock of the models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_undoings: list[Callable[[], None]] = []


@contextmanager
def undoing(undo: Callable[[], None]) -> Iterator[None]:
    """Undo a change at the end of the block that makes it, or else before the next pass.

    For blocks in ``computing``, or where a model is loaded.

    Args:
        undo: Undoes it. It may be called before the change is made, and again.
    """
    _undoings.append(undo)
    try:
        yield
    finally:
        if undo in _undoings:  # else the next pass has done it, and is on its way
            undo()
            _undoings.remove(undo)


def undo_interrupted() -> None:
    """Undo the changes of a pass that was interrupted; for the thread that has the lock."""
    while _undoings:
        _undoings[-1]()
        _undoings.pop()


@contextmanager
def removing_hooks() -> Iterator[list[Any]]:
    """Remove at the end of the block the hooks whose handles were appended to the list."""
    handles: list[Any] = []

    def remove() -> None:
        for handle in handles:
            handle.remove()

    with undoing(remove):
        yield handles
