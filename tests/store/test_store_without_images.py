"""Rows about no image and about several: what stands on disk, in matrices and in exports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from store_support import HIDDEN, assert_same, make_bare, make_capture, make_manifest
from vlmscope.errors import StoreError
from vlmscope.schema import Failure
from vlmscope.store import (
    FailureLog,
    RunWriter,
    describe,
    export_run,
    open_halp_files,
    open_run,
    read_manifest,
)

VISION_TOKEN = "vision_token_representation"  # noqa: S105
BARE = (0, 1, 4)
"""The rows without an image: the whole first part, and one of the others."""

ROWS = [make_bare(i) if i in BARE else make_capture(i) for i in range(6)]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Three parts of two rows, merged into a pack: without images, with, one of each."""
    folder = tmp_path / "mixed"
    with RunWriter(folder, make_manifest()) as writer:
        for start in range(0, 6, 2):
            writer.add(ROWS[start : start + 2])
    return folder


def test_rows_come_back_as_they_went_in(mixed: Path) -> None:
    run = open_run(mixed)
    assert run.check() == []
    for capture, wanted in zip(run, ROWS, strict=True):
        assert_same(capture, wanted)
        assert_same(run[wanted.sample.id], wanted)
    assert [capture.sample.images for capture in run][:2] == [(), ()]


def test_rows_come_back_before_they_are_packed(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "parts", make_manifest()) as writer:
        writer.add(ROWS[:2])
        writer.add(ROWS[2:])
        found = list(open_run(tmp_path / "parts"))
    for capture, wanted in zip(found, ROWS, strict=True):
        assert_same(capture, wanted)


def test_plain_h5py_finds_no_dataset_and_no_attribute(mixed: Path) -> None:
    with h5py.File(mixed / "index.h5") as index:
        bare, whole = index["question_comb_4"], index["question_comb_3"]
        assert set(whole) - set(bare) == {"vision_only_representation", VISION_TOKEN}
        assert set(whole.attrs) - set(bare.attrs) == {"vision_token_boundary"}
        assert set(bare) < set(whole)
        assert bare.attrs["image_sha256"] == ""
        assert bare["image_id"].asstr()[()] == ""
        path = "query_token_representation/layer_2"
        assert np.array_equal(bare[path][:], ROWS[4].vectors[path])
        columns = index["_columns"]
        assert columns[f"{VISION_TOKEN}/layer_2"].shape == (6, HIDDEN)
        gaps = np.isnan(columns[f"{VISION_TOKEN}/layer_2"][:])
        assert (
            gaps.all(axis=1).tolist() == gaps.any(axis=1).tolist() == [i in BARE for i in range(6)]
        )
        boundaries = columns["vision_token_boundary"][:]
        assert boundaries.tolist() == [-1 if i in BARE else 5 for i in range(6)]


def test_a_matrix_has_nan_rows_to_be_dropped(mixed: Path) -> None:
    run = open_run(mixed)
    matrix = run.matrix(VISION_TOKEN, 2)
    kept = matrix[~np.isnan(matrix).any(axis=1)]
    by_hash = matrix[(run.to_pandas()["image_sha256"] != "").to_numpy()]
    whole = [row.vectors[f"{VISION_TOKEN}/layer_2"] for row in ROWS if row.image_sha256]
    assert np.array_equal(kept, whole)
    assert np.array_equal(by_hash, whole)
    assert not np.isnan(run.matrix("query_token_representation", 2)).any()


def test_float16_still_sees_an_overflow_beside_a_gap(tmp_path: Path) -> None:
    path = f"{VISION_TOKEN}/layer_2"
    large = np.full(HIDDEN, 7e4, np.float32)
    huge = replace(ROWS[3], vectors={**ROWS[3].vectors, path: large})
    with RunWriter(tmp_path / "run", make_manifest(store_dtype="float16")) as writer:
        writer.add([ROWS[0], huge])
    run = open_run(tmp_path / "run")
    assert run.check() == []
    assert np.array_equal(run[huge.sample.id].vectors[path], large)
    assert np.isnan(run.matrix("vision_only_representation")).all(axis=1).tolist() == [True, False]


def test_several_images_are_a_row_like_any_other(tmp_path: Path) -> None:
    plain = make_capture(1)
    sample = replace(plain.sample, image=("/d/a.png", "/d/b.png"), image_id="a.png, b.png")
    several = replace(
        plain, sample=sample, image_sha256="aa+bb", image_dhash="0f+f0", image_thumbnail="x+y"
    )
    unnamed = replace(several, sample=replace(sample, id="unnamed", image_id=""))
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        writer.add([several, unnamed])
    run = open_run(tmp_path / "run")
    assert_same(run[sample.id], several)
    assert run["unnamed"].sample.image_id == "/d/a.png, /d/b.png"
    assert run["unnamed"].sample.images == ("/d/a.png", "/d/b.png")
    assert describe(tmp_path / "run").without_image == 0


def test_a_description_counts_them(mixed: Path, tmp_path: Path) -> None:
    export_run(open_run(mixed), tmp_path / "rows.h5")
    for place in (mixed, mixed / "index.h5", tmp_path / "rows.h5"):
        found = describe(place)
        assert (found.rows, found.without_image) == (6, 3)
        rows = {each.name: each.rows for each in found.representations}
        assert rows["query_token_representation"] == 6
        assert rows[VISION_TOKEN] == rows["vision_only_representation"] == 3


