"""Thumbnails in a run, beside shards of earlier versions that have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest

from store_support import assert_same, make_capture, make_manifest
from vlmscope.schema import Capture
from vlmscope.store import RunWriter, export_run, open_run, open_seed_files, writer
from vlmscope.store.format import row_groups
from vlmscope.store.format.batch import Block, block_of

NEW = [make_capture(i, image_thumbnail=f"thumbnail-{i}_") for i in range(6, 12)]
OLD = [make_capture(i) for i in range(6)]


def write(folder: Path, captures: Sequence[Capture]) -> None:
    with RunWriter(folder, make_manifest()) as out:
        out.add(captures)


@pytest.fixture
def continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that an earlier version began and this one finished."""

    def as_before(captures: Sequence[Capture], widths: Any) -> Block:
        block = block_of(captures, widths)
        texts = {name: t for name, t in block.texts.items() if name != "image_thumbnail"}
        return replace(block, texts=texts)

    with monkeypatch.context() as before:
        before.setattr(writer, "block_of", as_before)
        before.setattr(
            row_groups, "_ATTRIBUTE_TEXTS", ("finish_reason", "image_sha256", "image_dhash")
        )
        before.setattr("vlmscope.store.format.columns.ADDED_TEXTS", ())
        write(tmp_path / "run", OLD)
    [shard] = (tmp_path / "run" / "shards").iterdir()
    with h5py.File(shard) as file:
        assert "image_thumbnail" not in file["_columns"], "as an earlier version wrote it"
        assert "image_thumbnail" not in file["question_comb_0"].attrs
    write(tmp_path / "run", NEW)
    return tmp_path / "run"


def test_thumbnails_are_read_back(tmp_path: Path) -> None:
    write(tmp_path / "run", NEW)
    run = open_run(tmp_path / "run")
    for capture in NEW:
        assert_same(run[capture.sample.id], capture)
    with h5py.File(tmp_path / "run" / "index.h5") as file:
        assert file["question_comb_7"].attrs["image_thumbnail"] == "thumbnail-7_"
    table = run.to_pandas()
    assert table["image_thumbnail"].tolist() == [row.image_thumbnail for row in NEW]


def test_a_run_of_an_earlier_version_is_continued(continued: Path, tmp_path: Path) -> None:
    run = open_run(continued)
    for capture in (*OLD, *NEW):
        assert_same(run[capture.sample.id], capture)
    wanted = [capture.image_thumbnail for capture in (*OLD, *NEW)]
    assert sorted(run.to_pandas()["image_thumbnail"]) == sorted(wanted)
    with h5py.File(continued / "index.h5") as file:
        texts = file["_columns/image_thumbnail"].asstr()[:].tolist()
    assert sorted(texts) == sorted(wanted)


@pytest.mark.parametrize("name", ["rows.h5", "rows.parquet", "rows.npz"])
def test_it_is_exported_too(continued: Path, tmp_path: Path, name: str) -> None:
    found = export_run(open_run(continued), tmp_path / name)
    assert found.stat().st_size > 0
    if name.endswith("h5"):
        table = open_seed_files(found).to_pandas()
        assert sorted(table["image_thumbnail"])[-1] == "thumbnail-9_"
