"""Opening of a table's file: decompression and detection of the encoding.

A compressed file is recognised by its first bytes, not by its name, and its expanded size is
limited. A byte-order mark means UTF-16 or UTF-32, as in Excel's "Unicode text"; text without one is
UTF-8, or UTF-16 if every other byte is zero.
"""

from __future__ import annotations

import bz2
import codecs
import errno
import gzip
import lzma
import re
import zlib
from io import BufferedReader, RawIOBase, TextIOWrapper
from pathlib import Path
from typing import IO, Any

from vlmscope.errors import InputError
from vlmscope.regular import open_regular

_COMPRESSIONS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
"""First bytes of compressed files."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""Lower-case extensions of compressed files."""

LEAST_EXPANDED = 2**30
"""Expanded size in bytes that is allowed for any compressed file."""

MOST_TIMES = 200
"""Larger files may expand to this many times their size: text compresses to a fifth to a fiftieth.
"""

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
BYTE_ORDER_MARK = "\ufeff"
"""Not part of the text at its beginning, even if repeated."""

_SAVE = "save the table as .csv or .jsonl"
_OTHERS = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook", f"unpack it, or {_SAVE}"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook or the like", _SAVE),
    (b"PAR1", "a Parquet file", "give it the extension .parquet"),
    (b"ARROW1", "an Arrow file", "save the table as .parquet"),
    (b"\x89HDF\r\n", "an HDF5 file", _SAVE),
    (b"SQLite format 3\0", "an SQLite database", _SAVE),
    (b"%PDF-", "a PDF document", _SAVE),
    (b"/annex/objects/", "a git-annex pointer, not the file itself", "run 'git annex get'"),
)
"""First bytes of files that are not text tables, what they are, and the remedy."""

_WEB_PAGE = re.compile(rb"\s*(?:<!doctype html|<html)", re.IGNORECASE)


def plain_suffix(path: Path) -> str:
    """Return the lower-case extension of a file without that of its compression.

    >>> plain_suffix(Path("a.CSV")), plain_suffix(Path("a.jsonl.gz"))
    ('.csv', '.jsonl')
    """
    name = Path(path.stem) if path.suffix.lower() in COMPRESSED else path
    return name.suffix.lower()


def open_bytes(path: Path) -> IO[bytes]:
    """Open a table's file for reading bytes, decompressed if needed.

    Raises:
        InputError: It is an archive.
        OSError: As ``open_regular``; reading also raises it if the file expands beyond the limit.
    """
    handle = open_regular(path)
    try:
        return _expanded(handle, path)
    except BaseException:
        handle.close()
        raise


def _expanded(handle: BufferedReader, path: Path) -> IO[bytes]:
    head = handle.peek(64)[:64]
    _check_head(head, path)
    expanding = _expander(handle, head)
    if expanding is None:
        return handle
    size = path.stat().st_size
    most = max(LEAST_EXPANDED, MOST_TIMES * size)
    expanded = BufferedReader(_Limited(expanding, handle, most), 2**20)
    head = expanded.peek(64)[:64]
    _check_head(head, path)
    if head.startswith(_COMPRESSIONS):
        raise InputError(f"{path}: is compressed twice; expand it once")
    return expanded


def _check_head(head: bytes, path: Path) -> None:
    """Raise for a file that is not text by its first bytes."""
    for start, what, remedy in _OTHERS:
        if head.startswith(start):
            raise InputError(f"{path}: is {what}; {remedy}")
    if _WEB_PAGE.match(head):
        raise InputError(f"{path}: is a web page, not a table; fetch the file itself")


def _expander(handle: BufferedReader, head: bytes) -> Any:
    """Return the decompressing reader of a file; None if it is not compressed."""
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=handle)
    if head.startswith(b"BZh") and head[4:10] == b"1AY&SY":
        return bz2.BZ2File(handle)
    if head.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(handle)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        try:
            import pyarrow
        except ImportError as error:
            raise InputError(
                f"{handle.name}: reading .zst needs pyarrow; pip install pyarrow, or expand the "
                "file first"
            ) from error
        return pyarrow.CompressedInputStream(pyarrow.PythonFile(handle), "zstd")
    return None


class _Limited(RawIOBase):
    """Content of a compressed file, up to a limit; every fault of the file is ``OSError``."""

    def __init__(self, source: Any, file: IO[bytes], most: int) -> None:
        self._source = source
        self._file = file
        self._most = most
        self._left = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._source.read(len(buffer))
        except (EOFError, lzma.LZMAError, zlib.error, OSError, ValueError) as error:
            found = f"its compression is damaged or cut: {error}"
            raise OSError(errno.EIO, found) from error
        self._left -= len(data)
        if self._left < 0:
            found = f"expands to more than {self._most:,} bytes; expand it first"
            raise OSError(errno.EFBIG, found)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
            self._file.close()
        super().close()


def encoding_of(head: bytes) -> str:
    r"""Return the encoding of a text by its first bytes.

    >>> encoding_of(b"id,image"), encoding_of("id".encode("utf-16")), encoding_of(b"i\0d\0")
    ('utf-8-sig', 'utf-16', 'utf-16-le')
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if len(head) >= 4 and head[1] == head[3] == 0 and head[0] and head[2]:
        return "utf-16-le"
    if len(head) >= 4 and head[0] == head[2] == 0 and head[1] and head[3]:
        return "utf-16-be"
    return "utf-8-sig"


def open_text(path: Path, newline: str = "") -> TextIOWrapper:
    """Open a table's file for reading text, with ``newline`` as in ``open``.

    Raises:
        InputError: As ``open_bytes``.
        OSError: As ``open_bytes``.
    """
    handle = open_bytes(path)
    try:
        head = handle.peek(4)[:4]  # type: ignore[attr-defined]  # both kinds are buffered
    except BaseException:
        handle.close()
        raise
    return TextIOWrapper(handle, encoding_of(head), newline=newline)


def decoded(data: bytes) -> str:
    """Return the decoded text of a file.

    Raises:
        UnicodeDecodeError: It is not in the encoding that its first bytes indicate.
    """
    return data.decode(encoding_of(data[:4]))


def not_utf8(path: Path, encoding: str = "utf-8-sig") -> InputError:
    """Return the error for a file that is not UTF-8, with line, byte and remedy.

    A text reader reports offsets within its own buffer, so the file is searched again. No UTF-8
    character but the newline itself contains a newline byte, so reading by line splits no
    character.

    Args:
        path: The file.
        encoding: The assumed encoding.
    """
    if encoding != "utf-8-sig":
        return InputError(
            f"{path.name}: begins as {encoding.upper()} and continues as something else; save the "
            "file as UTF-8"
        )
    offset = 0
    with open_bytes(path) as handle:
        for number, line in enumerate(handle, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                at = offset + error.start
                found = f"byte 0x{line[error.start]:02x} at offset {at}"
                return InputError(
                    f"{path.name} line {number}: {found} is not UTF-8; save the file as UTF-8 "
                    f"(iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8{path.suffix})"
                )
            offset += len(line)
    return InputError(f"{path.name}: is not UTF-8; save the file as UTF-8")
