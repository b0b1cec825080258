"""``load_image``: one image decoded to upright RGB, or a one-line error with the reason.

Pillow is used with its defaults: no process-wide setting is changed, and a truncated file is
refused rather than filled with grey. The supported formats and size limits are in ``file``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from vlmscope.dataset.images.file import (
    check_pixels,
    opened_image,
    read_image_file,
    without_warnings,
)
from vlmscope.dataset.images.pixels import bands, to_rgb
from vlmscope.dataset.values import shown_path
from vlmscope.errors import RowError, named_line
from vlmscope.locking import image_lock
from vlmscope.schema import Sample, failure_of

_UPRIGHT: Mapping[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → transposition that makes the image upright. (``ImageOps.exif_transpose`` knows
the same
table, but also rewrites the EXIF block, which fails on blocks that other programs wrote.)"""


_TIFF_WIDTH, _TIFF_HEIGHT = ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength
_TURNED = frozenset(_UPRIGHT[number] for number in (5, 6, 7, 8))
"""Transpositions that swap width and height."""


def load_image(image: str | PathLike[str] | bytes | Image.Image) -> Image.Image:
    """Decode an image and convert it to RGB, upright, on white where it is transparent.

    An animation gives its first frame, a PIL image its current one. Files may be JPEG,
    PNG, WebP, GIF, BMP, TIFF, PPM or AVIF.

    Args:
        image: the path of an image file, the bytes of one, or a PIL image.

    Returns:
        A new image of mode ``RGB``, independent of any file or other image.

    Raises:
        RowError: stage ``image``: the file is missing, empty, truncated, damaged, not an image or
            of another format, without pixels, or has more than ``PIL.Image.MAX_IMAGE_PIXELS``
            pixels or ``MAX_IMAGE_BYTES`` bytes.
    """
    what = _describe(image)
    try:
        if isinstance(image, Image.Image):
            with image_lock(image):  # decoding changes it, and another thread may use it
                check_pixels(image, what)
                return _upright(*_decode(image))
        return _upright(*_decode_file(image, what))
    except RowError:
        raise
    except MemoryError as error:
        raise RowError(
            "image",
            f"{what}: not enough memory to decode it; scale the image down, or save it as PNG",
        ) from error
    except Exception as error:  # Pillow's readers raise anything on damaged files
        raise RowError(
            "image",
            f"{what}: cannot be decoded ({named_line(error)}); it is truncated, damaged or of a "
            "rare kind: fetch it again, or save it as PNG",
        ) from error


def image_size(image: str | PathLike[str] | bytes | Image.Image) -> tuple[int, int]:
    """Return width and height of what ``load_image`` returns, from the header: nothing is decoded.

    Args:
        image: As for ``load_image``; of a PIL image its own size.

    Raises:
        RowError: As ``load_image``, if the header tells it.
    """
    what = _describe(image)
    try:
        if isinstance(image, Image.Image):
            return image.size
        data = image if isinstance(image, bytes) else read_image_file(Path(image), what)
        with opened_image(data, what) as opened:
            return _upright_size(opened)
    except RowError:
        raise
    except Exception as error:  # Pillow's readers raise anything on damaged files
        raise RowError("image", f"{what}: cannot be read ({named_line(error)})") from error


def check_headers(row: Sample) -> None:
    """Raise for an image of a row whose file is missing or refused, as far as its header tells it.

    For commands about one row: a mistake in a path is found before a model is loaded.

    Args:
        row: The row. Images that are held in memory are not checked.

    Raises:
        RowError: As ``image_size``, with the location of the row.
    """
    for image in row.images:
        if not isinstance(image, str | PathLike | bytes):
            continue
        try:
            image_size(image)
        except RowError as error:
            raise RowError(error.stage, failure_of(row, error.stage, str(error)).error) from error


def _upright_size(image: Image.Image) -> tuple[int, int]:
    # Pillow decodes a PNG to look for an EXIF block behind its pixels.
    known = image.format != "PNG" or "exif" in image.info
    turn = _UPRIGHT.get(_orientation(image)) if known else None
    tags = getattr(image, "tag_v2", {})  # the size of a TIFF is turned when it is opened, or loaded
    width, height = (
        tags.get(tag, side)
        for tag, side in zip((_TIFF_WIDTH, _TIFF_HEIGHT), image.size, strict=True)
    )
    return (height, width) if turn in _TURNED else (width, height)


def _describe(image: str | PathLike[str] | bytes | Image.Image) -> str:
    if isinstance(image, bytes):
        return f"image of {len(image)} bytes"
    if isinstance(image, Image.Image):
        return f"PIL image of mode {image.mode}"
    return f"image {shown_path(Path(image))}"


def _decode_file(
    image: str | PathLike[str] | bytes, what: str
) -> tuple[Image.Image, Image.Transpose | None]:
    """Decode as ``_decode`` does, and release the file and the decoder's own copy on return."""
    data = image if isinstance(image, bytes) else read_image_file(Path(image), what)
    if not data:
        raise RowError("image", f"{what}: is empty; put the image file's bytes there")
    with opened_image(data, what) as opened:
        return _decode(opened)


def _decode(image: Image.Image) -> tuple[Image.Image, Image.Transpose | None]:
    """Return an image as RGB, and the transposition that makes it upright."""
    if hasattr(image, "tag_v2"):
        _orientation(image)  # loading a TIFF reads its EXIF block too, and would warn
    image.load()
    return to_rgb(image), _UPRIGHT.get(_orientation(image))


def _upright(rgb: Image.Image, transpose: Image.Transpose | None) -> Image.Image:
    if transpose is not None:
        rgb = rgb.transpose(transpose)
    # Otherwise the image would keep its old orientation and be turned again when it is next loaded.
    rgb.info = {}
    return rgb


def _orientation(image: Image.Image) -> object:
    """Return the EXIF orientation. A damaged EXIF block has none: the image is still valid."""
    try:
        with without_warnings():
            return image.getexif().get(ExifTags.Base.Orientation)
    except RowError:
        raise
    except Exception:  # noqa: BLE001  the parser raises anything on a damaged block
        return None


def hash_image(image: Image.Image) -> str:
    """Return the SHA-256 of an image's size and pixels: its identity, independent of its file."""
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    for _, band in bands(image):
        digest.update(band.tobytes())
    return digest.hexdigest()


def difference_hash(image: Image.Image) -> str:
    """Return a perceptual hash of 64 bits as 16 hexadecimal digits.

    Similar images (scaled, recompressed) differ in few bits. Each bit says whether a
    cell of the image, reduced to 9 × 8 grey cells, is darker than its right neighbour
    (N. Krawetz, "Kind of like that", 2013).

    >>> difference_hash(Image.new("RGB", (40, 30)))
    '0000000000000000'
    """
    small = image.convert("L").resize((9, 8), Image.Resampling.BOX)
    cells = np.asarray(small, dtype=np.int16)
    bits = np.packbits((cells[:, :-1] < cells[:, 1:]).reshape(-1))
    return bits.tobytes().hex()
