"""Files of the original research, with all that they do not promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from research_support import HIDDEN, LAYERS, VISION, research_row, write_part
from store_support import make_capture, make_manifest
from vlmscope.errors import InputError, StoreError
from vlmscope.store import HalpFiles, RunWriter, export_run, open_halp_files, open_run

QUERY = "query_token_representation"
VISION_ONLY = "vision_only_representation"
NO_LAYERS = {"vision_token_representation": {}, QUERY: {}}


def opened(folder: Path, *rows: dict[str, object]) -> HalpFiles:
    return open_halp_files(write_part(folder / "x_part_001.h5", rows))


@pytest.mark.parametrize("as_bytes", [False, True], ids=["UTF-8", "tagged ASCII"])
def test_parts_are_one_table(tmp_path: Path, as_bytes: bool) -> None:
    rows = [research_row(i) for i in range(9)]
    rows[4]["question_id"] = "été_月"
    rows[4]["answer"] = "[Generation failed: CUDA エラー]"
    for number, start in enumerate((0, 5)):
        part = rows[start : start + 5 * (1 - number) + 4 * number]
        write_part(tmp_path / f"llava_next_embeddings_part_00{number + 1}.h5", part,
                   as_bytes=as_bytes)  # fmt: skip
    (tmp_path / "checkpoint.txt").write_text("9")
    files = open_halp_files(tmp_path)
    assert len(files) == 9
    assert set(files.ids) == {row["question_id"] for row in rows}
    assert files.attrs == {}
    assert files.copies == 0
    assert files.representations == (VISION_ONLY, "vision_token_representation", QUERY)
    assert files.layers(QUERY) == LAYERS
    assert files.layers(VISION_ONLY) == ()
    table = files.to_pandas().set_index("question_id")
    for row in rows:
        for name in ("image_id", "question", "ground_truth_answer", "answer"):
            assert table.loc[row["question_id"], name] == row[name]
        at = files.ids.index(row["question_id"])
        assert np.array_equal(files.matrix(QUERY, 2)[at], row[QUERY]["layer_2"])
        assert np.array_equal(files.matrix(VISION_ONLY)[at], row[VISION_ONLY])
    assert files.matrix(QUERY, 2).dtype == np.float32
    assert files.matrix(VISION_ONLY).shape == (9, VISION)


def test_what_the_root_attributes_of_all_parts_say(tmp_path: Path) -> None:
    for number in (1, 2):
        attrs = {
            "model_name": np.bytes_("google/gemma-3-12b-it"),
            "dtype": "bfloat16",
            "created_at": f"2025-01-0{number}",
            "num_samples": np.int64(1),
            "odd": np.float64("nan"),
        }
        write_part(tmp_path / f"g_part_00{number}.h5", [research_row(number)], attrs)
    assert open_halp_files(tmp_path).attrs == {
        "model_name": "google/gemma-3-12b-it",
        "dtype": "bfloat16",
        "num_samples": 1,
        "odd": "nan",
    }


def test_what_a_row_lacks_is_named_and_reads_as_nan(tmp_path: Path) -> None:
    infinite = np.full(VISION, np.inf, np.float32)
    files = opened(
        tmp_path,
        research_row(0),
        research_row(1, **{VISION_ONLY: None}, **NO_LAYERS),
        research_row(2, **{VISION_ONLY: np.zeros((1, 2 * VISION), np.float32)}),
        research_row(3, **{VISION_ONLY: infinite}),
        research_row(4, **{VISION_ONLY: np.ones((2, VISION), np.float32)}),
        research_row(5, **{VISION_ONLY: np.ones((1, VISION), np.float64)}),
        research_row(6),
    )
    faults = ["", "missing", "of another width", "not finite", "of another width", "", ""]
    assert files.faults(VISION_ONLY) == faults
    assert files.faults(QUERY, 3) == ["", "missing", "", "", "", "", ""]
    matrix = files.matrix(VISION_ONLY)
    assert np.isnan(matrix).all(axis=1).tolist() == [bool(fault) for fault in faults]
    assert matrix[5].tolist() == [1.0] * VISION
    assert files.matrix(QUERY, 3).shape == (7, HIDDEN)
    with pytest.raises(InputError, match=r"no query_token_representation/layer_1, there are vis"):
        files.matrix(QUERY, 1)


@pytest.mark.parametrize("dated", [True, False])
def test_a_question_in_two_parts_counts_once_the_last_written(tmp_path: Path, dated: bool) -> None:
    """A restart overwrites part 1 and leaves part 2 of before."""
    old = [research_row(i, answer="old") for i in (1, 2)]
    new = [research_row(i, answer="new") for i in (2, 3)]
    attrs = [{"created_at": "2025-02-02"}, {"created_at": "2025-01-01"}] if dated else [{}, {}]
    write_part(tmp_path / "x_part_001.h5", new if dated else old, attrs[0])
    write_part(tmp_path / "x_part_002.h5", old if dated else new, attrs[1])
    files = open_halp_files(tmp_path)
    assert files.copies == 1
    table = files.to_pandas().set_index("question_id")
    assert table["answer"].to_dict() == {
        "question_comb_001": "old", "question_comb_002": "new", "question_comb_003": "new"
    }  # fmt: skip


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_a_vector(path: Path) -> None:
    with h5py.File(path) as file:
        chunk = file[f"question_comb_001/{QUERY}/layer_3"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [cut, empty, damage_a_vector])
def test_a_damaged_part_is_named_never_skipped(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    write_part(tmp_path / "x_part_001.h5", [research_row(0)])
    harm(write_part(tmp_path / "x_part_002.h5", [research_row(1)]))
    with pytest.raises(InputError, match=r"x_part_002\.h5: truncated.*move it out of the folder"):
        open_halp_files(tmp_path)


def test_files_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    first = write_part(tmp_path / "gemma_part_001.h5", [research_row(0)])
    write_part(tmp_path / "qwen_part_001.h5", [research_row(0)])
    with pytest.raises(
        InputError, match="several extractions: gemma, qwen; give each its own folder"
    ):
        open_halp_files(tmp_path)
    assert len(open_halp_files(first)) == 1
    for name in ("one", "two"):
        write_part(tmp_path / f"{name}.h5", [research_row(0)], {"model_name": name})
    for path in tmp_path.glob("*_part_*"):
        path.unlink()
    with pytest.raises(InputError, match="several extractions: one, two"):
        open_halp_files(tmp_path)


def test_what_is_not_of_the_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \.h5 or \.hdf5 file"):
        open_halp_files(tmp_path)
    with pytest.raises(InputError, match="no question in the HALP layout"):
        opened(tmp_path)
    odd = research_row(0, **{QUERY: {"layer_n_4": np.ones(3, np.float32)}})
    with pytest.raises(InputError, match=r"question 'question_comb_000' has .*layer_n_4, expected"):
        opened(tmp_path, odd)
    write_part(tmp_path / "x_part_001.h5", [], {"format_version": 99})
    with pytest.raises(StoreError, match="pip install -U vlmscope"):
        open_halp_files(tmp_path)


def test_an_export_of_ours_reads_as_its_run(tmp_path: Path) -> None:
    ids = ["_a", "100%", "amber/7", "月"]
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        writer.add([make_capture(i, id_) for i, id_ in enumerate(ids)])
    run = open_run(tmp_path / "run")
    export_run(run, tmp_path / "all.h5")
    for path in (tmp_path / "all.h5", tmp_path / "run" / "index.h5"):
        files = open_halp_files(path)
        assert sorted(files.ids) == sorted(ids), path
        order = [run.ids.index(id_) for id_ in files.ids]
        assert files.representations == run.representations
        for name in files.representations:
            assert files.layers(name) == run.layers(name)
            for layer in files.layers(name) or (None,):
                assert np.array_equal(files.matrix(name, layer), run.matrix(name, layer)[order])
        assert files.to_pandas()["answer"].tolist() == run.to_pandas()["answer"][order].tolist()
