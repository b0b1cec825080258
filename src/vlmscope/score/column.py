"""Labels that somebody made already: a column of the table, or a file of labelled questions.

Both are read by the same short list of words, and the word *False* is false: research code that
took any text for true turned every such label around.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from vlmscope.errors import InputError, listed, shortened
from vlmscope.regular import PointerError, open_regular
from vlmscope.schema import Answered, Score, outcome_of
from vlmscope.score.scorer import Finding, excerpt

TRUE = ("true", "1", "1.0", "yes", "hallucinated")
"""Words for a hallucinated answer, whatever their case."""

FALSE = ("false", "0", "0.0", "no", "faithful")
"""Words for a faithful answer."""

EMPTY = ("", "nan", "none", "null", "<na>", "unscorable")
"""Words for no label."""

ID_COLUMNS = ("question_id", "id")
"""Where a label file has its ids, in order of preference."""

LABEL_COLUMNS = ("is_hallucinating_manual", "is_hallucinating", "hallucinated", "label")
"""Where a label file has its labels, in order of preference."""


def read_label(value: object) -> bool | None:
    """Return a label: True for hallucinated, None where the cell is empty.

    Raises:
        ValueError: The value is no label.

    >>> [read_label(value) for value in ("False", 1.0, "Hallucinated", None, float("nan"))]
    [False, True, True, None, None]
    """
    word = str(value).strip().lower()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    if word in EMPTY:
        return None
    raise ValueError(f"{excerpt(str(value), 30)} is no label; write true, false or nothing")


@dataclass(frozen=True, slots=True)
class Reading:
    """How cells were read as labels: what a person checks before trusting the labels.

    ``label = 1`` may mean hallucinated or right; only whoever made the file knows.
    """

    column: str
    """Name of the column."""
    cells: Mapping[tuple[str, bool | None], int]
    """Cell, stripped, and the label that it was read as → rows; the most rows first."""
    not_labels: int = 0
    """Rows whose cell is no label."""

    def __str__(self) -> str:
        """Return it as one line.

        >>> str(Reading("label", {("1", True): 100, ("0", False): 140, ("", None): 3}))
        'label = 1 → hallucinated, 100 rows; 0 → faithful, 140; empty → unscorable, 3'
        """
        told = [
            f"{_shown(cell)} → {outcome_of(label)}, {rows:,}"
            for (cell, label), rows in self.cells.items()
        ]
        if told:
            told[0] += " row" if next(iter(self.cells.values())) == 1 else " rows"
        told += [f"no label → unscorable, {self.not_labels:,}"] if self.not_labels else []
        return f"{shortened(self.column)} = {'; '.join(told) or 'in no row'}"

    def record(self) -> dict[str, Any]:
        """Return it as plain data."""
        cells = [
            {"cell": cell, "outcome": outcome_of(label), "rows": rows}
            for (cell, label), rows in self.cells.items()
        ]
        return {"column": self.column, "cells": cells, "not_labels": self.not_labels}


def _shown(cell: str) -> str:
    return shortened(cell, 30) or "empty"


class Column:
    """Reads the labels from a column of the table that the run was made of.

    Args:
        column: Name of the column.
    """

    name = "column"

    def __init__(self, column: str) -> None:
        self.column = column
        self.reading = Reading(column, {})
        """How the cells were read, after the last row."""

    def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
        """Yield a verdict for every row.

        Raises:
            InputError: After the last row, if no row has the column, or a label in it.
        """
        others: set[str] = set()
        cells: Counter[tuple[str, bool | None]] = Counter()
        bad = total = not_labels = 0
        for row in rows:
            finding, is_label = self._find(row)
            total += 1
            not_labels += not is_label
            if is_label:
                cells[_cell(row.metadata.get(self.column)), finding.hallucinated] += 1
            bad += finding.evidence.startswith("no label")
            others |= row.metadata.keys()
            yield finding.score(row, self.name)
        if total and self.column not in others:
            have = listed(sorted(others)) or "none"
            raise InputError(f"--column {self.column}: no such column; there are: {have}")
        if total and bad == total:
            raise InputError(
                f"--column {self.column}: no row holds a label, expected true or false, 1 or 0, "
                "yes or no, hallucinated or faithful; name another column"
            )
        self.reading = Reading(self.column, dict(cells.most_common()), not_labels)

    def _find(self, row: Answered) -> tuple[Finding, bool]:
        """Return what the cell says, and whether it is a label or a gap at all."""
        value = row.metadata.get(self.column)
        try:
            label = read_label(value)
        except ValueError as error:
            return Finding(None, f"no label in the column: {error}"), False
        if label is None:
            return Finding(None, f"no label in the column: {self.column} is empty"), True
        return Finding(label, f"{self.column} is {value}"), True


class LabelFile:
    """Reads the labels from a CSV file by question id.

    Args:
        path: The file.
        id_column: Its column of ids; by default the first of ``ID_COLUMNS`` that it has.
        label_column: Its column of labels; by default the first of ``LABEL_COLUMNS``.
    """

    name = "file"

    def __init__(
        self, path: Path, id_column: str | None = None, label_column: str | None = None
    ) -> None:
        self._column, self._cells = _read_file(path, id_column, label_column)
        self.labels = {id_: read_label(cell) for id_, cell in self._cells.items()}
        self._file = Path(path).name
        self.reading = Reading(self._column, {})
        """How the cells of the rows were read, after the last row."""

    def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
        """Yield a verdict for every row."""
        cells: Counter[tuple[str, bool | None]] = Counter()
        for row in rows:
            if row.id in self.labels:
                cells[_cell(self._cells[row.id]), self.labels[row.id]] += 1
            yield self._find(row.id).score(row, self.name)
        self.reading = Reading(self._column, dict(cells.most_common()))

    def unknown(self, ids: Collection[str]) -> list[str]:
        """Return the ids of the file that are not among ``ids``."""
        known = set(ids)
        return [id_ for id_ in self.labels if id_ not in known]

    def _find(self, id_: str) -> Finding:
        if id_ not in self.labels:
            return Finding(None, f"not in the label file: {self._file}")
        label = self.labels[id_]
        if label is None:
            return Finding(None, f"no label in the file: {self._file}")
        return Finding(label, f"{self._file} says {'hallucinated' if label else 'faithful'}")


def read_label_file(
    path: Path, id_column: str | None = None, label_column: str | None = None
) -> dict[str, bool | None]:
    """Return the labels of a CSV file by question id, None where the cell is empty.

    Args:
        path: The file.
        id_column: Its column of ids; by default the first of ``ID_COLUMNS`` that it has.
        label_column: Its column of labels; by default the first of ``LABEL_COLUMNS``.

    Raises:
        InputError: The file cannot be read, lacks a column, or a cell holds no label.
    """
    _, cells = _read_file(path, id_column, label_column)
    return {id_: read_label(cell) for id_, cell in cells.items()}


def _cell(value: object) -> str:
    """Return a cell as it is counted: text without blanks around it, empty for a gap.

    >>> _cell(None), _cell(float("nan")), _cell(" Yes "), _cell(1)
    ('', '', 'Yes', '1')
    """
    return "" if value is None or value != value else str(value).strip()


def _read_file(
    path: Path, id_column: str | None, label_column: str | None
) -> tuple[str, dict[str, str]]:
    """Return the column of labels that a file has, and its cells by question id."""
    try:
        with TextIOWrapper(open_regular(path), "utf-8-sig", newline="") as file:
            return _read(_lines(file), path, id_column, label_column)
    except PointerError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give a CSV file of labels") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file: {error}; save it as CSV again") from error


def _lines(file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the number of its last line."""
    reader = csv.reader(file, strict=True)
    for cells in reader:
        if cells:
            yield reader.line_num, cells


