"""Tables of questions with ground truths and a model's answers from elsewhere, without images.

Readers and rules for cells are those of a table of questions; only the columns' roles differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

from vlmscope.dataset.column_names import looks_like_data, plain_header
from vlmscope.dataset.rows.columns import CATEGORY, SHOWN_COLUMNS, check_category
from vlmscope.dataset.rows.pattern import Pattern, parse_pattern
from vlmscope.dataset.source import Row, Source
from vlmscope.dataset.tables.opening import READERS, open_source
from vlmscope.dataset.values import (
    LEFT_OUT,
    CellError,
    is_blank,
    kind_name,
    to_json,
    to_target,
    to_text,
)
from vlmscope.errors import InputError, join_names, shortened
from vlmscope.schema import LONGEST_ID, Answered

ANSWER_TABLES = tuple(READERS)
"""Extensions of the supported files."""

KNOWN: Mapping[str, tuple[str, ...]] = {
    "id": ("question_id", "id"),
    "question": ("question",),
    "target": ("ground_truth_answer", "gt_answer", "ground_truth", "target", "truth", "reference"),
    "answer": ("model_answer", "generated_answer", "prediction", "response", "answer"),
    CATEGORY: (CATEGORY,),
}
"""Field → names of columns to look for; the first one present wins."""

OPTIONAL = ("id", CATEGORY)
"""Fields that a table need not have a column of, unless one is named."""


@dataclass(frozen=True, slots=True)
class AnswerFields:
    """The column of each field. ``None``: look for the known names."""

    id: str | None = None
    """Column of the question id; a table without one has its rows numbered."""
    question: str | None = None
    """Column of the question."""
    target: str | None = None
    """Column of the ground truth."""
    answer: str | None = None
    """Column of the model's answer."""
    category: str | None = None
    """Column of the kind of question; otherwise that of this name, if the table has one."""


def parse_answer_mapping(items: Sequence[str]) -> AnswerFields:
    """Read the values of ``--map field=column`` for a table of answers.

    Raises:
        InputError: An item is no such pair, its field is unknown, or a field is given twice.

    >>> parse_answer_mapping(["answer=said"])
    AnswerFields(id=None, question=None, target=None, answer='said', category=None)
    """
    names = tuple(field.name for field in fields(AnswerFields))
    found = AnswerFields()
    for item in items:
        field, _, column = item.partition("=")
        if field not in names or not column:
            raise InputError(
                f"--map {item!r}: expected field=column with one of the fields {', '.join(names)}; "
                "for example --map answer=model_answer"
            )
        if getattr(found, field) is not None:
            raise InputError(f"--map {item!r}: {field} is already mapped; give each field once")
        found = replace(found, **{field: column})
    return found


@dataclass(frozen=True, slots=True)
class AnswerTable:
    """A table of answers, in memory. Made by ``read_answers``."""

    path: Path
    """The file."""
    columns: tuple[str, ...]
    """The columns that can be written out again: text, numbers or plain JSON."""
    cells: tuple[Mapping[str, Any], ...]
    """Column → value of each row."""
    answered: tuple[Answered, ...]
    """What a scorer reads from each row."""
    roles: Mapping[str, str]
    """Field → column it was read from; no ``id`` if rows are numbered."""

    def __len__(self) -> int:
        return len(self.answered)

    @property
    def ids(self) -> tuple[str, ...]:
        """The question ids."""
        return tuple(row.id for row in self.answered)

    def answers(self) -> Iterator[Answered]:
        """Yield what a scorer reads from each row, as ``Run.answers`` does."""
        return iter(self.answered)


def read_answers(
    path: str | PathLike[str],
    spec: AnswerFields | None = None,
    *,
    question_template: str | None = None,
) -> AnswerTable:
    """Read a table of questions, ground truths and answers: CSV, TSV, JSON, JSONL or Parquet.

    Args:
        path: The file.
        spec: The columns of each field.
        question_template: Question with columns in braces, as it was asked: ``{question}
            {options}``.

    Raises:
        InputError: It cannot be read, columns are missing, or a row has no usable id or cell.
    """
    source, _ = open_source(path)
    columns = source.columns()
    is_made = question_template is not None
    roles = _roles(spec or AnswerFields(), columns, source.name, made=is_made)
    template = _template(question_template, columns, roles, source.name)
    kept: list[dict[str, Any]] = []
    answered: list[Answered] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(source.rows(), 1):
        plain = {name: _plain(source, row, name) for name in columns}
        plain = {name: value for name, value in plain.items() if value is not LEFT_OUT}
        found = _answered(source, row, number, roles, plain, template)
        first = seen.setdefault(found.id, row.number)
        if first != row.number:
            raise InputError(
                f"{_origin(source, row)}: the id {shortened(found.id)!r} is also in {source.unit} "
                f"{first}; give each row its own id, or name another column with --map id=COLUMN"
            )
        kept.append(plain)
        answered.append(found)
    if not answered:
        raise InputError(f"{source.name}: 0 rows; expected at least one")
    names = tuple(dict.fromkeys(name for row in kept for name in row))
    names = tuple(name for name in names if not _is_vectors(kept, name))
    return AnswerTable(Path(path), names, tuple(kept), tuple(answered), roles)


