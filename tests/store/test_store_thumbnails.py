"""Thumbnails in a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import pytest

from store_support import assert_same, make_capture, make_manifest
from vlmscope.schema import Capture
from vlmscope.store import RunWriter, export_run, open_halp_files, open_run

NEW = [make_capture(i, image_thumbnail=f"thumbnail-{i}_") for i in range(6, 12)]
OLD = [make_capture(i) for i in range(6)]


def write(folder: Path, captures: Sequence[Capture]) -> None:
    with RunWriter(folder, make_manifest()) as out:
        out.add(captures)


def test_thumbnails_are_read_back(tmp_path: Path) -> None:
    write(tmp_path / "run", NEW)
    run = open_run(tmp_path / "run")
    for capture in NEW:
        assert_same(run[capture.sample.id], capture)
    with h5py.File(tmp_path / "run" / "index.h5") as file:
        assert file["question_comb_7"].attrs["image_thumbnail"] == "thumbnail-7_"
    table = run.to_pandas(thumbnails=True)
    assert table["image_thumbnail"].tolist() == [row.image_thumbnail for row in NEW]
    assert run.to_pandas().equals(table.drop(columns="image_thumbnail"))


@pytest.mark.parametrize("name", ["rows.h5", "rows.parquet", "rows.npz"])
def test_it_is_exported_too(tmp_path: Path, name: str) -> None:
    write(tmp_path / "run", NEW)
    found = export_run(open_run(tmp_path / "run"), tmp_path / name)
    assert found.stat().st_size > 0
    if name.endswith("h5"):
        table = open_halp_files(found).to_pandas()
        assert sorted(table["image_thumbnail"])[-1] == "thumbnail-9_"
