"""The rows of a table that are still to be captured, and their order.

Rows that are done are left out. Of the others, rows about the same image come one after the other:
the vision encoder is most of the cost of a prefill, and its output serves every question about the
image as long as it is cached, and only the last few images are. Tables often return to an image
hundreds of rows later. So a window of rows is read ahead, and its questions about one image are
grouped. The window is bounded in rows and in bytes: memory does not grow with the table. A resumed
session has other rows in its window, and so another order, than one that was never interrupted.

Rows without a known problem come first; then those that failed in an earlier session. Suspects come
last, separately from each other: rows that hung in the model, and rows that were in progress when a
session was killed.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING

from vlmscope.dataset import Table
from vlmscope.errors import TableChangedError
from vlmscope.executors.journal import MODEL_STAGE, PREPARE_STAGE
from vlmscope.executors.request import Request
from vlmscope.schema import Failure, Sample, failure_of
from vlmscope.store import read_failures

if TYPE_CHECKING:
    from vlmscope.schema import ImageLike

AHEAD_ROWS = 4096
"""Rows that may wait for others about their image. Rows without image data are small."""

AHEAD_BYTES = 256 * 2**20
"""Bytes of images in waiting rows at which no more rows are read; a path counts as 0 bytes."""


def same_image_together(
    rows: Iterator[Sample], ahead: int = AHEAD_ROWS, *, ahead_bytes: int = AHEAD_BYTES
) -> Iterator[Sample]:
    """Yield every row once, waiting rows about the same images one after the other.

    Repeatedly, the oldest waiting row is yielded, then all waiting rows about the same images in
    their order, then more rows are read. A row without an image is yielded alone when it is the
    oldest. The order depends only on the rows. An exception while reading a row is raised here, and
    the waiting rows are lost.

    Args:
        rows: The rows, in the order of the table.
        ahead: Maximum number of waiting rows; below 1 counts as 1.
        ahead_bytes: No row is read while waiting rows have images of so many bytes, so that the
            total exceeds it by one row at most. An image given by its path counts as 0 bytes.

    >>> from vlmscope.schema import Sample
    >>> rows = [Sample(id_, f"{id_[0]}.png", "?") for id_ in ("a1", "b1", "a2", "b2")]
    >>> [row.id for row in same_image_together(iter(rows))]
    ['a1', 'a2', 'b1', 'b2']
    """
    # New groups are appended, so the first group contains the oldest row.
    groups: OrderedDict[Hashable, deque[Sample]] = OrderedDict()
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


def _oldest_group(groups: OrderedDict[Hashable, deque[Sample]]) -> Iterator[Sample]:
    """Yield the rows of the oldest group, releasing each one when it is yielded."""
    _, group = groups.popitem(last=False)
    while group:
        yield group.popleft()


def _key(row: Sample) -> Hashable:
    """Return a key that rows about the same images share; unique for a row without an image."""
    images = row.images
    if len(images) == 1:
        return _identity(images[0])
    return tuple(_identity(image) for image in images) or object()


def _identity(image: ImageLike) -> Hashable:
    if isinstance(image, str):
        return image
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    if isinstance(image, PathLike):
        return fspath(image)
    # A PIL image may not be decoded yet, and its file may be broken: hashing the pixels would
    # decode it here, where an error stops the run and not only its row.
    return id(image)


def _size(row: Sample) -> int:
    """Return the bytes of the row's images; for a PIL image about one per channel and pixel."""
    size = 0
    for image in row.images:
        size += 0 if isinstance(image, str) else _bytes(image)
    return size


def _bytes(image: ImageLike) -> int:
    if isinstance(image, bytes):
        return len(image)
    if isinstance(image, str | PathLike):
        return 0
    return image.width * image.height * len(image.getbands())


BAD_ROWS = 256
"""Invalid rows of the table that are recorded together: each record is flushed to the disk."""

GROUP = 8
"""Suspects that are tried together if there are more. A session on a GPU that is killed from
outside leaves a few hundred of them, none of which is the cause."""

_DIED = {
    PREPARE_STAGE: "while its images and its prompt were prepared",
    MODEL_STAGE: "while it was in the model",
}


def suspects_of(
    request: Request, done: Set[str], in_work: Mapping[str, int], left_out: Set[str]
) -> dict[str, int]:
    """Return the rows to try last, and how often each was in progress when a session died.

    Args:
        request: The request.
        done: Ids of rows in the run.
        in_work: Ids of rows that were in progress when a session was killed, and how often.
        left_out: Ids of rows that must not be tried.
    """
    failed = read_failures(request.out)
    # Each of them was tried alone.
    known = {id_: 1 + failed[id_].attempt for id_ in _killed_or_hung(failed)}
    counts = {**in_work, **known}
    return {i: count for i, count in counts.items() if i not in done and i not in left_out}


