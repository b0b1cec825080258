"""Scorers for existing labels: a column of the table, or a file of labelled questions.

Both use the same short list of words, and the word *False* is false: research code that treated any
text as true inverted every such label.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from vlmscope.errors import InputError, join_names, shortened
from vlmscope.regular import PointerError, open_regular
from vlmscope.schema import NOT_IN_FILE, Answered, Outcome, Score, outcome_of
from vlmscope.score.scorer import Finding, excerpt

TRUE = ("true", "yes", "t", "y")
FALSE = ("false", "no", "f", "n")
"""Words in the name of a label column, in any case."""

HALLUCINATED = ("hallucinated", "hallucination", "incorrect", "wrong", "unfaithful")
FAITHFUL = ("faithful", "correct", "right")
"""Words for an answer, in a column of any name."""

_RIGHT = frozenset(("correct", "right", "faithful", "truthful", "accurate", "grounded"))
_NOT_RIGHT = re.compile(r"^(?:not|non|un|in|wrong|halluc\w*)$")
_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")

FEWEST_TRUTHS = 5
"""Minimum number of rows with cells equal to the ground truth for a column to be rejected as a
copy."""

GAPS = ("", "nan", "none", "null", "<na>", "unlabelled")
"""Empty cells: the answer is unlabelled."""

EMPTY = (*GAPS, "unscorable")
"""Words for no label."""

ID_COLUMNS = ("question_id", "id")
"""Where a label file has its ids, in order of preference."""

LABEL_COLUMNS = (
    "is_hallucinating_manual", "is_hallucinating", "hallucinated", "is_hallucinated", "label",
    "is_faithful", "faithful", "is_correct", "correct",
)  # fmt: skip
"""Where a label file has its labels, in order of preference."""

MANUAL_COLUMN = LABEL_COLUMNS[0]
"""Labels that were corrected by hand: they may differ from those of other columns."""

_UNMISTAKABLE = tuple(
    name for name in LABEL_COLUMNS if name not in (MANUAL_COLUMN, "label", "correct")
)
"""Columns of labels by their names; ``label`` and ``correct`` may be the ground truth."""


def is_gap(value: object) -> bool:
    """Return whether a cell is empty: the answer is unlabelled.

    >>> [is_gap(value) for value in (None, float("nan"), " ", "unscorable", 0)]
    [True, True, True, False, False]
    """
    return str(value).strip().lower() in GAPS


def means_right(column: str) -> bool:
    """Return whether *true* in a column of this name says that the answer is right.

    >>> [name for name in ("is_correct", "isFaithful", "incorrect", "not_correct", "label", "score")
    ...  if means_right(name)]
    ['is_correct', 'isFaithful']
    """
    parts = [part.lower() for part in _PARTS.findall(column)]
    return not _RIGHT.isdisjoint(parts) and not any(map(_NOT_RIGHT.match, parts))


EMPTY_IN_FILE = "no label in the file"
"""Evidence of a row whose cell in a label file is empty; the file's name follows."""

NONE_IN_COLUMN = "no label in the column"
"""Evidence of a row whose cell in a column of labels is empty, or is not a label."""


def lacks_label(score: Score) -> str:
    """Return why a row is unlabelled; empty if it has a label, or is unscorable.

    It is unknown whether an unlabelled answer is scorable.

    >>> lacks_label(Score("q1", None, "file", "not in the label file: human.csv", labelled=False))
    'no label in human.csv'
    >>> lacks_label(Score("q1", None, "auto", "the answer needs a judge"))
    ''
    """
    start, _, rest = score.evidence.partition(": ")
    if score.labelled:
        return ""
    if start in (NOT_IN_FILE, EMPTY_IN_FILE):
        return f"no label in {rest}"
    return start if start == NONE_IN_COLUMN else ""


def read_label(value: object, column: str = "") -> bool | None:
    """Return a label: True for hallucinated, None for an empty cell.

    Args:
        value: The cell.
        column: Name of its column: 1 in *is_correct* is not a hallucination.

    Raises:
        ValueError: The value is not a label.

    >>> [read_label(value) for value in ("False", 1.0, "Hallucinated", None, float("nan"))]
    [False, True, True, None, None]
    """
    word = str(value).strip().lower()
    if word in EMPTY:
        return None
    if word in HALLUCINATED or word in FAITHFUL:
        return word in HALLUCINATED
    number = _number(word)
    if word in TRUE or number == 1:
        return not means_right(column)
    if word in FALSE or number == 0:
        return means_right(column)
    raise ValueError(
        f"{excerpt(str(value), 30)} is not a label; expected true, false or an empty cell"
    )


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


