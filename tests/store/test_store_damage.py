"""Shards damaged after they were published: found, named, never read as data, set aside."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import h5py
import pytest

from store_support import assert_same, leave_parts, make_capture, make_captures, make_manifest
from vlmscope.errors import RunBusyError, StoreError
from vlmscope.store import RunWriter, find_damage, open_run, set_aside
from vlmscope.store.format.checksums import SEAL_SIZE

ROWS = 10


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    with RunWriter(folder, make_manifest()) as writer:
        writer.add(make_captures(range(ROWS)))
    return folder


@pytest.fixture
def written(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def shard_of(run: Path) -> Path:
    [path] = (run / "shards").glob("*.h5")
    return path


def flip(path: Path, place: int, bit: int = 0) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :])


def vector_place(path: Path, name: str = "query_token_representation/layer_2") -> int:
    """Return where in the file a column of vectors lies."""
    with h5py.File(path) as file:
        return int(file["_columns"][name].id.get_offset()) + 5


def test_any_flipped_bit_is_found_and_none_is_read(written: Path) -> None:
    path, rng = shard_of(written), random.Random(1)  # noqa: S311
    whole = path.read_bytes()
    for _ in range(12):  # ``make faults`` flips hundreds
        path.write_bytes(whole)
        flip(path, rng.randrange(len(whole)), rng.randrange(8))
        [damage] = find_damage(written)
        assert damage.path == path
        try:
            rows = list(open_run(written))
        except StoreError:
            continue
        for i, row in enumerate(rows):
            assert_same(row, make_capture(i))
    path.write_bytes(whole)
    assert find_damage(written) == []


def test_a_shard_of_another_run_is_found(written: Path, tmp_path: Path) -> None:
    """It may have other settings; nothing else of it differs."""
    with RunWriter(tmp_path / "other", make_manifest(run_id="c" * 32)) as writer:
        writer.add(make_captures(range(ROWS)))
    shard_of(tmp_path / "other").replace(shard_of(written))
    (written / "index.h5").unlink(missing_ok=True)
    [damage] = find_damage(written)
    assert damage.found == ("of another run (run_id cccccccc…)",)
    assert f"{ROWS} rows" in damage.text


def test_a_damaged_column_is_read_in_no_way(written: Path) -> None:
    open_run(written).matrix("query_token_representation", 2)  # found right, and remembered
    path = shard_of(written)
    flip(path, vector_place(path))
    run = open_run(written)
    reads = (
        lambda: run.matrix("query_token_representation", 2),
        lambda: run["question_comb_7"],
        lambda: list(run),
    )
    for read in reads:
        with pytest.raises(StoreError, match=r"layer_2 is damaged; .* redo_damaged=True"):
            read()
    assert run.matrix("query_token_representation", 3).shape == (ROWS, 8)


def test_a_damaged_part_is_not_packed(tmp_path: Path) -> None:
    """A pack has checksums of its own: it would vouch for the damage."""
    leave_parts(tmp_path, range(6))
    [*_, part] = sorted((tmp_path / "shards").glob("part-*.h5"))
    flip(part, vector_place(part))
    with pytest.raises(StoreError, match="is damaged"), RunWriter(tmp_path, make_manifest()):
        pass
    assert part.exists()
    assert not list((tmp_path / "shards").glob("pack-*"))


@pytest.mark.parametrize("cut", [0, 100, 5000])
def test_a_truncated_shard_is_named_with_its_rows(written: Path, cut: int) -> None:
    path = shard_of(written)
    path.write_bytes(path.read_bytes()[:cut])
    [damage] = find_damage(written)
    assert damage.ids is not None
    assert sorted(damage.ids) == sorted(f"question_comb_{i}" for i in range(ROWS))
    assert f"{path}: damaged or not an HDF5 file" in damage.text
    assert "10 rows: 'question_comb_0', " in damage.text
    (written / "index.h5").unlink()
    [damage] = find_damage(written)
    assert damage.ids is None
    assert "the ids of its rows cannot be read" in damage.text


def test_what_is_set_aside_is_written_again(written: Path) -> None:
    for _ in range(2):  # the second time under the same name
        path = shard_of(written)
        flip(path, vector_place(path))
        [moved] = set_aside(written, find_damage(written))
        assert moved.parent == written / "damaged"
        assert not path.exists()
        with RunWriter(written, make_manifest()) as writer:
            assert not writer.done_ids
            writer.add(make_captures(range(ROWS)))
        assert find_damage(written) == []
        assert len(open_run(written)) == ROWS
    assert len(list((written / "damaged").iterdir())) == 2


def test_nothing_is_set_aside_while_a_writer_is_at_work(written: Path) -> None:
    path = shard_of(written)
    flip(path, vector_place(path))
    damages = find_damage(written)
    with RunWriter(written, make_manifest()), pytest.raises(RunBusyError):
        set_aside(written, damages)
    assert path.exists()


def test_a_damaged_index_is_found(written: Path) -> None:
    index = written / "index.h5"
    flip(index, index.stat().st_size // 2)
    [damage] = find_damage(written)
    assert damage.text == f"{index}: damaged; remove it, the next session rebuilds it"
    set_aside(written, [damage])
    assert find_damage(written) == []


def test_a_shard_without_a_seal_is_damaged(written: Path) -> None:
    """Somebody has written it anew: HDF5 from the first byte on."""
    path = shard_of(written)
    old = path.with_name("old.tmp")
    with h5py.File(path) as source, h5py.File(old, "w", libver=("v110", "v110")) as target:
        for name in source:
            source.copy(name, target)
        target.attrs.update(source.attrs)
    assert old.read_bytes()[:SEAL_SIZE].startswith(b"\x89HDF")
    old.replace(path)
    [damage] = find_damage(written)
    assert damage.found == ("bytes outside the columns are changed",)
