"""The role of each column: by known names, unless the user maps them."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from vlmscope.dataset.column_names import (
    BESIDE,
    DIALOGUES,
    INDEX,
    KNOWN,
    looks_like_data,
    numbered_images,
    plain_header,
    suggestion,
)
from vlmscope.dataset.images.cells import FEATURES
from vlmscope.dataset.rows.pattern import Pattern, parse_pattern
from vlmscope.dataset.values import shown_name
from vlmscope.errors import InputError, join_names
from vlmscope.schema import FieldSpec

FIELDS = ("id", "image", "question", "target")
"""What a table has a column of, or options instead of one."""

CATEGORY = "category"
"""What can be mapped too; without a mapping it is the metadata of that name."""

MAPPED = (*FIELDS, CATEGORY)
"""What can be mapped to a column."""

_SEVERAL = ("id", "image")
"""Fields that can be made of several columns."""

SHOWN_COLUMNS = 12
"""Most columns listed in a message."""

_UNNAMED = re.compile(r"Unnamed: (\d+)")


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one table, by role."""

    id: tuple[str, ...]
    """Columns whose joined values are the id; none if rows are numbered."""
    images: tuple[str, ...]
    """Columns that may name or contain the image, in order of preference; none without images."""
    question: str
    """Column of the question; empty if a template makes it."""
    target: str | None
    """Column of the ground truth, if the table has one."""
    is_together: bool = False
    """Whether ``images`` hold one image each, and the question is about all of them."""
    image_patterns: tuple[Pattern, ...] = ()
    """Patterns that make the images' paths from other columns; one for each numbered image column.
    """
    question_template: Pattern | None = None
    """Pattern that makes the question from other columns."""
    left_out: tuple[str, ...] = ()
    """Numbered image columns that are metadata, because ``image`` has the image."""
    kept: frozenset[str] = field(default=frozenset())
    """Columns with a role that are also kept as metadata."""
    category: str | None = None
    """Column that is stored as the metadata ``category``, if one is mapped."""


def find_columns(
    spec: FieldSpec, found: Sequence[str], table: str, *, text_only: bool = False
) -> Columns:
    """Assign roles to the columns of a table, by the mapping and the known names.

    Args:
        spec: explicit columns, matched exactly.
        found: the table's columns.
        table: the table's name, for messages.
        text_only: do without an image column where none is mapped.

    Raises:
        InputError: columns are missing, all listed in one message; one appears twice; or the
            category is mapped to a column of another field, or beside a column ``category``.

    >>> find_columns(FieldSpec(target="gold"), ["id", "image", "question", "gold"], "t.csv").target
    'gold'
    """
    if not found:
        raise InputError(f"{table}: is empty, 0 rows; expected a table with at least one row")
    if looks_like_data(found) and not any(_present(FieldSpec(), each, found) for each in FIELDS):
        raise InputError(
            f"{table}: the first line looks like data ({join_names(found, 4)}), not like names of "
            "columns; write a line with their names above it, such as id,image,question,answer"
        )
    twice = sorted(column for column, times in Counter(found).items() if times > 1)
    if twice:
        name = shown_name(twice[0])
        raise InputError(f"{table}: column {name} appears twice; rename one of the two")
    _check_separator(found, table)
    _check_together(spec)
    here = {name: _present(spec, name, found) for name in FIELDS}
    derived = {
        "id": spec.number_rows,
        "image": spec.image_pattern is not None or (text_only and spec.image is None),
        "question": spec.question_template is not None,
        "target": spec.target is None,
    }
    missing = [name for name in FIELDS if not here[name] and not derived[name]]
    if missing:
        raise InputError(_missing(spec, missing, found, table))
    return _columns(spec, here, found, table)


