"""What a Python user gives: a table or samples as rows, and an image as Pillow has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import numpy as np
from PIL import Image

from vlmscope.dataset import (
    Data,
    InMemory,
    image_of_array,
    image_size,
    load_image,
    open_table,
)
from vlmscope.errors import InputError, RowError
from vlmscope.schema import Failure, FieldSpec, Sample

if TYPE_CHECKING:
    Rows: TypeAlias = Data | Iterable[Sample | Failure]
else:  # what is none is refused in one line
    Rows = Any
"""Rows, or a table of them."""

RowT = TypeVar("RowT")
ErrorT = TypeVar("ErrorT", bound=Exception)


def rows_of(
    data: Rows,
    *,
    images: str | PathLike[str] | None = None,
    fields: FieldSpec = FieldSpec(),  # noqa: B008  frozen
    text_only: bool = False,
    allow_absolute_paths: bool = False,
) -> Iterator[Sample | Failure]:
    """Return the rows of a table, or the samples that are given, which are not read ahead.

    Args:
        data: Samples (the failures of a table's rows may be among them), or a table as ``extract``
            takes it.
        images: Of a table: the folder that relative paths of images start from.
        fields: Of a table: columns to use in place of the known names.
        text_only: Of a table: take rows without an image as questions about none.
        allow_absolute_paths: Of a table: let paths of images lead out of their folder.

    Raises:
        InputError: It is neither, the table cannot be opened, or samples are given columns.
    """
    if not _names_rows(data):
        given = iter(cast("Iterable[Any]", data))
        nothing = object()
        first = next(given, nothing)  # which may be None, and is refused then
        if first is nothing:
            return iter(())
        if isinstance(first, Sample | Failure):
            if fields != FieldSpec():
                raise InputError("--map: samples have fields and need no columns; leave it out")
            return chain([first], _checked(given))
        data = [first, *given]
    table = open_table(
        cast("Data", data), images=images, fields=fields, text_only=text_only,
        allow_absolute_paths=allow_absolute_paths,
    )  # fmt: skip
    return table.rows()


def _names_rows(data: Any) -> bool:
    """Return whether this is a table, or names one, rather than rows one by one."""
    whole = isinstance(data, str | PathLike | InMemory | Sample) or not isinstance(data, Iterable)
    return whole or hasattr(data, "columns") or hasattr(data, "column_names")


def _checked(rows: Iterable[Any]) -> Iterator[Sample | Failure]:
    for row in rows:
        if not isinstance(row, Sample | Failure):
            raise InputError(
                f"a row is {type(row).__name__}, expected a Sample as the rows before it; give "
                "rows of one kind"
            )
        yield row


def until_error(rows: Iterable[RowT], errors: list[ErrorT], kind: type[ErrorT]) -> Iterator[RowT]:
    """Yield rows up to an exception while they are read; append it to ``errors``.

    Rows are read before they are run: those before the exception are finished first.

    Args:
        rows: The rows.
        errors: Where the exception goes, which the caller raises afterwards.
        kind: Its class; others are raised at once.
    """
    try:
        yield from rows
    except kind as error:
        errors.append(error)


def open_image(image: Any) -> Image.Image:
    """Return an image as upright RGB, on white where it is transparent.

    Args:
        image: The path of an image file, the bytes of one, a PIL image, or a NumPy array of uint8:
            ``[height, width, 3]`` in the order red, green, blue, or ``[height, width]`` in grey.

    Raises:
        RowError: It is none of these, or cannot be decoded.
    """
    return load_image(_plain_image(image))


def size_of(image: Any) -> tuple[int, int]:
    """Return width and height of what ``open_image`` returns, without decoding a file.

    Raises:
        RowError: As ``open_image``, as far as the header tells it.
    """
    return image_size(_plain_image(image))


def _plain_image(image: Any) -> str | PathLike[str] | bytes | Image.Image:
    """Return an image as one of the types that ``load_image`` takes.

    Raises:
        RowError: It is no image.
    """
    if isinstance(image, np.ndarray):
        return image_of_array(image)
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, str | PathLike | bytes | Image.Image):
        raise RowError(
            "image",
            f"the image is {type(image).__name__}, expected the path of an image file, the bytes "
            "of one, a PIL image, or a NumPy array",
        )
    return image
