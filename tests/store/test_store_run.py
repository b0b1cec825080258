"""Reading a run, whole and damaged."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from store_support import (
    HIDDEN,
    LAYERS,
    assert_same,
    leave_parts,
    make_capture,
    make_captures,
    make_manifest,
)
from vlmscope.errors import InputError, StoreError
from vlmscope.schema import Failure
from vlmscope.store import FailureLog, RunWriter, open_run, rebuild_index


@pytest.fixture
def mixed(run: Path) -> Path:
    """A run of one pack and two parts, as a reader may find it."""
    leave_parts(run, range(10, 13))
    return run


def only_shard(run: Path) -> Path:
    (path,) = (run / "shards").glob("*.h5")
    return path


def test_rows_by_id_and_in_order(mixed: Path) -> None:
    run = open_run(mixed)
    assert run.ids == tuple(f"question_comb_{i}" for i in range(13))
    assert len(run) == 13
    assert "question_comb_11" in run
    assert "question_comb_13" not in run
    for i, capture in enumerate(run):
        assert_same(capture, make_capture(i))
        assert_same(run[f"question_comb_{i}"], make_capture(i))


def test_matrices_are_aligned_with_ids(mixed: Path) -> None:
    run = open_run(mixed)
    assert run.representations == (
        "vision_only_representation",
        "vision_token_representation",
        "query_token_representation",
    )
    assert run.layers("vision_only_representation") == ()
    for name in run.representations:
        for layer in run.layers(name) or (None,):
            path = name if layer is None else f"{name}/layer_{layer}"
            matrix = run.matrix(name, layer)
            assert matrix.dtype == np.float32
            assert np.array_equal(matrix, [make_capture(i).vectors[path] for i in range(13)])


def test_float16_is_read_as_float32(tmp_path: Path) -> None:
    with RunWriter(tmp_path, make_manifest(store_dtype="float16")) as writer:
        writer.add(make_captures(range(5)))
    run = open_run(tmp_path)
    matrix = run.matrix("query_token_representation", 2)
    wanted = np.stack(
        [c.vectors["query_token_representation/layer_2"] for c in make_captures(range(5))]
    )
    assert matrix.dtype == np.float32
    assert np.array_equal(matrix, wanted.astype(np.float16))
    assert np.array_equal(
        run["question_comb_1"].vectors["query_token_representation/layer_2"], matrix[1]
    )


def test_an_empty_run(tmp_path: Path) -> None:
    with RunWriter(tmp_path, make_manifest()):
        pass
    run = open_run(tmp_path)
    assert len(run) == 0
    assert list(run) == []
    assert run.matrix("query_token_representation", 2).shape == (0, HIDDEN)
    assert run.to_pandas().empty
    assert run.check() == []
    with h5py.File(tmp_path / "index.h5") as index:
        assert index.attrs["num_samples"] == 0


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda run: run["question_comb_o1"], "did you mean 'question_comb_"),
        (lambda run: run["zzz"], "no question 'zzz' among 10 rows; there are 'question_comb_0', "),
        (lambda run: run.matrix("query_representation", 2), "did you mean 'query_token_rep"),
        (lambda run: run.layers("mood"), "there are vision_only_representation, "),
        (lambda run: run.matrix("query_token_representation"), "no layer given, .* 0, 2, 3"),
        (lambda run: run.matrix("query_token_representation", 1), "no layer 1, .* 0, 2, 3"),
        (lambda run: run.matrix("vision_only_representation", 1), "has no layers"),
    ],
)
def test_what_is_not_there(run: Path, ask: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ask(open_run(run))  # type: ignore[operator]


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        open_run(tmp_path)


def test_to_pandas(mixed: Path) -> None:
    frame = open_run(mixed).to_pandas()
    assert list(frame.columns) == [
        *("question_id", "image_id", "question", "ground_truth_answer", "answer"),
        *("finish_reason", "image_sha256", "image_dhash"),
        *("vision_token_boundary", "query_token_boundary"),
        *("num_prompt_tokens", "first_token_entropy", "mean_answer_logprob"),
        *("num_answer_tokens", "first_token_id", "first_token_logprob", "category", "score"),
    ]
    assert frame["score"].tolist() == [i / 2 for i in range(13)]
    wanted = make_capture(4).answer_logprobs
    assert wanted is not None
    assert frame["mean_answer_logprob"][4] == pytest.approx(wanted.mean())
    assert np.isnan(frame["mean_answer_logprob"][5])  # an empty answer


def test_metadata_comes_back_whatever_it_holds(tmp_path: Path) -> None:
    wide = {
        "question": "mine",
        "text": "a\0b",
        "list": [1, None],
        "nan": float("nan"),
        "big": "x" * 70_000,
        "image_thumbnail": "mine too",
    }
    capture = make_capture(0)
    capture = make_capture(0, sample=type(capture.sample)("q", "i.png", "?", metadata=wide))
    with RunWriter(tmp_path, make_manifest()) as writer:
        writer.add([capture])
    run = open_run(tmp_path)
    assert run["q"].sample.metadata == {**wide, "nan": None}
    assert run["q"].sample.image == "i.png"
    table = run.to_pandas()
    assert table["metadata.question"].tolist() == ["mine"]
    assert table["metadata.image_thumbnail"].tolist() == ["mine too"]
    assert "image_thumbnail" not in table


def test_prefill_only(tmp_path: Path) -> None:
    captures = make_captures(range(3), answered=False)
    with RunWriter(tmp_path, make_manifest()) as writer:
        writer.add(captures[:2])
        writer.add(captures[2:])
    for found, wanted in zip(open_run(tmp_path), captures, strict=True):
        assert_same(found, wanted)
    assert "answer" not in open_run(tmp_path).to_pandas().columns


def test_failures_are_those_without_a_row(run: Path) -> None:
    log = FailureLog(run)
    log.add(Failure("question_comb_3", "image", "x"))
    log.add(Failure("bad", "image", "x"))
    assert list(open_run(run).failures) == ["bad"]


def test_a_shard_packed_away_while_reading(mixed: Path) -> None:
    run = open_run(mixed)
    with RunWriter(mixed, make_manifest()):
        pass
    for read in (
        lambda: run["question_comb_11"],
        lambda: run.matrix("query_token_representation", 2),
        lambda: list(run),
    ):
        with pytest.raises(StoreError, match="open the run again"):
            read()
    assert any("open the run again" in line for line in run.check())
    assert len(open_run(mixed)) == 13


def test_a_shard_that_is_another_file_is_looked_into_again(run: Path, tmp_path: Path) -> None:
    with RunWriter(tmp_path / "other", make_manifest()) as writer:
        writer.add([make_capture(i) for i in range(20, 24)])
    shard = only_shard(run)
    assert open_run(run).ids == open_run(run).ids == tuple(f"question_comb_{i}" for i in range(10))
    other = only_shard(tmp_path / "other").read_bytes()
    shard.write_bytes(other)
    assert open_run(run).ids == tuple(f"question_comb_{i}" for i in range(20, 24))
    before = shard.stat()
    changed = bytearray(other)
    changed[other.index(b"question_comb_20") + 15] = ord("5")
    shard.write_bytes(changed)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))  # of the same age and size
    with pytest.raises(StoreError, match="damaged"):
        open_run(run)


@pytest.mark.parametrize("cut", [0, 10, 3000])
def test_a_truncated_shard_is_named(run: Path, cut: int) -> None:
    reader = open_run(run)
    path = only_shard(run)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(StoreError, match=path.name):
        open_run(run)
    with pytest.raises(StoreError, match=path.name):
        reader.matrix("query_token_representation", 2)
    assert path.name in reader.check()[0]


def test_every_flipped_byte_of_a_column_is_found(run: Path) -> None:
    path = only_shard(run)
    with h5py.File(path) as file:
        columns = file["_columns"]
        offsets = {
            f"{group}/layer_{layer}": columns[f"{group}/layer_{layer}"].id.get_offset()
            for group in ("vision_token_representation", "query_token_representation")
            for layer in LAYERS
        } | {n: columns[n].id.get_offset() for n in ("num_prompt_tokens", "first_token_ids")}
    whole = path.read_bytes()
    for name, offset in offsets.items():
        path.write_bytes(whole[: offset + 5] + bytes([whole[offset + 5] ^ 1]) + whole[offset + 6 :])
        (line,) = open_run(run).check()
        assert f"column {name} is damaged" in line
    for text in ("No; été 3", "The image shows 3 月.", "Is the forest lit by 3 moons?"):
        path.write_bytes(whole.replace(text.encode(), text.encode()[:-2] + b"xx"))
        assert len(open_run(run).check()) == 1
    path.write_bytes(whole)
    assert open_run(run).check() == []


def test_a_newer_shard_asks_for_an_upgrade(run: Path) -> None:
    with h5py.File(only_shard(run), "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(StoreError, match="upgrade"):
        open_run(run)


def test_the_index_shows_the_whole_run(run: Path) -> None:
    with RunWriter(run, make_manifest(), "001") as writer:
        writer.add(make_captures([20], id_="a/b"))
    reader = open_run(run)
    with h5py.File(run / "index.h5") as index:
        assert index.attrs["num_samples"] == 11
        assert index.attrs["model_name"] == "tiny"
        row = index["question_comb_7"]
        wanted = make_capture(7)
        assert row["answer"].asstr()[()] == wanted.answer
        for path, vector in wanted.vectors.items():
            assert np.array_equal(row[path][:], vector)
        assert "a%2Fb" in index
        columns = index["_columns"]
        assert columns["question_id"].asstr()[:].tolist() == list(reader.ids)
        assert np.array_equal(columns["answer_token_ids"][3], make_capture(3).answer_token_ids)
        assert columns["num_prompt_tokens"][:].tolist() == [*range(34, 44), 54]
        last = columns["query_token_representation/layer_3"]
        assert last.attrs["final_norm"]
        assert np.array_equal(last[:], reader.matrix("query_token_representation", 3))


def test_the_index_is_disposable(run: Path) -> None:
    (run / "index.h5").unlink()
    assert len(open_run(run)) == 10
    rebuild_index(run)
    with h5py.File(run / "index.h5") as index:
        assert len(index) == 11


def test_the_index_never_refers_to_parts(mixed: Path) -> None:
    rebuild_index(mixed)
    with h5py.File(mixed / "index.h5") as index:
        assert index.attrs["num_samples"] == 10
    with RunWriter(mixed, make_manifest()):
        pass
    with h5py.File(mixed / "index.h5") as index:
        assert index.attrs["num_samples"] == 13


def test_a_run_folder_can_be_moved(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = open_run(run).matrix("query_token_representation", 2)
    moved = tmp_path / "elsewhere" / "copy"
    shutil.copytree(run, moved)
    shutil.rmtree(run)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    assert np.array_equal(open_run(moved).matrix("query_token_representation", 2), wanted)
    with h5py.File(os.path.relpath(moved / "index.h5")) as index:
        path = "query_token_representation/layer_2"
        assert np.array_equal(index[f"_columns/{path}"][:], wanted)
        assert np.array_equal(index["question_comb_4"][path][:], wanted[4])


def test_lists_of_one_length_are_copied_to_the_index(tmp_path: Path) -> None:
    tokens = [np.full(6, i) for i in range(5)]
    with RunWriter(tmp_path, make_manifest(), pack_rows=2) as writer:
        for i, ids in enumerate(tokens):
            logprobs = np.zeros(6, np.float32)
            writer.add(make_captures([i], answer_token_ids=ids, answer_logprobs=logprobs))
    with h5py.File(tmp_path / "index.h5") as index:
        found = index["_columns/answer_token_ids"][:]
        assert [list(ids) for ids in found] == [list(ids) for ids in tokens]
        assert index["_columns/answer"].asstr()[4] == make_capture(4).answer


def test_a_missing_pack_reads_as_nan_in_the_index(run: Path) -> None:
    only_shard(run).unlink()
    with h5py.File(run / "index.h5") as index:
        assert np.isnan(index["_columns/query_token_representation/layer_2"][:]).all()
