"""What is recorded of rows in progress: stages, and the interface of the record.

The record itself is ``store.InProgress``. After a crash it tells which rows were in the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

PREPARE_STAGE = "prepare"
"""Stage of a row while its images are loaded and its prompt is made."""

MODEL_STAGE = "model"
"""Stage of a row while it is in the model; also the stage of a failure whose row took too long
there, or with which the process died. Such a row is tried last, and alone."""


class Journal(Protocol):
    """Records which rows are in progress: see ``store.InProgress``."""

    def begin(self, stage: str, ids: Iterable[str]) -> None:
        """Record that processing of some rows begins."""

    def leave(self, ids: Iterable[str]) -> None:
        """Record that some rows are not being processed for now."""

    def finish(self, ids: Iterable[str]) -> None:
        """Record that some rows are done, whatever the result."""


class NoJournal:
    """A journal that records nothing."""

    def begin(self, stage: str, ids: Iterable[str]) -> None:
        """Do nothing."""

    def leave(self, ids: Iterable[str]) -> None:
        """Do nothing."""

    def finish(self, ids: Iterable[str]) -> None:
        """Do nothing."""
