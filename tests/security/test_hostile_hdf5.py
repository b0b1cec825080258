"""HDF5 files of strangers: every way by which HDF5 would open another file, or fill the memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from research_support import research_row, write_part
from store_support import HIDDEN, make_captures, make_manifest
from vlmscope.errors import StoreError, VlmscopeError
from vlmscope.store import (
    RunWriter,
    describe,
    export_run,
    open_halp_files,
    open_run,
    read_labels,
    rebuild_index,
)

COLUMN = "_columns/query_token_representation/layer_2"
ROW = "question_comb_000/query_token_representation/layer_2"
Harm = Callable[[h5py.File, str, Path], None]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the victim's own."""
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.full((3, HIDDEN), 7.0, np.float32)
        file["row"] = np.full(HIDDEN, 7.0, np.float32)
    (tmp_path / "secret.bin").write_bytes(b"\1" * 4096)
    return path


def external_link(file: h5py.File, path: str, secret: Path) -> None:
    file[path] = h5py.ExternalLink(str(secret), "x")


def relative_link(file: h5py.File, path: str, secret: Path) -> None:
    file[path] = h5py.ExternalLink("../../secret.h5", "x")


def soft_link(file: h5py.File, path: str, secret: Path) -> None:
    file["outside"] = h5py.ExternalLink(str(secret), "/")
    file[path] = h5py.SoftLink("/outside/x")


def virtual(file: h5py.File, path: str, secret: Path) -> None:
    layout = h5py.VirtualLayout((3, HIDDEN), np.float32)
    layout[:] = h5py.VirtualSource(secret, "x", (3, HIDDEN), np.float32)
    file.create_virtual_dataset(path, layout)


def virtual_by_a_link(file: h5py.File, path: str, secret: Path) -> None:
    file["_outside"] = h5py.ExternalLink(str(secret), "/")
    layout = h5py.VirtualLayout((3, HIDDEN), np.float32)
    layout[:] = h5py.VirtualSource(".", "_outside/x", (3, HIDDEN), np.float32)
    file.create_virtual_dataset(path, layout)


def external_storage(file: h5py.File, path: str, secret: Path) -> None:
    raw = [(str(secret.with_suffix(".bin")), 0, 3 * HIDDEN * 4)]
    file.create_dataset(path, (3, HIDDEN), np.float32, external=raw)


