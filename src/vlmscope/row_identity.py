"""Compare the rows of a run with the rows of a table, to decide whether the run may continue.

A row is identified by its id, its question and its image's name. So a table may grow, lose rows, be
sorted differently, and change its ground truth and metadata: its run can continue. If a row of the
run is another question in the table, an error names its id.

The images' files are not opened: each row stores the hash of its image, which ``verify`` checks.
Only images that are stored in the table without a name are compared by that hash, as nothing else
distinguishes them; and all images of a table in memory, which cannot be read again later.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from vlmscope.dataset import (
    Data,
    Identity,
    Table,
    TableScan,
    hash_image,
    in_memory,
    load_image,
    open_table,
    with_listed_paths,
)
from vlmscope.errors import InputError, RowError, RunMismatchError, shortened
from vlmscope.schema import FieldSpec
from vlmscope.store import DataRecord, Run, clean_text, replace_ground_truths

SHOWN_IDS = 10
"""Number of ids that a message lists."""

_DIGEST = 16
_IMAGES_AT_ONCE = 64
"""Number of images that are decoded at once."""

_THREADS = min(8, os.cpu_count() or 1)

_TEXTS = ("question_id", "question", "image_id", "ground_truth_answer", "image_sha256")


@dataclass(frozen=True, slots=True)
class RowComparison:
    """The result of comparing the rows of a run with a table. All are the same questions."""

    table_changed: bool = False
    """Whether the table is another version than the one that the run last continued with."""
    compared: int = 0
    """Number of compared rows; 0 if the table is the one that they were made from."""
    removed: tuple[str, ...] = ()
    """Ids of rows that are not in the table any more."""
    changed_ground_truths: tuple[str, ...] = ()
    """Ids of rows whose ground truth in the table differs from the run's."""
    ground_truths: Mapping[str, str] | None = field(default=None, repr=False)
    """Ground truth that replaces that of the shards; None for no change."""


def table_of_run(
    run: Run,
    data: Data | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    allow_absolute_paths: bool = False,
) -> Table:
    """Open the table of a run with the columns that it was made with.

    Args:
        run: The run.
        data: The table, or its current path (default: the path in the run).
        images: The current path of its images (default: the path in the run).
        allow_absolute_paths: As in ``open_table``.

    Raises:
        InputError: It cannot be opened, or it was in memory and is not given.
    """
    record = run.manifest.data
    if data is None and record.in_memory:
        raise InputError(
            f"{run.path}: its table was in memory ({record.shown_path}), not in a file; "
            "give it with --data: the table itself in Python, or saved as Parquet with its images"
        )
    data = with_listed_paths(data)
    table = None if data is None else in_memory(data)
    fields = FieldSpec(**record.fields)  # type: ignore[arg-type]
    try:
        return open_table(
            table or data or record.path,
            images=images or record.images,
            fields=fields if table is None or table.has_columns else FieldSpec(),
            text_only=record.text_only,
            allow_absolute_paths=allow_absolute_paths,
        )
    except InputError as error:
        raise InputError(f"{error}; if it has moved, give --data and --images") from error


def is_same_table(record: DataRecord, scan: TableScan) -> bool:
    """Return whether every row of a run was made from this version of its table."""
    return record.fingerprint == scan.fingerprint and not record.several_tables


def compare_rows(
    run: Run, table: Table, scan: TableScan, *, skip_damaged: bool = False
) -> RowComparison:  # fmt: skip
    """Compare the rows of a run with a table, unless it is the one that they were made from.

    Args:
        run: The run.
        table: The table.
        scan: The scan of the table.
        skip_damaged: Skip rows of shards that cannot be read.

    Raises:
        InputError: The table cannot be read.
        RunMismatchError: Rows of the run are other questions in the table, or all are missing.
        StoreError: A shard is damaged.
    """
    if is_same_table(run.manifest.data, scan):
        return RowComparison()
    rows = _Rows(run, skip_damaged=skip_damaged, by_content=table.reader.source.by_content)
    images: list[tuple[Identity, str]] = []
    for row in table.identities():
        rows.compare(row, images)
        if len(images) >= _IMAGES_AT_ONCE:
            rows.note_changed(_with_other_images(images))
            images.clear()
    rows.note_changed(_with_other_images(images))
    rows.check(table.reader.source.name)
    return rows.result()


def write_ground_truths(run: Path, comparison: RowComparison) -> None:
    """Write the ground truths of the table to the run."""
    if comparison.ground_truths is not None:
        replace_ground_truths(run, comparison.ground_truths)


def ids_text(ids: Sequence[str]) -> str:
    """Return ids as text for a message.

    >>> ids_text(["q1", "q2"]), ids_text([str(i) for i in range(12)])[-19:]
    ("'q1', 'q2'", "'8', '9' and 2 more")
    """
    shown = ", ".join(repr(shortened(id_)) for id_ in ids[:SHOWN_IDS])
    return f"{shown} and {len(ids) - SHOWN_IDS:,} more" if len(ids) > SHOWN_IDS else shown