def test_a_run_without_any_image_is_described(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        writer.add(ROWS[:2])
    found = describe(tmp_path / "run")
    assert (found.rows, found.without_image) == (2, 2)
    for name in ("rows.h5", "rows.parquet", "rows.npz"):
        assert export_run(open_run(tmp_path / "run"), tmp_path / name).exists()


def test_exports(mixed: Path, tmp_path: Path) -> None:
    run = open_run(mixed)
    with h5py.File(export_run(run, tmp_path / "rows.h5")) as file:
        assert VISION_TOKEN not in file["question_comb_0"]
        assert "vision_token_boundary" not in file["question_comb_0"].attrs
        assert VISION_TOKEN in file["question_comb_2"]
    table = pq.read_table(export_run(run, tmp_path / "rows.parquet"))
    for name in (f"{VISION_TOKEN}.layer_2", "vision_only_representation", "vision_token_boundary"):
        assert [cell is None for cell in table[name].to_pylist()] == [i in BARE for i in range(6)]
    wanted = ROWS[5].vectors[f"{VISION_TOKEN}/layer_2"].tolist()
    assert table[f"{VISION_TOKEN}.layer_2"].to_pylist()[5] == wanted
    assert table["query_token_representation.layer_2"].null_count == 0
    with np.load(export_run(run, tmp_path / "rows.npz")) as arrays:
        assert np.isnan(arrays["vision_only_representation"]).all(axis=1).sum() == 3


def test_shards_may_begin_with_or_without_an_image(tmp_path: Path) -> None:
    for rows in (ROWS[2:4], [ROWS[4], ROWS[5]], ROWS[:2]):
        with RunWriter(tmp_path / "run", make_manifest()) as writer:
            writer.add(rows)
    run = open_run(tmp_path / "run")
    table = pq.read_table(export_run(run, tmp_path / "rows.parquet"))
    assert table["question_id"].to_pylist() == list(run.ids)
    assert table["vision_token_boundary"].to_pylist() == [5, 5, None, 5, None, None]
    assert table["query_token_boundary"].null_count == 0
    for name in ("rows.h5", "rows.npz"):
        assert export_run(run, tmp_path / name).exists()
    with h5py.File(tmp_path / "run" / "index.h5") as index:
        assert index["_columns/vision_token_boundary"][:].tolist() == [5, 5, -1, 5, -1, -1]


def test_an_export_is_read_as_files_of_research(mixed: Path, tmp_path: Path) -> None:
    files = open_halp_files(export_run(open_run(mixed), tmp_path / "rows.h5"))
    hashes = dict(zip(files.ids, files.to_pandas()["image_sha256"], strict=True))
    assert hashes == {row.sample.id: row.image_sha256 for row in ROWS}
    faults = dict(zip(files.ids, files.faults(VISION_TOKEN, 2), strict=True))
    assert faults["question_comb_4"] == "missing"
    assert faults["question_comb_5"] == ""


NO_TOKEN = {p: v for p, v in ROWS[3].vectors.items() if VISION_TOKEN not in p}


@pytest.mark.parametrize(
    ("number", "change", "said"),
    [
        (0, {"image_sha256": "ab"}, "vectors do not match .* vision_only_rep"),
        (0, {"boundaries": {"last_prompt_token": 9, "last_image_token": 5}}, "no image_sha256"),
        (0, {"image_dhash": "ab"}, "has no image_sha256, but an image_dhash"),
        (0, {"image_thumbnail": "ab"}, "has no image_sha256, but an image_thumbnail"),
        (0, {"boundaries": {}}, "boundaries of"),
        (3, {"image_sha256": ""}, "vectors of a question without an image do not"),
        (3, {"boundaries": {"last_prompt_token": 9}}, "boundaries of"),
        (3, {"vectors": NO_TOKEN}, "vectors do not match"),
    ],
)
def test_all_of_the_image_or_none_of_it(
    tmp_path: Path, number: int, change: dict[str, Any], said: str
) -> None:
    odd = replace(ROWS[number], **change)
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        for neighbours in ([ROWS[2], odd], [ROWS[2], odd, ROWS[4]]):
            with pytest.raises(StoreError, match=said):
                writer.add(neighbours)
        assert writer.done_ids == set()


def test_a_run_takes_up_text_only_and_keeps_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    before = make_manifest()
    with RunWriter(folder, before) as writer:
        writer.add([ROWS[2], ROWS[3]])
        FailureLog(folder).add(Failure(ROWS[4].sample.id, "input", "no image in column 'image'"))
    assert list(open_run(folder).failures) == [ROWS[4].sample.id]
    now = make_manifest(run_id="6a" * 16, data={"text_only": True})
    with RunWriter(folder, now) as writer:
        assert writer.done_ids == {ROWS[2].sample.id, ROWS[3].sample.id}
        writer.add([ROWS[4]])
    run = open_run(folder)
    assert run.failures == {}
    assert_same(run[ROWS[4].sample.id], ROWS[4])
    assert read_manifest(folder) == replace(before, data=replace(before.data, text_only=True))
    with RunWriter(folder, before) as writer:
        assert writer.manifest.data.text_only
    assert read_manifest(folder).data.text_only


def test_a_manifest_of_before_reads_as_not_text_only(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    del record["data"]["text_only"]
    (run / "run.json").write_text(json.dumps(record))
    assert read_manifest(run).data.text_only is False
