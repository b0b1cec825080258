"""Values that no run can hold are the failure of their row, in every column and however deep."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmscope.dataset import open_table
from vlmscope.dataset.tables.parquet import declared_media
from vlmscope.errors import LONGEST_ROW_ERROR, InputError
from vlmscope.jsontext import DEEPEST, MOST_DIGITS
from vlmscope.schema import Failure, Sample

from .tables import ROWS, failure, one, write_jsonl

SHAPES: dict[str, Callable[[int], str]] = {
    "lists": lambda depth: "[" * depth + "1" + "]" * depth,
    "objects": lambda depth: '{"a":' * depth + "1" + "}" * depth,
    "both": lambda depth: '[{"a":' * (depth // 2) + "1" + "}]" * (depth // 2),
}
ROW = {"question_id": '"bad"', "image": '"a.png"', "question": '"?"', "answer": '"yes"'}


def around(text: str) -> str:
    """JSONL of three rows, the second of which is given."""
    return f"{json.dumps(ROWS[0])}\n{text}\n{json.dumps(ROWS[1])}\n"


def row(**cells: str) -> str:
    return "{" + ", ".join(f'"{name}": {cell}' for name, cell in {**ROW, **cells}.items()) + "}"


def table(tmp_path: Path, **cells: str) -> Path:
    path = tmp_path / "t.jsonl"
    path.write_text(around(row(**cells)), encoding="utf-8")
    return path


def deeper_in_the_stack(frames: int, action: Callable[[], Any]) -> Any:
    return deeper_in_the_stack(frames - 1, action) if frames else action()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("depth", [DEEPEST + 2, 500, 5_000])
def test_metadata_that_nests_too_deep(tmp_path: Path, shape: str, depth: int) -> None:
    path = table(tmp_path, tags=SHAPES[shape](depth))
    assert open_table(path).scan().ids == ("q1", "bad", "q2")
    assert failure(path).error == (
        "t.jsonl line 2: the value in column 'tags' nests deeper than 64 levels; write a plain "
        "value there"
    )


@pytest.mark.parametrize("depth", [500, 5_000])
@pytest.mark.parametrize(
    ("column", "says"),
    [
        ("answer", "the target in column 'answer' nests deeper than 64 levels; write text there"),
        ("question", "the question in column 'question' is a dict; write text there"),
        ("image", "image 1 of 1 in the list is a dict; write a path"),
    ],
)
def test_other_columns(tmp_path: Path, column: str, says: str, depth: int) -> None:
    path = table(tmp_path, **{column: SHAPES["objects"](depth)})
    assert open_table(path).scan().ids == ("q1", "bad", "q2")
    assert failure(path).error.startswith(f"t.jsonl line 2: {says}")
    (_, failed, _) = open_table(path, text_only=True).rows()
    assert isinstance(failed, Failure)  # and never a question without an image


def test_an_id_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    for cell, what in ((SHAPES["lists"](500), "a list"), ("9" * 641, "a number of more than 640")):
        with pytest.raises(InputError, match=f"t.jsonl line 2: the id .* is {what}"):
            open_table(table(tmp_path, question_id=cell)).scan()


@pytest.mark.parametrize("shape", ["lists", "objects"])
def test_what_nests_just_so_deep_is_kept(tmp_path: Path, shape: str) -> None:
    text = SHAPES[shape](DEEPEST)
    path = tmp_path / "t.jsonl"
    path.write_text(row(tags=text, answer=text))
    sample = one(path)
    assert sample.metadata == {"tags": json.loads(text)}
    assert json.loads(sample.target) == json.loads(text)


def test_it_is_the_same_wherever_it_is_read(tmp_path: Path) -> None:
    """The stack has room for 500 levels in one place, and in another it does not."""
    path = table(tmp_path, tags=SHAPES["objects"](500), answer=SHAPES["lists"](400))
    opened = open_table(path)
    scanned = opened.scan()
    found = list(opened.rows())
    assert [type(each) for each in found] == [Sample, Failure, Sample]
    for frames in (200, 400, 600):
        assert deeper_in_the_stack(frames, opened.scan) == scanned
        assert deeper_in_the_stack(frames, lambda: list(opened.rows())) == found


def test_a_list_of_objects(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    rows = (json.dumps(ROWS[0]), row(tags=SHAPES["both"](5000)), json.dumps(ROWS[1]))
    path.write_text(f"[{', '.join(rows)}]")
    assert open_table(path).scan().ids == ("q1", "bad", "q2")
    assert "nests deeper than 64 levels" in failure(path).error


@pytest.mark.parametrize("digits", [MOST_DIGITS + 1, 4_301, 10_000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_numbers_that_are_too_long(tmp_path: Path, digits: int, sign: str) -> None:
    number = sign + "9" * digits
    what = "is a number of more than 640 digits"
    found = failure(table(tmp_path, tags=f'[{{"a": {number}}}]')).error
    assert found == f"t.jsonl line 2: the value in column 'tags' {what}; write a plain value there"
    for column in ("answer", "question", "image"):
        assert what in failure(table(tmp_path, **{column: number})).error


def test_numbers_that_are_long_enough(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    long = "9" * MOST_DIGITS
    path.write_text(row(n=long, f=f"0.{'1' * 700}", g=f"{'1' * 700}e-700", s=f'"{"9" * 700}"'))
    assert one(path).metadata == {
        "n": int(long), "f": float("0." + "1" * 700), "g": 0.1111111111111111, "s": "9" * 700
    }  # fmt: skip


def test_what_only_looks_deep_is_read(tmp_path: Path) -> None:
    text = '[{"\\' * 300
    path = write_jsonl(tmp_path / "t.jsonl", [{**ROWS[0], "x": text, "y": [[]] * 200}])
    assert one(path).metadata == {"x": text, "y": [[]] * 200}


def test_broken_json_that_is_deep_is_still_broken(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    for text in (row(x="[" * 5000), row(x=SHAPES["lists"](5000)) + "x", row(x="[" * 70 + "]" * 71)):
        path.write_text(around(text))
        with pytest.raises(InputError, match=r"t\.jsonl line 2: is not JSON \("):
            open_table(path).scan()


def parquet(tmp_path: Path, column: pa.Array) -> Path:
    plain = {name: pa.array(["q1", "bad", "q2"]) for name in ("question_id", "image", "question")}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({**plain, "x": column}), path)
    return path


def nested_structs(depth: int) -> pa.Array:
    kind: Any = pa.int64()
    value: Any = 1
    for _ in range(depth):
        kind, value = pa.struct([("a", kind)]), {"a": value}
    return pa.array([None, value, None], kind)


NOT_UTF8 = pa.Array.from_buffers(
    pa.string(), 3, [None, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0])),
                     pa.py_buffer(b"a\xffb")],
)  # fmt: skip


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (nested_structs(DEEPEST + 1), "nests deeper than 64 levels"),
        (pa.array([0, 2**60, 1], pa.timestamp("ms")), "is not readable (OverflowError"),
        (pa.array([0, 2**60, 1], pa.timestamp("us", "UTC")), "is not readable (OverflowError"),
        (pa.array([0, 2**30, 1], pa.date32()), "is not readable (OverflowError"),
        (pa.array([0, 2**62, 1], pa.duration("s")), "is not readable (OverflowError"),
        (pa.array([[], [2**60], None], pa.list_(pa.timestamp("ms"))), "is not readable (Over"),
        (NOT_UTF8, "is not readable (UnicodeDecodeError"),
    ],
    ids=["structs", "time", "zoned-time", "day", "duration", "list", "not-utf8"],
)
def test_cells_of_parquet(tmp_path: Path, column: pa.Array, says: str) -> None:
    path = parquet(tmp_path, column)
    assert open_table(path).scan().ids == ("q1", "bad", "q2")
    assert f"row 2: the value in column 'x' {says}" in failure(path).error


def test_a_struct_with_two_fields_of_one_name(tmp_path: Path) -> None:
    both = [pa.array([1, 2, 3]), pa.array([1, 2, 3])]
    path = parquet(tmp_path, pa.StructArray.from_arrays(both, names=["a", "a"]))
    opened = open_table(path)
    assert opened.scan().ids == ("q1", "bad", "q2")
    for found in opened.rows():
        assert isinstance(found, Failure)
        assert "is not readable (ValueError" in found.error


def test_a_saved_dataset_is_read_the_same_way(tmp_path: Path) -> None:
    import datasets

    path = parquet(tmp_path, pa.array([0, 2**60, 1], pa.timestamp("ms")))
    datasets.Dataset(pq.read_table(path)).save_to_disk(tmp_path / "saved")
    rows = list(open_table(tmp_path / "saved").rows())
    assert [type(each) for each in rows] == [Sample, Failure, Sample]


@pytest.mark.parametrize(
    "record", ["[" * 5000, '{"info": {"features": []}}', '{"info": {"features": {"x": []}}}', "1"]
)
def test_what_a_parquet_file_says_of_its_features(tmp_path: Path, record: str) -> None:
    plain = pa.table({name: ["a"] for name in ("question_id", "image", "question")})
    path = tmp_path / "t.parquet"
    pq.write_table(plain.replace_schema_metadata({b"huggingface": record.encode()}), path)
    assert len(list(open_table(path).rows())) == 1
    assert declared_media({"x": {}}) == {}


def test_a_message_stays_short(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [{**ROWS[0], "image": "../" + "x" * 100_000}])
    (failed,) = open_table(path).rows()
    assert isinstance(failed, Failure)
    assert len(failed.error) < LONGEST_ROW_ERROR + 10
    assert failed.error.startswith("t.jsonl line 1: the image path '../xxx")
    assert failed.error.endswith("pass a folder above it with --images DIR")


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.jsonl")
    with pytest.raises(InputError, match=r"t\.jsonl: is a pipe, expected a file; a table is read"):
        open_table(tmp_path / "t.jsonl")
