"""Columns ``image_1``, ``image_2`` and so on, and questions that name their images by number."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from vlmscope import demo
from vlmscope.dataset import load_image, open_table, parse_mapping, table_notes
from vlmscope.schema import Failure, Sample

from .tables import write_csv, write_jsonl

IMAGES = Path(demo.__file__).parent / "images"
NAMES = ("demo_0000.jpg", "demo_0001.jpg", "demo_0002.jpg")
SIZES = [(99, 210), (109, 102), (104, 110)]
BASE64 = [base64.b64encode((IMAGES / name).read_bytes()).decode() for name in NAMES]


def row(id_: Any, *images: Any, question: str = "Is it?", **more: Any) -> dict[str, Any]:
    numbered = {f"image_{n}": image for n, image in enumerate(images, start=1)}
    return {"id": id_, "question": question, **numbered, **more}


def read(
    tmp_path: Path, rows: list[dict[str, Any]], images: Path = IMAGES, **options: Any
) -> list[Sample | Failure]:
    path = write_jsonl(tmp_path / "t.jsonl", rows)
    table = open_table(path, images=images, fields=parse_mapping([], **options))
    return list(table.as_scanned(table.scan()).rows())


def sizes(item: Sample | Failure) -> list[tuple[int, int]]:
    assert isinstance(item, Sample), item
    return [load_image(image).size for image in item.images]


def error(item: Sample | Failure) -> str:
    assert isinstance(item, Failure), item
    assert "\n" not in item.error
    return item.error


# --- references in each of several columns


def test_names_numbers_and_base64_in_each_column(tmp_path: Path) -> None:
    cells = [BASE64[0], " demo_0001", "DEMO_0002.JPG", f"data:image/jpeg;base64,{BASE64[1]}"]
    [item] = read(tmp_path, [row(7, *cells)])
    assert sizes(item) == [*SIZES, SIZES[1]]


@pytest.mark.parametrize("reference", ["1", 1, 1.0, "1.0", " 1 "])
def test_another_row_is_named_in_its_column(tmp_path: Path, reference: Any) -> None:
    rows = [
        row(1, BASE64[0], BASE64[1]),
        row(2, reference, BASE64[2]),
        row(3, BASE64[2], reference),
        row(4, reference, reference),
        row(5, 4, 4),
    ]
    first, *others = map(sizes, read(tmp_path, rows))
    assert first == SIZES[:2]
    assert others == [[SIZES[0], SIZES[2]], [SIZES[2], SIZES[1]], SIZES[:2], SIZES[:2]]


def test_the_only_image_of_a_row_is_named_in_any_column(tmp_path: Path) -> None:
    rows = [row(1, BASE64[0], None), row(2, BASE64[1], None), row(3, "2", "1"), row(4, "1", "9")]
    read_rows = read(tmp_path, rows)
    assert sizes(read_rows[2]) == [SIZES[1], SIZES[0]]
    with pytest.raises(Exception, match="9: not found"):
        sizes(read_rows[3])


def test_a_pattern_with_the_image_is_read_for_each_column(tmp_path: Path) -> None:
    pattern = "demo_{image:04d}.jpg"
    rows = [row(1, 2, 0), row(2, 1.0, None), row(3, "1", "x"), row(4, None, None)]
    two, one, odd, none = read(tmp_path, rows, image_pattern=pattern)
    assert sizes(two) == [SIZES[2], SIZES[0]]
    assert sizes(one) == [SIZES[1]]
    assert "in column 'image_2' is 'x', expected a whole number" in error(odd)
    assert "no image in column 'image_1' or 'image_2'" in error(none)
    [item, _, _, _] = read(tmp_path, rows, image_pattern="demo_{image_2:04d}.jpg")
    assert sizes(item) == [SIZES[0]]


@pytest.mark.parametrize("cell", [[2, 0], "[2, 0]"])
def test_a_pattern_is_read_for_each_item_of_a_list(tmp_path: Path, cell: Any) -> None:
    rows = [
        {"id": 1, "image": cell, "question": "?"},
        {"id": 2, "image": [1, None], "question": "?"},
    ]
    item, gap = read(tmp_path, rows, image_pattern="demo_{image_id:04d}.jpg")
    assert sizes(item) == [SIZES[2], SIZES[0]]
    assert "in column 'image' is a list with a gap" in error(gap)


# --- placeholders


def test_columns_that_are_not_numbered_from_one_without_a_gap(tmp_path: Path) -> None:
    """The prompt counts the images that are there: it would show another one."""
    said = "and those in 'image_1' and 'image_3' are not numbered from 1 without a gap"
    rows = [
        row(1, NAMES[0], None, NAMES[2], question="Is <image 3> it?"),
        row(2, NAMES[0], None, NAMES[2], question="Is it?"),
        row(3, NAMES[0], NAMES[1], None, question="Is <image 2> it?"),
    ]
    gap, plain, whole = read(tmp_path, rows)
    assert said in error(gap)
    assert sizes(plain) == [SIZES[0], SIZES[2]]
    assert sizes(whole) == SIZES[:2]
    from_zero = [{"id": 1, "image_0": "a", "image_1": "b", "question": "Is <image 1> it?"}]
    assert "'image_0' and 'image_1' are not" in error(read(tmp_path, from_zero)[0])
    patterned = [row(1, None, 2, question="Is <image 1> it?"), row(2, 0, 2, question="<image 2>?")]
    gap, whole = read(tmp_path, patterned, image_pattern="demo_{image:04d}.jpg")
    assert "those in 'image_2' are not" in error(gap)
    assert sizes(whole) == [SIZES[0], SIZES[2]]


def test_mapped_columns_are_numbered_in_their_order(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "t.csv",
        [
            {"id": "1", "left": NAMES[0], "right": NAMES[1], "question": "<image 2>?"},
            {"id": "2", "left": "", "right": NAMES[1], "question": "<image 1>?"},
        ],
    )
    fields = parse_mapping(["image=left,right"])
    whole, gap = open_table(path, images=IMAGES, fields=fields).rows()
    assert sizes(whole) == SIZES[:2]
    assert "those in 'right' are not" in error(gap)


def notes(tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> list[str]:
    table = open_table(write_jsonl(tmp_path / "t.jsonl", rows), images=IMAGES, **options)
    return [
        note
        for note in table_notes(table, table.scan())
        if "no column with the ground truth" not in note
    ]


def test_placeholders_are_counted_in_all_rows(tmp_path: Path) -> None:
    rows = [row(n, NAMES[0]) for n in range(3000)]
    rows[2500]["question"] = "<image>\nIs it?"
    rows[2600]["question"] = "Is <image 2> it?"
    rows[2700]["question"] = "Is <image_1> it?"
    nameless, missing = notes(tmp_path, rows)
    assert nameless.startswith(
        "1 question of 3,000 contains a placeholder such as '<image>' and will"
    )
    assert "'<image 2>' and will fail: the row has no image of that number" in missing
    assert notes(tmp_path, rows, limit=2500) == []
    table = open_table(tmp_path / "t.jsonl", images=IMAGES)
    assert table.scan().marks.numbered == 1


@pytest.mark.exhaustive
def test_images_are_looked_for_in_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(n, NAMES[n % 3]) for n in range(3000)]
    rows[2500]["image_1"] = "gone.jpg"
    rows[2600]["image_1"] = "./demo_0001.jpg"
    rows[2700]["image_1"] = "demo_0001"
    taken, gone = notes(tmp_path, rows)
    assert taken.startswith("1 image name is not an exact path; the only matching file is used: ")
    assert gone.startswith("1 image of 3,000 rows is not in ")
    assert "'gone.jpg'" in gone
    monkeypatch.setattr("vlmscope.dataset.notes.MOST_ROWS", 2000)
    assert notes(tmp_path, rows) == []
    rows[10]["image_1"] = "gone.jpg"
    [gone] = notes(tmp_path, rows)
    assert gone.startswith("1 image of the first 2,000 rows is not in ")


@pytest.mark.exhaustive
def test_tables_that_hold_images_are_not_read_on_for_names(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [row(n, BASE64[0]) for n in range(3)]
    rows += [row(n, NAMES[0]) for n in range(3, 2010)]
    rows[2005]["image_1"] = "gone.jpg"
    assert notes(tmp_path, rows) == []
    rows[2]["image_1"] = "gone.jpg"
    [gone] = notes(tmp_path, rows)
    assert gone.startswith("1 image of the first 2,000 rows is not in ")


def test_what_is_counted_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    rows = [row(1, NAMES[0], question="Is <image 1> it?")]
    path = write_jsonl(tmp_path / "t.jsonl", rows)
    found = open_table(path, images=IMAGES).scan().fingerprint
    key = json.dumps(("1", NAMES[0], "Is <image 1> it?", "")) + "\n"
    assert found == hashlib.sha256(key.encode()).hexdigest()
