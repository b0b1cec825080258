"""Detection of the delimiter and of quoting in a delimited text.

pandas and Excel quote a field that contains a quotation mark; other programs write TSV unquoted,
where a mark at the beginning of a field is part of the text. Read with quoting, such a mark would
swallow everything up to the next one, including rows, without an error. Which of the two a file is
gets decided once, from the complete file; if it cannot be decided, the file is refused.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vlmscope.dataset.column_names import suggestion
from vlmscope.dataset.encoded import is_encoded
from vlmscope.dataset.images.cells import has_image_suffix

_WELL_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_DIGITS = re.compile(r"\d+")
_LETTERS = re.compile(r"[^\W\d_]+")
_HASH = re.compile(r"[0-9a-f-]{6,}")
_LONG_NUMBER = 4
"""Fewest digits of a number that may be the name of an image: other numbers are shorter."""

_BREAK = re.compile(r"\r\n|\r|\n")

DELIMITERS = "\t,;|"
"""Possible delimiters."""


def find_delimiter(header: str, declared: str) -> str:
    """Return the delimiter of a table by its header: the declared one if it occurs.

    >>> find_delimiter("id;image;question", ","), find_delimiter("id", ",")
    (';', ',')
    """
    line = header.rstrip("\r\n")
    if declared in line:
        return declared
    return max(DELIMITERS, key=lambda mark: (line.count(mark), mark == declared))


class UndecidedError(ValueError):
    """It is undecidable whether lines are rows or the text of a cell; the message is a row's id."""


def is_quoted(lines: Callable[[], Iterable[str]], delimiter: str) -> bool:
    r"""Return whether quotation marks in the lines of a file are quoting.

    They are not if every line, read without quoting, has as many fields as the header, and one
    field has marks that no quoting writer would write; unless cells of several lines explain these
    marks, and those lines are not rows.

    Args:
        lines: Returns the lines, from the first one at each call.
        delimiter: What stands between fields.

    Raises:
        UndecidedError: The lines may be rows or the text of a cell.

    >>> is_quoted(lambda: ['a\tb', '1\t"x"'], "\t")
    True
    >>> is_quoted(lambda: ['image\tq\n', 'a.png\t"x\n', 'b.png\ty"\n'], "\t")
    False
    """
    return _seems_quoted(lines(), delimiter) or _holds_lines(lines, delimiter)


def _seems_quoted(lines: Iterable[str], delimiter: str) -> bool:
    """Return whether the marks are clearly quoting."""
    expected = None
    malformed = False
    for line in lines:
        bare = line.rstrip("\r\n")
        if not bare:
            continue
        count = bare.count(delimiter)
        if expected is None:
            expected = count
        if count != expected:
            return True
        if '"' in bare and not malformed:
            malformed = any(
                '"' in field and not _WELL_QUOTED.fullmatch(field)
                for field in bare.split(delimiter)
            )
    return not malformed


def _holds_lines(lines: Callable[[], Iterable[str]], delimiter: str) -> bool:
    """Return whether a text, read with quoting, is a table with multi-line cells.

    Raises:
        UndecidedError: The lines may be rows or the text of a cell.
    """
    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    long: list[list[str]] = []
    ids: list[str] = []
    try:
        header = next((fields for fields in reader if fields), [])
        shape, line = shape_of(header), reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != shape.count:
                return False
            if fields:
                ids.append(fields[shape.id])
                if reader.line_num > line:
                    long.append(fields)
            line = reader.line_num + 1
    except csv.Error:
        return False
    table = _Rows(shape, frozenset(ids), len(set(ids)) == len(ids), question_of(header))
    verdicts = [table.holds_rows(fields, delimiter) for fields in long]
    if not verdicts:
        return False
    if {True, False} <= set(verdicts) or set(verdicts) == {None}:
        raise UndecidedError(long[0][shape.id])
    return False in verdicts


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a table, read with quoting."""

    shape: RowShape
    """Their shape."""
    ids: frozenset[str]
    """Their ids."""
    is_unique: bool
    """Whether the ids are unique."""
    question: int
    """Position of the question."""

    def holds_rows(self, fields: Sequence[str], delimiter: str) -> bool | None:
        """Return whether the lines of a cell are rows of their own; None if they may be.

        Unlike ``swallowed_ids`` it is used when quoting itself is in doubt: ambiguous evidence
        decides nothing.
        """
        first, others = _lines_of(fields, delimiter)
        if any(len(row) != self.shape.count for row in (first, *others)):
            return False
        known = self.ids if self.is_unique else frozenset[str]()
        found = swallowed_ids(fields, delimiter, self.shape)
        if found and known.isdisjoint(found):
            return True
        if not all(any(map(str.isalpha, row[self.question])) for row in others):
            return False  # every row has a question
        are_images = self._are_images(first, others)
        if are_images is False:
            return False
        ids = [row[self.shape.id].strip('"') for row in others]
        own = fields[self.shape.id] in ids  # several questions about an image may have one id
        return are_images if own or known.isdisjoint(ids) else False

    def _are_images(self, first: Sequence[str], others: Sequence[Sequence[str]]) -> bool | None:
        """Return whether the cells in the image column are images; None if they may be."""
        if self.shape.image is None:
            return None
        known = first[self.shape.image]
        verdicts = {_is_image(row[self.shape.image], known) for row in others}
        if False in verdicts or True in verdicts:
            return False not in verdicts
        # Gaps, or numbers, which are not images if another row has the name of a file.
        is_file = bool(known.strip('"').strip()) and not known.strip('"').isdecimal()
        gaps = not all(row[self.shape.image].strip('"').strip() for row in others)
        return False if is_file and not gaps else None


def _lines_of(fields: Sequence[str], delimiter: str) -> tuple[list[str], list[list[str]]]:
    """Return a row's lines in the file, split into fields: the first, and the others."""
    text = delimiter.join(f'"{field}"' if _BREAK.search(field) else field for field in fields)
    first, *others = (line.split(delimiter) for line in _BREAK.split(text))
    return first, others


