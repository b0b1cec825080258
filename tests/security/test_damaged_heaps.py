"""Damage in the heap of an HDF5 file, where texts lie: libhdf5 2.0 would never come back from some.

Every byte of a small heap is changed in several ways. The reader gives the texts, or refuses; that
it comes back at all is what is tested.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from research_support import research_row, write_part
from store_support import make_captures, make_manifest
from vlmscope.errors import InputError, StoreError, VlmscopeError
from vlmscope.store import RunWriter, open_seed_files
from vlmscope.store.format.hdf5_links import Heap, HeapError, member

HEADER, OBJECT = 16, 16


def collections(data: bytes) -> list[tuple[int, int]]:
    """Return where each collection of a heap begins and ends."""
    found, at = [], data.find(b"GCOL")
    while at >= 0:
        size = int.from_bytes(data[at + 8 : at + 16], "little")
        found.append((at, at + size))
        at = data.find(b"GCOL", at + size)
    return found


def headers(data: bytes) -> list[int]:
    """Return the places of all bytes that say how a heap is laid out."""
    places: list[int] = []
    for begin, end in collections(data):
        places += range(begin, begin + HEADER)
        at = begin + HEADER
        while end - at >= OBJECT:
            places += range(at, at + OBJECT)
            index = int.from_bytes(data[at : at + 2], "little")
            size = int.from_bytes(data[at + 8 : at + 16], "little")
            at += OBJECT + (size + 7) // 8 * 8 if index else size
    return places


def changes(data: bytes, at: int) -> list[bytes]:
    """Return the file with one byte set in turn to what it was not."""
    others = {0x00, 0xFF, data[at] ^ 0x80, data[at] ^ 0x01} - {data[at]}
    return [data[:at] + bytes([other]) + data[at + 1 :] for other in sorted(others)]


@pytest.fixture
def research(tmp_path: Path) -> Path:
    path = tmp_path / "part_001.h5"
    write_part(path, [research_row(i, question_id=f"question_{i}") for i in range(2)])
    return path


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        writer.add(make_captures(range(2)))
    (path,) = (tmp_path / "run" / "shards").glob("*.h5")
    return path


def texts_of_research(path: Path) -> list[list[object]]:
    table = open_seed_files(path).to_pandas()
    return table.loc[:, ["question", "answer"]].to_numpy().tolist()


def texts_of_columns(path: Path) -> list[object]:
    """Return the texts of a shard; its attributes are left alone, they lie in the same heap."""
    with h5py.File(path) as file:
        columns = file["_columns"]
        return [member(columns, name)[()].tolist() for name in ("question", "answer", "image_id")]


def test_research_with_any_damage_of_its_heap_is_read_or_refused(research: Path) -> None:
    whole, expected = research.read_bytes(), texts_of_research(research)
    places = headers(whole)
    assert len(places) >= 10 * OBJECT
    refused = 0
    for at in places:
        for data in changes(whole, at):
            research.write_bytes(data)
            try:
                assert texts_of_research(research) == expected
            except VlmscopeError:
                refused += 1
    assert refused > len(places)


def test_a_shard_with_any_damage_of_its_heap_is_read_or_refused(shard: Path) -> None:
    whole, expected = shard.read_bytes(), texts_of_columns(shard)
    places = headers(whole)
    refused = 0
    for at in places:
        for data in changes(whole, at):
            shard.write_bytes(data)
            try:
                assert texts_of_columns(shard) == expected
            except (VlmscopeError, OSError):
                refused += 1
    assert refused > len(places)


def test_it_says_what_is_damaged(shard: Path) -> None:
    whole = shard.read_bytes()
    begin, _ = collections(whole)[0]
    first = begin + HEADER + 8
    shard.write_bytes(whole[:first] + b"\xff" * 8 + whole[first + 8 :])
    with pytest.raises(StoreError, match=r"is damaged, it has a value of .* in a collection"):
        texts_of_columns(shard)


def test_a_text_where_lists_of_lists_are_is_refused(research: Path) -> None:
    with h5py.File(research, "r+") as file:
        row = file["question_0"]
        del row["question"], row["answer"]
        row["answer"] = np.arange(3)
    with pytest.raises(InputError, match="'question_0': found no text in 'answer'"):
        open_seed_files(research)
    with h5py.File(research, "r+") as file:
        parts = np.dtype([("text", h5py.string_dtype()), ("number", np.int64)])
        file["question_0"].create_dataset("question", data=np.array([("a", 1)], parts))
        del file["question_0/answer"]
    with pytest.raises(StoreError, match="'question' is stored in a way that is never written"):
        open_seed_files(research)


def test_a_file_behind_a_user_block_is_read(research: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved" / research.name
    moved.parent.mkdir()
    with h5py.File(moved, "w", userblock_size=512) as to, h5py.File(research) as source:
        for name in source:
            source.copy(name, to)
    assert texts_of_research(moved) == texts_of_research(research)


def test_a_collection_is_walked_once(shard: Path, tmp_path: Path) -> None:
    copy = shutil.copy(shard, tmp_path / "copy.h5")
    with h5py.File(copy) as file, Path(copy).open("rb") as raw:
        column = file["_columns/question"]
        texts = list(column[()])
        raw.seek(column.id.get_offset())
        records = raw.read(16 * len(column))
        heap = Heap(file.userblock_size, Path(copy).stat().st_size)
        told = heap.check(raw, records, 1)
    assert told == heap.check(None, records, 1)  # from what it knows
    assert told == sum(len(text) for text in texts)
    with pytest.raises(HeapError, match="where there is"):
        heap.check(None, (999).to_bytes(4, "little") + records[4:], 1)
