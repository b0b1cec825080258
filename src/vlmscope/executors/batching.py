"""The batch size: the number of rows that go through the model together, adapted to memory.

It is the number of rows of a prefill. More rows than that are decoded at once, because a decoding
step takes hardly longer for many rows than for few: ``rows_at_once``.

A fixed size is only ever halved, when memory runs out. ``auto`` starts with few rows and grows by
factors of four as long as the memory of the last batch indicates that the next one fits; it
measures batches of real rows, so no work is wasted. Speed is not measured: the time of a batch
depends on its longest answer, and a few trial batches cannot separate that from the size
(docs/performance.md).
"""

from __future__ import annotations

from typing import Literal

from vlmscope.engine.decoding.support import why_not_in_slots
from vlmscope.model import VisionLanguageModel

START = 1
"""Rows in the first batch of ``auto`` on a CPU."""

START_ON_GPU = 16
"""Rows in the first batch of ``auto`` on a GPU: enough that batches prepared before the first
measurement are not too small."""

STEP = 4
"""Growth factor of ``auto``. With small steps a short run would end before the size is reached."""

LARGEST_ON_GPU = 32
"""Largest size of ``auto`` on a GPU: a larger prefill of complete prompts is no faster."""

LARGEST_OF_SHORT = 64
"""Largest size on a GPU for rows of few tokens: those that share the beginning of their prompts."""

TOKENS_ON_GPU = 8192
"""Tokens of a prefill from which a larger one is no faster."""

LARGEST_BESIDE_ANSWERS = 16
"""Largest size if answers are decoded too: so many slots stay empty until the next prefill."""

LARGEST_ELSEWHERE = 16
"""Largest size on a CPU, which is busy with fewer rows and whose memory is not measured."""

LARGEST_GENERATING = 64
"""Largest size on a GPU if ``generate`` decodes the answers, one batch at a time."""

ANSWERED_ON_GPU = 192
"""Rows that ``auto`` decodes at once on a GPU, if memory allows: a step reads the weights once for
all of them."""

ANSWERED_ELSEWHERE = 32
"""Rows that ``auto`` decodes at once on a CPU."""

MEMORY_SHARE = 0.9
"""Share of a GPU's memory that ``auto`` plans for."""


class BatchSizer:
    """The current batch size, adapted to the memory of earlier batches.

    Args:
        wanted: A fixed size, or ``auto``.
        largest: Largest size of ``auto``.
        start: First size of ``auto``.
        largest_of_short: Largest size of ``auto`` for rows of few tokens.

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
        largest_of_short: int = LARGEST_OF_SHORT,
    ) -> None:
        self._growing = wanted == "auto"
        self._largest = largest
        self._largest_of_short = largest_of_short
        self._fell_from = 1
        self.size = start if wanted == "auto" else wanted

    @property
    def settled(self) -> bool:
        """Whether the size no longer grows."""
        return not self._growing

    @property
    def worth_preparing(self) -> bool:
        """Whether batches of this size may be prepared far ahead, even if the size still grows."""
        return self.settled or self.size >= START_ON_GPU

    def learn(
        self, *, rows: int, tokens: int = 0, memory_used: float = 0.0, memory_idle: float = 0.0
    ) -> None:
        """Update the size after a batch that succeeded.

        Args:
            rows: Rows of the batch, including those that failed.
            tokens: Tokens that the decoder was run over, if rows shared the beginning of their
                prompts; else 0. If a larger batch still has few, the largest size is larger.
            memory_used: Peak share of a GPU's memory, 0 if unknown.
            memory_idle: Share in use between batches (the weights).
        """
        if not self._growing or rows < self.size:
            return
        if tokens:
            short = min(self._largest_of_short, TOKENS_ON_GPU * rows // tokens)
            self._largest = max(self._largest, short)
        wanted = self.size * STEP
        growth = memory_used - memory_idle
        fits = int(rows * (MEMORY_SHARE - memory_idle) / growth) if growth > 0 else wanted
        self.size = max(self.size, min(wanted, fits, self._largest))
        self._growing = self.size == wanted and self.size < self._largest

    def shrink(self, failed: int) -> None:
        """Reduce the size after ``failed`` rows did not fit in memory, to at most half of them.

        If a single row does not fit, that row is the cause, and the earlier size is restored.

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


def rows_at_once(
    vlm: VisionLanguageModel, wanted: int | Literal["auto"], *, answers: int = 1
) -> int:
    """Return how many rows may be answered at once.

    Args:
        vlm: The model, for its device.
        wanted: ``--batch-size``: so many, or ``auto``.
        answers: Answers of each row: the greedy one and the sampled ones.
    """
    if wanted == "auto":
        together = ANSWERED_ON_GPU if vlm.cuda_devices else ANSWERED_ELSEWHERE
        return max(1, together // answers)
    return wanted


def sizer_for(
    vlm: VisionLanguageModel, wanted: int | Literal["auto"], *, answers: int = 0
) -> BatchSizer:
    """Return the sizer of prefills for a model: one row if the model allows no batches.

    If answers are decoded too, a prefill fills a quarter of the slots (half of them on a CPU), so
    that the other slots continue until a quarter is free.

    Args:
        vlm: The model, for its device and whether its rows may be batched.
        wanted: ``--batch-size``: so many rows at once, or ``auto``.
        answers: Answers of each row that are decoded: the greedy one and the sampled ones.
    """
    if vlm.one_at_a_time:
        return BatchSizer(1)
    stepwise = answers and not why_not_in_slots(vlm)
    if wanted == "auto":
        most = max(1, rows_at_once(vlm, "auto", answers=max(1, answers)) // 2)
        if not vlm.cuda_devices:
            return BatchSizer("auto", min(LARGEST_ELSEWHERE, most))
        largest = LARGEST_BESIDE_ANSWERS if stepwise else LARGEST_ON_GPU
        if answers and not stepwise:
            largest = LARGEST_GENERATING
        largest, short = min(largest, most), min(LARGEST_OF_SHORT, most)
        return BatchSizer("auto", largest, min(START_ON_GPU, most), short)
    share = 4 if vlm.cuda_devices else 2
    return BatchSizer(max(1, wanted // share) if stepwise else wanted)