@dataclass(frozen=True, slots=True)
class RowShape:
    """The shape of a table's rows: number of fields, and positions of id and image."""

    count: int
    """Number of fields in the header."""
    id: int
    """Position of the id."""
    image: int | None
    """Position of the image; None without one."""


def shape_of(header: Sequence[str]) -> RowShape:
    """Return the shape of a table's rows by the names of its columns.

    >>> shape_of(["image", "qid", "question"])
    RowShape(count=3, id=1, image=0)
    """
    named = {field: suggestion(field, header) for field in ("id", "image")}
    at = {field: header.index(name) for field, name in named.items() if name is not None}
    return RowShape(len(header), at.get("id", 0), at.get("image"))


def question_of(header: Sequence[str]) -> int:
    """Return the position of the question by the names of the columns; else the last position.

    >>> question_of(["id", "question", "answer"]), question_of(["a", "b"])
    (1, 1)
    """
    named = suggestion("question", header)
    return len(header) - 1 if named is None else header.index(named)


def swallowed_ids(fields: Sequence[str], delimiter: str, shape: RowShape) -> tuple[str, ...]:
    r"""Return the ids of the rows that a quotation mark joined to one; empty if it is one row.

    Several rows were read as one if each line has the header's number of fields, and those after
    the first look like rows: their ids have the form of its id, and their image cells look like
    images. A table of numbers in a question does not count.

    Args:
        fields: The fields of the row, one of which contains a line break.
        delimiter: What stands between fields.
        shape: The shape of the table's rows.

    >>> shape = RowShape(3, id=0, image=1)
    >>> swallowed_ids(["1", "a1.png", "Is it?\n2,a2.png,Is it?"], ",", shape)
    ('2',)
    >>> swallowed_ids(["1", "a1.png", "Add these up:\n1,2,3\n4,5,6"], ",", shape)
    ()
    """
    first, others = _lines_of(fields, delimiter)
    if not others or any(len(row) != shape.count for row in (first, *others)):
        return ()
    if not all(_is_form_of(row[shape.id], first[shape.id]) for row in others):
        return ()
    found = (
        _share_a_text(first, others[-1], shape)
        if shape.image is None
        else _are_images([row[shape.image] for row in others], first[shape.image])
    )
    if not found:
        return ()
    # The row has the id of its first line, or of its last if the text comes before the id.
    inner = others if first[shape.id] == fields[shape.id] else [first, *others[:-1]]
    return tuple(row[shape.id].strip('"') for row in inner)


def _are_images(cells: Sequence[str], first: str) -> bool:
    """Return whether a cell is certainly an image, and none is certainly something else."""
    verdicts = [_is_image(cell, first) for cell in cells]
    return any(verdicts) and False not in verdicts


def _is_image(cell: str, first: str) -> bool | None:
    """Return whether a cell is an image; None for a gap, or a number that may be one."""
    cell = cell.strip('"')
    if has_image_suffix(cell) or is_encoded(cell):
        return True
    if cell.isdecimal():  # a number counts if it is as long as that of the first row
        return True if len(cell) == len(first) >= _LONG_NUMBER and first.isdecimal() else None
    return _is_form_of(cell, first) if cell.strip() else None


def _share_a_text(first: Sequence[str], last: Sequence[str], shape: RowShape) -> bool:
    """Return whether two rows share a cell that is neither the id nor a number."""
    return any(
        at != shape.id and '"' not in one + other and _form(one) == _form(other) not in ("", "0")
        for at, (one, other) in enumerate(zip(first, last, strict=True))
    )


def _is_form_of(cell: str, known: str) -> bool:
    """Return whether a cell has the form of a known one; undecidable with a quotation mark.

    >>> _is_form_of("q17_b", "q2_cat"), _is_form_of("red", "q1"), _is_form_of("a07fe1", "0b1e22")
    (True, False, True)
    """
    if '"' in cell or '"' in known or _form(cell) == _form(known):
        return True
    return len(cell) == len(known) and all(_HASH.fullmatch(text) for text in (cell, known))


def _form(text: str) -> str:
    return _LETTERS.sub("a", _DIGITS.sub("0", text))
