"""Exceptions of a processor or a model on one row, as errors of that row.

A library's message contains neither the row nor its image. So the row's error names both, with the
image's size, and what to do about an image of that shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import PurePath
from typing import TYPE_CHECKING

from vlmscope.engine.device import is_dead_device, is_out_of_memory
from vlmscope.engine.inputs import size_of
from vlmscope.errors import RowError, VlmscopeError, one_line, shortened
from vlmscope.schema import Sample, failure_of

if TYPE_CHECKING:
    from vlmscope.schema import ImageLike

ELONGATED = 20
"""Aspect ratio of an image from which processors fail."""

TINY = 28
"""Pixels of the shorter side of an image below which it may be less than one token."""

SHOWN_IMAGES = 3

LONGEST_MESSAGE = 160
"""Maximum length of a library's message in an error, which is followed by what to do."""

_NO_MEMORY = (
    "out of memory on this row alone; try fewer --max-new-tokens, a smaller --dtype, or another "
    "--device"
)


def row_error(sample: Sample, error: Exception) -> RowError:
    """Return the error of a row for an unknown exception.

    Args:
        sample: The row, which was run alone.
        error: The exception of the processor or the model.
    """
    if is_out_of_memory(error):
        return RowError("capture", _NO_MEMORY)
    sizes = _sizes_of(sample)
    message = shortened(one_line(error), LONGEST_MESSAGE)
    name = type(error).__name__
    found = message if message == name else f"{name}: {message}"
    return RowError("capture", f"{_about(sample, sizes)}{found}; {_remedy(sizes)}")


def has_unusual_shape(sample: Sample) -> bool:
    """Return whether a row has an image of a shape that processors and models do not expect."""
    return any(_is_elongated(size) or _is_tiny(size) for size in _sizes_of(sample))


@contextmanager
def row_errors(sample: Sample) -> Iterator[None]:
    """Raise exceptions of the block as errors of its row; those not about a row are unchanged.

    Raises:
        RowError: The processor or the model raised, or memory ran out.
    """
    try:
        yield
    except RowError as error:
        if str(error).startswith(f"{shortened(sample.id)}: "):
            raise
        raise RowError(error.stage, _named(sample, error.stage, str(error))) from error
    except VlmscopeError:
        raise
    except Exception as error:
        if is_dead_device(error):
            raise
        found = row_error(sample, error)
        raise RowError(found.stage, _named(sample, found.stage, str(found))) from error


def _named(sample: Sample, stage: str, error: str) -> str:
    return f"{shortened(sample.id)}: {failure_of(sample, stage, error).error}"


def _about(sample: Sample, sizes: list[tuple[int, int]]) -> str:
    """Return names and sizes of the row's images as text."""
    if not sizes:
        return ""
    named = [
        f"image {_name(sample, image)} of {width} × {height} pixels"
        for image, (width, height) in zip(sample.images, sizes, strict=True)
    ]
    more = len(named) - SHOWN_IMAGES
    return ", ".join(named[:SHOWN_IMAGES]) + (f" and {more} more: " if more > 0 else ": ")


def _name(sample: Sample, image: ImageLike) -> str:
    if isinstance(image, str | PathLike):
        name = PurePath(fspath(image)).name
    else:
        name = sample.image_id if len(sample.images) == 1 else ""
    return repr(shortened(name or sample.id))


def _remedy(sizes: list[tuple[int, int]]) -> str:
    if any(map(_is_elongated, sizes)):
        return "pad or crop the image to a less elongated shape, or remove the row"
    if any(map(_is_tiny, sizes)):
        return "enlarge the image, or remove the row"
    if sizes:
        return "resize the image, or remove the row"
    return "remove the row"


def _sizes_of(sample: Sample) -> list[tuple[int, int]]:
    """Return width and height of every image; empty if one cannot be read any more."""
    try:
        return [size_of(image) for image in sample.images]
    except RowError:
        return []


def _is_elongated(size: tuple[int, int]) -> bool:
    return max(size) >= ELONGATED * min(size)


def _is_tiny(size: tuple[int, int]) -> bool:
    return min(size) < TINY
