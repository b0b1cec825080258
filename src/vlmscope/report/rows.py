"""The rows of a run for a report: a summary of all, and some rows without their vectors."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

from vlmscope.schema import Capture
from vlmscope.signals import BOXES, LENS_PROBS, LENS_TOKENS, RecordedSignals
from vlmscope.store import Run
from vlmscope.store.format.batch import captures_of
from vlmscope.sweeps.data import kind_of


@dataclass(frozen=True, slots=True)
class Row:
    """Summary of a row, for counts."""

    id: str
    """Question id."""
    category: str | None
    """Category of the question, if the table has one."""

    image_sha256: str
    """Hash of its image; several are joined by ``+``, empty without an image."""


def draw(run: Run, count: int, seed: int, wanted: str | None = None) -> set[str]:
    """Return the ids of the rows to show: all of them, or a random draw.

    Args:
        run: The run.
        count: Maximum number of rows.
        seed: Seed of the random draw.
        wanted: An id that must be included.

    Raises:
        InputError: The run has no such row.
    """
    kept = [] if wanted is None else [run[wanted].sample.id]
    if len(run) <= count:
        return set(run.ids)
    drawn = random.Random(seed).sample(run.ids, count)  # noqa: S311 - a sample
    return set([*kept, *(id_ for id_ in drawn if id_ not in kept)][:count])


def read_rows(run: Run, shown: Collection[str]) -> tuple[list[Row], list[Capture]]:
    """Return a summary of every row, and the rows to show, in run order.

    Of vectors and of signals of a fixed shape or of image tokens, only what is shown is read: the
    logit lens and the attention maps.
    """
    maps = map_names(run.manifest.capture.recorded)
    rows: list[Row] = []
    captures: list[Capture] = []
    for block in run.blocks(vectors=False, signals=(LENS_TOKENS, LENS_PROBS, *maps)):
        for capture in captures_of(block):
            category = category_of(capture)
            rows.append(Row(capture.sample.id, category, capture.image_sha256))
            if capture.sample.id in shown:
                captures.append(capture)
    return rows, captures


def map_names(signals: RecordedSignals) -> tuple[str, ...]:
    """Return the arrays that maps are drawn from; none for a run without the signal."""
    return (*signals.map_names, BOXES) if signals.map_layers else ()


def hashes_of(image_sha256: str) -> list[str]:
    """Return the hashes of a question's images, in order; empty without an image.

    >>> hashes_of("ab+cd"), hashes_of("")
    (['ab', 'cd'], [])
    """
    return image_sha256.split("+") if image_sha256 else []


def category_of(capture: Capture) -> str | None:
    """Return the category of the question, if the table has one."""
    return kind_of(capture.sample.metadata.get("category")) or None
