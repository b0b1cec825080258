"""Known names of columns: those used automatically, and those only suggested in messages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vlmscope.dataset.image_formats import IMAGE_SUFFIXES

KNOWN: Mapping[str, tuple[str, ...]] = {
    "id": ("question_id", "id"),
    "image": ("image_id", "image_name", "image"),
    "question": ("question", "text"),
    "target": ("ground_truth_answer", "gt_answer", "answer", "label"),
}
"""Field → names of columns to look for; the first one present wins. ``image`` is decided row by
row.

``answer`` comes last: beside a column named as the ground truth it is some model's answer.
``text`` and ``label`` are POPE's: see ``BESIDE``."""

BESIDE: Mapping[str, str] = {"text": "question_id", "label": "text"}
"""Column → the id or question column that must be present for it to count."""

SUGGESTED: Mapping[str, tuple[str, ...]] = {
    "id": (
        "question_id", "id", "uid", "qid", "quid", "sample_id", "index", "idx", "image_question_id",
        "pid", "key", "",
    ),
    "image": (
        "image", "image_path", "image_file", "image_name", "img_path", "img", "file_name",
        "filename", "file", "path", "picture", "photo", "images", "image_id", "image_1",
        "flickr_id",
    ),
    "question": (
        "question", "query", "prompt", "text", "instruction", "q", "problem", "input",
        "question_text", "user",
    ),
    "target": (
        "ground_truth_answer", "gt_answer", "ground_truth", "answer", "label", "answers",
        "multiple_choice_answer", "correct_answer", "gt", "truth", "gold", "target", "reference",
        "expected", "labels", "solution", "output", "direct_answers", "correct_option",
        "correct_choice_idx", "correct_choice", "answer_idx", "answer_index",
    ),
}  # fmt: skip
"""Field → names of columns that probably hold it, most likely first; for suggestions only."""

INDEX = "index"
"""Column by which an image cell refers to another row, as in VLMEvalKit's tables."""

DIALOGUES = frozenset(
    ("conversations", "conversation", "messages", "dialog", "dialogue", "dialogs", "texts", "turns")
)
"""Columns that hold whole dialogues."""

_NUMBERED_IMAGE = re.compile(r"image_?(\d{1,2})", re.IGNORECASE)


_WORDS = frozenset(("yes", "no", "true", "false"))


def plain_header(name: str) -> str:
    """Return a column's name without case and spaces around.

    >>> plain_header(" Question_ID")
    'question_id'
    """
    return name.strip().casefold()


def looks_like_data(header: Sequence[str]) -> bool:
    """Return whether a header looks like a row of data.

    >>> looks_like_data(["q1", "a.jpg", "Is it?"]), looks_like_data(["Id", "What is it?"])
    (True, False)
    """
    plain = [plain_header(name) for name in header]
    if any(name.endswith(IMAGE_SUFFIXES) for name in plain):
        return True
    is_valued = any(name in _WORDS or name.isdecimal() for name in plain)
    return is_valued and any(name.endswith("?") for name in plain)


def plain_name(name: str) -> str:
    """Return a column's name without case, spaces and marks.

    >>> plain_name("Correct Answer"), plain_name("imageId")
    ('correctanswer', 'imageid')
    """
    return re.sub(r"[^a-z0-9]", "", name.casefold())


_PLAIN = {field: [plain_name(name) for name in names] for field, names in SUGGESTED.items()}


def suggestion(field: str, found: Sequence[str]) -> str | None:
    """Return the column that most likely contains a field.

    >>> suggestion("target", ["Index", "Correct Answer"]), suggestion("image", ["a"])
    ('Correct Answer', None)
    """
    plain = {plain_name(name): name for name in reversed(found)}
    return next((plain[name] for name in _PLAIN[field] if name in plain), None)


def is_field_name(name: str, field: str | None = None) -> bool:
    """Return whether a name is a known column name of a table of questions.

    >>> is_field_name("imageId"), is_field_name("2354786"), is_field_name("Query", "question")
    (True, False, True)
    """
    plain = plain_name(name)
    fields = _PLAIN if field is None else [field]
    return bool(plain) and any(plain in _PLAIN[each] for each in fields)


def numbered_images(found: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of numbered images, in the order of their numbers.

    >>> numbered_images(["image_2", "image_1", "image_10", "question"])
    ('image_1', 'image_2', 'image_10')
    """
    numbers = {name: match for name in found if (match := _NUMBERED_IMAGE.fullmatch(name))}
    return tuple(sorted(numbers, key=lambda name: int(numbers[name][1])))


def image_numbers(columns: Sequence[str]) -> list[int] | None:
    """Return the numbers in the names of image columns; None if a name has none.

    >>> image_numbers(["image_1", "image_3"]), image_numbers(["left", "right"])
    ([1, 3], None)
    """
    found = [_NUMBERED_IMAGE.fullmatch(name) for name in columns]
    numbers = [int(match[1]) for match in found if match]
    return numbers if len(numbers) == len(columns) else None


def is_numbered_image(column: str) -> bool:
    """Return whether a name is that of a numbered image column.

    >>> is_numbered_image("image_2"), is_numbered_image("image")
    (True, False)
    """
    return _NUMBERED_IMAGE.fullmatch(column) is not None
