"""Reading and opening of one image file, within limits on size, pixels and the number of reads.

What is checked, in this order: the file is a regular one and not larger than ``MAX_IMAGE_BYTES``,
its format is one of ``FORMATS``, and what its header declares is not more than Pillow's limit of
pixels. The complete file is read before anything is decoded, so that it cannot change meanwhile,
and decoders written in Python get a limited number of reads: decoding must not cost far more than
the size of a file explains.
"""

from __future__ import annotations

import errno
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from os import PathLike
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from vlmscope.dataset.image_formats import (
    MAX_IMAGE_BYTES,
    READ,
    known_formats,
    other_format,
    remedy_for,
)
from vlmscope.dataset.images.finding import near_file
from vlmscope.dataset.images.jpeg import check_scans, check_segments
from vlmscope.dataset.values import shown_name
from vlmscope.errors import RowError
from vlmscope.locking import warnings_lock

MAX_PLAIN_BYTES = 16 * 2**20
"""Most bytes of a plain-text PBM, PGM or PPM: Pillow reads 2 to 6 MB of these a second."""

HEADER_READS = 20_000
"""Most reads of a header: files have fewer than 1,000 segments, chunks and tags."""

PIXEL_READS = 4_000_000
"""Most reads of pixels: a PNG of 256 MiB in chunks of 8 KiB needs 130,000."""

_TILE_WIDTH, _TILE_LENGTH = 322, 323


class LimitedReader(BytesIO):
    """The bytes of a file, with a limited number of reads.

    Args:
        data: The bytes.
        what: Description for messages.
    """

    def __init__(self, data: bytes, what: str) -> None:
        super().__init__(data)
        self.name = what
        """Like the attribute of an open file."""
        self._left = HEADER_READS

    def allow(self, reads: int) -> None:
        """Set the number of reads allowed from now on."""
        self._left = reads

    def read(self, size: int | None = -1, /) -> bytes:
        """Read like ``BytesIO``.

        Raises:
            RowError: stage ``image``: too many reads.
        """
        self._left -= 1
        if self._left < 0:
            raise RowError(
                "image",
                f"{self.name}: has so many small parts that decoding it would take far longer "
                "than its size explains; save it again as PNG",
            )
        return super().read(size)


def read_image_file(path: Path, what: str) -> bytes:
    """Return the bytes of an image file.

    Args:
        path: The file.
        what: Description for messages.

    Raises:
        RowError: stage ``image``: it is missing, not a regular file, empty, too large, or it
            changes while it is read.
        OSError: It cannot be read.
    """
    found = _stat(path)
    if found is None:
        raise RowError("image", f"{what}: {_not_found(path)}")
    _check_kind(found.st_mode, what)
    with open(path, "rb", opener=_open_without_waiting) as file:
        found = os.fstat(file.fileno())
        _check_kind(found.st_mode, what)
        if not found.st_size:
            raise RowError("image", f"{what}: is empty, 0 bytes; fetch the file again")
        check_size(found.st_size, what)
        data = file.read(found.st_size + 1)
    if len(data) != found.st_size:
        raise RowError(
            "image",
            f"{what}: had {found.st_size:,} bytes and changed while it was read; wait until it is "
            "complete, then run the same command again",
        )
    return data


def check_size(size: int, what: str) -> None:
    """Raise for a file that is too large.

    Raises:
        RowError: stage ``image``: it has more than ``MAX_IMAGE_BYTES``.
    """
    if size > MAX_IMAGE_BYTES:
        raise RowError(
            "image",
            f"{what}: has {size:,} bytes, the limit is {MAX_IMAGE_BYTES:,}; save it as JPEG or "
            "PNG, or scale the image down",
        )


