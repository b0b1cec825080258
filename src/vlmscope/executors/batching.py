"""How many rows go through the model together: a number that learns from memory.

It is the number of a prefill. More rows than that are answered at once, because a decoding step
takes hardly longer for many rows than for few: ``rows_at_once``.

A fixed size is only ever halved, when memory runs out. ``auto`` starts at few rows and grows in
steps of four as far as the last batch's memory says that the next one fits; what it learns from are
real rows, so nothing is wasted. Speed is not asked: how long a batch takes depends on its longest
answer, and a few probes cannot tell that from the size (docs/performance.md).
"""

from __future__ import annotations

from typing import Literal

from vlmscope.model import VisionLanguageModel
from vlmscope.model.attention.decode_support import why_not_stepwise

START = 1
"""Rows in the first batch of ``auto`` on a CPU."""

START_ON_GPU = 16
"""Rows in its first batch on a GPU: not so few that the batches that are prepared before the first
went well are a loss."""

STEP = 4
"""How much larger the next batch of ``auto`` is. Small steps would spend a short run on growing."""

LARGEST_ON_GPU = 32
"""Where ``auto`` stops growing on a GPU: a larger prefill is no faster."""

LARGEST_BESIDE_ANSWERS = 16
"""Where it stops if answers are written too: so many slots stay empty until the next prefill."""

LARGEST_ELSEWHERE = 16
"""Where it stops on a CPU, which is busy with fewer rows and whose memory is not watched."""

LARGEST_GENERATING = 64
"""Where it stops on a GPU if ``generate`` writes the answers, and a batch is its own step."""

ANSWERED_ON_GPU = 192
"""Rows that ``auto`` answers at once on a GPU, if memory allows: a step's weights are read once for
all of them."""

ANSWERED_ELSEWHERE = 32
"""Rows that ``auto`` answers at once on a CPU."""

MEMORY_SHARE = 0.9
"""Share of a GPU's memory that ``auto`` plans for."""


class BatchSizer:
    """The current batch size, and what was learnt about it.

    Args:
        wanted: A fixed size, or ``auto``.
        largest: Where ``auto`` stops growing.
        start: Where it begins.

    >>> sizer = BatchSizer("auto", largest=64)
    >>> sizer.learn(rows=1, memory_used=0.22, memory_idle=0.2); sizer.size
    4
    >>> sizer.learn(rows=4, memory_used=0.28, memory_idle=0.2); sizer.size
    16
    >>> sizer.learn(rows=16, memory_used=0.52, memory_idle=0.2); sizer.size, sizer.settled
    (35, True)
    """

    def __init__(
        self,
        wanted: int | Literal["auto"],
        largest: int = LARGEST_ELSEWHERE,
        start: int = START,
    ) -> None:
        self._growing = wanted == "auto"
        self._largest = largest
        self._fell_from = 1
        self.size = start if wanted == "auto" else wanted

    @property
    def settled(self) -> bool:
        """Whether the size no longer grows."""
        return not self._growing

    @property
    def worth_preparing(self) -> bool:
        """Whether batches of this size may be prepared far ahead, though later ones be larger."""
        return self.settled or self.size >= START_ON_GPU

    def learn(self, *, rows: int, memory_used: float = 0.0, memory_idle: float = 0.0) -> None:
        """Take note of a batch that went well.

        Args:
            rows: Rows that were asked of it, those that failed included.
            memory_used: Peak share of a GPU's memory, 0 where it is not known.
            memory_idle: Share in use between batches (the weights).
        """
        if not self._growing or rows < self.size:
            return
        wanted = self.size * STEP
        growth = memory_used - memory_idle
        fits = int(rows * (MEMORY_SHARE - memory_idle) / growth) if growth > 0 else wanted
        self.size = max(self.size, min(wanted, fits, self._largest))
        self._growing = self.size == wanted and self.size < self._largest

    def shrink(self, failed: int) -> None:
        """Take note that ``failed`` rows did not fit: at most half of them from now on.

        Where it was a single row, the fault was that row's, and the size before it is right again.

        >>> sizer = BatchSizer(32)
        >>> for failed in (32, 16, 8, 4, 2):
        ...     sizer.shrink(failed)
        >>> sizer.size
        1
        >>> sizer.shrink(1); sizer.size
        32
        """
        self._growing = False
        if failed == 1:
            self.size = max(self.size, self._fell_from)
            return
        self._fell_from = max(self._fell_from, self.size)
        self.size = min(self.size, failed // 2)


def rows_at_once(vlm: VisionLanguageModel, wanted: int | Literal["auto"]) -> int:
    """Return how many rows may be answered at once.

    Args:
        vlm: The model, for where it is.
        wanted: ``--batch-size``: so many, or ``auto``.
    """
    if wanted == "auto":
        return ANSWERED_ON_GPU if vlm.cuda_devices else ANSWERED_ELSEWHERE
    return wanted


def sizer_for(
    vlm: VisionLanguageModel, wanted: int | Literal["auto"], *, answers: bool = False
) -> BatchSizer:
    """Return the size of prefill to begin with for a model: one row where it takes no more.

    Where answers are written too, a prefill fills a quarter of the slots (half of them on a CPU),
    so that the others go on while a quarter waits to become free.

    Args:
        vlm: The model, for where it is and whether its rows may be batched.
        wanted: ``--batch-size``: so many rows at once, or ``auto``.
        answers: Whether answers are written.
    """
    if vlm.one_at_a_time:
        return BatchSizer(1)
    stepwise = answers and not why_not_stepwise(vlm)
    if wanted == "auto":
        if not vlm.cuda_devices:
            return BatchSizer("auto")
        largest = LARGEST_BESIDE_ANSWERS if stepwise else LARGEST_ON_GPU
        if answers and not stepwise:
            largest = LARGEST_GENERATING
        return BatchSizer("auto", largest, START_ON_GPU)
    share = 4 if vlm.cuda_devices else 2
    return BatchSizer(max(1, wanted // share) if stepwise else wanted)
