"""Parsing of image cells: from a cell of a table to no, one or several images.

An image is a name, the bytes of a file, a text that contains them, an array of pixels, or ``{bytes,
path}``, as ``datasets`` stores one. Several are a list of these, in text a list of names as JSON or
Python writes it. A video or a sound is recognised by its name or its struct and refused: read as an
image it would fail with a misleading message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from vlmscope.dataset.encoded import EncodedError, decode_image, is_base64, is_encoded, of_base64
from vlmscope.dataset.image_formats import IMAGE_SUFFIXES
from vlmscope.dataset.images.arrays import file_of_array, flaw_of_array
from vlmscope.dataset.images.in_memory import InMemoryImage
from vlmscope.dataset.values import DIGEST_BYTES, is_blank, kind_name, printed_list, to_text

MEDIA: Mapping[str, str] = {
    **dict.fromkeys(
        (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm",
         ".wmv"),
        "a video",
    ),
    **dict.fromkeys(
        (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma"),
        "a sound",
    ),
}  # fmt: skip
"""Lower-case suffix → what such a file is instead of an image."""

_MAYBE_MEDIUM = re.compile(rf"(?:{'|'.join(map(re.escape, MEDIA))})[/.]*\Z", re.IGNORECASE)
"""Quick test for these suffixes: splitting a path costs more than everything else about a cell."""

FEATURES: Mapping[str, str] = {"Audio": "sounds", "Video": "videos"}
"""Feature type of the ``datasets`` library → content of such a column instead of images."""

_PLAIN_LENGTH = 60
"""Most characters of a text taken for a name without a closer look; a longer one may be an image.
"""

_NOT_PLAIN = frozenset("[{dD")
"""First characters of a text that may be a list, an object or a data URI."""

_OF_IMAGES = frozenset({"bytes", "path", "array"})
"""Keys of an object that is an image or, with an array, a sound."""

REMEDY: Mapping[str, str] = {
    "a video": "extract a frame",
    "a sound": "name an image",
}
"""Remedy for each."""


@dataclass(frozen=True, slots=True)
class ImageCell:
    """One image of a cell."""

    name: str
    """Name or path; empty if there is none."""
    data: bytes | InMemoryImage | None
    """The image file's bytes, or the decoded image, if the table contains it."""
    medium: str = ""
    """``a video`` or ``a sound``, if it is not an image."""
    other: str = ""
    """Content of the cell instead of an image: ``a list``."""
    flaw: str = ""
    """Why it is not a valid image, and the remedy, as the end of a sentence."""
    path: Path | None = None
    """Path of its file, if more than its name is known."""

    @property
    def is_empty(self) -> bool:
        """Whether it is a gap in a list."""
        return not (
            self.name or self.data or self.medium or self.other or self.flaw or self.path
        )  # fmt: skip

    @property
    def opened(self) -> bytes | Path | Image.Image | None:
        """Argument for ``load_image``, if more than a name is known."""
        return self.data.image if isinstance(self.data, InMemoryImage) else self.data or self.path


@dataclass(frozen=True, slots=True)
class ImageCells:
    """The images of a row."""

    images: tuple[ImageCell, ...]
    """In the order of the list; empty if the question is about none."""
    columns: frozenset[str]
    """The columns they were read from."""

    @property
    def name(self) -> str:
        """The names, joined; empty if no image has one."""
        return ", ".join(image.name for image in self.images if image.name)

    @property
    def key(self) -> Any:
        """Identity of these images, as JSON: their names, or hashes of those without one."""
        keys = [p.name or (_hash(p.data) if p.data else "") for p in self.images]
        return keys if len(keys) > 1 else next(iter(keys), "")

    @property
    def content_key(self) -> Any:
        """The same, with the hash in addition to the name for images contained in the table."""
        keys = [[p.name, *_hash(p.data)] if p.data else p.name for p in self.images]
        return keys if len(keys) > 1 else next(iter(keys), "")


def _hash(data: bytes | InMemoryImage) -> list[Any]:
    """Return the size and a hash of an image file, as a list, which equals no name.

    For a decoded image, whose file is unknown: the hash of its pixels.
    """
    if isinstance(data, InMemoryImage):
        return ["pixels", data.sha256]
    return [len(data), blake2b(data, digest_size=DIGEST_BYTES).hexdigest()]


def find_images(
    values: Mapping[str, Any], columns: Sequence[str], missing: frozenset[str]
) -> ImageCells:
    """Return a row's images: bytes before names, and for each the first column that has any.

    Column by column is not enough: tables in use leave ``image_id`` empty in some rows and fill
    ``image_name`` there.

    Args:
        values: The row.
        columns: Columns that may hold images, in order of preference.
        missing: Texts that mean "no value" in this format.

    >>> row = {"image_id": None, "image": '["a.png", "b.png"]'}
    >>> find_images(row, ["image_id", "image"], frozenset()).name
    'a.png, b.png'
    """
    cells = {column: split_cell(values.get(column), missing) for column in columns}
    filled = [column for column in columns if cells[column]]
    if len(filled) == 1:  # almost every row of almost every table: nothing to choose
        return ImageCells(cells[filled[0]], frozenset(filled))
    named = _best_named([c for c in filled if any(p.name for p in cells[c])], cells)
    embedded = next((c for c in filled if any(p.data for p in cells[c])), None)
    chosen = embedded or named or next(iter(filled), None)
    if chosen is None:
        return ImageCells((), frozenset())
    images = cells[chosen]
    if named in (None, chosen) or len(cells[named]) != len(images):
        return ImageCells(images, frozenset([chosen]))
    labels = [label.name for label in cells[named]]
    labelled = (replace(p, name=label) for p, label in zip(images, labels, strict=True))
    return ImageCells(tuple(labelled), frozenset([chosen, named]))