def _read(
    lines: Iterator[tuple[int, list[str]]],
    path: Path,
    id_column: str | None,
    label_column: str | None,
) -> tuple[str, dict[str, str]]:
    _, header = next(lines, (0, []))
    ids = _column(path, header, id_column, ID_COLUMNS)
    at = _column(path, header, label_column, LABEL_COLUMNS)
    labels: dict[str, bool | None] = {}
    found: dict[str, str] = {}
    for number, cells in lines:
        place = f"{path} line {number}"
        if len(cells) != len(header):
            raise InputError(
                f"{place}: {len(cells)} cells, expected {len(header)} as in the header; quote "
                "cells that hold commas"
            )
        try:
            label = read_label(cells[at])
        except ValueError as error:
            raise InputError(f"{place}: column {header[at]}: {error}") from error
        if labels.setdefault(cells[ids], label) != label:
            raise InputError(
                f"{place}: {cells[ids]!r} has another label than before; keep one of the lines"
            )
        found.setdefault(cells[ids], cells[at])
    return header[at], found


def _column(path: Path, header: list[str], wanted: str | None, usual: tuple[str, ...]) -> int:
    """Return where a column stands."""
    for name in (wanted,) if wanted else usual:
        if name in header:
            return header.index(name)
    raise InputError(
        f"{path}: no column {wanted or ' or '.join(usual)} in the header, found "
        f"{listed(header) or 'none'}; rename a column"
    )
