"""Open one picture as the RGB a person sees, or say in one line why it cannot be.

Pillow is used as it comes: no process-wide setting is touched, a cut file is refused and not
filled up with grey, and the size in the header is checked before a pixel is decoded.
"""

from __future__ import annotations

import errno
import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from vlmscope.dataset._pixels import to_rgb
from vlmscope.dataset._source import one_line
from vlmscope.errors import RowError
from vlmscope.locking import image_lock, warnings_lock

_UPRIGHT: Mapping[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what brings the picture upright. (``ImageOps.exif_transpose`` knows the same
table, but also rewrites the EXIF block, which fails on blocks that other programs wrote.)"""


def load_image(image: str | PathLike[str] | bytes | Image.Image) -> Image.Image:
    """Decode a picture and convert it to RGB, upright, on white where it is transparent.

    Of an animation the first frame is taken, of a PIL image the current one.

    Args:
        image: the path of an image file, the bytes of one, or a PIL image.

    Returns:
        A new picture of mode ``RGB`` that no file or other picture stands behind.

    Raises:
        RowError: stage ``image``: the file is missing, empty, cut, damaged, no image, without
            pixels, or has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    what = _describe(image)
    try:
        if isinstance(image, Image.Image):
            with image_lock(image):  # it may be decoded here first, and another thread may have it
                return _decode(image, what)
        with _stream(image, what) as stream, _open(stream, what) as picture:
            return _decode(picture, what)
    except RowError:
        raise
    except Exception as error:  # Pillow's readers raise anything on damaged files
        raise RowError(
            "image",
            f"{what}: cannot be decoded ({one_line(error)}); it is cut, damaged or of a rare "
            "kind: fetch it again, or save it as PNG",
        ) from error


def _describe(image: str | PathLike[str] | bytes | Image.Image) -> str:
    if isinstance(image, bytes):
        return f"image of {len(image)} bytes"
    if isinstance(image, Image.Image):
        return f"PIL image of mode {image.mode}"
    return f"image {Path(image)}"


@contextmanager
def _stream(image: str | PathLike[str] | bytes, what: str) -> Iterator[BinaryIO]:
    """Open the file or the bytes; refuse what is not there or empty."""
    if isinstance(image, bytes):
        if not image:
            raise RowError("image", f"{what}: is empty; put the image file's bytes there")
        yield BytesIO(image)
        return
    path = Path(image)
    if not _exists(path):
        raise RowError("image", f"{what}: {_not_found(path)}")
    if path.is_dir():
        raise RowError("image", f"{what}: is a folder; name a file in it")
    if not path.stat().st_size:
        raise RowError("image", f"{what}: is empty, 0 bytes; fetch the file again")
    with path.open("rb") as stream:
        yield stream


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False  # a list of many names is longer than any file's name


def _not_found(path: Path) -> str:
    """Say what to do about a file that is not there; a list that is no JSON was taken for one."""
    listed = any(part.lstrip().startswith("[") for part in path.parts)
    hint = '; several pictures are written as JSON, ["a.png", "b.png"]' if listed else ""
    return f"not found; correct the path, or pass --images DIR{hint}"


def _open(stream: BinaryIO, what: str) -> Image.Image:
    """Read the header."""
    try:
        with _quiet():
            return Image.open(stream, formats=_formats())
    except UnidentifiedImageError as error:
        stream.seek(0)
        raise RowError(
            "image",
            f"{what}: is no image Pillow can read, starts with {stream.read(12)!r}; replace it by "
            "a JPEG, PNG or the like",
        ) from error
    except Image.DecompressionBombError as error:  # what Pillow itself refuses: twice its limit
        raise RowError("image", f"{what}: {_too_large(str(error))}") from error


def _decode(picture: Image.Image, what: str) -> Image.Image:
    width, height = picture.size
    if not width * height:
        raise RowError("image", f"{what}: has no pixels, {width}×{height}; replace the file")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise RowError("image", f"{what}: {_too_large(f'{width}×{height}, limit {limit} pixels')}")
    picture.load()
    upright = _UPRIGHT.get(_orientation(picture))
    rgb = to_rgb(picture)
    if upright is not None:
        rgb = rgb.transpose(upright)
    # Without this the picture would carry its old orientation and be turned again by the next one
    # to load it.
    rgb.info = {}
    return rgb


def _orientation(picture: Image.Image) -> object:
    """Read the EXIF orientation. A damaged EXIF block has none: the picture is still good."""
    try:
        with _quiet():
            return picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001  the parser raises anything on a damaged block
        return None


def _too_large(found: str) -> str:
    return f"too many pixels, may be a decompression bomb ({found}); scale the image down"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings in: what matters in them is checked here and said as an error.

    Python's warning filters belong to the whole process, hence the lock; it is held for the header
    and the EXIF block, never while pixels are decoded.
    """
    with warnings_lock(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def hash_image(picture: Image.Image) -> str:
    """Return the SHA-256 of a picture's size and pixels: its identity, whatever its file."""
    digest = hashlib.sha256(f"{picture.width}x{picture.height}".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()


def difference_hash(picture: Image.Image) -> str:
    """Return a perceptual hash of 64 bits as 16 hexadecimal digits.

    Pictures that look alike (scaled, compressed anew) differ in few bits. Each bit says whether a
    cell of the picture, reduced to 9 × 8 grey cells, is darker than its right neighbour
    (N. Krawetz, "Kind of like that", 2013).

    >>> difference_hash(Image.new("RGB", (40, 30)))
    '0000000000000000'
    """
    small = picture.convert("L").resize((9, 8), Image.Resampling.BOX)
    cells = np.asarray(small, dtype=np.int16)
    bits = np.packbits((cells[:, :-1] < cells[:, 1:]).reshape(-1))
    return bits.tobytes().hex()


@cache
def _formats() -> list[str]:
    """Return what Pillow may try: all it knows but EPS, for which it would start Ghostscript."""
    Image.init()
    return [name for name in Image.ID if name != "EPS"]
