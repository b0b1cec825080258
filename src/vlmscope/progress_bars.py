"""Progress bars of libraries: shown on a terminal, hidden in notebooks and log files.

``HF_HUB_DISABLE_PROGRESS_BARS=0``, which the libraries read too, shows them everywhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ASKED = "HF_HUB_DISABLE_PROGRESS_BARS"
_NO = ("0", "false", "off", "no")


def are_wanted() -> bool:
    """Return whether to show bars: stderr is a terminal, or the environment asks for them."""
    if os.environ.get(_ASKED, "").lower() in _NO:
        return True
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def is_watched() -> bool:
    """Return whether to show a bar of our own: on a terminal, in a notebook, or where asked for.

    ``HF_HUB_DISABLE_PROGRESS_BARS=1`` asks for none.
    """
    asked = os.environ.get(_ASKED, "").lower()
    if asked and asked not in _NO:
        return False
    return are_wanted() or _in_notebook()


def _in_notebook() -> bool:
    """Return whether IPython runs this process for a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


@contextmanager
def without_bars(
    shown: Callable[[], bool], hide: Callable[[], None], show: Callable[[], None]
) -> Iterator[None]:
    """Hide a library's bars unless they are wanted, and restore its setting afterwards.

    Args:
        shown: Returns whether the library shows them.
        hide: Makes it hide them.
        show: Makes it show them.
    """
    if are_wanted() or not shown():
        yield
        return
    hide()
    try:
        yield
    finally:
        show()
