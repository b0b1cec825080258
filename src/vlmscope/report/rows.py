"""The rows of a run as a report needs them: a few facts of all, everything but vectors of some."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

from vlmscope.schema import Capture
from vlmscope.store import Run
from vlmscope.store.format.batch import captures_of
from vlmscope.sweeps.data import kind_of


@dataclass(frozen=True, slots=True)
class Row:
    """What is counted of every row."""

    id: str
    """Question id."""
    category: str | None
    """Kind of question, where the table says."""
    image_sha256: str
    """Content of its image; of several joined by ``+``, of none empty."""


def draw(run: Run, count: int, seed: int, wanted: str | None = None) -> set[str]:
    """Return the ids of the rows to show: all of them, or a random draw.

    Args:
        run: The run.
        count: How many.
        seed: Decides the draw.
        wanted: An id that has to be among them.

    Raises:
        InputError: The run has no such row.
    """
    kept = [] if wanted is None else [run[wanted].sample.id]
    if len(run) <= count:
        return set(run.ids)
    drawn = random.Random(seed).sample(run.ids, count)  # noqa: S311 - a sample
    return set([*kept, *(id_ for id_ in drawn if id_ not in kept)][:count])


def read_rows(run: Run, shown: Collection[str]) -> tuple[list[Row], list[Capture]]:
    """Return a few facts of every row, and the rows to show without their vectors, in run order."""
    rows: list[Row] = []
    captures: list[Capture] = []
    for block in run.blocks(vectors=False):
        for capture in captures_of(block):
            category = category_of(capture)
            rows.append(Row(capture.sample.id, category, capture.image_sha256))
            if capture.sample.id in shown:
                captures.append(capture)
    return rows, captures


def hashes_of(image_sha256: str) -> list[str]:
    """Return the hashes of a question's images, in their order; none where it has no image.

    >>> hashes_of("ab+cd"), hashes_of("")
    (['ab', 'cd'], [])
    """
    return image_sha256.split("+") if image_sha256 else []


def category_of(capture: Capture) -> str | None:
    """Return the kind of question, where the table says."""
    return kind_of(capture.sample.metadata.get("category")) or None
