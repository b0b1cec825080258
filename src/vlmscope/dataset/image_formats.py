"""The formats of image files that are opened, and what another file is by its first bytes.

The list is short on purpose: what data sets of visual questions hold, and what Pillow decodes by
itself within its limits. Others start a program (EPS), expand a gzip stream whole (FITS), or are
hardly ever met; each is a decoder that a stranger's table could reach.
"""

from __future__ import annotations

import re
from functools import cache

from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""Formats that are opened, by Pillow's names. A phone's MPO is a JPEG; PPM is PBM, PGM and PFM
too."""

MAX_IMAGE_BYTES = 256 * 2**20
"""The largest image file: what the pixels of Pillow's own limit take as plain RGB."""

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".avif", ".jfif", ".jpe", ".mpo",
)  # fmt: skip
"""Suffixes in lower case of files of these formats."""

READ = "vlmscope reads JPEG, PNG, WebP, GIF, BMP, TIFF, PPM and AVIF"
"""The same for messages."""

_OTHER_FORMATS = (
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "an EPS or PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (b"8BPS", "a Photoshop document (PSD)"),
    (b"SIMPLE  =", "a FITS image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"icns", "an icon (ICNS)"),
    (b"DDS ", "a DDS texture"),
    (b"qoif", "a QOI image"),
    (b"gimp xcf", "a GIMP document (XCF)"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)
"""How a file begins → what it is, of those that are taken for images."""

_REMEDIES = {
    "a Git LFS pointer": "run 'git lfs pull'",
    "a page of HTML or XML": "fetch the file again",
    "a video (Matroska or WebM)": "extract a frame",
    "a video (MP4 or QuickTime)": "extract a frame",
}
"""What to do about those that cannot be converted."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_MARKUP = re.compile(rb"\s*(?:<\?xml|<!doctype|<!--|<svg|<html|<head)", re.IGNORECASE)


@cache
def known_formats() -> list[str]:
    """Return the formats that are opened, those of them that this Pillow knows."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def remedy_for(other: str) -> str:
    """Return what to do about a file that ``other_format`` named."""
    return _REMEDIES.get(other, "convert it, for example to PNG")


def other_format(data: bytes) -> str:
    """Return what a file is that is not opened; empty if that is not known."""
    for start, name in _OTHER_FORMATS:
        if data.startswith(start):
            return name
    if data[4:8] == b"ftyp":
        brands = data[8 : max(12, min(int.from_bytes(data[:4], "big"), 256))]
        if b"avif" in brands or b"avis" in brands:
            return ""
        return "an HEIC image" if data[8:12] in _HEIF_BRANDS else "a video (MP4 or QuickTime)"
    if data[128:132] == b"DICM":
        return "a DICOM image"
    if _MARKUP.match(data[:256]):
        return "an SVG drawing" if b"<svg" in data[:4096].lower() else "a page of HTML or XML"
    return ""