HARMS = [
    external_link, relative_link, soft_link, virtual, virtual_by_a_link, external_storage
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    with RunWriter(folder, make_manifest()) as writer:
        writer.add(make_captures(range(3)))
    return folder


@pytest.fixture
def shard(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return next((tmp_path / "run" / "shards").iterdir())


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_a_column_of_a_shard_that_lies_elsewhere(shard: Path, secret: Path, harm: Harm) -> None:
    with h5py.File(shard, "a") as file:
        del file[COLUMN]
        harm(file, COLUMN, secret)
    run = open_run(shard.parent.parent)
    found = "files outside a run are never read"
    with pytest.raises(StoreError, match=found):
        run.matrix("query_token_representation", 2)
    with pytest.raises(StoreError, match=found):
        run["question_comb_1"]
    with pytest.raises(StoreError, match=found):
        export_run(run, run.path.parent / "all.npz")
    with pytest.raises(StoreError, match=found):
        rebuild_index(run.path)
    assert any(found in line for line in run.check())


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_the_ids_of_a_shard_that_lie_elsewhere(shard: Path, secret: Path, harm: Harm) -> None:
    with h5py.File(shard, "a") as file:
        del file["_columns/question_id"]
        harm(file, "_columns/question_id", secret)
    with pytest.raises(StoreError, match="files outside a run are never read"):
        open_run(shard.parent.parent)


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_a_vector_of_a_research_file_that_lies_elsewhere(
    tmp_path: Path, secret: Path, harm: Harm
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    path = write_part(tmp_path / "a" / "b" / "x_part_001.h5", [research_row(0)])
    with h5py.File(path, "a") as file:
        del file[ROW]
        harm(file, ROW, secret)
    with pytest.raises(VlmscopeError, match="files outside a run are never read"):
        open_halp_files(path)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("secret.h5", "/row"),
        ("shards/../../secret.h5", "/row"),
        ("shards/pack-000-000009.h5", "/row"),
        ("shards/{pack}", "/question_comb_1/query_token_representation"),
    ],
)
def test_an_index_leads_to_rows_of_its_own_shards_only(
    shard: Path, secret: Path, target: str, path: str
) -> None:
    (shard.parent / "pack-000-000009.h5").symlink_to(secret)
    index = shard.parent.parent / "index.h5"
    assert len(open_halp_files(index)) == 3
    with h5py.File(index, "a") as file:
        file["evil"] = h5py.ExternalLink(target.format(pack=shard.name), path)
    with pytest.raises(StoreError, match=r"'evil' is an external link; files outside a run"):
        open_halp_files(index)


def test_a_row_of_an_index_that_leads_on(shard: Path, secret: Path) -> None:
    index = shard.parent.parent / "index.h5"
    with h5py.File(shard, "a") as file:
        file["evil"] = h5py.ExternalLink(str(secret), "/")
    with h5py.File(index, "a") as file:
        file["evil"] = h5py.ExternalLink(f"shards/{shard.name}", "/evil")
    with pytest.raises(StoreError, match=r"'evil' is an external link; files outside a run"):
        open_halp_files(index)


def test_a_column_that_declares_a_petabyte(shard: Path) -> None:
    with h5py.File(shard, "a") as file:
        del file[COLUMN]
        file.create_dataset(COLUMN, (3, 2**47), np.float32, chunks=(1, 1024))
    run = open_run(shard.parent.parent)
    with pytest.raises(StoreError, match="declares 1,688,849,860,263,936 bytes and contains 0"):
        run["question_comb_1"]
    with pytest.raises(StoreError, match="declares"):
        run.matrix("query_token_representation", 2)


def test_groups_within_themselves(shard: Path) -> None:
    with h5py.File(shard, "a") as file:
        file["_columns/again"] = file["_columns"]
    with pytest.raises(StoreError, match="occurs twice, or is nested"):
        open_run(shard.parent.parent)["question_comb_1"]


@pytest.mark.parametrize("name", ["shards", "shards/pack", "run.json", "failures.jsonl",
                                  "labels.parquet", ".lock-000", ".report.html.tmp", "probes",
                                  "plots"])  # fmt: skip
def test_a_name_of_ours_that_leads_out_of_the_run(shard: Path, tmp_path: Path, name: str) -> None:
    run = shard.parent.parent
    path = run / name if name != "shards/pack" else shard
    outside = tmp_path / "outside"
    if path.is_dir():
        shutil.move(path, outside)
    elif path.exists():
        path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(StoreError, match="is a symbolic link"):
        open_run(run)
    with pytest.raises(StoreError, match="is a symbolic link"):
        describe(run)


@pytest.mark.first(6)
@pytest.mark.parametrize("how", ["itself", "by a link"])
@pytest.mark.parametrize("name", ["shards/pack", "run.json", "failures.jsonl", "labels.parquet",
                                  "judge.jsonl", "index.h5", ".lock-000",
                                  "probes/results.json", "shards"])  # fmt: skip
def test_a_name_of_ours_that_is_a_pipe(shard: Path, name: str, how: str) -> None:
    """Whoever opens one waits for ever."""
    run = shard.parent.parent
    path = run / name if name != "shards/pack" else shard
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if how == "itself":
        os.mkfifo(path)
    else:
        os.mkfifo(run / "pipe")
        path.symlink_to(run / "pipe")
    for read in (open_run, describe):
        with pytest.raises(
            StoreError,
            match=r"is a (pipe|socket|device), expected a file|a folder is expected",
        ):
            read(run)


def test_a_run_that_is_reached_by_a_link_is_read(shard: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(shard.parent.parent)
    (shard.parent.parent / "images").symlink_to(tmp_path)  # a name of the user's
    assert len(open_run(tmp_path / "link")) == 3
    with pytest.raises(VlmscopeError, match="no labels yet"):
        read_labels(tmp_path / "link")