def _columns(
    spec: FieldSpec, here: Mapping[str, tuple[str, ...]], found: Sequence[str], table: str
) -> Columns:
    """Return the roles of the columns found."""
    roles = {name: columns[0] if columns else None for name, columns in here.items()}
    pattern, template = spec.image_pattern, spec.question_template
    target = roles["target"]
    made = Columns(
        id=() if spec.number_rows else here["id"] if spec.id is not None else here["id"][:1],
        images=() if pattern is not None else here["image"],
        question="" if template is not None else here["question"][0],
        target=target,
        is_together=pattern is None and _is_together(spec, here["image"]),
        image_patterns=() if pattern is None else _image_patterns(pattern, here, found, table),
        question_template=None
        if template is None
        else parse_pattern(template, found, roles, "--question-template", table, escapes=True),
        left_out=_left_out(spec, here["image"], found),
        kept=_kept(spec, target),
    )
    return (
        made
        if spec.category is None
        else replace(made, category=_category(spec.category, made, found, table))
    )


def _category(asked: str, columns: Columns, found: Sequence[str], table: str) -> str:
    """Return the column that is mapped to the category.

    Raises:
        InputError: It is missing, has another role, or would replace a column ``category``.
    """
    here = _one_asked(asked, CATEGORY, found)
    if not here:
        raise InputError(
            f"{table}: no column {shown_name(asked)} for the category: give --map category=COLUMN; "
            f"columns found: {join_names(map(_shown, found), SHOWN_COLUMNS)}"
        )
    roles = {"question": (columns.question,), "target": (columns.target,), "image": columns.images}
    check_category(asked, here[0], roles, found, table)
    return here[0]


def check_category(
    asked: str,
    column: str,
    roles: Mapping[str, Sequence[str | None]],
    found: Sequence[str],
    table: str,
) -> None:
    """Refuse a mapped category that has another role, or would replace a column ``category``.

    Args:
        asked: The column as given.
        column: The column that was found.
        roles: Role → its columns.
        found: All columns.
        table: Name of the table, for the message.

    Raises:
        InputError: It does.
    """
    option = f"{table}: --map {CATEGORY}={shlex.quote(asked)}"
    for role, taken in roles.items():
        if column in taken:
            raise InputError(
                f"{option}: this column is the {role}; name the column with the kinds of questions"
            )
    if CATEGORY in found and column != CATEGORY:
        raise InputError(
            f"{option}: the table has a column {CATEGORY!r} too, which would be lost; rename it in "
            "the table, or leave the option out"
        )


def _kept(spec: FieldSpec, target: str | None) -> frozenset[str]:
    """Return POPE's ground-truth column, which may also contain labels."""
    is_label = target is not None and plain_header(target) == "label" and spec.target is None
    return frozenset([str(target)]) if is_label else frozenset()


def _image_patterns(
    pattern: str, here: Mapping[str, tuple[str, ...]], found: Sequence[str], table: str
) -> tuple[Pattern, ...]:
    """Parse a pattern of paths; one with the image column is repeated for each numbered column."""
    roles = {name: columns[0] if columns else None for name, columns in here.items()}
    images = here["image"] if here["image"] == numbered_images(here["image"]) else ()
    read = [
        parse_pattern(pattern, found, {**roles, "image": column}, "--image-pattern", table)
        for column in images or (roles["image"],)
    ]
    return tuple(dict.fromkeys(read))


