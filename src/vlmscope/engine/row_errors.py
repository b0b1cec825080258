"""What a processor or a model raised on one row, said as the error of that row.

A library's message knows neither the row nor its image. So the row's error names both, with the
image's size, and says what can be done about an image of that shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import PurePath
from typing import TYPE_CHECKING

from PIL.Image import Image

from vlmscope.engine.device import is_dead_device, is_out_of_memory
from vlmscope.engine.given import open_image
from vlmscope.errors import RowError, VlmscopeError, one_line, shortened
from vlmscope.schema import Sample, failure_of

if TYPE_CHECKING:
    from vlmscope.schema import ImageLike

ELONGATED = 20
"""Times that one side of an image is longer than the other, from where on processors give up."""

TINY = 28
"""Pixels of the shorter side of an image below which it may be less than one token."""

SHOWN_IMAGES = 3

LONGEST_SAID = 160
"""Characters of a library's message: what can be done stands behind it."""

_NO_MEMORY = (
    "memory runs out on this row alone; try fewer --max-new-tokens, a smaller --dtype, or another "
    "--device"
)


def row_error(sample: Sample, error: Exception) -> RowError:
    """Return what an unknown error on one row is to its user.

    Args:
        sample: The row, which was alone in work.
        error: What the processor or the model raised.
    """
    if is_out_of_memory(error):
        return RowError("capture", _NO_MEMORY)
    sizes = _sizes_of(sample)
    said = shortened(one_line(error), LONGEST_SAID)
    found = said if said == type(error).__name__ else f"{type(error).__name__}: {said}"
    return RowError("capture", f"{_about(sample, sizes)}{found}; {_remedy(sizes)}")


def is_of_odd_shape(sample: Sample) -> bool:
    """Return whether a row has an image of a shape that processors and models do not expect."""
    return any(_is_elongated(size) or _is_tiny(size) for size in _sizes_of(sample))


@contextmanager
def row_errors(sample: Sample) -> Iterator[None]:
    """Raise what the block raises as the error of its row; what is no row's error stays as it is.

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
    """Name the row's images and their sizes."""
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
        return "pad or crop the image to a less elongated shape, or leave the row out"
    if any(map(_is_tiny, sizes)):
        return "enlarge the image, or leave the row out"
    if sizes:
        return "resize the image, or leave the row out"
    return "leave the row out"


def _sizes_of(sample: Sample) -> list[tuple[int, int]]:
    """Return width and height of every image; none where one cannot be read any more."""
    try:
        opened = (i if isinstance(i, Image) else open_image(i) for i in sample.images)
        return [image.size for image in opened]
    except RowError:
        return []


def _is_elongated(size: tuple[int, int]) -> bool:
    return max(size) >= ELONGATED * min(size)


def _is_tiny(size: tuple[int, int]) -> bool:
    return min(size) < TINY
