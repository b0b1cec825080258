"""How many rows go through the model together: a number that learns.

A fixed size is only ever halved, when memory runs out. ``auto`` starts at one row and grows in
steps of four while that makes rows faster and memory holds; what it learns from are real rows, so
nothing is wasted.
"""

from __future__ import annotations

from typing import Literal

START = 1
"""Rows in the first batch of ``auto``."""

STEP = 4
"""How much larger the next batch of ``auto`` is. Small steps would spend a short run on growing."""

LARGEST = 64
"""Where ``auto`` stops growing."""

WORTH_IT = 1.05
"""Growing goes on while it makes rows this much faster."""

MEMORY_SHARE = 0.9
"""Share of the device's memory that ``auto`` plans for."""


class BatchSizer:
    """The current batch size, and what was learnt about it.

    Args:
        wanted: A fixed size, or ``auto``.

    >>> sizer = BatchSizer("auto")
    >>> sizer.learn(rows=1, seconds=1.0); sizer.size
    4
    >>> sizer.learn(rows=4, seconds=1.1); sizer.size
    16
    >>> sizer.learn(rows=16, seconds=4.4); sizer.size  # no faster: stay where it was best
    4
    """

    def __init__(self, wanted: int | Literal["auto"]) -> None:
        self._growing = wanted == "auto"
        self._best_rate = 0.0
        self._best_size = START
        self.size = START if wanted == "auto" else wanted

    @property
    def settled(self) -> bool:
        """Whether the size no longer grows, so that batches may be prepared far ahead."""
        return not self._growing

    def learn(
        self, *, rows: int, seconds: float, memory_used: float = 0.0, memory_idle: float = 0.0
    ) -> None:
        """Take note of a batch that went well.

        Args:
            rows: Rows in it.
            seconds: How long the model took.
            memory_used: Peak share of the device's memory, 0 where it is not known.
            memory_idle: Share in use between batches (the weights).
        """
        if not self._growing or rows < self.size:
            return
        rate = rows / seconds
        if rate < WORTH_IT * self._best_rate:
            self._growing = False
            self.size = self._best_size
            return
        self._best_rate, self._best_size = rate, self.size
        self.size = min(self.size * STEP, LARGEST, self._fitting(memory_used, memory_idle))
        self._growing = self.size > rows

    def _fitting(self, used: float, idle: float) -> int:
        """Return how many rows memory holds, if each takes as much as those of the last batch."""
        growth = used - idle
        if growth <= 0:
            return LARGEST
        return max(self.size, int(self.size * (MEMORY_SHARE - idle) / growth))

    def shrink(self, failed: int) -> None:
        """Take note that ``failed`` rows did not fit: at most half of them from now on."""
        self._growing = False
        self.size = max(1, min(self.size, failed // 2))
