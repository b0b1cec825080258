"""What is noted of the rows in work, so that a session after a kill knows of them.

``store.InProgress`` is such a journal; where nobody would read one, nothing is noted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

PREPARE_STAGE = "prepare"
"""What a row is in while its images are loaded and its prompt is made."""

MODEL_STAGE = "model"
"""What a row is in while it is in the model; and the stage of a failure whose row took too long
there, or with which the process died. Such a row is tried last, and alone."""


class Journal(Protocol):
    """Where it is noted which rows are in work: see ``store.InProgress``."""

    def begin(self, stage: str, ids: Iterable[str]) -> None:
        """Take note that work on some rows begins."""

    def leave(self, ids: Iterable[str]) -> None:
        """Take note that nothing is done to some rows for now."""

    def finish(self, ids: Iterable[str]) -> None:
        """Take note that some rows are done, whatever came of them."""


class NoJournal:
    """A journal that nobody reads."""

    def begin(self, stage: str, ids: Iterable[str]) -> None:
        """Ignore it."""

    def leave(self, ids: Iterable[str]) -> None:
        """Ignore it."""

    def finish(self, ids: Iterable[str]) -> None:
        """Ignore it."""
