"""Exports, read with nothing but h5py, pyarrow and numpy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from store_support import make_capture, make_captures, make_manifest
from vlmscope.errors import InputError
from vlmscope.schema import Sample
from vlmscope.store import RunWriter, export_run, open_run

HERE = Path(__file__).parent


def test_h5_is_the_seeds_tree_with_real_data(run: Path, tmp_path: Path) -> None:
    out = export_run(open_run(run), tmp_path / "all.h5")
    with h5py.File(out) as file, h5py.File(tmp_path / "one.h5", "w") as other:
        assert set(file) == {f"question_comb_{i}" for i in range(10)}
        assert file.attrs["num_samples"] == 10
        file.copy("question_comb_4", other)  # what h5copy does
    with h5py.File(tmp_path / "one.h5") as file:
        row = file["question_comb_4"]
        wanted = make_capture(4)
        assert row["answer"].asstr()[()] == wanted.answer
        assert row.attrs["query_token_boundary"] == 37
        assert "row" not in row.attrs
        assert np.array_equal(row["answer_token_ids"][:], wanted.answer_token_ids)
        for path, vector in wanted.vectors.items():
            assert not row[path].is_virtual
            assert np.array_equal(row[path][:], vector)
        assert row["query_token_representation/layer_3"].attrs["final_norm"]


def test_parquet(tmp_path: Path) -> None:
    metadata = [
        {"n": 1, "mixed": 1, "tags": ["a"]},
        {"n": None, "mixed": "x"},
        {"n": 3, "late": True},
    ]
    captures = [
        make_capture(i, sample=Sample(f"q{i}", f"{i}.png", "?", metadata=m))
        for i, m in enumerate(metadata)
    ]
    with RunWriter(tmp_path / "run", make_manifest(), pack_rows=1) as writer:
        for capture in captures:
            writer.add([capture])
    table = pq.read_table(export_run(open_run(tmp_path / "run"), tmp_path / "all.parquet"))
    assert table["question_id"].to_pylist() == ["q0", "q1", "q2"]
    column = table["query_token_representation.layer_2"]
    assert str(column.type).startswith("fixed_size_list<") and column.type.list_size == 8  # noqa: PT018
    wanted = [c.vectors["query_token_representation/layer_2"] for c in captures]
    flat = column.combine_chunks().flatten().to_numpy()
    assert np.array_equal(flat.reshape(3, 8), wanted)
    assert table["answer_token_ids"].to_pylist() == [
        c.answer_token_ids.tolist() for c in captures if c.answer_token_ids is not None
    ]
    assert table["n"].to_pylist() == [1, None, 3]
    assert table["mixed"].to_pylist() == ["1", '"x"', None]
    assert [json.loads(t) if t else None for t in table["tags"].to_pylist()] == [["a"], None, None]
    assert table["late"].to_pylist() == [None, None, True]


def test_npz_needs_no_pickle(run: Path, tmp_path: Path) -> None:
    out = export_run(open_run(run), tmp_path / "all.npz")
    with np.load(out, allow_pickle=False) as arrays:
        assert arrays["question_id"].tolist() == list(open_run(run).ids)
        assert arrays["answer"][3] == make_capture(3).answer
        name = "query_token_representation/layer_2"
        assert np.array_equal(arrays[name], open_run(run).matrix("query_token_representation", 2))
        start, end = arrays["answer_offsets"][3:5]
        assert np.array_equal(
            arrays["answer_token_ids"][start:end], make_capture(3).answer_token_ids
        )


@pytest.mark.parametrize("suffix", [".h5", ".parquet", ".npz"])
def test_empty_and_prefill_runs(tmp_path: Path, suffix: str) -> None:
    for rows in (0, 2):
        run = tmp_path / str(rows)
        with RunWriter(run, make_manifest()) as writer:
            writer.add(make_captures(range(rows), answered=False))
        assert export_run(open_run(run), tmp_path / f"{rows}{suffix}").stat().st_size > 0


def test_what_is_refused(run: Path, tmp_path: Path) -> None:
    reader = open_run(run)
    with pytest.raises(InputError, match=r"\.h5, \.parquet, \.npz"):
        export_run(reader, tmp_path / "all.csv")
    with pytest.raises(InputError, match="does not exist"):
        export_run(reader, tmp_path / "no" / "all.h5")
    folder = tmp_path / "folder.h5"
    folder.mkdir()
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is a folder; name a file in it"):
            export_run(reader, folder, overwrite=overwrite)
    out = tmp_path / "all.npz"
    out.write_text("mine")
    with pytest.raises(
        InputError, match="already there; give another name, or pass overwrite=True"
    ):
        export_run(reader, out)
    assert out.read_text() == "mine"
    assert export_run(reader, out, overwrite=True).stat().st_size > 1000


FULL = """
import resource, signal, sys
from pathlib import Path
from vlmscope.errors import StoreError
from vlmscope.store import export_run, open_run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = open_run(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    export_run(run, sys.argv[2])
except StoreError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("suffix", "limit"),
    [(".parquet", 8000), (".npz", 8000), *((".h5", limit) for limit in (0, 100, 8000, 60_000))],
)
def test_a_full_disk_leaves_nothing(run: Path, tmp_path: Path, suffix: str, limit: int) -> None:
    out = tmp_path / f"all{suffix}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL, str(run), str(out), str(limit)],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr + done.stdout
    assert "cannot be written" in done.stdout
    assert done.stdout.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_metadata_that_a_format_cannot_hold_is_kept_as_text(tmp_path: Path) -> None:
    metadata = [{"big": 10**30, "odd": "a\ud83db", "\ud83d": 1}, {"big": 1, "odd": "b"}]
    captures = [
        make_capture(i, sample=Sample(f"q{i}", f"{i}.png", "?", metadata=m))
        for i, m in enumerate(metadata)
    ]
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        writer.add(captures)
    opened = open_run(tmp_path / "run")
    assert opened["q0"].sample.metadata == metadata[0]
    table = pq.read_table(export_run(opened, tmp_path / "all.parquet")).to_pydict()
    assert [json.loads(value) for value in table["big"]] == [10**30, 1]
    assert json.loads(table["odd"][0]) == "a\ud83db"
    frame = opened.to_pandas()
    assert list(frame["odd"]) == ["a?b", "b"]
    assert list(frame["?"]) == [1, None] or frame["?"].isna()[1]


def test_one_long_text_does_not_blow_up_the_npz(tmp_path: Path) -> None:
    captures = [
        make_capture(i, sample=Sample(f"q{i}", "x.png", "?", metadata={"text": "é" * size}))
        for i, size in enumerate((10, 200_000, 0))
    ]
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        writer.add(captures)
    out = export_run(open_run(tmp_path / "run"), tmp_path / "all.npz")
    assert out.stat().st_size < 2_000_000
    arrays = np.load(out, allow_pickle=False)
    start, end = arrays["metadata.offsets"][1:3]
    assert json.loads(arrays["metadata.utf8"][start:end].tobytes()) == {"text": "é" * 200_000}
    assert list(arrays["question_id"]) == ["q0", "q1", "q2"]
