"""Groups of rows that folds keep together, and their description.

Rows about one image are one group, and so are rows about near-copies of it and about images shown
in one question. If no row has an image, only the question can be recognised: each question is its
own group, and the representations of an image do not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlmscope.dataset import read_thumbnails
from vlmscope.errors import InputError
from vlmscope.positions import IMAGE_REPRESENTATIONS
from vlmscope.probes import image_groups, largest_count, near_copies
from vlmscope.sweeps.source import LayerKey

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

COPIES = ("near", "exact")
"""Which images count as equal: near-copies too, or equal ones only."""

NO_IMAGE = "the question has no image"
"""Reason for leaving out a row: it lacks the image's vectors, and all are compared on equal rows.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """The groups of some rows."""

    groups: NDArray[np.int64]
    """Number of each row's group, ``[N]``."""
    by: str
    """How groups are identified: ``content``, ``content and near-copies`` (by thumbnails),
    ``content
    and likeness`` (by hashes, where an image has no thumbnail), ``image_id`` or ``question``."""
    images: int
    """Number of different images; at least that of the groups, or 0."""
    exact: NDArray[np.int64] | None = None
    """Number of each row's group if only equal images count, if known."""

    @property
    def phrase(self) -> str:
        """Description of the groups, to follow "answers": ``about 40 images``."""
        count = len(np.unique(self.groups))
        if not self.images:
            return "to questions without an image"
        images = f"about {self.images:,} image{'s' * (self.images != 1)}"
        if count == self.images:
            return images
        groups = f"{count:,} group{'s' * (count != 1)}"
        near = self.exact is not None and count < len(np.unique(self.exact))
        why = "near-copies, or shown in one question" if near else "shown in one question"
        return f"{images} in {groups} ({why})"

    def way_out(self, truth: NDArray[np.bool_]) -> str:
        """Return the remedy if near-copies leave too few groups for folds; else an empty text."""
        if self.exact is None:
            return ""
        groups, exact = (largest_count(truth, each) for each in (self.groups, self.exact))
        if groups == exact:
            return ""
        return f"; with --copies exact, where only equal images are one group, there are {exact}"


def plain_question(text: str) -> str:
    """Return a question without case and extra spaces, to compare questions.

    >>> plain_question("Is it  RED?")
    'is it red?'
    """
    return " ".join(text.casefold().split())


def has_image(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows of a run's table are questions about an image, ``[N]``."""
    return np.array([bool(sha256) for sha256 in table["image_sha256"]], dtype=bool)


def comparable(imaged: Sequence[bool] | NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which rows can be probed together, ``[N]``.

    Those with an image, as all vectors are compared on equal rows; or all, if none has one.

    >>> comparable([True, False]).tolist(), comparable([False, False]).tolist()
    ([True, False], [True, True])
    """
    found = np.asarray(imaged, dtype=bool)
    return found if found.any() else ~found


def without_image_layers(keys: Iterable[LayerKey]) -> Iterator[LayerKey]:
    """Yield the representations and layers of a question without an image."""
    return (key for key in keys if key[0] not in IMAGE_REPRESENTATIONS)


def group_by_content(table: pd.DataFrame, copies: str = "near") -> Grouping:
    """Group rows by the content of their images, including near-copies.

    A question about several images belongs to the group of each of them. Near-copies are detected
    by thumbnails; where an image has none, by the perceptual hashes of all.

    Args:
        table: Rows with ``image_sha256``, and thumbnails or hashes if there are any.
        copies: One of ``COPIES``.

    Raises:
        InputError: A thumbnail is damaged.
    """
    if not has_image(table).any():
        asked = [[plain_question(str(text))] for text in table["question"]]
        return Grouping(np.asarray(image_groups(asked), dtype=np.int64), "question", 0)
    hashes = [text.split("+") for text in table["image_sha256"]]
    exact = np.asarray(image_groups(hashes))
    groups, by = exact, "content"
    if copies == "near" and "image_thumbnail" in table and all(table["image_thumbnail"]):
        pairs = _copies(hashes, list(table["image_thumbnail"]))
        groups, by = np.asarray(image_groups(hashes, copies=pairs)), "content and near-copies"
    elif copies == "near" and "image_dhash" in table and all(table["image_dhash"]):
        perceptual = [[int(part, 16) for part in text.split("+")] for text in table["image_dhash"]]
        groups, by = np.asarray(image_groups(hashes, perceptual)), "content and likeness"
    return Grouping(groups, by, len({part for parts in hashes for part in parts}), exact)


def content_groups(
    tables: Sequence[pd.DataFrame], copies: str = "near"
) -> tuple[NDArray[np.int64], str]:
    """Return groups of the rows of several tables, and how they are identified.

    Rows without an image are grouped by the words of their question.

    Args:
        tables: As for ``group_by_content``, concatenated.
        copies: One of ``COPIES``.

    Raises:
        InputError: A thumbnail is damaged.
    """
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

    names = ["image_sha256", "image_dhash", "image_thumbnail"]
    columns = [table.reindex(columns=names, fill_value="") for table in tables]
    texts = np.array([text for table in tables for text in table["question"]], dtype=object)
    joined = pd.concat(columns, ignore_index=True)
    imaged = has_image(joined)
    asked = [[plain_question(str(text))] for text in texts[~imaged]]
    bare = np.asarray(image_groups(asked), dtype=np.int64)
    groups, by = np.empty(len(joined), dtype=np.int64), "question"
    groups[~imaged] = bare
    if imaged.any():
        found = group_by_content(joined[imaged], copies)
        groups[imaged] = found.groups + bare.max(initial=-1) + 1
        by = found.by
    return groups, by


def _copies(hashes: Sequence[Sequence[str]], thumbnails: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of different images that are near-copies, by their hashes."""
    of_image: dict[str, str] = {}
    for names, joined in zip(hashes, thumbnails, strict=True):
        of_image.update(zip(names, joined.split("+"), strict=False))
    first: dict[str, str] = {}
    pairs = [(first.setdefault(text, name), name) for name, text in of_image.items()]
    names = list(first.values())
    try:
        read = read_thumbnails(list(first))
    except ValueError as error:
        raise InputError(
            f"image_thumbnail: {error}; restore the run from a copy, or give --copies exact"
        ) from error
    found = near_copies(read)
    return [pair for pair in pairs if pair[0] != pair[1]] + [(names[a], names[b]) for a, b in found]