@dataclass
class _TruthCheck:
    """Detects a column of *yes* and *no* that is the ground truth rather than labels.

    It is, if every cell is the row's ground truth and an answer equal to both is labelled
    hallucinated.
    """

    rows: int = 0
    mismatches: int = 0
    inconsistent: bool = False

    def add(self, row: Answered, cell: object, label: bool | None) -> None:
        """Add a row whose cell is not empty."""
        if is_gap(cell):
            return
        word = _first_word(cell)
        self.rows += 1
        if self.mismatches or word not in ("yes", "no") or word != _first_word(row.target):
            self.mismatches += 1  # not the ground truth: no further checks needed
            return
        self.inconsistent |= label is True and word == _first_word(row.answer)

    def refuse_truth(self, where: str) -> None:
        """Raise if the column is the ground truth."""
        if self.inconsistent and not self.mismatches and self.rows >= FEWEST_TRUTHS:
            raise InputError(
                f"{where}: its yes and no are the truth in all {self.rows:,} rows, not labels of "
                "the answers; name a column with labels, or omit it to label by the rules"
            )


def _first_word(text: object) -> str:
    found = re.match(r"\W*(\w+)", str(text or ""))
    return found[1].lower() if found else ""


@dataclass(frozen=True, slots=True)
class Reading:
    """How cells were read as labels, for the user to check.

    ``label = 1`` may mean hallucinated or right; only the author of the file knows.
    """

    column: str
    """Name of the column."""
    cells: Mapping[tuple[str, bool | None], int]
    """Stripped cell and its label → number of rows, in descending order."""
    not_labels: int = 0
    """Number of rows whose cell is not a label."""

    def __str__(self) -> str:
        """Return it as one line.

        >>> str(Reading("label", {("1", True): 100, ("0", False): 140, ("", None): 3}))
        'label = 1 → hallucinated, 100 rows; 0 → faithful, 140; empty → unlabelled, 3'
        """
        parts = [
            f"{_shown(cell)} → {_outcome(cell, label)}, {rows:,}"
            for (cell, label), rows in self.cells.items()
        ]
        if parts:
            parts[0] += " row" if next(iter(self.cells.values())) == 1 else " rows"
        parts += [f"no label → unscorable, {self.not_labels:,}"] if self.not_labels else []
        return f"{shortened(self.column)} = {'; '.join(parts) or 'in no row'}"

    def record(self) -> dict[str, Any]:
        """Return it as plain data."""
        cells = [
            {"cell": cell, "outcome": _outcome(cell, label), "rows": rows}
            for (cell, label), rows in self.cells.items()
        ]
        return {"column": self.column, "cells": cells, "not_labels": self.not_labels}


def _outcome(cell: str, label: bool | None) -> Outcome:
    return outcome_of(label, labelled=not is_gap(cell))


def _shown(cell: str) -> str:
    return shortened(cell, 30) or "empty"


