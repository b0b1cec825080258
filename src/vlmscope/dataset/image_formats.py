"""Supported image formats, and detection of other files by their first bytes.

The list is short on purpose: the formats found in datasets of visual questions, which Pillow
decodes itself within its limits. Others start a program (EPS), expand a complete gzip stream
(FITS), or are rare; each would be one more decoder reachable from an untrusted table.
"""

from __future__ import annotations

import re
from functools import cache

from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""Supported formats, by Pillow's names. A phone's MPO is a JPEG; PPM includes PBM, PGM and PFM."""

MAX_IMAGE_BYTES = 256 * 2**20
"""Most bytes of an image file: those of uncompressed RGB at Pillow's pixel limit."""

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".avif", ".jfif", ".jpe", ".mpo",
)  # fmt: skip
"""Lower-case suffixes of these formats."""

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
"""First bytes of a file → what it is, for files that are mistaken for images."""

_REMEDIES = {
    "a Git LFS pointer": "run 'git lfs pull'",
    "a page of HTML or XML": "fetch the file again",
    "a video (Matroska or WebM)": "extract a frame",
    "a video (MP4 or QuickTime)": "extract a frame",
}
"""Remedy for each that cannot be converted."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_MARKUP = re.compile(rb"\s*(?:<\?xml|<!doctype|<!--|<svg|<html|<head)", re.IGNORECASE)


@cache
def known_formats() -> list[str]:
    """Return the supported formats that the installed Pillow can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def remedy_for(other: str) -> str:
    """Return the remedy for a file that ``other_format`` detected."""
    return _REMEDIES.get(other, "convert it, for example to PNG")


def other_format(data: bytes) -> str:
    """Return what an unsupported file is; empty if unknown."""
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
