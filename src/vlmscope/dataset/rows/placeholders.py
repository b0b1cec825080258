"""Counts of image placeholders in the questions of a table, made during the scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vlmscope.placeholders import image_mark, numbered_mark, split_at_images


@dataclass(slots=True)
class MarkCounts:
    """Numbers of questions with image placeholders; each question counts once."""

    numbered: int = 0
    """Questions in which every placeholder refers to an image of the row by number."""
    nameless: int = 0
    """Questions with a placeholder without a number."""
    missing: int = 0
    """Questions with a number that no image of their row has."""
    first_numbered: str = ""
    """The first placeholder with the number of an image."""
    first_nameless: str = ""
    """The first without a number."""
    first_missing: str = ""
    """The first placeholder of a question with a number that no image has."""

    def add(self, question: str, count: Callable[[], int]) -> None:
        """Count a question.

        Args:
            question: The question.
            count: Returns how many images its row has; called only if needed.
        """
        if mark := image_mark(question):
            self.nameless += 1
            self.first_nameless = self.first_nameless or mark
            return
        mark = numbered_mark(question)
        if not mark:
            return
        numbers = [part for part in split_at_images(question) if isinstance(part, int)]
        if min(numbers) >= 1 and max(numbers) <= count():
            self.numbered += 1
            self.first_numbered = self.first_numbered or mark
        else:
            self.missing += 1
            self.first_missing = self.first_missing or mark
