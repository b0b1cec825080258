from pathlib import Path

import h5py
import numpy as np
import pytest

from store_support import make_captures, make_manifest
from vlmscope.errors import InputError
from vlmscope.store import RepresentationInfo, RunWriter, describe

WANTED = (
    RepresentationInfo("query_token_representation", (0, 2, 3), 8, "float32", 10),
    RepresentationInfo("vision_only_representation", (), 12, "float32", 10),
    RepresentationInfo("vision_token_representation", (0, 2, 3), 8, "float32", 10),
)


def test_a_run(run: Path) -> None:
    found = describe(run)
    assert (found.kind, found.rows, found.answers) == ("run", 10, 10)
    assert found.representations == WANTED
    assert found.attrs["num_samples"] == 10
    assert found.attrs["model_type"] == "mllama"
    assert found.size > 10_000


@pytest.mark.parametrize("name", ["index.h5", "shards/pack-000-000003.h5"])
def test_a_single_file_of_ours(run: Path, name: str) -> None:
    found = describe(run / name)
    assert (found.kind, found.rows, found.answers) == ("file", 10, 10)
    assert found.representations == WANTED
    assert found.size == (run / name).stat().st_size


def test_an_empty_run(tmp_path: Path) -> None:
    with RunWriter(tmp_path, make_manifest()):
        pass
    assert describe(tmp_path).rows == 0
    assert describe(tmp_path / "index.h5").rows == 0


def test_prefill_only_and_float16(tmp_path: Path) -> None:
    with RunWriter(tmp_path, make_manifest(store_dtype="float16")) as writer:
        writer.add(make_captures(range(3), answered=False))
    found = describe(tmp_path)
    assert found.answers == 0
    assert {info.dtype for info in found.representations} == {"float16"}


@pytest.mark.parametrize("attrs", [True, False])
def test_a_file_of_the_original_research(tmp_path: Path, attrs: bool) -> None:
    """Gzip dataset per vector, numeric keys, a missing vector, maybe no root attributes."""
    path = tmp_path / "llama3_2_11b_vision_embeddings_part_001.h5"
    with h5py.File(path, "w") as file:
        if attrs:
            file.attrs["model_name"] = b"meta-llama"
            file.attrs["num_samples"] = 4
        for i in range(4):
            row = file.create_group(str(i))
            row.create_dataset("answer", data="Yes.") if i else None
            row.create_dataset("question", data=b"Is it?")
            vector = np.zeros(16, np.float32)
            if i != 2:
                row.create_dataset("vision_only_representation", data=vector, compression="gzip")
            for layer in (10, 0):
                name = f"query_token_representation/layer_{layer}"
                row.create_dataset(name, data=vector, compression="gzip", compression_opts=4)
    found = describe(path)
    assert (found.rows, found.answers) == (4, 3)
    assert found.representations == (
        RepresentationInfo("query_token_representation", (0, 10), 16, "float32", 4),
        RepresentationInfo("vision_only_representation", (), 16, "float32", 3),
    )
    assert found.attrs == ({"model_name": "meta-llama", "num_samples": 4} if attrs else {})


def test_what_cannot_be_described(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        describe(tmp_path / "nothing.h5")
    with pytest.raises(InputError, match="not a run folder"):
        describe(tmp_path)
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(InputError, match=r"text\.h5: not an HDF5 file") as caught:
        describe(tmp_path / "text.h5")
    assert "remove it" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("_columns", 3), ("_columns/question_id", 3), ("_columns/question_id", [3.5])],
)
def test_files_that_only_look_like_ours(tmp_path: Path, name: str, value: object) -> None:
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file[name] = value
        file.attrs["format_version"] = "abc"
    with pytest.raises(InputError, match=r"odd\.h5: not an HDF5 file in the HALP layout"):
        describe(tmp_path / "odd.h5")


def test_a_question_in_two_shards_counts_once(run: Path) -> None:
    [pack] = (run / "shards").glob("*.h5")
    (run / "shards" / "pack-000-000099.h5").write_bytes(pack.read_bytes())
    found = describe(run)
    assert (found.rows, found.answers, found.attrs["num_samples"]) == (10, 10, 10)