class Column:
    """Read the labels from a column of the run's table.

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
        check = _TruthCheck()
        for row in rows:
            finding, is_label = self._find(row)
            check.add(row, row.metadata.get(self.column), finding.hallucinated)
            total += 1
            not_labels += not is_label
            if is_label:
                cells[_cell(row.metadata.get(self.column)), finding.hallucinated] += 1
            bad += finding.evidence.startswith("no label")
            others |= row.metadata.keys()
            yield finding.score(row, self.name)
        if total and self.column not in others:
            have = join_names(sorted(others)) or "none"
            raise InputError(f"--column {self.column}: no such column; there are: {have}")
        check.refuse_truth(f"--column {self.column}")
        if total and bad == total:
            raise InputError(
                f"--column {self.column}: no row contains a label, expected true or false, 1 or 0, "
                "yes or no, hallucinated or faithful, incorrect or correct; name another column"
            )
        self.reading = Reading(self.column, dict(cells.most_common()), not_labels)

    def _find(self, row: Answered) -> tuple[Finding, bool]:
        """Return the label of the cell, and whether it is a label or a gap."""
        value = row.metadata.get(self.column)
        try:
            label = read_label(value, self.column)
        except ValueError as error:
            return Finding(None, f"{NONE_IN_COLUMN}: {error}"), False
        if label is None:
            gap = is_gap(value)
            what = "is empty" if gap else f"is {value}"
            return Finding(None, f"{NONE_IN_COLUMN}: {self.column} {what}", not gap), True
        return Finding(label, f"{self.column} is {value}"), True


class LabelFile:
    """Read the labels from a CSV file by question id.

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
        self.labels = {id_: read_label(cell, self._column) for id_, cell in self._cells.items()}
        self._file = Path(path).name
        self.reading = Reading(self._column, {})
        """How the cells of the rows were read, after the last row."""

    def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
        """Yield a verdict for every row."""
        cells: Counter[tuple[str, bool | None]] = Counter()
        check = _TruthCheck()
        for row in rows:
            if row.id in self.labels:
                check.add(row, self._cells[row.id], self.labels[row.id])
                cells[_cell(self._cells[row.id]), self.labels[row.id]] += 1
            yield self._find(row.id).score(row, self.name)
        check.refuse_truth(f"{self._file}: column {self._column}")
        self.reading = Reading(self._column, dict(cells.most_common()))

    @property
    def unscorable(self) -> frozenset[str]:
        """The ids whose cell is not empty and marks the answer as unscorable."""
        return frozenset(
            id_ for id_, label in self.labels.items()
            if label is None and not is_gap(self._cells[id_])
        )  # fmt: skip

    def unknown(self, ids: Collection[str]) -> list[str]:
        """Return the ids of the file that are not among ``ids``."""
        known = set(ids)
        return [id_ for id_ in self.labels if id_ not in known]

    def _find(self, id_: str) -> Finding:
        if id_ not in self.labels:
            return Finding(None, f"{NOT_IN_FILE}: {self._file}", labelled=False)
        label = self.labels[id_]
        if label is None:
            gap = is_gap(self._cells[id_])
            return Finding(None, f"{EMPTY_IN_FILE}: {self._file}", labelled=not gap)
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
        InputError: The file cannot be read, lacks a column, a cell is not a label, or columns of
            labels contradict each other and none of them is named.
    """
    column, cells = _read_file(path, id_column, label_column)
    return {id_: read_label(cell, column) for id_, cell in cells.items()}


def _cell(value: object) -> str:
    """Return a cell as counted in ``Reading``: stripped text, empty for a gap.

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
    others = _other_columns(header, at) if label_column is None else []
    labels: dict[str, bool | None] = {}
    found: dict[str, str] = {}
    for number, cells in lines:
        position = f"{path} line {number}"
        if len(cells) != len(header):
            raise InputError(
                f"{position}: {len(cells)} cells, expected {len(header)} as in the header; quote "
                "cells that contain commas"
            )
        try:
            label = read_label(cells[at], header[at])
        except ValueError as error:
            raise InputError(f"{position}: column {header[at]}: {error}") from error
        for other in (other for other in others if _differs(label, cells[other], header[other])):
            raise InputError(
                f"{position}: question {cells[ids]!r}: {header[at]} is {cells[at]!r}, but "
                f"{header[other]} is {cells[other]!r}; correct the row, or remove the column that "
                "is wrong"
            )
        if labels.setdefault(cells[ids], label) != label:
            raise InputError(
                f"{position}: {cells[ids]!r} has another label in an earlier line; keep one of them"
            )
        found.setdefault(cells[ids], cells[at])
    if not found:
        raise InputError(f"{path}: has no rows below its header; give a file with labels")
    return header[at], found


def _other_columns(header: list[str], at: int) -> list[int]:
    """Return the further columns of labels, which must not contradict the one that is read."""
    if header[at].strip().casefold() == MANUAL_COLUMN:
        return []
    found = (find_column(header, (name,)) for name in _UNMISTAKABLE)
    return [other for other in found if other is not None and other != at]


def _differs(label: bool | None, cell: str, column: str) -> bool:
    """Return whether the cell of another column contradicts a label.

    >>> _differs(True, "1", "is_correct"), _differs(True, "0", "is_correct")
    (True, False)
    >>> _differs(True, "", "is_correct"), _differs(True, "a cat", "faithful")
    (False, False)
    """
    try:
        other = read_label(cell, column)
    except ValueError:
        return False
    return None not in (label, other) and label != other


def find_column(header: Sequence[str], candidates: Sequence[str]) -> int | None:
    """Return the index of the first candidate in a header, ignoring case if none matches exactly.

    >>> find_column(["ID", " Label"], ID_COLUMNS), find_column(["a"], ID_COLUMNS)
    (0, None)
    """
    plain = [name.strip().casefold() for name in header]
    exact = next((header.index(name) for name in candidates if name in header), None)
    if exact is not None:
        return exact
    return next((plain.index(name) for name in candidates if plain.count(name) == 1), None)


def _column(
    path: Path, header: list[str], requested: str | None, candidates: tuple[str, ...]
) -> int:
    """Return the index of a column."""
    found = find_column(header, candidates) if requested is None else None
    if requested is not None and requested in header:
        found = header.index(requested)
    if found is not None:
        return found
    raise InputError(
        f"{path}: no column {requested or ' or '.join(candidates)} in the header, found "
        f"{join_names(header) or 'none'}; rename a column"
    )