def _left_out(spec: FieldSpec, images: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
    """Return the numbered image columns that are neither mapped nor used, as another was found."""
    if spec.image is not None or spec.image_pattern is not None or "image" not in images:
        return ()
    return numbered_images(found)


def _is_together(spec: FieldSpec, columns: Sequence[str]) -> bool:
    if spec.image is not None:
        return len(columns) > 1
    return bool(columns) and columns == numbered_images(columns)


def _present(spec: FieldSpec, name: str, found: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a field that the table has."""
    asked: str | None = getattr(spec, name)
    if asked is not None:
        return _asked(asked, name, found)
    return _known(spec, name, {column: column for column in found}) or _known(
        spec, name, _folded(found)
    )


def _known(spec: FieldSpec, name: str, columns: Mapping[str, str]) -> tuple[str, ...]:
    """Return the columns of a field that have one of its known names.

    Args:
        spec: The mapping.
        name: The field.
        columns: Name to look for → the column.
    """
    here = tuple(column for column in KNOWN[name] if column in columns)
    if name == "image":
        return tuple(columns[c] for c in here) or numbered_images(tuple(columns.values()))
    # ``text`` and ``label`` may be anything, except together, in the layout of POPE.
    here = tuple(c for c in here if c not in BESIDE or BESIDE[c] in columns)
    if name == "target" and "label" in here and "question" in columns and spec.question is None:
        here = tuple(c for c in here if c != "label")
    return tuple(columns[c] for c in here)


def _folded(found: Sequence[str]) -> dict[str, str]:
    """Return the columns by their names without case and outer spaces, except ambiguous ones."""
    names = [plain_header(column) for column in found]
    return {name: c for name, c in zip(names, found, strict=True) if names.count(name) == 1}


def _asked(asked: str, name: str, found: Sequence[str]) -> tuple[str, ...]:
    """Return the mapped columns, none if one is missing."""
    if asked in found:
        return (asked,)
    if name in _SEVERAL and "," in asked:
        parts = [_part(part, name, found) for part in asked.split(",")]
        columns = [column for part in parts for column in part]
        return tuple(dict.fromkeys(columns)) if all(parts) else ()
    return _one_asked(asked, name, found)


def _part(part: str, name: str, found: Sequence[str]) -> tuple[str, ...]:
    """Return the column of one name in a list of several, ignoring outer spaces."""
    return _one_asked(part.strip(), name, found) or _one_asked(part, name, found)


def _one_asked(asked: str, name: str, found: Sequence[str]) -> tuple[str, ...]:
    """Return the one mapped column; only an id may be given by its position."""
    if asked in found:
        return (asked,)
    stripped = [column for column in found if column.strip() == asked.strip()]
    if len(stripped) == 1 and asked.strip():
        return (stripped[0],)
    if name == "id" and asked.isdecimal() and 1 <= int(asked) <= len(found):
        return (found[int(asked) - 1],)
    unnamed = _UNNAMED.fullmatch(asked)  # as pandas calls it
    if unnamed and int(unnamed[1]) < len(found) and not found[int(unnamed[1])]:
        return ("",)
    return ()


def reference_columns(columns: Columns, found: Sequence[str]) -> tuple[str, ...]:
    """Return the columns by which an image cell may refer to another row.

    That is ``index`` alone if the table has it, whatever the id is: such image cells refer to it.
    Otherwise it is the id's columns and those with the name of an id.

    Args:
        columns: the table's columns, by role.
        found: all of its columns.

    >>> columns = find_columns(FieldSpec(), ["index", "question_id", "image", "question"], "t.tsv")
    >>> reference_columns(columns, ["index", "question_id", "image", "question"])
    ('index',)
    """
    index = tuple(name for name in found if name.strip().casefold() == INDEX)
    if index:
        return index[:1]
    known = (name for name in KNOWN["id"] if name in found)
    return tuple(dict.fromkeys((*columns.id, *known)))


def check_images(columns: Columns, media: Mapping[str, str], table: str) -> None:
    """Raise for an image column that the table declares as something else.

    Args:
        columns: the table's columns, by role.
        media: column → feature type, as ``Source.media`` gives it.
        table: the table's name, for messages.

    Raises:
        InputError: it contains videos or sounds.
    """
    for column in columns.images:
        if column in media:
            kind = media[column]
            raise InputError(
                f"{table}: column {column!r} contains {FEATURES[kind]} ({kind}), and vlmscope "
                "reads images only; name a column of images with --map image=COLUMN"
            )


def _check_separator(found: Sequence[str], table: str) -> None:
    """Raise for one column that looks like several."""
    separator = next((mark for mark in "\t;|" if mark in found[0]), None)
    if len(found) == 1 and separator:
        name = shown_name(found[0], 200)
        raise InputError(
            f"{table}: one column {name}, which looks like several with {separator!r} "
            "between them; save the table with commas, or name a tab-separated one .tsv"
        )


def _missing(spec: FieldSpec, missing: Sequence[str], found: Sequence[str], table: str) -> str:
    """Return the error for fields without a column, with the options to pass."""
    dialogues = [name for name in found if name.casefold() in DIALOGUES]
    if "question" in missing and spec.question is None and dialogues:
        return (
            f"{table}: column {shown_name(dialogues[0])} contains dialogues, and vlmscope asks one "
            "question per row; write the first question into a column 'question' and its answer "
            "into a column 'answer', one row each"
        )
    wanted = [*missing]
    if "target" not in missing and not _present(spec, "target", found):
        wanted.append("target")
    taken: set[str | None] = {getattr(spec, name) for name in MAPPED}
    options = []
    for name in wanted:
        guess = suggestion(name, [column for column in found if column not in taken])
        if name in missing or guess is not None:
            options.append(f"--map {name}={'COLUMN' if guess is None else shlex.quote(guess)}")
            taken.add(guess)
    hints = _hints(missing, found)
    return (
        f"{table}: {_lack(spec, missing, found)}: give {' '.join(options)}"
        f"{f' (or {hints})' if hints else ''}; columns found: "
        f"{join_names(map(_shown, found), SHOWN_COLUMNS)}"
    )


def _lack(spec: FieldSpec, missing: Sequence[str], found: Sequence[str]) -> str:
    """Return which fields have no column, with the names looked for if they are few."""
    usual = [name for name in missing if getattr(spec, name) is None]
    named = missing if len(usual) == 1 else [name for name in missing if name not in usual]
    lack = [f"no column {_expected(spec, name, found)} for the {name}" for name in named]
    if len(usual) > 1:
        *others, last = usual
        lack.append(f"no columns for the {', the '.join(others)} and the {last}")
    return ", ".join(lack)


def _expected(spec: FieldSpec, name: str, found: Sequence[str]) -> str:
    """Return the names that were looked for, as text."""
    asked: str | None = getattr(spec, name)
    if asked is None:
        return " or ".join(repr(column) for column in KNOWN[name] if column not in BESIDE)
    if "," in asked and name in _SEVERAL:
        gone = [part for part in asked.split(",") if not _part(part, name, found)]
        return " and ".join(shown_name(part.strip()) for part in gone)
    return shown_name(asked)


def _shown(name: str) -> str:
    return name or "'' (without a name)"


def _hints(missing: Sequence[str], found: Sequence[str]) -> str:
    hints = []
    if "id" in missing:
        if "" in found:
            hints.append(f"--map id={found.index('') + 1} for the column without a name")
        hints.append("--number-rows")
    if "image" in missing:
        hints += ["--image-pattern", "--text-only"]
    return ", ".join(hints)


def parse_mapping(
    items: Sequence[str],
    *,
    records: str | None = None,
    image_pattern: str | None = None,
    question_template: str | None = None,
    number_rows: bool = False,
) -> FieldSpec:
    """Parse the values of ``--map field=column``, and the other options about columns.

    Args:
        items: each ``field=column``; the column may itself contain ``=``, and be empty for the
            column without a name.
        records: the key of the rows in a JSON document.
        image_pattern: path of the image with columns in braces.
        question_template: question with columns in braces.
        number_rows: use row numbers as ids.

    Raises:
        InputError: an item is no such pair, its field is unknown, or a field is given twice.

    >>> parse_mapping(["id=qid", "target=gold"]).target
    'gold'
    """
    spec = FieldSpec(
        records=records, image_pattern=image_pattern, question_template=question_template,
        number_rows=number_rows,
    )  # fmt: skip
    for item in items:
        name, equals, column = item.partition("=")
        if name not in MAPPED or not equals or (not column and name != "id"):
            raise InputError(
                f"--map {item!r}: expected field=column with one of the fields "
                f"{', '.join(MAPPED)}; for example --map id=question_id"
            )
        if getattr(spec, name) is not None:
            raise InputError(f"--map {item!r}: {name} is already mapped; give each field once")
        spec = replace(spec, **{name: column})  # type: ignore[arg-type]
    _check_together(spec)
    return spec


def _check_together(spec: FieldSpec) -> None:
    """Raise for options that exclude each other."""
    for name, option, given in (
        ("id", "--number-rows", spec.number_rows),
        ("image", "--image-pattern", spec.image_pattern is not None),
    ):
        if given and getattr(spec, name) is not None:
            raise InputError(
                f"{option}: the {name} is mapped with --map {name}={getattr(spec, name)} too; give "
                "one of the two"
            )