def join_images(
    values: Mapping[str, Any], columns: Sequence[str], missing: frozenset[str]
) -> ImageCells:
    """Return a row's images from columns that hold one each; a gap is no image.

    >>> row = {"image_1": "a.png", "image_2": None, "image_3": "c.png"}
    >>> join_images(row, list(row), frozenset()).name
    'a.png, c.png'
    """
    cells = {column: split_cell(values.get(column), missing) for column in columns}
    images = tuple(image for column in columns for image in cells[column])
    return ImageCells(images, frozenset(column for column in columns if cells[column]))


def has_image_suffix(name: str) -> bool:
    """Return whether a name has the suffix of an image file.

    >>> has_image_suffix("a.JPG "), has_image_suffix("548882")
    (True, False)
    """
    return name.rstrip().lower().endswith(IMAGE_SUFFIXES)


def _best_named(columns: Sequence[str], cells: Mapping[str, tuple[ImageCell, ...]]) -> str | None:
    """Return the column whose values look like file names: ``a.jpg`` rather than a number."""
    files = (c for c in columns if any(has_image_suffix(image.name) for image in cells[c]))
    return next(files, next(iter(columns), None))


def plain_name(
    values: Mapping[str, Any], columns: Sequence[str], missing: frozenset[str]
) -> str | None:
    """Return the name of a row's image in the common case of one name in a text column.

    Gives what ``find_images`` gives, in a tenth of the time; almost all rows are of this kind.

    Args:
        values: The row.
        columns: Columns that may hold images, in order of preference.
        missing: Texts that mean "no value" in this format.

    Returns:
        The name, or None if the row has anything else, or nothing.

    >>> plain_name({"image": "a.png"}, ["image"], frozenset())
    'a.png'
    """
    name: str | None = None
    is_file = False
    for column in columns:
        value = values.get(column)
        if type(value) is not str:
            if value is None:
                continue
            return None
        if value and not value.isspace() and value not in missing:
            if len(value) > _PLAIN_LENGTH or value.lstrip()[0] in _NOT_PLAIN:
                return None
            if name is None or not is_file:
                found = len(columns) > 1 and has_image_suffix(value)
                name = value if name is None or found else name
                is_file = found
    return name


def split_cell(value: Any, missing: frozenset[str]) -> tuple[ImageCell, ...]:
    """Return the images of one cell: none for an empty cell, an empty image for a gap in a list.

    >>> [(image.name, image.data) for image in split_cell(["a.png", b"..."], frozenset())]
    [('a.png', None), ('', b'...')]
    """
    several = _several(value)
    if several is not None:
        return tuple(_image(item, missing) for item in several)
    image = _image(value, missing)
    return () if image.is_empty else (image,)


def _several(value: Any) -> Sequence[Any] | None:
    """Return the items of a list, also one written as JSON text; None for a single image."""
    if isinstance(value, list | tuple):
        return value
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return None
    found = printed_list(value)
    names = isinstance(found, list) and all(isinstance(item, str) for item in found)
    return found if names else None


def _image(value: Any, missing: frozenset[str]) -> ImageCell:
    if isinstance(value, ImageCell):  # the reader reports what is wrong with the cell
        return value
    if isinstance(value, list | tuple):
        return ImageCell("", None, other="a list")
    if isinstance(value, np.ndarray) and value.ndim > 1:
        if flaw := flaw_of_array(value):
            return ImageCell("", None, flaw=flaw)
        return ImageCell("", file_of_array(value))
    if isinstance(value, dict) and value and not value.keys() & _OF_IMAGES:
        return ImageCell("", None, other=kind_name(value))
    try:
        data, name = _data_and_name(value)
    except EncodedError as error:
        return ImageCell("", None, flaw=f"{error}; write the complete image file there")
    text = "" if is_blank(name) else name if isinstance(name, str) else to_text(name)
    data = data if isinstance(data, bytes | InMemoryImage) and data else None
    other = kind_name(name) if text is None and data is None else ""
    text = "" if text is None or text in missing else text
    decoded_sound = isinstance(value, dict) and {"array", "sampling_rate"} <= value.keys()
    return ImageCell(
        name=text,
        data=data,
        medium="a sound" if decoded_sound else _medium(text),
        other=other,
    )


def _data_and_name(value: Any) -> tuple[Any, Any]:
    """Return the bytes in a cell, or else its name.

    Raises:
        EncodedError: It contains an image that cannot be decoded.
    """
    if isinstance(value, dict):
        data, name = value.get("bytes"), value.get("path")
        if isinstance(data, str) and data:  # in JSON
            data = decode_image(data)[0] if is_encoded(data) else of_base64(data)
        is_filled = data.size > 0 if isinstance(data, np.ndarray) else bool(data)
        if is_filled and not isinstance(data, bytes):
            raise EncodedError(f"is {kind_name(data)} instead of the bytes of a file")
        return data, name
    if isinstance(value, InMemoryImage):
        return value, None
    if isinstance(value, bytes):
        return (of_base64(value.decode("latin-1")) if is_base64(value) else value), None
    if isinstance(value, str) and is_encoded(value):
        return decode_image(value)
    return None, value


def _medium(name: str) -> str:
    """Return what a file of this name is instead of an image, or an empty text."""
    return MEDIA.get(PurePath(name).suffix.lower(), "") if _MAYBE_MEDIUM.search(name) else ""
