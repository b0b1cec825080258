"""The rows of a table that are still to do, and their order.

First those are left out that are done. Of what is left, rows about the same image come one after
the other: the vision encoder is most of a prefill, and what it makes of an image serves every
question about that image, as long as it is remembered, and only the last few images are. Tables
often come back to an image hundreds of rows later. So a window of rows is read ahead, and its
questions about one image are brought together. The window is bounded in rows and in bytes: memory
does not grow with the table. A session that goes on has other rows in its window, and so another
order, than one that was never interrupted.

First come those of which nothing bad is known; then those that failed in an earlier session. Last
of all, apart from each other, come the suspects: rows that hung in the model, and rows that were in
work when a session was killed.
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
from vlmscope.executors.request import Request
from vlmscope.executors.time_limit import MODEL_STAGE, PREPARE_STAGE
from vlmscope.schema import Failure, Sample, failure_of
from vlmscope.store import read_failures

if TYPE_CHECKING:
    from vlmscope.schema import ImageLike

AHEAD_ROWS = 4096
"""Rows that may wait for others about their image. Without images in them they are small."""

AHEAD_BYTES = 256 * 2**20
"""Bytes of images in waiting rows at which no more are read; paths count nothing."""


def same_image_together(
    rows: Iterator[Sample], ahead: int = AHEAD_ROWS, *, ahead_bytes: int = AHEAD_BYTES
) -> Iterator[Sample]:
    """Yield every row once, the waiting ones about the same images after each other.

    Again and again the oldest waiting row is yielded, then in their order all that wait and are
    about the same images, then more are read. A row without an image goes alone when it is the
    oldest. The order depends on nothing but the rows. What reading a row raises is raised here, and
    the rows that wait are lost.

    Args:
        rows: The rows, in the order of the table.
        ahead: Most rows to hold, that is, read and not yielded yet; below 1 counts as 1.
        ahead_bytes: No row is read while images of so many bytes are held, so that they exceed it
            by one row at most. An image given by its path counts nothing.

    >>> from vlmscope.schema import Sample
    >>> rows = [Sample(id_, f"{id_[0]}.png", "?") for id_ in ("a1", "b1", "a2", "b2")]
    >>> [row.id for row in same_image_together(iter(rows))]
    ['a1', 'a2', 'b1', 'b2']
    """
    # A group is as old as its first row, and a new one is put last: the first holds the oldest row.
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
    """Take the oldest row and those about its images out, letting go of each when it is taken."""
    _, group = groups.popitem(last=False)
    while group:
        yield group.popleft()


def _key(row: Sample) -> Hashable:
    """Return what rows about the same images share; no other row has that of one without."""
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
    # A PIL image. Its pixels may still be in a file, perhaps a broken one: hashing them would
    # decode it here, where an error stops the run and not only its row.
    return id(image)


def _size(row: Sample) -> int:
    """Return the bytes of the row's images; of a PIL image one a channel and pixel, about."""
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
"""Bad rows of the table that are recorded together: each hand-over is flushed to the disk."""

GROUP = 8
"""Suspects that are tried together where there are more. A session that is killed from outside
leaves a few hundred of them on a GPU, of which none is to blame."""

_DIED = {
    PREPARE_STAGE: "while its images and its prompt were prepared",
    MODEL_STAGE: "while it was in the model",
}


def suspects_of(
    request: Request, done: Set[str], in_work: Mapping[str, int], left_out: Set[str]
) -> dict[str, int]:
    """Return the rows to try last, and how often each was in work when a session ended badly.

    Args:
        request: What was asked for.
        done: Ids of rows that the run holds.
        in_work: Ids of rows that were in work when a session was killed, and how often.
        left_out: Ids of rows that are not to be tried.
    """
    failed = read_failures(request.out)
    known = {id_: 1 + failed[id_].attempt for id_ in _apart(failed)}  # each was alone then
    counts = {**in_work, **known}
    return {i: count for i, count in counts.items() if i not in done and i not in left_out}


def recorded_apart(request: Request) -> frozenset[str]:
    """Return the rows on record that hung in the model, or with which a session was killed."""
    return frozenset(_apart(read_failures(request.out)))


def _apart(failed: Mapping[str, Failure]) -> list[str]:
    return [id_ for id_, failure in failed.items() if failure.stage in _DIED]


def groups_apart(table: Table, suspects: Mapping[str, int]) -> Iterator[list[Sample]]:
    """Yield the suspects that are good rows, in the groups to try them in.

    Those of which least is known come first, ``GROUP`` at a time if they are many; who was in work
    more than once comes alone.
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
    """Return the records of rows that were alone in work when a session was killed again.

    Args:
        table: The rows; those that are not among them are left out.
        blamed: Id → the stage that it was in.
    """
    if not blamed:
        return []
    rows = _Reader(table).rows(_AllBut(blamed))
    return [
        failure_of(
            row,
            PREPARE_STAGE if blamed[row.id] == PREPARE_STAGE else MODEL_STAGE,
            f"the process was killed {_DIED.get(blamed[row.id], 'with it')}, alone, as it had been "
            "with this row among others; memory may run out on it: give it more memory or smaller "
            "images; the same command tries it again, last",
        )
        for row in rows
    ]


def rows_due(
    table: Table,
    request: Request,
    done: Set[str],
    record: Callable[[Sequence[Failure]], None],
    *,
    apart: Set[str] = frozenset(),
) -> Iterator[Sample]:
    """Yield the good rows that are not done; record the bad ones on the way.

    Rows that failed in an earlier session come last, so that they cannot keep the others back.

    Args:
        table: The rows.
        request: What was asked for.
        done: Ids of rows that the run holds.
        record: Takes rows that are not in order.
        apart: Ids of rows that are not to be among them.

    Raises:
        TableChangedError: The table is not the one that was checked. Rows that were read and wait
            for others about their image are lost then, except where rows were only appended.
    """
    failed = frozenset(read_failures(request.out)) - done - apart
    reader = _Reader(table, record)
    if request.strict:  # a bad row is not met before its turn, and recorded at once
        reader.ahead = reader.together = 1
    yield from reader.rows(frozenset(done).union(failed, apart))
    if failed:
        yield from reader.rows(_AllBut(failed))
    if reader.appended is not None:
        raise reader.appended


@dataclass(frozen=True, slots=True)
class _AllBut:
    """All ids but some."""

    ids: Container[str]

    def __contains__(self, id_: object) -> bool:
        return id_ not in self.ids


@dataclass(slots=True)
class _Reader:
    """Passes over a table."""

    table: Table
    record: Callable[[Sequence[Failure]], None] = lambda _: None
    """Takes rows that are not in order."""
    ahead: int = AHEAD_ROWS
    """Most rows that may wait for others about their image."""
    together: int = BAD_ROWS
    """Bad rows that are recorded together."""
    appended: TableChangedError | None = None
    """Set where more rows followed on those that were checked."""

    def rows(self, skip: Container[str]) -> Iterator[Sample]:
        """Yield the good rows but for some, those about the same image together."""
        return same_image_together(self._good_rows(skip), self.ahead)

    def _good_rows(self, skip: Container[str]) -> Iterator[Sample]:
        """Yield the good rows but for some; record the bad ones on the way, many at once."""
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
            self.appended = error  # no reason to lose the rows that wait
        self._record(bad)

    def _record(self, bad: Sequence[Failure]) -> None:
        if bad:
            self.record(bad)
