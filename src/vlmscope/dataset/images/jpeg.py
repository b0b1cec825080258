"""Checks of a JPEG's segments and scans before it is decoded.

Pillow joins EXIF data segment by segment, and libjpeg processes all pixels once for each scan, of
which a file of a few hundred kilobytes can have thousands: both may take hours.
"""

from __future__ import annotations

import re

from PIL import Image

from vlmscope.errors import RowError

MAX_EXIF_BYTES = 16 * 2**20
"""Most bytes of EXIF data in a JPEG, which Pillow joins segment by segment. Almost every file has
one segment, of at most 64 KiB.
"""

MAX_SEGMENTS = 100_000
"""Most segments of a JPEG."""

MAX_SCANS = 32
"""Most scans of a JPEG of the maximum size; a smaller one may have proportionally more. A
progressive JPEG usually has 10, each of which processes all pixels.
"""

_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""A marker of a JPEG, other than an escaped byte of pixel data or a restart."""

_SOI, _EOI, _SOS, _APP1, _TEM = b"\xd8", b"\xd9", b"\xda", b"\xe1", b"\x01"


def check_segments(data: bytes, what: str) -> int:
    """Raise for a JPEG with too much EXIF data or too many segments; return its number of scans.

    Raises:
        RowError: stage ``image``.
    """
    scans = exif = segments = 0
    few, at = data.count(b"\xff" + _SOS) <= MAX_SCANS, 2
    while found := _MARKER.search(data, at):
        marker, at = found[1], found.end()
        segments += 1
        if marker == _EOI:
            break
        if marker in (_SOI, _TEM):
            continue
        scans += marker == _SOS
        if scans and few:
            return MAX_SCANS  # limited, as searching all of it would take as long again
        length = int.from_bytes(data[at : at + 2], "big")
        if marker == _APP1 and data[at + 2 : at + 6] == b"Exif":
            exif += length
        if exif > MAX_EXIF_BYTES or segments > MAX_SEGMENTS:
            raise RowError(
                "image",
                f"{what}: a JPEG with {exif:,} bytes of EXIF data in {segments:,} segments, the "
                f"limits are {MAX_EXIF_BYTES:,} and {MAX_SEGMENTS:,}; save it again",
            )
        at += length
    return scans


def check_scans(image: Image.Image, scans: int, what: str) -> None:
    """Raise for a JPEG with too many scans for its size.

    Raises:
        RowError: stage ``image``.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and scans * image.width * image.height > MAX_SCANS * limit:
        raise RowError(
            "image",
            f"{what}: a JPEG of {image.width}×{image.height} pixels in {scans:,} scans, {MAX_SCANS}"
            f" scans of {limit:,} pixels are the limit; save it again as JPEG or PNG",
        )
