"""The front: duplicates, limit, fingerprint, and the Python API."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import vlmscope
import vlmscope.dataset as dataset
from vlmscope.dataset import open_table, read_samples
from vlmscope.errors import InputError
from vlmscope.schema import FieldSpec

from .tables import ROWS, around, write_csv, write_jsonl, write_parquet


def test_front_is_sorted() -> None:
    assert sorted(dataset.__all__) == dataset.__all__
    assert all(hasattr(dataset, name) for name in dataset.__all__)


def test_duplicate_ids(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "question_id": f"q{n % 13}"} for n in range(26)]
    rows.append({**ROWS[0], "question_id": "q0"})
    table = open_table(write_csv(tmp_path / "t.csv", rows), limit=3)
    with pytest.raises(InputError) as caught:
        table.scan()
    text = str(caught.value)
    assert text.startswith(
        "t.csv: 13 ids occur more than once: 'q0' (lines 2, 15, 28), 'q1' (lines 3, 16), "
    )
    assert "'q9' (lines 11, 24) and 3 more; give every row its own id" in text
    assert "'q10'" not in text
    assert "--map id=COLUMN" in text


def test_one_id_very_often(tmp_path: Path) -> None:
    table = open_table(write_csv(tmp_path / "t.csv", [ROWS[0]] * 40))
    with pytest.raises(InputError, match=r"1 id occurs more than once: 'q1' \(lines 2, .*11, …\);"):
        table.scan()


def test_read_samples_stops_at_a_duplicate(tmp_path: Path) -> None:
    samples = read_samples(write_csv(tmp_path / "t.csv", [*ROWS, ROWS[0]]))
    assert [next(samples).id, next(samples).id] == ["q1", "q2"]
    with pytest.raises(InputError, match=r"t\.csv line 4: id 'q1' is already taken"):
        next(samples)


def test_read_samples_opens_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_samples(tmp_path / "none.csv")


def test_read_samples_maps_columns_as_extract_does(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [{**ROWS[0], "set": "a"}])
    template = {"question_template": "{question} Say why."}
    [given] = read_samples(path, map={"id": ["set", "question_id"]}, **template)
    assert (given.id, given.question[-9:]) == ("a_q1", " Say why.")
    spec = FieldSpec(id="set,question_id", **template)
    for mapped in (
        {"map": spec},
        {"fields": spec},
        {"fields": {"id": "set,question_id"}, **template},
    ):
        assert list(read_samples(path, **mapped)) == [given]
    arguments = inspect.signature(read_samples).parameters
    assert all(f"        {name}: " in (read_samples.__doc__ or "") for name in arguments)
    assert {*arguments} - {*inspect.signature(vlmscope.extract).parameters} == {"data", "fields"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"map": {"id": 1.5}}, r"^--map: id is 1\.5 of the type float, expected a column's name"),
        ({"map": {"id": [1, 2]}}, r"^--map: id is \[1, 2\] of the type list"),
        ({"map": "id"}, r"^--map 'id': expected a dictionary"),
        ({"map": {"ids": "x"}}, "expected field=column with one of the fields"),
        ({"map": FieldSpec(), "number_rows": True}, "--number-rows: give it in the FieldSpec"),
        ({"map": {}, "fields": {}}, "^fields: is another name of --map"),
    ],
)
def test_read_samples_refuses_a_wrong_mapping(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_samples(write_csv(tmp_path / "t.csv", ROWS), **options)


def test_limit(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "question_id": n} for n in range(5)]
    path = write_csv(tmp_path / "t.csv", rows)
    some, every = open_table(path, limit=2), open_table(path)
    assert [row.id for row in some.rows()] == ["0", "1"]
    assert some.scan().ids == ("0", "1")
    assert some.scan().fingerprint == every.scan().fingerprint
    assert open_table(path, limit=99).scan() == every.scan()


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one(tmp_path: Path, limit: int) -> None:
    with pytest.raises(InputError, match=f"limit {limit}: expected at least 1"):
        open_table(write_csv(tmp_path / "t.csv", ROWS), limit=limit)


@pytest.mark.parametrize("name", ["text_only", "allow_absolute_paths"])
def test_a_flag_is_true_or_false(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"is 'no', expected True or False"):
        open_table(write_csv(tmp_path / "t.csv", ROWS), **{name: "no"})  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", ["3", 1.5, float("nan"), [3], True])
def test_a_limit_is_a_whole_number(tmp_path: Path, limit: Any) -> None:
    with pytest.raises(InputError, match="limit"):
        open_table(write_csv(tmp_path / "t.csv", ROWS), limit=limit)


def test_a_limit_beyond_every_table(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ROWS)
    assert open_table(path, limit=10**30).scan() == open_table(path).scan()


def test_limit_counts_failed_rows(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", around({"question": ""}))
    assert [row.id for row in open_table(path, limit=2).rows()] == ["q1", "bad"]


@pytest.mark.parametrize("key", ["question_id", "image", "question", "answer"])
def test_fingerprint_tells_rows_apart(tmp_path: Path, key: str) -> None:
    one_table = open_table(write_csv(tmp_path / "a.csv", ROWS))
    other = open_table(write_csv(tmp_path / "b.csv", [ROWS[0], {**ROWS[1], key: "other"}]))
    swapped = open_table(write_csv(tmp_path / "c.csv", ROWS[::-1]))
    prints = {table.scan().fingerprint for table in (one_table, other, swapped)}
    assert len(prints) == 3


def test_fingerprint_ignores_metadata_and_the_image_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    plain = open_table(write_csv(tmp_path / "a.csv", ROWS))
    more = write_csv(tmp_path / "b.csv", [{"topic": "t", **row} for row in ROWS])
    assert open_table(more, images=tmp_path / "images").scan() == plain.scan()


def test_fingerprint_of_embedded_images(tmp_path: Path) -> None:
    def fingerprint(image: bytes | None, name: str | None) -> str:
        row = {"id": 1, "image": {"bytes": image, "path": name}, "question": "?"}
        full = {"id": 2, "image": {"bytes": b"p", "path": "p"}, "question": "?"}
        return open_table(write_parquet(tmp_path / "t.parquet", [row, full])).scan().fingerprint

    assert fingerprint(b"abc", None) != fingerprint(b"abcd", None)
    assert fingerprint(b"abc", "a") == fingerprint(b"abcd", "a")


def test_rows_with_flaws_are_in_the_scan(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "t.jsonl",
        [
            *around({"question": None}),
            {**ROWS[0], "question_id": "x", "image": [1], "answer": "\0"},
        ],
    )
    assert open_table(path).scan().ids == ("q1", "bad", "q2", "x")


def test_fingerprint_is_that_of_the_rows_as_json(tmp_path: Path) -> None:
    """Runs that are on disk hold it: it may never change."""
    odd = {
        **ROWS[0],
        "question_id": 'ö"\\',
        "question": "\t日本 \U0001f600 \x7f/",
        "answer": "a\nb",
    }
    rows = [ROWS[0], odd, {**ROWS[1], "image": '["a.png", "b.png"]'}]
    wanted = hashlib.sha256()
    for row in rows:
        image = json.loads(row["image"]) if row["image"].startswith("[") else row["image"]
        cells = [row["question_id"], image, row["question"], row["answer"]]
        wanted.update(json.dumps(cells).encode() + b"\n")
    table = open_table(write_csv(tmp_path / "t.csv", rows))
    assert table.scan().fingerprint == wanted.hexdigest()


def test_rows_may_be_left_out(tmp_path: Path) -> None:
    table = open_table(write_csv(tmp_path / "t.csv", around({"question": ""})))
    whole = list(table.rows())
    assert [row.id for row in whole] == ["q1", "bad", "q2"]
    assert list(table.rows({"q1", "bad"})) == [whole[2]]
    assert list(table.rows({"q2", "nobody"})) == whole[:2]
    assert not list(table.rows({"q1", "bad", "q2"}))


def test_the_fingerprint_tells_embedded_images_of_equal_size_apart(tmp_path: Path) -> None:
    def fingerprint(image: Any) -> str:
        row = {"id": "1", "image": image, "question": "?"}
        return open_table(write_jsonl(tmp_path / "t.jsonl", [row])).scan().fingerprint

    red, blue = (base64.b64encode(b"II*\0" + fill * 96).decode() for fill in (b"r", b"b"))
    assert fingerprint(red) != fingerprint(blue)
    assert fingerprint([red, "a.png"]) != fingerprint([blue, "a.png"])
    assert fingerprint(red) == fingerprint({"bytes": red, "path": None})
    assert fingerprint({"bytes": red, "path": "a.png"}) == fingerprint("a.png")
    known = "8187ffd28d3c9c0a52b5f8975ba4b658aff7f5ef7cff8f3a757b0b9d656056f7"
    assert fingerprint(["a.png", "b.png"]) == known, "runs of earlier versions go on as they are"
