"""Damage in the heap of an HDF5 file, where texts lie: libhdf5 2.0 would never come back from some.

Bytes that say how a small heap is laid out are changed. The reader gives the texts, or refuses;
that it comes back at all is what is tested.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from heap_patches import headers, replace

from research_support import research_row, write_part
from store_support import make_captures, make_manifest
from vlmscope.errors import InputError, StoreError, VlmscopeError
from vlmscope.store import RunWriter, open_halp_files, open_run
from vlmscope.store.format import hdf5_screening


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long for what never ends."""
    monkeypatch.setattr(hdf5_screening, "SECONDS", 0.1)


def changed(data: bytes, at: int) -> bytes:
    """Return the file with one byte set to what it was not, in another way for each of four."""
    other = (0x00, 0xFF, data[at] ^ 0x80, data[at] ^ 0x01)[at // 3 % 4]
    return data[:at] + bytes([other if other != data[at] else other ^ 0x7F]) + data[at + 1 :]


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
    table = open_halp_files(path).to_pandas()
    return table.loc[:, ["question", "answer"]].to_numpy().tolist()


def texts_of_run(path: Path) -> list[list[object]]:
    table = open_run(path.parent.parent).to_pandas()
    return table.loc[:, ["question", "answer"]].to_numpy().tolist()


@pytest.mark.first(1)
@pytest.mark.parametrize("kind", ["research", "shard"])
def test_any_damage_of_a_heap_is_read_or_refused(kind: str, request: pytest.FixtureRequest) -> None:
    path, texts = request.getfixturevalue(kind), TEXTS[kind]
    whole, expected = path.read_bytes(), texts(path)
    positions = headers(whole)[:: STEPS[kind]]
    assert len(positions) >= 2 * 16
    refused = 0
    for at in positions:
        replace(path, changed(whole, at))
        try:
            assert texts(path) == expected
        except VlmscopeError:
            refused += 1
    assert refused > len(positions) // 5


TEXTS = {"research": texts_of_research, "shard": texts_of_run}
STEPS = {"research": 5, "shard": 11}
"""Of so many bytes one is changed; all of them take a minute."""


def test_a_text_where_lists_of_lists_are_is_refused(research: Path) -> None:
    with h5py.File(research, "r+") as file:
        row = file["question_0"]
        del row["question"], row["answer"]
        row["answer"] = np.arange(3)
    with pytest.raises(InputError, match="'question_0': 'answer' is not text"):
        open_halp_files(research)
    with h5py.File(research, "r+") as file:
        parts = np.dtype([("text", h5py.string_dtype()), ("number", np.int64)])
        file["question_0"].create_dataset("question", data=np.array([("a", 1)], parts))
        del file["question_0/answer"]
    with pytest.raises(
        StoreError, match="'question' is stored in a way that vlmscope never writes"
    ):
        open_halp_files(research)


def test_a_file_behind_a_user_block_is_read(research: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved" / research.name
    moved.parent.mkdir()
    with h5py.File(moved, "w", userblock_size=512) as to, h5py.File(research) as source:
        for name in source:
            source.copy(name, to)
    assert texts_of_research(moved) == texts_of_research(research)
