"""External answers: reading from a table or files in the HALP layout, labelling, writing.

The labelled table has the columns of the one that was read, and ``outcome``, ``hallucinated``,
``scorer``, ``evidence`` and ``error_kind``. A column of the input with such a name, or another name
that labels are read from, is kept as ``input_<name>``: manual labels are neither lost nor mistaken
for these.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import tee
from pathlib import Path
from typing import Any

from vlmscope.dataset import (
    ANSWER_TABLES,
    AnswerTable,
    CellError,
    parse_answer_mapping,
    read_answers,
    to_target,
)
from vlmscope.errors import InputError, join_names, shortened
from vlmscope.schema import Answered, Score
from vlmscope.score import Scorer
from vlmscope.score.column import LABEL_COLUMNS as READ_COLUMNS
from vlmscope.shown import encodable
from vlmscope.store import (
    FAILED_ANSWER,
    clean_text,
    find_halp_files,
    is_remote,
    open_halp_files,
    parquet_bytes,
    publish,
)
from vlmscope.store.format.manifest import MANIFEST
from vlmscope.version import __version__

H5 = (".h5", ".hdf5")
"""Suffixes of files in the HALP layout."""

LABEL_COLUMNS = ("outcome", "hallucinated", "scorer", "evidence", "error_kind")
"""Columns of a labelled table in addition to those of the input."""

NO_ANSWER = "generation failed, there is no answer"

_OF_A_ROW = ("id", "question", "target")
"""Fields of a row of a run, whose columns are not metadata."""


def is_answers(path: Path) -> bool:
    """Return whether a path is a file or folder of ``.h5`` files with answers, not a run."""
    if is_remote(path) or (path / MANIFEST).exists():
        return False
    if path.is_dir():
        return bool(find_halp_files(path))
    return path.suffix.lower() in (*H5, *ANSWER_TABLES)


def read_answer_files(
    path: Path, fields: Sequence[str] = (), question_template: str | None = None
) -> AnswerTable:
    """Read questions, ground truths and answers of another tool.

    Args:
        path: A table (``read_answers``), or ``.h5`` files in the HALP layout, such as an export
            of vlmscope: a folder or one file.
        fields: For a table: the column of each field, as ``field=column``.
        question_template: For a table: the question as it was asked, with columns in braces.

    Raises:
        InputError: It cannot be read, or lacks a column.
    """
    if path.is_dir() or path.suffix.lower() in H5:
        if fields or question_template is not None:
            option = "--map" if fields else "--question-template"
            raise InputError(f"{option}: is for a table; .h5 files name their fields themselves")
        return _of_halp_files(path)
    return read_answers(path, parse_answer_mapping(fields), question_template=question_template)


def _of_halp_files(path: Path) -> AnswerTable:
    """Return the texts of files in the HALP layout; vectors are not read."""
    table = open_halp_files(path).to_pandas()
    rows = [{str(name): cell for name, cell in row.items()} for row in table.to_dict("records")]
    columns = tuple(map(str, table.columns))
    roles = {
        "id": "question_id", "question": "question", "target": "ground_truth_answer",
        "answer": "answer",
    }  # fmt: skip
    answered = tuple(
        Answered(
            id=row["question_id"],
            question=row["question"],
            answer=row["answer"],
            target=row["ground_truth_answer"],
            metadata=row,
        )
        for row in rows
    )
    return AnswerTable(path, columns, tuple(rows), answered, roles)


def with_truth(
    rows: Iterable[Answered], column: str, fields: Mapping[str, Any] | None = None
) -> Iterator[Answered]:
    """Yield rows with the ground truth from a column of the table.

    The column is looked up in the metadata, else among the fields of a row, by the name of the
    field or of the column mapped to it. A row with an empty cell has no ground truth and cannot be
    scored by a rule.

    Args:
        rows: The rows.
        column: The column.
        fields: Field → the column mapped to it in the run.

    Raises:
        InputError: A cell is not text, or, after the last row, no row has the column.
    """
    fields = fields or {}
    named = [name for name, own in fields.items() if own == column and name in _OF_A_ROW]
    field = named[0] if named else column if column in _OF_A_ROW and fields else ""
    others: set[str] = set()
    for row in rows:
        others |= row.metadata.keys()
        cell = row.metadata.get(column)
        if field and column not in row.metadata:
            cell = getattr(row, field)
        try:
            target = to_target(cell, frozenset())
        except CellError as error:
            raise InputError(
                f"--target {shortened(column)}: the cell of {shortened(row.id)} {error}; name "
                "another column"
            ) from error
        yield replace(row, target=target or "")
    if (others or fields) and column not in others and not field:
        raise InputError(_no_column(column, others, fields))


def _no_column(column: str, others: Iterable[str], fields: Mapping[str, Any]) -> str:
    """Return the error for a missing column, with the existing ones."""
    mapped = [f"{own} (the {name})" for name, own in fields.items() if name in _OF_A_ROW and own]
    there = [*sorted(others), *map(str, mapped)]
    known = "there are" if there else "the run keeps no other columns of its table"
    return (
        f"--target {shortened(column)}: no such column; "
        f"{known}{f': {join_names(there)}' if there else ''}, and target for the ground "
        "truth of the run"
    )


def score_rows(rows: Iterable[Answered], scorer: Scorer) -> Iterator[Score]:
    """Yield a verdict for every row, in order; rows whose generation failed are unscorable."""
    every, copy = tee(rows)
    scores = scorer(row for row in copy if not _is_failed(row))
    for row in every:
        if _is_failed(row):
            yield Score(row.id, None, scorer.name, NO_ANSWER)
        else:
            yield next(scores)
    yield from scores  # errors that a scorer raises after its last row


def _is_failed(row: Answered) -> bool:
    return (row.answer or "").startswith(FAILED_ANSWER)


def write_labelled(
    path: Path,
    table: AnswerTable,
    scores: Sequence[Score],
    settings: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a table with its labels and return the file.

    Args:
        path: The file, ``.csv`` or ``.parquet``.
        table: The labelled table.
        scores: One verdict a row, in its order.
        settings: How the labels were made; stored in a Parquet file's schema.
        overwrite: Replace an existing file.

    Raises:
        InputError: The file exists, or is the table itself.
        StoreError: Writing fails.
    """
    if path.exists() and path.resolve() == table.path.resolve():
        raise InputError(f"{path}: is the table itself; give another name")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: is there already; give --overwrite to replace it")
    columns = _columns(table, scores)
    if path.suffix.lower() == ".parquet":
        made = {"settings": dict(settings or {}), "vlmscope_version": __version__}
        publish(path, parquet_bytes(columns, made))
    else:
        publish(path, _csv_bytes(columns))
    return path


