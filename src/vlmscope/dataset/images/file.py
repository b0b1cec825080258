"""Read and open one image file under limits: a file must not cost far more than its size.

What is checked, in this order: the file is a regular one and not larger than ``MAX_IMAGE_BYTES``,
its format is one of ``FORMATS``, and what its header declares is not more than Pillow's limit of
pixels. The file is read whole before anything is decoded, so that it cannot change meanwhile, and
decoders that are written in Python may read from it only so many times.
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
"""The largest PBM, PGM or PPM that is written in digits: Pillow reads 2 to 6 MB of these a
second."""

HEADER_READS = 20_000
"""How often a header may be read from: files have fewer than 1,000 segments, chunks and tags."""

PIXEL_READS = 4_000_000
"""How often pixels may be read from a file: 130,000 times are needed for a PNG of 256 MiB in chunks
of 8 KiB."""

_TILE_WIDTH, _TILE_LENGTH = 322, 323


class LimitedReader(BytesIO):
    """The bytes of a file, to be read from so many times and no more.

    Args:
        data: The bytes.
        what: What they are, for messages.
    """

    def __init__(self, data: bytes, what: str) -> None:
        super().__init__(data)
        self.name = what
        """As an open file has one."""
        self._left = HEADER_READS

    def allow(self, reads: int) -> None:
        """Allow so many reads from now on."""
        self._left = reads

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as ``BytesIO`` does.

        Raises:
            RowError: stage ``image``: it was read from too often.
        """
        self._left -= 1
        if self._left < 0:
            raise RowError(
                "image",
                f"{self.name}: has so many small parts that decoding it would take far longer "
                "than its size explains; save it anew as PNG",
            )
        return super().read(size)


def read_image_file(path: Path, what: str) -> bytes:
    """Return the bytes of an image file.

    Args:
        path: The file.
        what: What it is, for messages.

    Raises:
        RowError: stage ``image``: it is missing, no regular file, empty, too large, or it changes
            while it is read.
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
    """Refuse a file that is too large.

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
    """Open the bytes of an image file by their header; no pixel is decoded yet.

    Args:
        data: The bytes.
        what: What they are, for messages.

    Raises:
        RowError: stage ``image``: it is of another format, or declares too much.
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
    """Refuse an image that has no pixels, or whose header declares too many.

    Raises:
        RowError: stage ``image``: it has more than ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    limit = Image.MAX_IMAGE_PIXELS
    width, height = image.size
    if not width * height:
        raise RowError("image", f"{what}: has no pixels, {width}×{height}; replace the file")
    tags = getattr(image, "tag_v2", {})  # a TIFF's tile is decoded whole, whatever the image needs
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
    """Keep Pillow's warnings in: what matters in them is checked here and said as an error.

    Python's warning filters belong to the whole process, hence the lock; it is held for the header
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
            f"{what}: is no image of a known format, starts with {data[:12]!r}; {READ}: replace "
            "the file",
        ) from error
    except Image.DecompressionBombError as error:  # what Pillow itself refuses: twice its limit
        raise too_many_pixels(str(error), what) from error


def _stat(path: Path) -> os.stat_result | None:
    """Return what the system says of a file; None where there is none."""
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
    """Say what to do about a file that is not there; a list that is no JSON was taken for one."""
    if os.path.islink(path):  # noqa: PTH114 - of no name is it an error to ask
        return _leads_nowhere(path)
    listed = any(part.lstrip().startswith("[") for part in path.parts)
    if near := near_file(path):
        return f"not found; {near}, or pass --images DIR"
    hint = '; several images are written as JSON, ["a.png", "b.png"]' if listed else ""
    return f"not found; correct the path, or pass --images DIR{hint}"


def _leads_nowhere(path: Path) -> str:
    """Say what to do about a symbolic link whose file is not there."""
    try:
        target = os.fspath(path.readlink())
    except OSError:
        target = ""
    if ".git/annex/" in target:
        return "is a git-annex link whose file was not fetched; run 'git annex get'"
    return f"is a symbolic link to {shown_name(target, 200)}, which is not there; fetch that file"


def _check_kind(mode: int, what: str) -> None:
    """Refuse what is no regular file: a pipe may never end, and opening a device may do harm."""
    if stat.S_ISDIR(mode):
        raise RowError("image", f"{what}: is a folder; name a file in it")
    if not stat.S_ISREG(mode):
        raise RowError("image", f"{what}: is a pipe, socket or device; name a regular file")


def _open_without_waiting(path: str | PathLike[str], flags: int) -> int:
    """Open a file; one that has become a pipe since it was looked at is not waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
