"""Columns that a caller assigns to fields, from Python: a dictionary, or a ``FieldSpec``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlmscope.arguments import wrong_type
from vlmscope.dataset.rows.columns import parse_mapping
from vlmscope.errors import InputError, option_of, shortened
from vlmscope.schema import FieldSpec

Mapped = Mapping[str, str | int | Sequence[str]]
"""Field (``id``, ``image``, ``question``, ``target``, ``category``) → its column, or several."""


def fields_of(
    columns: Mapped | FieldSpec | None,
    records: str | None = None,
    image_pattern: str | None = None,
    question_template: str | None = None,
    *,
    number_rows: bool = False,
) -> FieldSpec:
    """Return the mapping of columns.

    Args:
        columns: Field → its column; or the whole mapping, without further arguments.
        records: Key of the rows in a JSON document.
        image_pattern: Path of the image with columns in braces.
        question_template: Question with columns in braces.
        number_rows: Use row numbers as ids.

    Raises:
        InputError: An argument is of another type, a field is unknown, or an argument is given
            beside a ``FieldSpec``.
    """
    options = {
        "records": records, "image_pattern": image_pattern, "question_template": question_template,
        "number_rows": number_rows,
    }  # fmt: skip
    if isinstance(columns, FieldSpec):
        if given := [name for name, value in options.items() if value]:
            raise InputError(
                f"{option_of(given[0])}: give it in the FieldSpec, or --map as a dictionary"
            )
        return columns
    if not isinstance(columns, Mapping | None):
        raise InputError(
            f"--map {shortened(repr(columns))}: expected a dictionary such as {{'id': 'uid'}}"
        )
    items = [f"{field}={_column(field, column)}" for field, column in (columns or {}).items()]
    return parse_mapping(items, **options)  # type: ignore[arg-type]


def _column(field: str, column: Any) -> str:
    """Return a column, or several, as the command line writes them."""
    if isinstance(column, str | int):
        return str(column)
    if not isinstance(column, Iterable) or not all(isinstance(each, str) for each in column):
        raise wrong_type("--map", str(field), column, "a column's name, its number, or names")
    return ",".join(column)
