"""Look at the heap of an HDF5 file before HDF5 walks it: where texts and lists of any length lie.

HDF5 keeps them in collections of objects, each with its index and its size, one behind the other.
libhdf5 2.0 takes the sizes at their word: one that leads back makes it walk for ever, one that is
too large makes it fill the memory. See "Global Heap" in the HDF5 file format specification, III.E.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

_COLLECTION = struct.Struct("<4sB3xQ")  # signature, version, bytes of all of it
_OBJECT = struct.Struct("<H6xQ")  # index, bytes of what follows
_SMALLEST = 4096
_NOWHERE = 2**64 - 1
_RECORD = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
"""What HDF5 keeps in place of a text or list: how many items, in which collection, which object."""

Sizes = dict[int, int]
"""Index of each object of a collection → its bytes."""


class HeapError(Exception):
    """The heap is not as HDF5 writes it; says what was found."""


class Heap:
    """The collections of one file, each walked once.

    Args:
        base: Bytes before the beginning of the HDF5 file proper, from which addresses count.
        end: Bytes of the whole file.
    """

    def __init__(self, base: int, end: int) -> None:
        self._base, self._end = base, end
        self._sizes: dict[int, Sizes] = {}

    def check(self, file: Any, raw: bytes, item: int) -> int:
        """Check that each text or list of a dataset lies where it is said to, and as long.

        Args:
            file: The bytes of the file.
            raw: The dataset's records, 16 bytes each.
            item: Bytes of one item of a list.

        Returns:
            Bytes of all texts or lists together.

        Raises:
            HeapError: One does not, or its collection could not be walked.
        """
        records = np.frombuffer(raw, _RECORD)
        records = records[records["length"] > 0]
        for address in np.unique(records["address"]).tolist():
            if address not in self._sizes:
                self._sizes[address] = self._walk(file, address)
            self._compare(records[records["address"] == address], self._sizes[address], item)
        return int(records["length"].sum(dtype=np.int64)) * item

    def _compare(self, records: NDArray[np.void], sizes: Sizes, item: int) -> None:
        told = records["length"].astype(np.int64) * item
        for index, size in zip(records["index"].tolist(), told.tolist(), strict=True):
            if sizes.get(index) != size:
                found = f"{sizes[index]:,} bytes" if index in sizes else "nothing"
                raise HeapError(f"a value of {size:,} bytes, where there is {found}")

    def _walk(self, file: Any, address: int) -> Sizes:
        """Return the objects of a collection."""
        begin = address + self._base
        if address == _NOWHERE or begin + _SMALLEST > self._end:
            raise HeapError("values that lie behind the end of the file")
        file.seek(begin)
        signature, version, size = _COLLECTION.unpack(file.read(_COLLECTION.size))
        if signature != b"GCOL" or version != 1:
            raise HeapError("values that lie in no collection of values")
        if not _SMALLEST <= size <= self._end - begin:
            raise HeapError(f"a collection of {size:,} bytes")
        return _objects(file.read(size - _COLLECTION.size))


def _objects(data: bytes) -> Sizes:
    """Return the objects that follow one another to the end of a collection."""
    sizes: Sizes = {}
    at, end = 0, len(data)
    while end - at >= _OBJECT.size:  # what is left is too small for one
        index, size = _OBJECT.unpack_from(data, at)
        step = _OBJECT.size + (size + 7 & ~7) if index else size  # 0 is what is free
        if index in sizes or not _OBJECT.size <= step <= end - at:
            raise HeapError(f"a value of {size:,} bytes in a collection of {end:,}")
        sizes[index] = size
        at += step
    return sizes
