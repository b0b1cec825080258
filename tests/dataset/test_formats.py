"""Each format: what it reads, where it says a row stands, and how it refuses a bad file."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmscope.dataset import open_table, read_samples
from vlmscope.errors import InputError

from .tables import ROWS, WRITERS, write_csv, write_json, write_jsonl, write_parquet

HEADER = "question_id,image,question,answer\n"


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        open_table(path, **options).scan()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_samples(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name, ROWS)
    table = open_table(path)
    samples = list(read_samples(path))
    assert [(s.id, s.image, s.question, s.target, s.image_id) for s in samples] == [
        ("q1", tmp_path / "a.png", "What is it?", "a cat", "a.png"),
        ("q2", tmp_path / "b.png", "How many?", "3", "b.png"),
    ]
    assert list(table.rows()) == samples, "a table can be read again"
    assert table.scan().ids == ("q1", "q2")
    reference = open_table(write_csv(tmp_path / "reference.csv", ROWS))
    assert table.scan().fingerprint == reference.scan().fingerprint
    assert list(pickle.loads(pickle.dumps(table)).rows()) == samples  # noqa: S301  our own bytes


@pytest.mark.parametrize(
    ("name", "origins"),
    [
        ("t.csv", ["t.csv line 2", "t.csv line 3"]),
        ("t.jsonl", ["t.jsonl line 1", "t.jsonl line 2"]),
        ("t.json", ["t.json item 1", "t.json item 2"]),
        ("t.parquet", ["t.parquet row 1", "t.parquet row 2"]),
    ],
)
def test_origin(tmp_path: Path, name: str, origins: list[str]) -> None:
    samples = read_samples(WRITERS[name](tmp_path / name, ROWS))
    assert [sample.origin for sample in samples] == origins


@pytest.mark.parametrize("name", ["none.csv", "none/none.csv", "none.parquet", "x", "a/b/c"])
def test_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(Path(name)) == f"{name}: no such file or folder; check the path"


def test_unknown_extension(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    text = refusal(tmp_path / "t.xlsx")
    assert "unknown extension '.xlsx', expected one of .csv, .tsv, .jsonl" in text


def test_extension_in_capitals(tmp_path: Path) -> None:
    assert open_table(write_csv(tmp_path / "T.CSV", ROWS)).scan().ids == ("q1", "q2")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[]" if name == "t.json" else "")
    assert f"{name}: is empty, 0 rows" in refusal(tmp_path / name)


def test_header_only(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(HEADER)
    assert refusal(tmp_path / "t.csv") == "t.csv: 0 rows; expected at least one"


def test_parquet_without_rows(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", ROWS)
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert refusal(path) == "t.parquet: 0 rows; expected at least one"


# --- csv


def test_csv_bom_crlf_and_quoted_newlines(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(
        b'\xef\xbb\xbf"question_id",image,question\r\n'
        b'1,a.png,"two\r\nlines, and ""quotes"""\r\n'
        b"\r\n"
        b"007,b.png, spaces kept \r\n"
    )
    first, second = read_samples(path)
    assert (first.id, first.question) == ("1", 'two\r\nlines, and "quotes"')
    assert (second.id, second.question) == ("007", " spaces kept ")
    # The line is the one on which the row starts; the blank line counts.
    assert (first.origin, second.origin) == ("t.csv line 2", "t.csv line 5")


def test_csv_text_is_not_interpreted(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "answer": "007", "extra": "NA"}, {**ROWS[1], "answer": "1e3", "extra": ""}]
    first, second = read_samples(write_csv(tmp_path / "t.csv", rows))
    assert (first.target, first.metadata) == ("007", {"extra": "NA"})
    assert (second.target, second.metadata) == ("1e3", {"extra": ""})


def test_csv_field_longer_than_the_modules_default(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "question": "x" * 200_000}]
    (sample,) = read_samples(write_csv(tmp_path / "t.csv", rows))
    assert len(sample.question) == 200_000


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            'q2,b.png,"a\nb",x\nq3,c.png,cats, dogs?,x\n',
            "t.csv line 5: found 5 fields, expected 4 as in the header; likely a comma in a text",
        ),
        ("q2,b.png\n", "t.csv line 3: found 2 fields, expected 4 as in the header; likely a cut"),
    ],
)
def test_csv_ragged_row(tmp_path: Path, row: str, expected: str) -> None:
    (tmp_path / "t.csv").write_text(HEADER + "q1,a.png,What?,x\n" + row)
    assert refusal(tmp_path / "t.csv").startswith(expected)


