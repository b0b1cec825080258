"""Search for the rows in a JSON document, in the shapes in which benchmarks are published.

A list of objects; an object of records by id (GQA, ScienceQA); records under a key next to notes on
the dataset (VQA v2, TextVQA); columns, as pandas and ``datasets`` write them; one record alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vlmscope.dataset.column_names import is_field_name
from vlmscope.errors import InputError, join_names

_DEEPEST = 3
"""Most keys above the records."""

_KEY_COLUMNS = ("id", "key", "record_key")
"""Columns for a record's key; the first one that no record has is used."""

_ID_COLUMNS = frozenset(("id", "question_id"))


def find_records(document: Any, asked: str | None, name: str) -> tuple[list[Any], str]:
    """Return the rows of a document and their key, empty for the document itself.

    Args:
        document: The document.
        asked: The user's key, several joined by dots.
        name: The file's name, for messages.

    Raises:
        InputError: There are none under the key, or several parts of the document have some.
    """
    if asked is not None:
        rows = _as_rows(_under(document, asked, name))
        if rows is None:
            raise InputError(
                f"--records {asked}: {name} has no records there; expected a list of objects, or "
                "an object of objects"
            )
        return rows, asked
    if isinstance(document, list):
        return _of_list(document), ""
    if document == {}:
        return [], ""
    if not isinstance(document, dict):
        raise InputError(
            f"{name}: found {type(document).__name__}, expected a list of objects; save the list "
            "itself, or name a file with one object a line .jsonl"
        )
    rows = _whole(document)
    if rows is not None:
        return rows, ""
    found = list(_lists(document, "", _DEEPEST)) or list(_objects(document))
    if len(found) > 1:
        asking = [(key, rows) for key, rows in found if _asks(rows)]
        found = asking if len(asking) == 1 else found
    if len(found) == 1:
        return found[0][1], found[0][0]
    rows = None if found else _by_key(document) or _alike(document)
    if rows is not None:
        return rows, ""
    keys = [key for key, _ in found] or list(document)
    where = "lists of records under" if found else "an object with the keys"
    example = keys[0] if keys else "NAME"
    raise InputError(
        f"{name}: found {where} {join_names(keys)}, expected a list of objects; choose the one "
        f"with the questions by --records {example}"
    )


def _under(document: Any, asked: str, name: str) -> Any:
    """Return the value under a key, or under several joined by dots."""
    if isinstance(document, dict) and asked in document:
        return document[asked]
    found, names = document, asked.split(".")
    for key in names:
        if not isinstance(found, dict) or key not in found:
            have = f"; there are {join_names(found)}" if isinstance(found, dict) else ""
            raise InputError(f"--records {asked}: {name} has no key {key!r} there{have}")
        found = found[key]
    return found


def _as_rows(value: Any) -> list[Any] | None:
    if isinstance(value, list):
        return _of_list(value)
    if isinstance(value, dict):
        columns = _of_columns(value)
        return _by_key(value) if columns is None else columns
    return None


def _of_list(items: list[Any]) -> list[Any]:
    """Return the rows of a list; lists with a header as the first one become objects."""
    if len(items) > 1 and all(isinstance(item, list) for item in items):
        header = items[0]
        if all(isinstance(cell, str) for cell in header) and any(map(is_field_name, header)):
            return [dict(zip(header, item, strict=False)) for item in items[1:]]
    return items


def _whole(document: dict[str, Any]) -> list[Any] | None:
    """Return the rows of a document that is a list of rows, or one row; None for any other."""
    columns = _of_columns(document)
    if columns is not None:
        return columns
    if _is_record(document):
        return [document]
    records = _by_key(document)
    return records if records is not None and _asks(records) else None


def _is_record(document: Mapping[str, Any]) -> bool:
    """Return whether an object is a row: it has a question, and an id or an image."""
    plain = {key for key, value in document.items() if not isinstance(value, dict | list)}
    return any(is_field_name(key, "question") for key in plain) and any(
        is_field_name(key, field) for key in plain for field in ("id", "image")
    )


def _lists(document: Mapping[str, Any], above: str, levels: int) -> Iterator[tuple[str, list[Any]]]:
    """Yield every list of objects in a document, with its key."""
    for key, value in document.items():
        where = f"{above}.{key}" if above else key
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            yield where, value
        elif isinstance(value, dict) and levels > 1:
            yield from _lists(value, where, levels - 1)


def _objects(document: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield every object of records, or of columns, under a key."""
    for key, value in document.items():
        rows = _whole(value) if isinstance(value, dict) and value else None
        if rows is not None:
            yield key, rows


def _asks(rows: list[Any]) -> bool:
    """Return whether rows look like questions."""
    return any(
        isinstance(row, dict) and any(is_field_name(key, "question") for key in row)
        for row in rows[:20]
    )


def _by_key(document: Mapping[str, Any]) -> list[Any] | None:
    """Return the records of an object of records, each with its key in a column."""
    if not document or not all(isinstance(value, dict) for value in document.values()):
        return None
    taken = {key for record in document.values() for key in record}
    if not any(map(is_field_name, taken)):
        return None
    own = _ID_COLUMNS & taken
    free = [name for name in _KEY_COLUMNS if name not in taken and not (own and name == "id")]
    if not free:
        return list(document.values())
    return [{free[0]: key, **record} for key, record in document.items()]


def _alike(document: Mapping[str, Any]) -> list[Any] | None:
    """Return the records of an object whose values all have the same keys."""
    records = list(document.values())
    if len(records) < 2 or not all(isinstance(record, dict) and record for record in records):
        return None
    if any(record.keys() != records[0].keys() for record in records):
        return None
    if _KEY_COLUMNS[0] in records[0]:
        return records
    return [{_KEY_COLUMNS[0]: key, **record} for key, record in document.items()]


def _of_columns(document: Mapping[str, Any]) -> list[Any] | None:
    """Return the rows of a document of columns; None for any other.

    pandas writes ``{"id": {"0": …}}``, with ``orient="split"`` ``{"columns": …, "data": …}``;
    ``datasets`` writes ``{"id": [ … ]}``.
    """
    names, data = document.get("columns"), document.get("data")
    if isinstance(names, list) and isinstance(data, list):
        if all(isinstance(item, list) and len(item) == len(names) for item in data):
            return [dict(zip(map(str, names), item, strict=True)) for item in data]
        return None
    columns = list(document.values())
    if len(columns) < 2 or not _has_fields(document):
        return None
    if all(isinstance(column, list) for column in columns):
        if len({len(column) for column in columns}) != 1:
            return None
        cells = zip(*columns, strict=True)
        return [dict(zip(document, row, strict=True)) for row in cells]
    if not all(isinstance(column, dict) for column in columns):
        return None
    labels = list(columns[0])
    if any(column.keys() != columns[0].keys() for column in columns):
        return None
    if any(map(is_field_name, labels)):
        return None
    return [{name: column[label] for name, column in document.items()} for label in labels]


def _has_fields(document: Mapping[str, Any]) -> bool:
    """Return whether keys of a document are names of fields, or at least not ids."""
    return any(map(is_field_name, document))
