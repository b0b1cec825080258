"""A shard, read with plain h5py."""

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from store_support import HIDDEN, LAYERS, make_capture, make_captures, make_manifest
from vlmscope.errors import StoreError
from vlmscope.schema import Capture
from vlmscope.store.format.batch import block_of
from vlmscope.store.format.shard import build_shard

LARGE = 70_000.0
"""Beyond float16."""


def shard(captures: list[Capture], **changes: Any) -> h5py.File:
    manifest = make_manifest(**changes)
    block = block_of(captures, manifest.widths())
    return h5py.File(io.BytesIO(b"".join(build_shard(block, manifest, writer="000"))), "r")


def test_the_row_is_the_seeds_tree() -> None:
    wanted = make_capture(7)
    with shard(make_captures(range(6, 9))) as file:
        row = file["question_comb_7"]
        assert row["image_id"].asstr()[()] == "img_7.png"
        assert row["question"].asstr()[()] == wanted.sample.question
        assert row["ground_truth_answer"].asstr()[()] == "No; été 7"
        assert row["answer"].asstr()[()] == "The image shows 7 月."
        for path, vector in wanted.vectors.items():
            assert row[path].dtype == np.float32
            assert row[path].is_virtual
            assert np.array_equal(row[path][:], vector)
            assert np.array_equal(file[f"_columns/{path}"][1], vector)
        for name in ("answer_token_ids", "answer_logprobs", "first_token_ids"):
            assert np.array_equal(row[name][:], getattr(wanted, name))
        assert dict(row.attrs) == {
            "vision_token_boundary": 5,
            "query_token_boundary": 40,
            "num_prompt_tokens": 41,
            "first_token_entropy": wanted.first_token_entropy,
            "finish_reason": "stop",
            "image_sha256": wanted.image_sha256,
            "image_dhash": wanted.image_dhash,
            "image_thumbnail": wanted.image_thumbnail,
            "row": 1,
        }


def test_root_attributes() -> None:
    with shard(make_captures(range(3))) as file:
        found = dict(file.attrs)
    for name, value in {
        "model_name": "tiny",
        "model_type": "mllama",
        "device": "cpu",
        "dtype": "float32",
        "num_samples": 3,
        "format_version": 1,
        "run_id": "5f" * 16,
        "writer": "000",
    }.items():
        assert found[name] == value
    assert {"created_at", "vlmscope_version"} <= found.keys()


def test_columns_are_contiguous_and_say_whether_they_are_after_the_norm() -> None:
    with shard(make_captures(range(3))) as file:
        for layer in LAYERS:
            column = file[f"_columns/query_token_representation/layer_{layer}"]
            assert column.shape == (3, HIDDEN)
            assert column.chunks is None
            assert column.attrs["final_norm"] == (layer == 3)
            in_row = file[f"question_comb_1/query_token_representation/layer_{layer}"]
            assert dict(in_row.attrs) == ({"final_norm": True} if layer == 3 else {})


def test_after_a_prefill_there_is_no_answer() -> None:
    with shard(make_captures(range(2), answered=False)) as file:
        assert not any(
            "answer" in name.split("_") and "ground" not in name for name in file["_columns"]
        )
        assert "answer" not in file["question_comb_0"]
        assert "answer_token_ids" not in file["question_comb_0"]
        assert file["question_comb_0"].attrs["finish_reason"] == "prefill"


def test_nul_and_lone_surrogates_become_replacement_characters() -> None:
    with shard([make_capture(3, answer="a\0b\ud800c")]) as file:
        assert file["question_comb_3/answer"].asstr()[()] == "a\ufffdb\ufffdc"
        assert file["_columns/answer"].asstr()[0] == "a\ufffdb\ufffdc"


def test_float16_falls_back_where_a_column_would_overflow() -> None:
    captures = make_captures(range(3))
    massive = "query_token_representation/layer_2"
    captures[1].vectors[massive][4] = LARGE
    with shard(captures, store_dtype="float16") as file:
        kinds = {path: file[f"_columns/{path}"].dtype for path in captures[0].vectors}
        assert kinds.pop(massive) == np.float32
        assert set(kinds.values()) == {np.dtype(np.float16)}
        assert file["question_comb_1"][massive][4] == LARGE
        row = file["question_comb_1/query_token_representation/layer_0"]
        assert row.dtype == np.float32
        wanted = captures[1].vectors["query_token_representation/layer_0"].astype(np.float16)
        assert np.array_equal(row[:], wanted)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    capture = make_capture(0)
    capture.vectors["vision_only_representation"][3] = bad
    with pytest.raises(StoreError, match=r"question_comb_0.*vision_only_representation"):
        shard([capture])


def test_a_row_unlike_the_others_is_refused() -> None:
    short = make_capture(1)
    del short.vectors["query_token_representation/layer_3"]  # type: ignore[attr-defined]
    for odd in (
        short,
        make_capture(1, answered=False),
        make_capture(1, boundaries={}),
        make_capture(1, answer_token_ids=None),
    ):
        with pytest.raises(StoreError, match="question_comb_1"):
            shard([make_capture(0), odd])


def test_many_layers_and_odd_ids(tmp_path: Path) -> None:
    layers = tuple(range(40))
    rng = np.random.default_rng(0)
    vectors = {"vision_only_representation": rng.random(12, np.float32)} | {
        f"{name}_token_representation/layer_{k}": rng.random(8, np.float32)
        for name in ("vision", "query")
        for k in layers
    }
    ids = ["a/b", ".", "..", "_columns", "50%2F", "日本 7"]
    rows = [make_capture(i, id_, vectors=vectors) for i, id_ in enumerate(ids)]
    with shard(rows, capture={"layers": layers}, model={"num_layers": 40}) as file:
        assert set(file) == {"a%2Fb", "%2E", "..", "%5Fcolumns", "50%252F", "日本 7", "_columns"}
        assert file["_columns/question_id"].asstr()[:].tolist() == ids
        assert file["a%2Fb/query_token_representation/layer_39"].attrs["final_norm"]