def _columns(table: AnswerTable, scores: Sequence[Score]) -> dict[str, list[Any]]:
    """Return the columns of the labelled table, each of one type."""
    columns: dict[str, list[Any]] = {}
    if table.roles.get("id") not in (
        "question_id",
        "id",
    ):  # so that labels can be read from it by id
        columns["question_id"] = list(table.ids)
    for name in table.columns:
        taken = {*LABEL_COLUMNS, *READ_COLUMNS, *columns}
        free = _free(clean_text(name), taken, table.columns)
        columns[free] = _of_one_type([row.get(name) for row in table.cells])
    columns["outcome"] = [score.outcome for score in scores]
    columns["hallucinated"] = [score.hallucinated for score in scores]
    columns["scorer"] = [score.scorer for score in scores]
    columns["evidence"] = [clean_text(score.evidence) for score in scores]
    columns["error_kind"] = [score.error_kind for score in scores]
    return columns


def _free(name: str, taken: Collection[str], others: Collection[str]) -> str:
    """Return a name for a column of the input: its own, unless that is taken.

    Args:
        name: The column.
        taken: Names of other columns of the labelled table.
        others: All columns of the input, whose names are excluded too.

    >>> _free("outcome", ["outcome"], ["outcome", "input_outcome"])
    'input_input_outcome'
    """
    found = name
    while found in taken or (found != name and found in others):
        found = f"input_{found}"
    return found


def _of_one_type(cells: list[Any]) -> list[Any]:
    """Return cells of one Arrow type: unchanged, as numbers, or as JSON text."""
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds <= {str} or (len(kinds) == 1 and kinds <= {bool, float}):
        return cells
    if kinds <= {int, float} and all(c is None or abs(c) < 2**53 for c in cells):
        return cells if kinds == {int} else [c if c is None else float(c) for c in cells]
    return [
        cell if cell is None or isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
        for cell in cells
    ]


def _csv_bytes(columns: Mapping[str, Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return encodable(text.getvalue()).encode()
