"""A sample of a weight file's bytes: enough to see most changes without reading all of it.

It is the header of a safetensors file, the beginning, middle and end of every tensor, and four
kilobytes every four megabytes: 20 MB of a checkpoint of 22 GB.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence

PIECE = 4096
"""Bytes of a piece of the sample."""
STRIDE = 1 << 22
"""Distance of the pieces that are taken whatever the tensors are."""

_LONGEST_HEADER = 1 << 25
"""Bytes of a safetensors header that is parsed for the sample; of a longer one only the stride."""
_LONGEST_RUN = 256
"""Pieces that are read at once."""


def hash_sample(file: int) -> str:
    """Return the SHA-256 of a sample of an open file; a pickle has no header, but all the rest."""
    size = os.fstat(file).st_size
    header, tensors = _read_header(file, size)
    strides = ((at, min(at + PIECE, size)) for at in range(0, size, STRIDE))
    spans = (*tensors, *strides, (max(0, size - PIECE), size))
    pieces = sorted({at // PIECE for span in spans for at in _ends_and_middle(*span) if at >= 0})
    runs = _runs(pieces)
    if hasattr(os, "posix_fadvise"):  # the disk then reads them together, not one by one
        for first, count in runs:
            os.posix_fadvise(file, first * PIECE, count * PIECE, os.POSIX_FADV_WILLNEED)
    digest = hashlib.sha256(f"{size} ".encode() + header)
    for first, count in runs:
        digest.update(os.pread(file, count * PIECE, first * PIECE))
    return digest.hexdigest()


def _runs(pieces: Sequence[int]) -> list[tuple[int, int]]:
    """Return pieces that follow one another as one: the first, and how many.

    >>> _runs([3, 4, 5, 9])
    [(3, 3), (9, 1)]
    """
    runs: list[tuple[int, int]] = []
    for piece in pieces:
        first, count = runs[-1] if runs else (piece, 0)
        if piece == first + count and count < _LONGEST_RUN:
            runs[-1:] = [(first, count + 1)]
        else:
            runs.append((piece, 1))
    return runs


def _ends_and_middle(begin: int, end: int) -> tuple[int, ...]:
    """Return where the pieces of a sample lie that cover both ends of a tensor, and its middle."""
    first, last = min(begin + PIECE, end) - 1, max(end - PIECE, begin)
    return begin, first, (begin + end) // 2, last, end - 1


def _read_header(file: int, size: int) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """Return the header of a safetensors file, and where its tensors begin and end.

    The file begins with the header's length as little-endian uint64, then the header as JSON:
    tensor name → type, shape, and where its bytes begin and end behind the header. What makes no
    sense is left out: whoever loads the file will refuse it.
    """
    length = int.from_bytes(os.pread(file, 8, 0), "little")
    if length > min(size - 8, _LONGEST_HEADER):
        return b"", ()
    header = os.pread(file, length, 8)
    try:
        tensors = json.loads(header)
        offsets = [tensor["data_offsets"] for name, tensor in tensors.items() if name[:2] != "__"]
        start = 8 + length
        return header, tuple(
            (start + begin, start + end)
            for begin, end in offsets
            if type(begin) is type(end) is int and 0 <= begin < end <= size - start
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return header, ()
