"""Which rows no fold may tear apart, and how a person reads of it.

Rows about one picture are one group, and so are rows about pictures that look alike or stand in
one question. Where no row has a picture there is nothing to recognise but the question: each is
its own group, and the places that are read off a picture do not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlmscope.probe import image_groups
from vlmscope.probing.source import Place
from vlmscope.schema import IMAGE_REPRESENTATIONS

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

NO_PICTURE = "the question has no picture"
"""Why a row is left out: it lacks the image's vectors, and places are compared on equal rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """The groups of some rows."""

    groups: NDArray[np.int64]
    """Number of each row's group, ``[N]``."""
    by: str
    """How rows are told apart: ``content``, ``content and likeness``, ``image_id`` or
    ``question``."""
    pictures: int
    """Different pictures that the rows are about; at least as many as groups, or none."""

    @property
    def phrase(self) -> str:
        """What the rows are about, behind "answers": ``about 40 images``."""
        count = len(np.unique(self.groups))
        if not self.pictures:
            return "to questions without a picture"
        images = f"about {self.pictures:,} image{'s' * (self.pictures != 1)}"
        if count == self.pictures:
            return images
        groups = f"{count:,} group{'s' * (count != 1)}"
        return f"{images} in {groups} (look-alikes, or shown in one question)"


def has_picture(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows of a run's table are questions about a picture, ``[N]``."""
    return np.array([bool(sha256) for sha256 in table["image_sha256"]], dtype=bool)


def comparable(pictured: Sequence[bool] | NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which rows can be probed together, ``[N]``.

    Those with a picture, as all places are compared on equal rows; or all, where none has one.

    >>> comparable([True, False]).tolist(), comparable([False, False]).tolist()
    ([True, False], [True, True])
    """
    found = np.asarray(pictured, dtype=bool)
    return found if found.any() else ~found


def without_image_places(places: Iterable[Place]) -> Iterator[Place]:
    """Yield the places that a question without a picture has too."""
    return (place for place in places if place[0] not in IMAGE_REPRESENTATIONS)


def group_by_content(table: pd.DataFrame) -> Grouping:
    """Group rows by their pictures' content, and by likeness where hashes of it exist.

    A question about several images belongs to the group of each of them.
    """
    if not has_picture(table).any():
        return Grouping(np.arange(len(table)), "question", 0)
    hashes = [text.split("+") for text in table["image_sha256"]]
    likeness, by = None, "content"
    if "image_dhash" in table and all(table["image_dhash"]):
        likeness = [[int(part, 16) for part in text.split("+")] for text in table["image_dhash"]]
        by = "content and likeness"
    groups = np.asarray(image_groups(hashes, likeness))
    return Grouping(groups, by, len({part for parts in hashes for part in parts}))