def test_tsv_ragged_row_speaks_of_tabs(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("id\timage\tquestion\nq1\ta.png\tWhat\tnow?\n")
    assert "likely a tab in a text" in refusal(tmp_path / "t.tsv")


@pytest.mark.parametrize("row", ['q2,b.png,"never closed,x\nq3,c.png,d,x\n', 'q2,b.png,"a"b,x\n'])
def test_csv_broken_quoting(tmp_path: Path, row: str) -> None:
    (tmp_path / "t.csv").write_text(HEADER + "q1,a.png,What?,x\n" + row)
    text = refusal(tmp_path / "t.csv")
    assert text.startswith("t.csv line 3: broken quoting (")
    assert text.endswith("close every quote")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_not_utf8(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name, [{**row, "answer": "x" * 9000} for row in ROWS])
    content = path.read_bytes().replace(b"How many?", b"Caf\xe9?")
    path.write_bytes(content)
    line = 3 if name == "t.csv" else 2
    text = refusal(path)
    assert f"{name} line {line}: byte 0xe9 at offset {content.index(0xE9)} is not UTF-8" in text
    assert "save the file as UTF-8" in text


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_other_encodings(tmp_path: Path, name: str, encoding: str) -> None:
    path = WRITERS[name](tmp_path / name, [{**ROWS[0], "question": "Où?"}])
    path.write_bytes(path.read_bytes().decode().encode(encoding))
    (sample,) = read_samples(path)
    assert (sample.id, sample.question) == ("q1", "Où?")


def test_utf16_that_goes_on_as_something_else(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(HEADER.encode("utf-16") + b"\x00\xd8\x00\xd8")
    assert "begins as UTF-16" in refusal(tmp_path / "t.csv")


# --- json


def test_jsonl_bom_crlf_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    path.write_bytes(f"\ufeff{lines[0]}\r\n\r\n{lines[1]}".encode())
    assert [sample.origin for sample in read_samples(path)] == ["t.jsonl line 1", "t.jsonl line 3"]


@pytest.mark.parametrize("bad", ['{"id": ', "{'id': 1}", "[" * 100_000, "9" * 5000 + "}"])
def test_jsonl_bad_line(tmp_path: Path, bad: str) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", ROWS)
    path.write_text(path.read_text() + bad + "\n")
    assert refusal(path).startswith("t.jsonl line 3: is not JSON (")


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_json_row_that_is_no_object(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name, [*ROWS, ["q3", "c.png"]])
    unit = "line" if name == "t.jsonl" else "item"
    assert f"{name} {unit} 3: found list, expected an object" in refusal(path)


def test_json_that_is_no_list(tmp_path: Path) -> None:
    path = write_json(tmp_path / "t.json", {"data": 3})  # type: ignore[arg-type]
    assert "found an object with the keys data, expected a list of objects" in refusal(path)


def test_json_columns_are_the_keys_of_all_rows(tmp_path: Path) -> None:
    first = {key: value for key, value in ROWS[0].items() if key != "answer"}
    samples = list(read_samples(write_jsonl(tmp_path / "t.jsonl", [first, ROWS[1]])))
    assert [sample.target for sample in samples] == ["", "3"]


# --- parquet


def test_parquet_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text(HEADER)
    assert "t.parquet: cannot be read as Parquet (ArrowInvalid" in refusal(tmp_path / "t.parquet")


def test_parquet_damaged_inside(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "question_id": str(n), "answer": f"{n}" * 50} for n in range(500)]
    table = pa.Table.from_pylist(rows)
    path = tmp_path / "t.parquet"
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[100:2000] = bytes(1900)
    path.write_bytes(content)
    assert "t.parquet: cannot be read as Parquet" in refusal(path)


def test_parquet_more_rows_than_a_batch(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "question_id": n} for n in range(1000)]
    path = write_parquet(tmp_path / "t.parquet", rows)
    samples = list(read_samples(path))
    assert [sample.id for sample in samples] == [str(n) for n in range(1000)]
    assert samples[-1].origin == "t.parquet row 1000"


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_csv(tmp_path / "t.csv", ROWS)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)  # the suite may run as root, who may read all
    assert "cannot be opened (Permission denied); check its permissions" in refusal(path)
