"""Signals on disk: vectors of sub-layers and arrays of a row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from store_support import HIDDEN, LAYERS, make_bare, make_capture, make_manifest
from vlmscope.errors import InputError, RunMismatchError, StoreError
from vlmscope.schema import Capture
from vlmscope.signals import (
    INTEGERS,
    LENS_RANK,
    LENS_TOKENS,
    NO_TOKEN,
    PREVIOUS,
    PREVIOUS_HEAD,
    TOKEN_STATISTICS,
)
from vlmscope.store import RunWriter, describe, export_run, open_run, write_manifest
from vlmscope.store.format.batch import by_layer
from vlmscope.store.format.checksums import digest

RECORD: dict[str, Any] = {
    "signals": ("entropy", "attention", "heads", "lens", "p_true"),
    "signal_widths": {f"heads/layer_{layer}": 6 for layer in LAYERS[1:]},
    "attention_layers": (0, 1, 3),
    "attention_heads": 2,
}
SHAPES = {
    "attention_prompt": (3, 2, 4),
    "attention_answer": (3, 3, 2, 4),
    "attention_previous_head": (3,),
    "lens_tokens": (2, 3, 10),
    "lens_probs": (2, 3, 10),
    "lens_entropy": (2, 3),
    "lens_answer_rank": (2, 3),
    "lens_answer_prob": (2, 3),
    "p_true": (),
    "p_true_mass": (),
}
CONFIDENCE = tuple(f"internal_confidence/layer_{layer}" for layer in LAYERS)


def with_signals(capture: Capture, **changes: Any) -> Capture:
    """Return a row with the signals of ``RECORD``."""
    rng = np.random.default_rng(len(capture.sample.id))
    assert capture.answer_token_ids is not None
    count = len(capture.answer_token_ids)
    groups = [name.removesuffix("_representation") for name in dict.fromkeys(
        path.partition("/")[0] for path in capture.vectors if "/" in path
    )]  # fmt: skip
    heads = {
        f"{group}_heads/layer_{layer}": rng.random(6, np.float32)
        for group in groups
        for layer in LAYERS[1:]
    }
    signals = {n: np.asarray(rng.random(shape, np.float32)) for n, shape in SHAPES.items()}
    signals |= {name: rng.integers(0, 9, SHAPES[name], np.int32) for name in INTEGERS}
    if not capture.image_sha256:
        signals["p_true"] = np.array(np.nan, np.float32)
        for name in ("lens_probs", "lens_entropy", "lens_answer_prob"):
            signals[name][0] = np.nan
        for name in (LENS_TOKENS, LENS_RANK):
            signals[name][0] = NO_TOKEN
    per_token = (*TOKEN_STATISTICS, *(CONFIDENCE if capture.image_sha256 else ()))
    signals |= {name: rng.random(count, np.float32) for name in per_token}
    tokens = max(0, count - (capture.finish_reason == "stop"))
    signals[PREVIOUS] = rng.random((tokens, 3), np.float32)
    return replace(capture, vectors={**capture.vectors, **heads}, signals=signals, **changes)


@pytest.fixture(scope="module")
def rows() -> list[Capture]:
    """Rows with answers of 0 to 4 tokens; one without an image lacks the heads of one layer."""
    bare = with_signals(make_bare(3))
    lacking = {p: v for p, v in bare.vectors.items() if not p.endswith("heads/layer_2")}
    others = [with_signals(make_capture(i)) for i in (0, 1, 2, 4)]
    return [*others[:3], replace(bare, vectors=lacking), others[3]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, rows: list[Capture]) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    with RunWriter(path, make_manifest(capture=RECORD), pack_rows=4) as writer:
        writer.add(rows[:2])
        writer.add(rows[2:4])
        writer.add(rows[4:])
    return path


def test_rows_come_back_as_they_were(run: Path, rows: list[Capture]) -> None:
    opened = open_run(run)
    for row in rows:
        found = opened[row.sample.id]
        assert found.vectors.keys() == row.vectors.keys()
        assert found.signals.keys() == row.signals.keys()
        for one, other in ((found.vectors, row.vectors), (found.signals, row.signals)):
            for name, array in other.items():
                np.testing.assert_array_equal(one[name], array, err_msg=name)
                assert one[name].dtype == array.dtype


def test_sublayers_of_the_last_layer_are_not_after_the_final_norm(
    run: Path, rows: list[Capture], tmp_path: Path
) -> None:
    """They are read within the block: only its hidden states are normalized."""
    last = f"layer_{LAYERS[-1]}"
    exported = export_run(run, tmp_path / "run.h5")
    for path in (run / "index.h5", exported):
        with h5py.File(path) as file:
            row = file[rows[0].sample.id]
            assert row[f"query_token_representation/{last}"].attrs["final_norm"]
            assert not dict(row[f"query_token_heads/{last}"].attrs)
    with h5py.File(run / "index.h5") as file:
        assert file[f"_columns/query_token_representation/{last}"].attrs["final_norm"]
        assert not file[f"_columns/query_token_heads/{last}"].attrs["final_norm"]


def test_a_signal_of_all_rows(run: Path, rows: list[Capture]) -> None:
    opened = open_run(run)
    per_token = ("entropy", "max_logprob", "margin", *CONFIDENCE, PREVIOUS)
    assert opened.signals == (*per_token, *SHAPES)
    tokens = opened.signal("lens_tokens")
    np.testing.assert_array_equal(tokens, [row.signals["lens_tokens"] for row in rows])
    assert tokens.dtype == np.int32
    for one, row in zip(opened.signal(CONFIDENCE[1]), rows, strict=True):
        missing = np.full_like(row.signals["entropy"], np.nan)
        np.testing.assert_array_equal(one, row.signals.get(CONFIDENCE[1], missing))
    found = opened.signal("attention_answer")
    np.testing.assert_array_equal(found, [row.signals["attention_answer"] for row in rows])
    for name in ("entropy", PREVIOUS):
        for one, row in zip(opened.signal(name), rows, strict=True):
            np.testing.assert_array_equal(one, row.signals[name])
    assert opened.signal(PREVIOUS_HEAD).dtype == np.int32
    heads = opened.matrix("last_prompt_token", 2, signal="heads")
    assert heads.shape == (5, 6)
    assert np.isnan(heads).all(axis=1).tolist() == [False, False, False, True, False]
    np.testing.assert_array_equal(heads[0], rows[0].vectors["query_token_heads/layer_2"])
    with pytest.raises(InputError, match="no signal 'attention', there are entropy"):
        opened.signal("attention")
    with pytest.raises(InputError, match="no representation 'query_token_mlp'"):
        opened.matrix("last_prompt_token", 2, signal="mlp")
    numbers = [row.signals["p_true"] for row in rows]
    np.testing.assert_array_equal(opened.signal("p_true"), numbers)
    np.testing.assert_array_equal(opened.to_pandas()["signals.p_true"], numbers)
    assert opened.to_pandas()["mean_answer_entropy"].notna().tolist()[1:] == [True] * 4


def test_plain_h5py_reads_them(run: Path, rows: list[Capture]) -> None:
    with h5py.File(run / "index.h5") as file:
        row = file[rows[1].sample.id]
        for name, array in rows[1].signals.items():
            np.testing.assert_array_equal(row[f"signals/{name}"][()], array)
            assert row[f"signals/{name}"].dtype == array.dtype
        assert file["_columns/signals/lens_tokens"].dtype == np.int32
        assert row["query_token_heads/layer_3"].shape == (6,)
        assert file["_columns/signals/p_true"].shape == (5,)
        assert file["_columns/signals/attention_prompt"].shape == (5, 3, 2, 4)
        assert len(file["_columns/signals/entropy"]) == 5
        bare = file[rows[3].sample.id]
        assert "layer_2" not in bare["query_token_heads"]
        assert "vision_token_heads" not in bare
        assert "internal_confidence" not in bare["signals"]
        assert (bare["signals/lens_tokens"][0] == NO_TOKEN).all()


def test_exports_have_them(run: Path, rows: list[Capture], tmp_path: Path) -> None:
    for suffix in ("h5", "npz", "parquet"):
        export_run(run, tmp_path / f"run.{suffix}")
    with h5py.File(tmp_path / "run.h5") as file:
        values = file[rows[2].sample.id]["signals/attention_prompt"][()]
        assert file[rows[2].sample.id]["signals/lens_answer_rank"].dtype == np.int32
        assert file[rows[2].sample.id]["signals/p_true"][()] == rows[2].signals["p_true"]
        assert {*file[rows[1].sample.id]["signals/internal_confidence"]} == {
            name.partition("/")[2] for name in CONFIDENCE
        }
        assert "internal_confidence" not in file[rows[3].sample.id]["signals"]
        np.testing.assert_array_equal(
            file[rows[2].sample.id]["signals/attention_previous"][()], rows[2].signals[PREVIOUS]
        )
    np.testing.assert_array_equal(values, rows[2].signals["attention_prompt"])
    assert describe(tmp_path / "run.h5").signals == describe(run).signals
    arrays = np.load(tmp_path / "run.npz")
    assert arrays["signals/attention_answer"].shape == (5, *SHAPES["attention_answer"])
    total = sum(len(row.signals["margin"]) for row in rows)
    assert arrays["signals/margin"].shape == (total,)
    offsets, confidence = arrays["answer_offsets"], arrays[f"signals/{CONFIDENCE[0]}"]
    assert offsets.tolist() == [0, *np.cumsum([len(row.signals["margin"]) for row in rows])]
    assert np.isnan(confidence[offsets[3] : offsets[4]]).all()
    assert not np.isnan(confidence[: offsets[3]]).any()
    starts, previous = arrays["attention_previous_offsets"], arrays[f"signals/{PREVIOUS}"]
    assert previous.shape == (sum(len(row.signals[PREVIOUS]) for row in rows), 3)
    np.testing.assert_array_equal(previous[starts[4] : starts[5]], rows[4].signals[PREVIOUS])
    assert arrays["query_token_heads/layer_2"].shape == (5, 6)
    table = pq.read_table(tmp_path / "run.parquet")
    assert table["query_token_heads.layer_2"].null_count == 1
    assert len(table["signals.attention_prompt"][0]) == 3 * 2 * 4
    np.testing.assert_array_equal(arrays["signals/p_true"], [r.signals["p_true"] for r in rows])
    assert table["signals.p_true"].to_pylist()[:3] == arrays["signals/p_true"][:3].tolist()
    flat = table["signals.attention_previous"][2].as_py()
    assert flat == rows[2].signals[PREVIOUS].ravel().tolist()
    column = table["signals.internal_confidence.layer_2"].to_pylist()
    assert [values is None for values in column] == [False, False, False, True, False]
    assert column[2] == rows[2].signals[CONFIDENCE[1]].tolist()
    assert (
        table["signals.lens_tokens"][0].as_py() == rows[0].signals["lens_tokens"].ravel().tolist()
    )


def test_a_row_that_lacks_a_signal_is_refused(run: Path, rows: list[Capture]) -> None:
    good = with_signals(make_capture(7))
    for change in (
        {"signals": {}},
        {"signals": {**good.signals, "attention_prompt": np.zeros((2, 2, 4), np.float32)}},
        {"signals": {**good.signals, "entropy": np.zeros(9, np.float32)}},
        {"signals": {n: a for n, a in good.signals.items() if n != CONFIDENCE[1]}},
        {"signals": {**good.signals, PREVIOUS: good.signals[PREVIOUS][1:]}},
        {"signals": {**good.signals, PREVIOUS: good.signals[PREVIOUS][:, 1:]}},
        {"vectors": {p: v for p, v in good.vectors.items() if "heads/layer_2" not in p}},
    ):
        with (
            pytest.raises(StoreError, match="do not match the manifest"),
            RunWriter(run, make_manifest(capture=RECORD)) as writer,
        ):
            writer.add([replace(good, **change)])
    bare = with_signals(make_bare(8))
    more = {**bare.signals, CONFIDENCE[0]: np.zeros(len(bare.signals["entropy"]), np.float32)}
    floats = {**good.signals, "lens_tokens": np.zeros((2, 3, 10), np.float32)}
    for row, match in (
        (replace(bare, signals=more), "do not match the manifest"),
        (replace(good, signals=floats), "lens_tokens must be int32, found float32"),
    ):
        with (
            pytest.raises(StoreError, match=match),
            RunWriter(run, make_manifest(capture=RECORD)) as writer,
        ):
            writer.add([row])
    assert len(open_run(run)) == len(rows)


def test_attention_to_the_previous_token_of_another_number_of_layers_is_refused() -> None:
    assert by_layer(np.zeros(0, np.float32), 3).shape == (0, 3)
    for count, layers in ((4, 3), (4, 0)):
        with pytest.raises(StoreError, match=f"is damaged: {count} values of {layers} layers"):
            by_layer(np.zeros(count, np.float32), layers)


@pytest.mark.first(2)
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("attention_previous_head", (2,)),
        ("attention_prompt", (2,)),
        ("attention_previous", (2, 3)),
        ("entropy", (2, 3)),
        ("p_true", (2, 3)),
    ],
)
def test_columns_of_another_number_of_dimensions_are_refused(
    rows: list[Capture], tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "run"
    with RunWriter(path, make_manifest(capture=RECORD)) as writer:
        writer.add(rows[:2])
    [pack] = (path / "shards").iterdir()
    with h5py.File(pack, "r+") as file:
        column = f"_columns/signals/{name}"
        data = np.zeros(shape, np.int32 if name in INTEGERS else np.float32)
        del file[column]
        file.create_dataset(column, data=data).attrs["sha256"] = digest(data)
    with pytest.raises(StoreError, match=f"column signals/{name} has the type"):
        open_run(path)[rows[0].sample.id]


def test_a_run_continues_with_the_same_signals_only(run: Path) -> None:
    other = make_manifest(capture={**RECORD, "signals": ("entropy",)})
    with pytest.raises(RunMismatchError, match=r"capture\.signals"), RunWriter(run, other):
        pass


@pytest.mark.parametrize(
    "change",
    [
        {"signals": ("entropy", "../x")},
        {"signal_widths": {"heads/../layer_2": 6}},
        {"signal_widths": {"heads/layer_1": 6}},
        {"signal_widths": {"heads/layer_2": 2**40}},
        {"attention_layers": (0, 0)},
        {"attention_layers": (-1,)},
        {"attention_layers": (0, 4)},
        {"attention_heads": 2**24},
        {"attention_heads": "2"},
        {"signals": ("entropy", ["heads"])},
        {"signal_widths": {"heads/layer_" + "2" * 5000: 6}},
        {"signal_widths": {"heads/layer_02": 6}},
        {"cross_attention_tiles": -4},
    ],
)
def test_a_manifest_with_impossible_signals_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    (tmp_path / "shards").mkdir()
    write_manifest(tmp_path, make_manifest(capture={**RECORD, **change}))
    with pytest.raises(StoreError, match=r"capture\.signals is invalid"):
        open_run(tmp_path)


def test_hidden_states_keep_their_width(run: Path) -> None:
    assert open_run(run).matrix("last_prompt_token", 2).shape == (5, HIDDEN)
