"""Rows about the same picture, one after the other.

The vision encoder is most of a prefill, and what it makes of a picture serves every question about
that picture, as long as it is remembered: only the last few pictures are. Tables often come back to
a picture hundreds of rows later. So a window of rows is read ahead, and its questions about one
picture are brought together. The window is bounded in rows and in bytes: memory does not grow with
the table.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from vlmscope.schema import Picture

RowT = TypeVar("RowT", bound="AboutPictures")

AHEAD_ROWS = 4096
"""Rows that may wait for others about their picture. Without pictures in them they are small."""

AHEAD_BYTES = 256 * 2**20
"""Bytes of pictures in waiting rows at which no more are read; paths count nothing."""


class AboutPictures(Protocol):
    """A row, or what holds its place."""

    @property
    def images(self) -> Sequence[Picture]:
        """The pictures it is about, in order."""


def same_picture_together(
    rows: Iterator[RowT], ahead: int = AHEAD_ROWS, *, ahead_bytes: int = AHEAD_BYTES
) -> Iterator[RowT]:
    """Yield every row once, the waiting ones about the same pictures after each other.

    Again and again the oldest waiting row is yielded, then in their order all that wait and are
    about the same pictures, then more are read. A row without a picture goes alone when it is the
    oldest. The order depends on nothing but the rows. What reading a row raises is raised here, and
    the rows that wait are lost.

    Args:
        rows: The rows, in the order of the table.
        ahead: Most rows to hold, that is, read and not yielded yet; below 1 counts as 1.
        ahead_bytes: No row is read while pictures of so many bytes are held, so that they exceed it
            by one row at most. A picture given by its path counts nothing.

    >>> from vlmscope.schema import Sample
    >>> rows = [Sample(id_, f"{id_[0]}.png", "?") for id_ in ("a1", "b1", "a2", "b2")]
    >>> [row.id for row in same_picture_together(iter(rows))]
    ['a1', 'a2', 'b1', 'b2']
    """
    # A group is as old as its first row, and a new one is put last: the first holds the oldest row.
    groups: OrderedDict[Hashable, deque[RowT]] = OrderedDict()
    held_rows = held_bytes = 0
    for row in rows:
        key = _key(row)
        if key in groups:
            groups[key].append(row)
        else:
            groups[key] = deque((row,))
        held_rows += 1
        held_bytes += _size(row)
        while groups and (held_rows >= ahead or held_bytes >= ahead_bytes):
            for oldest in _oldest_group(groups):
                held_rows -= 1
                held_bytes -= _size(oldest)
                yield oldest
    while groups:
        yield from _oldest_group(groups)


def _oldest_group(groups: OrderedDict[Hashable, deque[RowT]]) -> Iterator[RowT]:
    """Take the oldest row and those about its pictures out, letting go of each when it is taken."""
    _, group = groups.popitem(last=False)
    while group:
        yield group.popleft()


def _key(row: AboutPictures) -> Hashable:
    """Return what rows about the same pictures share; no other row has that of one without."""
    images = row.images
    if len(images) == 1:
        return _identity(images[0])
    return tuple(_identity(picture) for picture in images) or object()


def _identity(picture: Picture) -> Hashable:
    if isinstance(picture, str):
        return picture
    if isinstance(picture, bytes):
        return hashlib.sha256(picture).digest()
    if isinstance(picture, PathLike):
        return fspath(picture)
    # A table never holds a PIL image. Its pixels may still be in a file, perhaps a broken one:
    # hashing them would decode it here, where an error stops the run and not only its row.
    return id(picture)


def _size(row: AboutPictures) -> int:
    """Return the bytes of the row's pictures; of a PIL image one a channel and pixel, about."""
    size = 0
    for picture in row.images:
        size += 0 if isinstance(picture, str) else _bytes(picture)
    return size


def _bytes(picture: Picture) -> int:
    if isinstance(picture, bytes):
        return len(picture)
    if isinstance(picture, str | PathLike):
        return 0
    return picture.width * picture.height * len(picture.getbands())