@dataclass(frozen=True, slots=True)
class _Stored:
    """A row of the run, as digests, because a million of them are in memory at once."""

    question: bytes
    image_id: bytes
    truth: bytes
    sha256: str
    """Hash of the image, if its name does not identify it."""


class _Rows:
    """The rows of a run, each compared with the table's row of its id."""

    def __init__(self, run: Run, *, skip_damaged: bool, by_content: bool) -> None:
        self._path = run.path
        self._known_ground_truths = run.changed_ground_truths
        self._unmatched = dict(_stored(run, skip_damaged=skip_damaged, by_content=by_content))
        self._count = len(self._unmatched)
        self._first = tuple(islice(self._unmatched, SHOWN_IDS))
        self._first_of_table: list[str] = []
        self._changed: dict[str, str] = {}
        self._changed_ground_truths: list[str] = []
        self._ground_truths: dict[str, str] = {}
        self._has_ground_truths = False

    def compare(self, row: Identity, images: list[tuple[Identity, str]]) -> None:
        """Compare a row of the table; append to ``images`` if the pixels must be compared too."""
        if len(self._first_of_table) < SHOWN_IDS:
            self._first_of_table.append(row.id)
        stored = self._unmatched.pop(row.id, None)
        if stored is None:
            return
        others = ["question"] if _digest(row.question) != stored.question else []
        if stored.image_id not in map(_digest, row.image_ids):
            others.append("image")
        if others:
            self._changed[row.id] = " and ".join(others)
        elif row.embedded:
            images.append((row, stored.sha256))
        if row.target is not None:
            self._has_ground_truths = True
            self._compare_truth(row.id, clean_text(row.target), stored.truth)

    def _compare_truth(self, id_: str, truth: str, stored: bytes) -> None:
        known, now = self._known_ground_truths.get(id_), _digest(truth)
        if now != (stored if known is None else _digest(known)):
            self._changed_ground_truths.append(id_)
        if now != stored:
            self._ground_truths[id_] = truth

    def note_changed(self, ids: Iterable[str]) -> None:
        """Record rows that are about another image."""
        self._changed |= dict.fromkeys(ids, "image")

    def check(self, table: str) -> None:
        """Raise an error if the run cannot continue, after the complete table was compared."""
        if self._changed:
            found = [f"{shortened(id_)!r} ({what})" for id_, what in self._changed.items()]
            more = len(found) - SHOWN_IDS
            listed = ", ".join(found[:SHOWN_IDS]) + (f" and {more:,} more" if more > 0 else "")
            rows = "1 row" if len(found) == 1 else f"{len(found):,} rows"
            are = "is another question" if len(found) == 1 else "are other questions"
            raise RunMismatchError(
                f"{self._path}: {rows} of this run {are} in {table}: {listed}; restore "
                "them, give changed questions new ids, or give another --out"
            )
        if self._count and len(self._unmatched) == self._count:
            raise RunMismatchError(
                f"{self._path}: {table} has none of the {self._count:,} rows of this run: "
                f"the run has the ids {ids_text(self._first)}, the table "
                f"{ids_text(self._first_of_table)}; give the table of this run, or another --out"
            )

    def result(self) -> RowComparison:
        """Return the result of the comparison."""
        removed = tuple(self._unmatched)
        kept = {
            id_: self._known_ground_truths[id_]
            for id_ in removed
            if id_ in self._known_ground_truths
        }
        ground_truths = {**kept, **self._ground_truths} if self._has_ground_truths else None
        return RowComparison(
            True, self._count, removed, tuple(self._changed_ground_truths), ground_truths
        )


def _stored(run: Run, *, skip_damaged: bool, by_content: bool) -> Iterator[tuple[str, _Stored]]:
    for id_, question, image_id, truth, sha256 in run.texts(*_TEXTS, skip_damaged=skip_damaged):
        known = sha256 if by_content or image_id == id_ else ""
        yield id_, _Stored(_digest(question), _digest(image_id), _digest(truth), known)


def _digest(text: str) -> bytes:
    plain = text if text.isascii() and "\0" not in text else clean_text(text)
    return blake2b(plain.encode(), digest_size=_DIGEST).digest()


def _with_other_images(rows: Sequence[tuple[Identity, str]]) -> list[str]:
    """Return the ids of rows whose images differ from the run's hash."""
    if not rows:
        return []
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda row: _hash(row[0]), rows)
        return [row.id for (row, sha256), now in zip(rows, found, strict=True) if now != sha256]


def _hash(row: Identity) -> str:
    """Return the hash of a row's images, as in ``Capture.image_sha256``."""
    try:
        return "+".join(hash_image(load_image(data)) for data in row.embedded)
    except RowError:
        return ""  # an image that cannot be read differs from the one in the run
