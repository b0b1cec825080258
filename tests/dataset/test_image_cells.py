"""What a row says about its image: names, paths, bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmscope.dataset import open_table, read_samples
from vlmscope.errors import InputError
from vlmscope.schema import FieldSpec

from .tables import NAN, ROWS, around, failure, one, write_csv, write_jsonl, write_parquet


@pytest.mark.parametrize("gap", ["", "nan", "NaN", " "])
def test_image_name_fills_a_gap_in_image_id(tmp_path: Path, gap: str) -> None:
    rows = [
        {"id": 1, "image_id": gap, "image_name": "b.png", "question": "?"},
        {"id": 2, "image_id": "a.png", "image_name": "c.png", "question": "?"},
    ]
    first, second = read_samples(write_csv(tmp_path / "t.csv", rows))
    assert (first.image, first.image_id) == (tmp_path / "b.png", "b.png")
    assert (second.image, second.metadata) == (tmp_path / "a.png", {"image_name": "c.png"})


@pytest.mark.parametrize("gap", [None, NAN])
def test_image_name_fills_a_gap_in_parquet(tmp_path: Path, gap: float | None) -> None:
    columns = {"id": [1], "image_id": pa.array([gap], pa.float64()), "image_name": ["b"]}
    pq.write_table(pa.table({**columns, "question": ["?"]}), tmp_path / "t.parquet")
    sample = one(tmp_path / "t.parquet")
    assert sample.image_id == "b"
    assert sample.metadata == {"image_id": None}


def test_bytes_beat_names_as_pixels(tmp_path: Path) -> None:
    row = {"id": 1, "image_id": "name", "image": b"pixels", "question": "?"}
    sample = one(write_parquet(tmp_path / "t.parquet", [row]))
    assert (sample.image, sample.image_id, sample.metadata) == (b"pixels", "name", {})


@pytest.mark.parametrize(
    ("image", "expected", "name"),
    [
        (b"pixels", b"pixels", "7"),
        ({"bytes": b"pixels", "path": None}, b"pixels", "7"),
        ({"bytes": b"pixels", "path": "x.png"}, b"pixels", "x.png"),
        ({"bytes": None, "path": "x.png"}, "x.png", "x.png"),
    ],
)
def test_image_cells(tmp_path: Path, image: Any, expected: Any, name: str) -> None:
    row = {"id": 7, "image": image, "question": "?"}
    schema_row = {"id": 8, "image": {"bytes": b"p", "path": "p"}, "question": "?"}
    rows = [row, schema_row] if isinstance(image, dict) else [row]
    sample = next(read_samples(write_parquet(tmp_path / "t.parquet", rows)))
    assert sample.image == (expected if isinstance(expected, bytes) else tmp_path / expected)
    assert sample.image_id == name


def test_mapped_bytes_take_no_name_from_other_columns(tmp_path: Path) -> None:
    row = {"id": 7, "image_id": "name", "photo": b"pixels", "question": "?"}
    path = write_parquet(tmp_path / "t.parquet", [row])
    sample = one(path, fields=FieldSpec(image="photo"))
    assert (sample.image, sample.image_id) == (b"pixels", "7")
    assert sample.metadata == {"image_id": "name"}


def test_image_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    path = write_csv(tmp_path / "t.csv", [ROWS[0]])
    assert one(path, images=tmp_path / "images").image == tmp_path / "images" / "a.png"
    monkeypatch.chdir(tmp_path)
    assert one(Path("t.csv")).image == tmp_path / "a.png", "a later chdir does no harm"


@pytest.mark.parametrize("anywhere", [False, True])
def test_absolute_path_inside_the_image_folder(tmp_path: Path, anywhere: bool) -> None:
    inside = str(tmp_path / "a.png")
    sample = one(
        write_csv(tmp_path / "t.csv", [{**ROWS[0], "image": inside}]), allow_absolute_paths=anywhere
    )
    assert (sample.image, sample.image_id) == (tmp_path / "a.png", inside)


def test_absolute_path_outside_the_image_folder(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", around({"image": "/far/a.png"}))
    assert failure(path).error == (
        f"t.csv line 3: the image path '/far/a.png' lies outside the image folder {tmp_path}; pass "
        "the folder of the images with --images DIR, or pass --allow-absolute-paths if you trust "
        "the table"
    )
    alone = write_csv(tmp_path / "alone.csv", [{**ROWS[0], "image": "/far/a.png"}])
    assert one(alone, allow_absolute_paths=True).image == Path("/far/a.png")


@pytest.mark.parametrize("name", ["link.png", "folder/a.png", "chain.png"])
def test_symbolic_link_that_leaves_the_image_folder(tmp_path: Path, name: str) -> None:
    images, far = tmp_path / "images", tmp_path / "far"
    images.mkdir()
    far.mkdir()
    (far / "a.png").write_bytes(b"private")
    (images / "link.png").symlink_to(far / "a.png")
    (images / "chain.png").symlink_to(images / "link.png")
    (images / "folder").symlink_to(far)
    path = write_csv(images / "t.csv", around({"image": name}))
    assert f"{name!r} leads by a symbolic link out of the image folder {images}" in (
        failure(path).error
    )
    alone = write_csv(images / "alone.csv", [{**ROWS[0], "image": name}])
    assert one(alone, allow_absolute_paths=True).image == images / name


def test_links_within_the_image_folder_and_to_it(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "same.png").symlink_to(tmp_path / "images" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "images")
    path = write_csv(tmp_path / "t.csv", [{**ROWS[0], "image": "same.png"}])
    assert one(path, images=tmp_path / "link").image == tmp_path / "link" / "same.png"


def test_image_root_that_is_not_there(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ROWS)
    with pytest.raises(InputError, match=r"gone: no such image folder; .* --images DIR"):
        open_table(path, images=tmp_path / "gone")


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", ".."])
def test_path_that_leaves_the_image_folder(tmp_path: Path, name: str) -> None:
    failed = failure(write_csv(tmp_path / "t.csv", around({"image": name})))
    assert f"t.csv line 3: the image path {name!r} leaves the image folder {tmp_path}" in (
        failed.error
    )
    assert "--images DIR" in failed.error


def test_path_with_dots_inside(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [{**ROWS[0], "image": "a/../..b/c..png"}])
    assert one(path).image == tmp_path / "a/../..b/c..png"


def test_url_is_not_fetched(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", around({"image": "https://example.org/a.png"}))
    assert "is a URL, which is not fetched; write a path there" in failure(path).error


@pytest.mark.parametrize("image", [None, "", " ", NAN, [], {}, {"bytes": None}])
def test_no_image(tmp_path: Path, image: Any) -> None:
    failed = failure(write_jsonl(tmp_path / "t.jsonl", around({"image": image})))
    assert failed.id == "bad"
    assert failed.error == (
        "t.jsonl line 2: no image in column 'image'; write a path, or the bytes of an image file, "
        "there, or pass --text-only for questions without an image"
    )