def _template(
    text: str | None, columns: Sequence[str], roles: Mapping[str, str], table: str
) -> Pattern | None:
    if text is None:
        return None
    return parse_pattern(text, columns, roles, "--question-template", table, escapes=True)


def _roles(
    spec: AnswerFields, found: Sequence[str], table: str, *, made: bool = False
) -> dict[str, str]:
    """Return the column of each field; the question's may be missing if a template makes it.

    Raises:
        InputError: Columns are missing, all listed in one message, or a column appears twice.
    """
    if looks_like_data(found) and not _role(KNOWN["question"], found):
        raise InputError(
            f"{table}: the first line looks like data ({join_names(found, 4)}), not like names of "
            "columns; write a line with their names above it, such as id,question,truth,answer"
        )
    if twice := [name for name, times in Counter(found).items() if times > 1]:
        raise InputError(
            f"{table}: column {shortened(twice[0])!r} appears twice; rename one of the two"
        )
    roles: dict[str, str] = {}
    missing: dict[str, tuple[str, ...]] = {}
    for field, known in KNOWN.items():
        asked = getattr(spec, field)
        names = known if asked is None else (asked,)
        here = _role(names, found)
        if here is not None:
            roles[field] = here
        elif asked is not None or not (field in OPTIONAL or (made and field == "question")):
            missing[field] = names
    if missing:
        lack = " and ".join(
            f"the {field} ({' or '.join(names)})" for field, names in missing.items()
        )
        maps = " ".join(f"--map {field}=COLUMN" for field in missing)
        raise InputError(
            f"{table}: no column for {lack}: give {maps}; columns found: "
            f"{join_names(found, SHOWN_COLUMNS) or 'none'}"
        )
    if spec.category is not None:
        others = {field: (column,) for field, column in roles.items() if field != CATEGORY}
        check_category(spec.category, roles[CATEGORY], others, found, table)
    return roles


def _role(names: Iterable[str], found: Sequence[str]) -> str | None:
    """Return the first column with such a name, else one that differs in case or spaces only."""
    here = next((name for name in names if name in found), None)
    if here is not None:
        return here
    for name in names:
        matching = [column for column in found if plain_header(column) == plain_header(name)]
        if len(matching) == 1:
            return matching[0]
    return None


def _answered(
    source: Source,
    row: Row,
    number: int,
    roles: Mapping[str, str],
    plain: Mapping[str, Any],
    template: Pattern | None,
) -> Answered:
    """Return what a scorer reads from a row."""
    target = to_target(row.values.get(roles["target"]), source.missing)
    category = roles.get(CATEGORY)
    return Answered(
        id=_id(source, row, number, roles.get("id")),
        question=_question(source, row, roles, template),
        answer=_text(source, row, "answer", roles["answer"]),
        target=target or "",
        metadata=plain if category is None else {**plain, CATEGORY: plain.get(category)},
    )


def _question(source: Source, row: Row, roles: Mapping[str, str], template: Pattern | None) -> str:
    """Return the question: its column's text, or the filled template."""
    if template is None:
        return _text(source, row, "question", roles["question"])
    try:
        return template.fill(row.values, source.missing) or ""
    except CellError as error:
        raise InputError(
            f"{_origin(source, row)}: the value {error}; correct it or the --question-template"
        ) from error


def _text(source: Source, row: Row, field: str, column: str) -> str:
    """Return a cell as text, empty for a gap.

    Raises:
        InputError: It is no text.
    """
    value = row.values.get(column)
    text = "" if is_blank(value) else to_text(value)
    if text is None:
        raise InputError(
            f"{_origin(source, row)}: the {field} in column {shortened(column)!r} is "
            f"{kind_name(value)}, expected text; name another column with --map {field}=COLUMN"
        )
    return text


def _id(source: Source, row: Row, number: int, column: str | None) -> str:
    if column is None:
        return f"row_{number}"
    value = row.values.get(column)
    text = None if is_blank(value) else to_text(value)
    if text is None or len(text.encode("utf-8", "replace")) > LONGEST_ID:
        raise InputError(
            f"{_origin(source, row)}: the id in column {shortened(column)!r} is empty, too long or "
            "no text; give the row an id, or name another column with --map id=COLUMN"
        )
    return text


def _plain(source: Source, row: Row, name: str) -> Any:
    try:
        return to_json(row.values.get(name))
    except CellError as error:
        raise InputError(
            f"{_origin(source, row)}: the value in column {shortened(name)!r} {error}; write a "
            "plain value there"
        ) from error


def _is_vectors(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Return whether a column contains vectors, as in an export of a run, which are not copied."""
    first = next((row[name] for row in rows if row.get(name) is not None), None)
    return isinstance(first, list) and len(first) > 4 and isinstance(first[0], float)


def _origin(source: Source, row: Row) -> str:
    return f"{source.name} {source.unit} {row.number}"
