"""Decoding of images written as text: base64, data URIs, and Python's printed bytes.

Some benchmarks hold their images in TSV or JSON Lines, as base64 with or without a leading
``data:image/png;base64,``. Such a text is recognised by its beginning and its length, decoded
within the size limit of an image file, and never shown in a message.
"""

from __future__ import annotations

import ast
import base64
import binascii
import re
from typing import Any
from urllib.parse import unquote_to_bytes

from vlmscope.dataset.image_formats import MAX_IMAGE_BYTES

_START = re.compile(r"/9j/|_9j_|iVBORw0KGgo|R0lGOD|UklGR|SUkqA|TU0AK|UD[U-Y]K|AAAA.GZ0eX")
"""First characters of base64 of JPEG (plain and URL-safe), PNG, GIF, WebP, TIFF, PPM and AVIF."""

_SHORTEST = 64
"""Fewest characters of a text taken for base64: an image of one pixel has more."""

LONGEST_NAME = 255
"""Most characters of a file name."""

_DATA_URI = re.compile(r"\s*data:(?P<type>[^,;\s]*)(?P<more>(?:;[^,]*)?),", re.IGNORECASE)
_ALPHABET = re.compile(r"[A-Za-z0-9+/_-]{60}[A-Za-z0-9+/_=\s-]*")
_BYTES = r"""b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*\""""
_TEXT = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_PRINTED = re.compile(r"""\s*(?:\{\s*['"](?:bytes|path)['"]\s*:|b['"])""")
_PRINTED_BYTES = re.compile(rf"\s*(?P<bytes>{_BYTES})\s*", re.DOTALL)
_PRINTED_PAIR = re.compile(
    rf"""(['"])(bytes|path)\1\s*:\s*({_BYTES}|{_TEXT}|None|null)""", re.DOTALL
)
_PRINTED_WHOLE = re.compile(rf"\s*\{{(?:[\s,]*{_PRINTED_PAIR.pattern})+[\s,]*\}}\s*", re.DOTALL)
_BETWEEN = re.compile(r"\s*\{\s*,?\s*\}\s*")


class EncodedError(ValueError):
    """A text that encodes an image cannot be decoded; the message omits the text."""


def is_encoded(text: str) -> bool:
    """Return whether a text encodes an image, rather than naming one.

    >>> is_encoded("/9j/4AAQ.jpg"), is_encoded("data:image/png;base64,AAAA")
    (False, True)
    """
    start = text[:5000].lstrip()
    if start[:5].lower() == "data:":
        return _DATA_URI.match(text[:256]) is not None
    if len(text) < _SHORTEST:
        return start.startswith("{") and _PRINTED_WHOLE.fullmatch(start) is not None
    if _PRINTED.match(start):
        return True
    if _START.match(start):  # base64 that is damaged after its beginning still counts
        return _ALPHABET.fullmatch(start[:_SHORTEST]) is not None
    return len(text) > LONGEST_NAME and _ALPHABET.fullmatch(start) is not None


def holds_image(text: str) -> bool:
    """Return whether a text is certainly an encoded image, and so not metadata.

    >>> holds_image("iVBORw0KGgo" + "A" * 80), holds_image("a" * 300)
    (True, False)
    """
    start = text[:5000].lstrip()
    if len(text) < _SHORTEST:
        return False
    if start[:5].lower() == "data:":
        return is_encoded(text)
    if _START.match(start):
        return is_encoded(text)
    return _PRINTED.match(start) is not None and len(text) > LONGEST_NAME


def decode_image(text: str) -> tuple[bytes | None, str]:
    """Return the bytes of the image that a text encodes, and its name if the text has it.

    Raises:
        EncodedError: They cannot be decoded, or exceed the size limit.
    """
    if len(text) > 4 * MAX_IMAGE_BYTES:  # printed bytes take four characters each
        raise _too_large(len(text))
    uri = _DATA_URI.match(text)
    if uri is not None:
        return _of_uri(text[uri.end() :], uri), ""
    if _PRINTED.match(text):
        return _of_printed(text)
    return of_base64(text), ""


def of_base64(text: str) -> bytes:
    """Return the bytes of base64, plain or URL-safe, with or without line breaks and padding.

    Raises:
        EncodedError: It is not base64, or exceeds the size limit.
    """
    if len(text) > 1.5 * MAX_IMAGE_BYTES:  # it may contain line breaks
        raise _too_large(len(text) * 3 // 4)
    packed = "".join(text.split()).rstrip("=")
    if len(packed) % 4 == 1:
        raise EncodedError(f"is base64 that is cut or damaged ({len(text):,} characters)")
    if "-" in packed or "_" in packed:
        packed = packed.translate({ord("-"): "+", ord("_"): "/"})
    try:
        data = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        cut = ", as long as a cell of Excel may be: it was cut there" * (len(text) == 32_767)
        raise EncodedError(
            f"is base64 that is cut or damaged ({len(text):,} characters{cut})"
        ) from error
    if len(data) > MAX_IMAGE_BYTES:
        raise _too_large(len(data))
    return data


def _of_uri(body: str, uri: re.Match[str]) -> bytes:
    kind = uri["type"].lower()
    if not body.strip():
        raise EncodedError("is a data URI without data")
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise EncodedError(f"is a data URI of {kind[:60]!r}, expected image/png or the like")
    if "base64" in uri["more"].lower().split(";"):
        return of_base64(unquote_to_bytes(body).decode("ascii", "replace") if "%" in body else body)
    if is_encoded(body):  # base64 whose URI lacks the word base64
        return of_base64(body)
    data = unquote_to_bytes(body)
    if len(data) > MAX_IMAGE_BYTES:
        raise _too_large(len(data))
    return data


def _of_printed(text: str) -> tuple[bytes | None, str]:
    r"""Return the bytes that Python printed: ``b'\\xff…'``, or ``{'bytes': b'…', 'path': …}``."""
    alone = _PRINTED_BYTES.fullmatch(text)
    pairs = [] if alone else _PRINTED_PAIR.findall(text)
    valid = alone is not None or _BETWEEN.fullmatch(_PRINTED_PAIR.sub("", text)) is not None
    if not valid:
        raise EncodedError(f"is printed bytes that are cut or damaged ({len(text):,} characters)")
    values = {"bytes": alone["bytes"]} if alone else {name: value for _, name, value in pairs}
    try:
        found = {name: _literal(value) for name, value in values.items()}
    except (ValueError, SyntaxError, MemoryError) as error:
        raise EncodedError("is printed bytes that are damaged") from error
    data, name = found.get("bytes"), found.get("path")
    if isinstance(data, str):
        data = of_base64(data)
    elif data and is_base64(data):  # base64 that was bytes when it was printed
        data = of_base64(data.decode("ascii"))
    return data or None, str(name or "")


def is_base64(data: bytes) -> bool:
    """Return whether bytes are base64 text, and not an image file."""
    return len(data) >= _SHORTEST and data[:64].isascii() and is_encoded(
        data[:5000].decode("ascii", "replace")
    )  # fmt: skip


def _literal(text: str) -> Any:
    """Return the value of one literal, a single constant."""
    return None if text in ("None", "null") else ast.literal_eval(text)


def _too_large(size: int) -> EncodedError:
    return EncodedError(
        f"contains an image file of about {size:,} bytes, the limit is {MAX_IMAGE_BYTES:,}"
    )
