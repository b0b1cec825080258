"""Tables of the ``datasets`` library: saved folders, and what is said when the hub fails."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from vlmscope.dataset import load_image, open_table, read_samples
from vlmscope.errors import InputError, RowError
from vlmscope.schema import Sample

from .tables import ROWS, write_csv, write_parquet


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def with_images() -> datasets.Dataset:
    """Three rows: an image with a name, one without, and one that is broken."""
    return datasets.Dataset.from_dict(
        {
            "id": [1, 2, 3],
            "question": ["a?", "b?", "c?"],
            "image": [
                {"bytes": png("red"), "path": "red.png"},
                {"bytes": png("blue"), "path": None},
                {"bytes": b"broken", "path": "broken.png"},
            ],
            "answer": [0, 1, -1],
            "level": [0.5, float("nan"), 2.0],
        },
        features=datasets.Features(
            id=datasets.Value("int64"),
            question=datasets.Value("string"),
            image=datasets.Image(),
            answer=datasets.ClassLabel(names=["no", "yes"]),
            level=datasets.Value("float64"),
        ),
    )


def check_images(samples: list[Sample]) -> None:
    assert [s.image_id for s in samples] == ["red.png", "2", "broken.png"]
    assert load_image(samples[0].image).getpixel((0, 0)) == (255, 0, 0)
    assert load_image(samples[1].image).getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(RowError, match="image of 6 bytes: is not an image of a known format"):
        load_image(samples[2].image)
    assert [s.metadata["level"] for s in samples] == [0.5, None, 2.0]


def test_saved_folder(tmp_path: Path, with_images: datasets.Dataset) -> None:
    with_images.save_to_disk(tmp_path / "saved")
    samples = list(read_samples(tmp_path / "saved"))
    check_images(samples)
    assert [s.target for s in samples] == ["no", "yes", ""], "a class label is given by name"
    assert [s.origin for s in samples] == ["saved row 1", "saved row 2", "saved row 3"]


def test_parquet_that_datasets_wrote(tmp_path: Path, with_images: datasets.Dataset) -> None:
    with_images.to_parquet(tmp_path / "t.parquet")
    check_images(list(read_samples(tmp_path / "t.parquet")))


def test_rows_picked_by_select_and_filter(tmp_path: Path, with_images: datasets.Dataset) -> None:
    with_images.select([2, 0]).save_to_disk(tmp_path / "saved")
    assert open_table(tmp_path / "saved").scan().ids == ("3", "1")


def test_relative_names_start_beside_the_folder(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    saved = open_table(tmp_path / "saved")
    assert [s.image for s in saved.rows() if isinstance(s, Sample)] == [
        tmp_path / "a.png",
        tmp_path / "b.png",
    ]
    same = open_table(write_csv(tmp_path / "t.csv", ROWS))
    assert saved.scan() == same.scan()


def test_more_rows_than_a_batch(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "question_id": str(n)} for n in range(200)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    assert open_table(tmp_path / "saved", limit=150).scan().ids == tuple(map(str, range(150)))


def test_splits(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(ROWS)
    folder = tmp_path / "saved"
    datasets.DatasetDict(train=table, test=table.select([1])).save_to_disk(folder)
    assert open_table(f"{folder}:test").scan().ids == ("q2",)
    assert next(read_samples(f"{folder}:train")).origin == "saved:train row 1"
    with pytest.raises(
        InputError, match=r"has several splits\. Found train, test; write .*saved:train"
    ):
        open_table(folder)
    with pytest.raises(InputError, match=r"no split 'val'\. Found train, test"):
        open_table(f"{folder}:val")


def test_only_split_is_taken(tmp_path: Path) -> None:
    datasets.DatasetDict(val=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "saved")
    assert open_table(tmp_path / "saved").scan().ids == ("q1", "q2")


def test_split_of_a_table_without_splits(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match="one table without splits; leave ':train' out"):
        open_table(f"{tmp_path / 'saved'}:train")


def test_other_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"saved by Hugging Face datasets; name a table in it"):
        open_table(tmp_path)


def test_damaged_folder(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS).save_to_disk(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(InputError, match=r"saved dataset cannot be loaded .*save it again"):
        open_table(folder)


def test_hub_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str | None]] = []

    def load(name: str, split: str | None = None) -> Any:
        asked.append((name, split))
        table = datasets.Dataset.from_list(ROWS)
        return table if split else datasets.DatasetDict(train=table)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert next(read_samples("owner/vqa-v2.1")).origin == "vqa-v2.1:train row 1"
    sample = next(read_samples("owner/vqa:test[:2]"))
    assert (sample.origin, sample.image) == ("owner/vqa:test[:2] row 1", tmp_path / "a.png")
    assert asked == [("owner/vqa-v2.1", None), ("owner/vqa", "test[:2]")]


@pytest.mark.parametrize("error", [ConnectionError("no\n route"), ValueError("x"), KeyError("y")])
def test_hub_failure_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(InputError) as caught:
        open_table("owner/name")
    text = str(caught.value)
    assert text.startswith("owner/name: no such file or folder here, and the hub dataset")
    assert type(error).__name__ in text
    assert "\n" not in text
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(("module", "name"), [("datasets", "saved"), ("pyarrow", "t.parquet")])
def test_missing_library_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    write_parquet(tmp_path / "t.parquet", ROWS)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"pip install {module}$"):
        open_table(tmp_path / name)


def test_reading_csv_imports_no_heavy_library(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ROWS)
    code = f"""
import sys
from vlmscope.dataset import open_table
assert open_table({str(path)!r}).scan().ids == ("q1", "q2")
heavy = {{"datasets", "pyarrow", "pandas", "torch", "transformers", "h5py"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)
