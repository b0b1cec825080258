"""Which column holds what: the names in use, unless the user says otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from vlmscope.dataset._pictures import FEATURES
from vlmscope.dataset._values import shown_name
from vlmscope.errors import InputError, listed
from vlmscope.schema import FieldSpec

KNOWN: Mapping[str, tuple[str, ...]] = {
    "id": ("question_id", "id"),
    "image": ("image_id", "image_name", "image"),
    "question": ("question",),
    "target": ("ground_truth_answer", "gt_answer", "answer"),
}
"""Field → columns looked for, the first one present wins. ``image`` is decided row by row.

``answer`` comes last: beside a column that says it is the truth, it is some model's answer."""

FIELDS = tuple(field.name for field in fields(FieldSpec))
"""What can be mapped: the fields of ``FieldSpec``."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one table, by role."""

    id: str
    """Column of the id."""
    images: tuple[str, ...]
    """Columns that may name or hold the image, in order of preference; none without images."""
    question: str
    """Column of the question."""
    target: str | None
    """Column of the ground truth, if the table has one."""


def find_columns(
    spec: FieldSpec, found: Sequence[str], table: str, *, text_only: bool = False
) -> Columns:
    """Match the mapping and the known names against the columns of a table.

    Args:
        spec: explicit columns; those are used exactly.
        found: the table's columns.
        table: the table's name, for messages.
        text_only: do without an image column where none is mapped.

    Raises:
        InputError: a column is missing, or stands twice.

    >>> find_columns(FieldSpec(target="gold"), ["id", "image", "question", "gold"], "t.csv")
    Columns(id='id', images=('image',), question='question', target='gold')
    """
    if not found:
        raise InputError(f"{table}: is empty, 0 rows; expected a table with at least one row")
    twice = sorted(column for column, times in Counter(found).items() if times > 1)
    if twice:
        name = shown_name(twice[0])
        raise InputError(f"{table}: column {name} stands twice; rename one of the two")

    known = frozenset(found)

    def present(field: str) -> tuple[str, ...]:
        asked: str | None = getattr(spec, field)
        names = KNOWN[field] if asked is None else (asked,)
        here = tuple(name for name in names if name in known)
        optional = field == "target" or (field == "image" and text_only)
        if not here and (asked is not None or not optional):
            raise InputError(_missing(field, names, found, table))
        return here

    target = present("target")
    return Columns(
        id=present("id")[0],
        images=present("image"),
        question=present("question")[0],
        target=target[0] if target else None,
    )


def check_pictures(columns: Columns, media: Mapping[str, str], table: str) -> None:
    """Refuse an image column that the table declares to hold something else.

    Args:
        columns: the table's columns, by role.
        media: column → feature type, as ``Source.media`` gives it.
        table: the table's name, for messages.

    Raises:
        InputError: it holds videos or sounds.
    """
    for column in columns.images:
        if column in media:
            kind = media[column]
            raise InputError(
                f"{table}: column {column!r} holds {FEATURES[kind]} ({kind}), and vlmscope reads "
                "pictures only; name a column of pictures with --map image=COLUMN"
            )


def _missing(field: str, names: Sequence[str], found: Sequence[str], table: str) -> str:
    expected = " or ".join(repr(name) for name in names)
    separator = next((mark for mark in "\t;|" if mark in found[0]), None)
    if len(found) == 1 and separator:
        name = shown_name(found[0], 200)
        return (
            f"{table}: one column {name}, which looks like several with {separator!r} "
            "between them; save the table with commas, or name a tab-separated one .tsv"
        )
    hint = ", or pass --text-only if no question is about a picture" if field == "image" else ""
    return (
        f"{table}: no column {expected} for the {field}; columns found: {listed(found)}; say "
        f"which one it is with --map {field}=COLUMN{hint}"
    )


def parse_mapping(items: Sequence[str]) -> FieldSpec:
    """Read the values of ``--map field=column``.

    Args:
        items: each ``field=column``; the column may itself hold ``=``.

    Raises:
        InputError: an item is no such pair, its field is unknown, or a field is given twice.

    >>> parse_mapping(["id=qid", "target=gold"])
    FieldSpec(id='qid', image=None, question=None, target='gold')
    """
    spec = FieldSpec()
    for item in items:
        field, _, column = item.partition("=")
        if field not in FIELDS or not column:
            raise InputError(
                f"--map {item!r}: expected field=column with one of the fields "
                f"{', '.join(FIELDS)}; for example --map id=question_id"
            )
        if getattr(spec, field) is not None:
            raise InputError(f"--map {item!r}: {field} is already mapped; give each field once")
        spec = replace(spec, **{field: column})
    return spec
