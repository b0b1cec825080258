"""Byte patches of HDF5 files: what HDF5 itself would never write, and does not withstand."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

HEADER, OBJECT = 16, 16
ENDLESS = 2**64 - 16
"""Size of an object of a heap after which HDF5 looks at the same object again."""


def collections(data: bytes) -> list[tuple[int, int]]:
    """Return where each collection of a heap begins and ends."""
    found, at = [], data.find(b"GCOL")
    while at >= 0:
        size = int.from_bytes(data[at + 8 : at + 16], "little")
        found.append((at, at + size))
        at = data.find(b"GCOL", at + size)
    return found


def headers(data: bytes) -> list[int]:
    """Return the positions of all bytes that say how a heap is laid out."""
    positions: list[int] = []
    for begin, end in collections(data):
        positions += range(begin, begin + HEADER)
        at = begin + HEADER
        while end - at >= OBJECT:
            positions += range(at, at + OBJECT)
            index = int.from_bytes(data[at : at + 2], "little")
            size = int.from_bytes(data[at + 8 : at + 16], "little")
            at += OBJECT + (size + 7) // 8 * 8 if index else size
    return positions


def replace(path: Path, data: bytes) -> None:
    """Write a file anew, as another file: so it is told from what was screened before."""
    path.unlink()
    path.write_bytes(data)


def patch(path: Path, at: int, data: bytes) -> None:
    """Replace bytes of a file."""
    whole = path.read_bytes()
    replace(path, whole[:at] + data + whole[at + len(data) :])


def endless(path: Path, holds: bytes) -> None:
    """Have HDF5 walk for ever through the collection that holds some bytes."""
    data = path.read_bytes()
    found = [begin for begin, end in collections(data) if holds in data[begin:end]]
    assert found
    patch(path, found[0] + HEADER + 8, struct.pack("<Q", ENDLESS))


def endless_root(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["note"] = "N" * 5000
    endless(path, b"N" * 5000)


def endless_dense(path: Path) -> None:
    """The same among so many attributes that HDF5 keeps them in a heap of their own."""
    with h5py.File(path, "a", libver=("v110", "v110")) as file:
        name = "_columns/answer" if "_columns" in file else next(iter(file))
        for number in range(20):
            file[name].attrs[f"note_{number}"] = f"{number}" * 3000
    endless(path, b"13" * 3000)


def endless_column(path: Path) -> None:
    with h5py.File(path, "a") as file:
        name = "_columns/answer" if "_columns" in file else f"{next(iter(file))}/answer"
        file[name].attrs["sha256"] = "S" * 5000
    endless(path, b"S" * 5000)


def endless_texts(path: Path) -> None:
    with h5py.File(path, "a") as file:
        parent = file["_columns"] if "_columns" in file else file[next(iter(file))]
        rows = () if parent.name != "/_columns" else parent["answer"].shape
        del parent["answer"]
        text = np.full(rows, "T" * 5000, object)
        parent.create_dataset("answer", data=text if rows else text[()], dtype=h5py.string_dtype())
    endless(path, b"T" * 5000)


def endless_lists_in_an_attribute(path: Path) -> None:
    with h5py.File(path, "a") as file:
        lists = np.empty(2, h5py.vlen_dtype(np.int64))
        lists[:] = [np.full(700, 77), np.full(700, 78)]
        file.attrs["note"] = lists
    endless(path, struct.pack("<Q", 77) * 700)


def shared_text(path: Path) -> None:
    """A column in which each row is the same large text."""
    rows = 3000
    with h5py.File(path, "a") as file:
        parent = file["_columns"] if "_columns" in file else file[next(iter(file))]
        texts = ["L" * 200_000, *["x"] * (rows - 1)]
        del parent["answer"]
        dataset = parent.create_dataset("answer", data=texts, dtype=h5py.string_dtype())
        at = dataset.id.get_offset() + file.userblock_size * (not dataset.id.get_offset())
    data = path.read_bytes()
    at = data.find(data[at : at + 16])
    patch(path, at, data[at : at + 16] * rows)


def longer_than_the_file(path: Path) -> None:
    """Values of half a terabyte, which are said to lie in the file."""
    with h5py.File(path, "a", libver=("earliest", "v110")) as file:
        parent = file["_columns"] if "_columns" in file else file[next(iter(file))]
        parent.create_dataset("more_representation", data=np.zeros(123_457, np.float32))
    data = path.read_bytes()
    for old, new in ((123_457, 2**37), (4 * 123_457, 2**39)):
        data = data.replace(struct.pack("<Q", old), struct.pack("<Q", new))
    replace(path, data)


def bomb(path: Path) -> None:
    """Compressed values of more than a gibibyte in a file of a megabyte."""
    with h5py.File(path, "a") as file:
        parent = file["_columns"] if "_columns" in file else file[next(iter(file))]
        name = "more_representation"
        dataset = parent.create_dataset(name, (2**28 + 2**20,), "f4", chunks=(2**18,))
        dataset[: 2**18] = np.random.default_rng(0).random(2**18)


Patch = Callable[[Path], None]
PATCHES: dict[str, list[Patch]] = {
    "takes too much time": [
        endless_root, endless_dense, endless_column, endless_texts, endless_lists_in_an_attribute,
    ],
    "bytes of texts or lists in": [shared_text],
    "bytes of compressed values": [bomb],
}  # fmt: skip
CASES = [
    pytest.param(patch, found, id=patch.__name__)
    for found, patches in PATCHES.items()
    for patch in patches
]
