"""``Table``: opened, scanned once from end to end, and streamed as samples."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from os import PathLike

from vlmscope.arguments import whole_number
from vlmscope.dataset.images.locate import image_folder
from vlmscope.dataset.mapping import Mapped, fields_of
from vlmscope.dataset.rows.columns import check_images, find_columns
from vlmscope.dataset.rows.placeholders import MarkCounts
from vlmscope.dataset.rows.reader import Identity, RowReader
from vlmscope.dataset.rows.shared_images import with_shared_images
from vlmscope.dataset.rows.together import unique_together
from vlmscope.dataset.share import Share
from vlmscope.dataset.source import Row, reading
from vlmscope.dataset.tables.opening import Data, open_source
from vlmscope.dataset.unchanged import Unchanged
from vlmscope.dataset.values import shown_name
from vlmscope.errors import InputError, RowError, shortened
from vlmscope.schema import Failure, FieldSpec, Sample

SHOWN_DUPLICATES = 10
"""Most duplicate ids listed in a message."""

_TOGETHER = 1000
"""Rows hashed at once."""


@dataclass(frozen=True, slots=True)
class TableScan:
    """The result of one pass over a table."""

    ids: tuple[str, ...]
    """The ids in order: with a limit the first ones, with a share those of its rows."""
    fingerprint: str
    """SHA-256 over id, image name, question and target of every row in order, whatever the limit
    and the file format."""
    without_image: int = 0
    """Number of questions without an image, within the limit, over all shares."""
    rows: int = 0
    """Number of rows within the limit, over all shares."""
    digests: bytes = field(default=b"", repr=False, compare=False)
    """Hash of each row of ``ids``, for ``Table.as_scanned``: 16 bytes a row, in this order."""
    marks: MarkCounts = field(default_factory=MarkCounts, compare=False)
    """Image placeholders in the questions, within the limit, over all shares."""


@dataclass(frozen=True, slots=True)
class Table:
    """An opened table. It keeps no rows in memory: each pass reads them again."""

    reader: RowReader
    """Turns rows into samples."""
    limit: int | None = None
    """Number of rows after which ``rows`` and ``TableScan.ids`` stop; None for all."""
    share: Share | None = None
    """The share of these rows that they give; None for all."""
    scanned: TableScan | None = None
    """The scan that the rows must match; None for no check."""

    def as_scanned(self, scan: TableScan) -> Table:
        """Return this table with its rows compared with a scan as they are read.

        A row that was edited, inserted, removed or moved since, or cannot be read any more, raises
        ``TableChangedError`` at its position; an appended row does so after all scanned ones.
        """
        return replace(self, scanned=scan)

    def rows(self, skip: Container[str] = frozenset()) -> Iterator[Sample | Failure]:
        """Yield every row from the start: a ``Sample``, or a ``Failure`` of stage ``input``.

        Images are not opened.

        Args:
            skip: Ids of rows to leave out, in a tenth of the time. They are not checked, except for
                the id in a table ``as_scanned``.

        Raises:
            InputError: the file is truncated, or an id is unusable. ``scan`` finds both beforehand.
            TableChangedError: instead of this, for a table ``as_scanned``.
        """
        if self.scanned is None:
            yield from self._read(skip, None)
            return
        expected = Unchanged(self.reader, self.scanned.ids, self.scanned.digests)
        try:
            yield from self._read(skip, expected)
        except InputError as error:
            raise expected.unreadable(error) from error

    def _read(self, skip: Container[str], expected: Unchanged | None) -> Iterator[Sample | Failure]:
        reader, share, column = self.reader, self.share, self.reader.plain_id
        for row in islice(_rows_of(reader), self.limit):
            value = None if column is None else row.values.get(column)
            is_skipped = isinstance(value, str) and value in skip
            sample_id = str(value) if is_skipped else reader.id(row)
            if share and not share.holds(reader.image_value(row), sample_id):
                continue
            if is_skipped or sample_id in skip:
                if expected:
                    expected.check_id(row, sample_id)
                continue
            if expected:
                expected.check(row, sample_id)
            try:
                yield reader.sample(row)
            except RowError as error:
                yield Failure(sample_id, stage=error.stage, error=str(error))
        if expected:
            expected.check_end()

    def identities(self) -> Iterator[Identity]:
        """Yield the identity of every row, regardless of limit and share.

        Raises:
            InputError: the file is truncated, or an id is unusable.
        """
        for row in _rows_of(self.reader):
            yield self.reader.identity(row, self.reader.id(row))

    def scan(self) -> TableScan:
        """Check the complete table in one pass, before anything is done with it.

        Returns:
            The ids and the table's fingerprint.

        Raises:
            InputError: the table has no rows, a row has other fields than the header, or an id is
                empty, not storable or a duplicate.
        """
        reader = self.reader
        places: dict[str, int | str] = {}
        repeats: dict[str, list[int | str]] = {}
        digest = hashlib.sha256()
        bare = 0
        ids: list[str] = []
        keys: list[str] = []
        digests = bytearray()
        marks = MarkCounts()
        for row in _rows_of(reader):
            sample_id = reader.id(row)
            where = f"{row.within} {row.number}" if row.within else row.number
            first = places.setdefault(sample_id, where)
            if first != where:
                repeats.setdefault(sample_id, [first]).append(where)
            images = reader.image_value(row)
            question = reader.question_or_gap(row)
            keys.append(reader.key(row, sample_id, images, question))
            if len(keys) == _TOGETHER:
                digest.update("".join(keys).encode())
                keys.clear()
            within = self.limit is None or len(places) <= self.limit
            bare += within and images is None
            if within and ("<" in question or "[" in question):  # rare: few of a million rows
                marks.add(question, partial(reader.count_images, row))
            if within and (self.share is None or self.share.holds(images, sample_id)):
                ids.append(sample_id)
                digests += reader.digest(row)
        digest.update("".join(keys).encode())
        if not places:
            raise InputError(f"{reader.source.name}: 0 rows; expected at least one")
        if repeats:
            raise InputError(self._duplicates(repeats))
        rows = min(len(places), self.limit or len(places))
        return TableScan(tuple(ids), digest.hexdigest(), bare, rows, bytes(digests), marks)

    def _duplicates(self, repeats: Mapping[str, Sequence[int | str]]) -> str:
        source = self.reader.source
        unit = "" if isinstance(next(iter(repeats.values()))[0], str) else f"{source.unit}s "
        shown = [
            f"{shown_name(sample_id)} ({unit}{', '.join(map(str, at[:SHOWN_DUPLICATES]))}"
            f"{', …' if len(at) > SHOWN_DUPLICATES else ''})"
            for sample_id, at in islice(repeats.items(), SHOWN_DUPLICATES)
        ]
        more = f" and {len(repeats) - len(shown)} more" if len(repeats) > len(shown) else ""
        ids = "1 id occurs" if len(repeats) == 1 else f"{len(repeats)} ids occur"
        together = unique_together(self.reader)
        hint = f"--map id={shlex.quote(','.join(together))}, which differ in every row, or " if (
            together
        ) else ""  # fmt: skip
        return (
            f"{source.name}: {ids} more than once: {', '.join(shown)}{more}; give every row its "
            f"own id, or name another column with --map id=COLUMN, or pass {hint}--number-rows"
        )


def open_table(
    data: Data,
    *,
    images: str | PathLike[str] | None = None,
    fields: FieldSpec = FieldSpec(),  # noqa: B008  frozen
    limit: int | None = None,
    text_only: bool = False,
    allow_absolute_paths: bool = False,
    share: Share | None = None,
) -> Table:
    """Open a table of questions: find its format and its columns.

    Args:
        data: a ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson``, ``.json`` or ``.parquet`` file, several
            of these or a pattern, which are one table together; a folder of such files, or one that
            ``datasets.save_to_disk`` wrote; or ``owner/name`` on the Hugging Face hub. A folder and
            a hub name also with ``:split``. Or the table itself: a ``pandas.DataFrame``, a
            ``datasets.Dataset``, dictionaries, or samples.
        images: the folder that relative image paths start from; default: the folder of the data,
            for the hub the current directory.
        fields: columns to use in place of the known names.
        limit: read only the first rows, this many.
        text_only: take rows without an image as questions without one (``Sample.image`` is None);
            else each is a failure. The table then needs no image column.
        allow_absolute_paths: let absolute paths and symbolic links lead out of the image folder;
            else such a row is a failure.
        share: read the rows of this rank only.

    Raises:
        InputError: the data or the image folder does not exist, the format is unknown, a column is
            missing or is one of videos or sounds, or the limit is below 1.
    """
    _check_flag("text-only", text_only)
    _check_flag("allow-absolute-paths", allow_absolute_paths)
    limit = _limit(limit)
    folder = None if images is None else image_folder(images)
    source, beside = open_source(data, fields.records)
    fields = source.fields(fields)
    with reading(source):
        found = source.columns()
    columns = find_columns(fields, found, source.name, text_only=text_only)
    check_images(columns, source.media(), source.name)
    source = with_shared_images(source, columns)
    reader = RowReader(
        source, columns, folder or beside.absolute(), text_only, allow_absolute_paths
    )
    return Table(reader, limit, share)


def _check_flag(name: str, value: object) -> None:
    """Raise for a value that is neither True nor False: "no" would count as True.

    Raises:
        InputError: It is neither.
    """
    if not isinstance(value, bool):
        raise InputError(f"--{name} is {shortened(repr(value))}, expected True or False")


def _limit(limit: int | None) -> int | None:
    """Return how many rows are read; None for all.

    Raises:
        InputError: It is not a whole number, or below 1.
    """
    if limit is None:
        return None
    number = whole_number("--limit", limit)
    if number < 1:
        raise InputError(f"limit {number}: expected at least 1; leave --limit out to read all rows")
    return min(number, sys.maxsize)


def read_samples(
    data: Data,
    *,
    images: str | PathLike[str] | None = None,
    map: Mapped | FieldSpec | None = None,  # noqa: A002 - as in ``extract``
    records: str | None = None,
    image_pattern: str | None = None,
    question_template: str | None = None,
    number_rows: bool = False,
    fields: Mapped | FieldSpec | None = None,
    limit: int | None = None,
    text_only: bool = False,
    allow_absolute_paths: bool = False,
) -> Iterator[Sample]:
    """Yield the samples of a table, and raise at the first invalid row.

    The table is opened at once, its rows are read lazily.

    Args:
        data: The path of a table, a pattern of paths, a hub id, or several paths that are one
            table together; or the table itself, as in ``extract``.
        images: Folder that relative paths of images start from (default: the table's folder; of a
            table in memory or on the hub the current one).
        map: Column of ``id``, ``image``, ``question``, ``target`` or ``category``, where the names
            in use do not tell: ``{"id": "uid"}``; or a ``FieldSpec``, in place of this argument
            and the next four.
        records: Key of a JSON document that the rows stand under.
        image_pattern: Path of the image with columns in braces: ``{image_id:012d}.jpg``.
        question_template: Question with columns in braces: ``{question} {options}``.
        number_rows: Take the rows' numbers as ids: ``row_1``, ``row_2`` and so on.
        fields: Another name of ``map``.
        limit: Only the first rows, this many.
        text_only: Take rows without an image as questions about none; else they are an error.
        allow_absolute_paths: Let paths of images lead out of their folder; else they are an error.

    Raises:
        InputError: An argument is wrong, the table cannot be opened, or a row is not a valid sample
            or repeats an id.
    """
    if map is not None and fields is not None:
        raise InputError("fields: is another name of --map; give one of the two")
    mapped = fields_of(
        fields if map is None else map, records, image_pattern, question_template,
        number_rows=number_rows,
    )  # fmt: skip
    table = open_table(
        data, images=images, fields=mapped, limit=limit, text_only=text_only,
        allow_absolute_paths=allow_absolute_paths,
    )  # fmt: skip
    return _strictly(table)


def _rows_of(reader: RowReader) -> Iterator[Row]:
    source = reader.source
    with reading(source):
        if reader.columns.id:
            yield from source.rows()
        else:
            for index, row in enumerate(source.rows(), start=1):
                yield row._replace(nth=index)


def _strictly(table: Table) -> Iterator[Sample]:
    seen: set[str] = set()
    for row in table.rows():
        if isinstance(row, Failure):
            raise InputError(row.error)
        if row.id in seen:
            taken = f"{row.origin}: id {shown_name(row.id)} is already taken"
            raise InputError(f"{taken}; give it its own id")
        seen.add(row.id)
        yield row
