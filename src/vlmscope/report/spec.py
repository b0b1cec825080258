"""What a report is asked for: how much of the run it shows, and where things are now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vlmscope.errors import InputError
from vlmscope.store import DEFAULT, labels_file

MOST_BYTES = 15_000_000
"""Most that a page with its pictures may weigh."""

Progress = Callable[[str], None]
"""Told what is being done."""


@dataclass(frozen=True, slots=True)
class ReportSpec:
    """What to show. Places that are None are those of the run's manifest."""

    labels: str = DEFAULT
    """The label set."""
    samples: int = 2000
    """Most questions in the gallery; of a larger run they are drawn at random."""
    seed: int = 0
    """Decides the draw."""
    id: str | None = None
    """Question whose tokens are shown; None for the riskiest hallucinated one."""
    model: str | None = None
    """Where the model is now: a folder, or a hub id that was downloaded before."""
    data: str | None = None
    """Where the table is now."""
    images: str | None = None
    """Where its pictures are now."""
    allow_absolute_paths: bool = False
    """Let the table's paths lead out of the image root."""

    def __post_init__(self) -> None:
        """Refuse what cannot be shown."""
        labels_file(self.labels)
        if self.samples < 1:
            raise InputError(f"--samples {self.samples}: give 1 or more")