def killed_or_hung_ids(request: Request) -> frozenset[str]:
    """Return the recorded rows that hung in the model, or with which a session was killed."""
    return frozenset(_killed_or_hung(read_failures(request.out)))


def _killed_or_hung(failed: Mapping[str, Failure]) -> list[str]:
    return [id_ for id_, failure in failed.items() if failure.stage in _DIED]


def isolated_groups(table: Table, suspects: Mapping[str, int]) -> Iterator[list[Sample]]:
    """Yield the suspects that are valid rows, in the groups to try them in.

    Rows that were in progress once come first, ``GROUP`` at a time if there are many; rows that
    were in progress more than once come alone.
    """
    if not suspects:
        return
    rows = list(_Reader(table).rows(_AllBut(suspects)))
    rows.sort(key=lambda row: suspects[row.id])
    first = sum(suspects[row.id] == 1 for row in rows)
    size = GROUP if first > GROUP else 1
    for start in range(0, first, size):
        yield rows[start : min(start + size, first)]
    for row in rows[first:]:
        yield [row]


def killed_by(table: Table, blamed: Mapping[str, str]) -> list[Failure]:
    """Return the failures of rows that were in progress alone when a session was killed again.

    Args:
        table: The table; ids that are not in it are left out.
        blamed: Id → the stage that it was in.
    """
    if not blamed:
        return []
    rows = _Reader(table).rows(_AllBut(blamed))
    return [
        failure_of(
            row,
            PREPARE_STAGE if blamed[row.id] == PREPARE_STAGE else MODEL_STAGE,
            f"the process was killed {_DIED.get(blamed[row.id], 'with it')}, alone, and before "
            "with this row among others; memory may be too small for it: give more memory or "
            "smaller images; the same command tries it again, last",
        )
        for row in rows
    ]


def pending_rows(
    table: Table,
    request: Request,
    done: Set[str],
    record: Callable[[Sequence[Failure]], None],
    *,
    excluded: Set[str] = frozenset(),
) -> Iterator[Sample]:
    """Yield the valid rows that are not done, and record the invalid ones.

    Rows that failed in an earlier session come last, so that they cannot delay the others.

    Args:
        table: The table.
        request: The request.
        done: Ids of rows in the run.
        record: Records the failures of invalid rows.
        excluded: Ids of rows that are excluded.

    Raises:
        TableChangedError: The table changed since it was checked. Rows that were read and wait for
            others about their image are lost, unless rows were only appended.
    """
    failed = frozenset(read_failures(request.out)) - done - excluded
    reader = _Reader(table, record)
    if request.strict:  # an invalid row is read in its turn, and recorded at once
        reader.ahead = reader.together = 1
    yield from reader.rows(frozenset(done).union(failed, excluded))
    if failed:
        yield from reader.rows(_AllBut(failed))
    if reader.appended is not None:
        raise reader.appended


@dataclass(frozen=True, slots=True)
class _AllBut:
    """All ids except some."""

    ids: Container[str]

    def __contains__(self, id_: object) -> bool:
        return id_ not in self.ids


@dataclass(slots=True)
class _Reader:
    """Iterates over a table, possibly several times."""

    table: Table
    record: Callable[[Sequence[Failure]], None] = lambda _: None
    """Records the failures of invalid rows."""

    ahead: int = AHEAD_ROWS
    """Maximum number of rows that wait for others about their image."""

    together: int = BAD_ROWS
    """Invalid rows that are recorded together."""

    appended: TableChangedError | None = None
    """The error if rows were appended to the checked ones."""

    def rows(self, skip: Container[str]) -> Iterator[Sample]:
        """Yield the valid rows except ``skip``, rows about the same image together."""
        return same_image_together(self._good_rows(skip), self.ahead)

    def _good_rows(self, skip: Container[str]) -> Iterator[Sample]:
        """Yield the valid rows except ``skip``; record the invalid ones, many at once."""
        bad: list[Failure] = []
        try:
            for row in self.table.rows(skip):
                if isinstance(row, Sample):
                    yield row
                    continue
                bad.append(row)
                if len(bad) >= self.together:
                    self.record(bad)
                    bad = []
        except TableChangedError as error:
            if not error.appended:
                self._record(bad)
                raise
            self.appended = error  # raised later, so that waiting rows are not lost
        self._record(bad)

    def _record(self, bad: Sequence[Failure]) -> None:
        if bad:
            self.record(bad)