@contextmanager
def opened_image(data: bytes, what: str) -> Iterator[Image.Image]:
    """Open the bytes of an image file and read the header; no pixel is decoded yet.

    Args:
        data: The bytes.
        what: Description for messages.

    Raises:
        RowError: stage ``image``: its format is not supported, or it declares too many pixels.
    """
    check_size(len(data), what)
    if other := other_format(data):
        raise RowError("image", f"{what}: is {other}; {READ}: {remedy_for(other)}")
    plain = data[:2] in (b"P1", b"P2", b"P3")
    if plain and len(data) > MAX_PLAIN_BYTES:
        raise RowError(
            "image",
            f"{what}: is a PPM written in digits of {len(data):,} bytes, the limit for these is "
            f"{MAX_PLAIN_BYTES:,}; save it as PNG",
        )
    scans = check_segments(data, what) if data[:2] == b"\xff\xd8" else 0
    stream = LimitedReader(data, what)
    with _open(stream, data, what) as image:
        check_pixels(image, what)
        check_scans(image, scans, what)
        stream.allow(PIXEL_READS)
        yield image


def check_pixels(image: Image.Image, what: str) -> None:
    """Raise for an image that has no pixels, or whose header declares too many.

    Raises:
        RowError: stage ``image``: it has more than ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    limit = Image.MAX_IMAGE_PIXELS
    width, height = image.size
    if not width * height:
        raise RowError("image", f"{what}: has no pixels, {width}×{height}; replace the file")
    tags = getattr(image, "tag_v2", {})  # a TIFF's tile is always decoded completely
    tile = tags.get(_TILE_WIDTH), tags.get(_TILE_LENGTH)
    for name, sides in (("", (width, height)), ("tiles of ", tile)):
        across, down = (side if isinstance(side, int) else 0 for side in sides)
        if limit is not None and across * down > limit:
            raise too_many_pixels(f"{name}{across}×{down}, limit {limit} pixels", what)


def too_many_pixels(found: str, what: str) -> RowError:
    """Return the error for an image that would fill the memory."""
    return RowError(
        "image",
        f"{what}: too many pixels, may be a decompression bomb ({found}); scale the image down",
    )


@contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings: what matters in them is checked here and raised as an error.

    Python's warning filters are global to the process, hence the lock; it is held for the header
    and the EXIF block, never while pixels are decoded.
    """
    with warnings_lock(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(stream: LimitedReader, data: bytes, what: str) -> Image.Image:
    """Let Pillow read the header."""
    try:
        with without_warnings():
            return Image.open(stream, formats=known_formats())
    except UnidentifiedImageError as error:
        raise RowError(
            "image",
            f"{what}: is not an image of a known format, starts with {data[:12]!r}; {READ}: "
            "replace the file",
        ) from error
    except Image.DecompressionBombError as error:  # what Pillow itself refuses: twice its limit
        raise too_many_pixels(str(error), what) from error


def _stat(path: Path) -> os.stat_result | None:
    """Return a file's ``stat`` result; None if there is no such file."""
    try:
        return path.stat()
    except OSError as error:
        # A list of many names is longer than any file's name.
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return None
        raise
    except ValueError:  # a NUL character in the name
        return None


def _not_found(path: Path) -> str:
    """Return the error text for a missing file, which may be a list that is not JSON."""
    if os.path.islink(path):  # noqa: PTH114 - raises for no name
        return _leads_nowhere(path)
    listed = any(part.lstrip().startswith("[") for part in path.parts)
    if near := near_file(path):
        return f"not found; {near}, or pass --images DIR"
    hint = '; several images are written as JSON, ["a.png", "b.png"]' if listed else ""
    return f"not found; correct the path, or pass --images DIR{hint}"


def _leads_nowhere(path: Path) -> str:
    """Return the error text for a broken symbolic link."""
    try:
        target = os.fspath(path.readlink())
    except OSError:
        target = ""
    if ".git/annex/" in target:
        return "is a git-annex link whose file was not fetched; run 'git annex get'"
    return f"is a symbolic link to {shown_name(target, 200)}, which is not there; fetch that file"


def _check_kind(mode: int, what: str) -> None:
    """Raise unless it is a regular file: a pipe may never end, opening a device may do things."""
    if stat.S_ISDIR(mode):
        raise RowError("image", f"{what}: is a folder; name a file in it")
    if not stat.S_ISREG(mode):
        raise RowError("image", f"{what}: is a pipe, socket or device; name a regular file")


def _open_without_waiting(path: str | PathLike[str], flags: int) -> int:
    """Open a file without blocking, even if it was replaced by a pipe since it was checked."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
