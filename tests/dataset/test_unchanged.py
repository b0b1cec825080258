"""A table that changes after its scan: rows up to the change, then an error, never another row."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import datasets
import pytest

from vlmscope.dataset import Share, Table, UntilChanged, open_table
from vlmscope.dataset.source import Row
from vlmscope.errors import TableChangedError
from vlmscope.schema import Failure

from .tables import WRITERS, write_csv, write_json, write_jsonl, write_parquet

Rows = list[dict[str, Any]]

ROWS: Rows = [
    {
        "question_id": f"q{i}",
        "image": f"{i}.png",
        "question": f"Is there a {i}?",
        "answer": "yes",
        "topic": "numbers",
    }
    for i in range(6)
]


def edited(column: str, value: Any = "other") -> Callable[[Rows], Rows]:
    return lambda rows: [*rows[:3], {**rows[3], column: value}, *rows[4:]]


CHANGES: dict[str, tuple[Callable[[Rows], Rows], int, str]] = {
    "edited question": (edited("question"), 3, "question 'q3' has changed"),
    "edited image": (edited("image", "5.png"), 3, "question 'q3' has changed"),
    "edited answer": (edited("answer"), 3, "question 'q3' has changed"),
    "edited metadata": (edited("topic"), 3, "question 'q3' has changed"),
    "edited id": (edited("question_id", "x"), 3, "question 'x' where 'q3' was"),
    "lost id": (edited("question_id", ""), 3, "the id in column 'question_id' is empty"),
    "good row made bad": (edited("question", ""), 3, "question 'q3' has changed"),
    "inserted": (lambda r: [*r[:3], {**r[0], "question_id": "x"}, *r[3:]], 3, "'x' where 'q3' was"),
    "inserted first": (lambda r: [{**r[0], "question_id": "x"}, *r], 0, "'x' where 'q0' was"),
    "removed": (lambda r: [*r[:3], *r[4:]], 3, "question 'q4' where 'q3' was"),
    "repeated": (lambda r: [*r[:3], r[2], *r[3:]], 3, "question 'q2' where 'q3' was"),
    "swapped": (lambda r: [*r[:3], r[4], r[3], *r[5:]], 3, "question 'q4' where 'q3' was"),
    "cut off": (lambda r: r[:4], 4, "ends before question 'q4'"),
    "appended": (lambda r: [*r, {**r[0], "question_id": "x"}], 6, "question 'x' was appended"),
    "another table": (lambda r: [{**row, "question_id": "x"} for row in r[:1]], 0, "'q0' was"),
}


def read(table: Table, passed: frozenset[str] = frozenset()) -> tuple[list[Any], str]:
    """Return the rows before the error, and the error."""
    rows = UntilChanged(table.rows(passed))
    given = list(rows)
    assert rows.error is not None
    assert "\n" not in str(rows.error)
    return given, str(rows.error)


def scanned(path: Path, **options: Any) -> Table:
    table = open_table(path, **options)
    return table.as_scanned(table.scan())


@pytest.mark.parametrize("name", sorted(WRITERS))
@pytest.mark.parametrize("change", sorted(CHANGES))
@pytest.mark.parametrize(
    "how", ["in place", pytest.param("by rename", marks=pytest.mark.exhaustive)]
)
def test_rows_are_given_up_to_the_change(tmp_path: Path, name: str, change: str, how: str) -> None:
    make, before, message = CHANGES[change]
    write: Any = WRITERS[name]
    path = write(tmp_path / name, ROWS)
    table = open_table(path)
    expected = list(table.rows())
    table = table.as_scanned(table.scan())
    assert list(table.rows()) == expected
    if how == "in place":
        write(path, make(ROWS))
    else:
        write(tmp_path / f"new{path.suffix}", make(ROWS)).replace(path)
    given, error = read(table)
    assert given == expected[:before]
    assert message in error
    assert "since it was checked; run again to continue with the changed table" in error


def test_a_file_that_is_written_to_while_it_is_read(tmp_path: Path) -> None:
    """It was opened before; what is read of it is a splice of the old and the new."""
    path = write_jsonl(tmp_path / "t.jsonl", [{**row, "long": "x" * 99_999} for row in ROWS])
    rows = scanned(path).rows()
    assert next(rows).id == "q0"
    write_jsonl(path, [{**row, "long": "y" * 99_999} for row in ROWS])
    with pytest.raises(TableChangedError, match="question 'q1' has changed"):
        list(rows)


def test_a_file_that_is_gone_or_broken(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ROWS)
    table = scanned(path)
    whole = path.read_bytes()
    for broken, message in (
        (whole.replace(b"numbers", b"a,b", 1), "found 6 fields, expected 5"),
        (whole.replace(b"3?", b"\xff", 1), "is not UTF-8"),
        (whole.replace(b"Is", b'"Is', 1), "broken quoting"),
    ):
        path.write_bytes(broken)
        assert message in read(table)[1]
    path.unlink()
    assert "t.csv: cannot be read (No such file or directory)" in read(table)[1]
    write_parquet(tmp_path / "t.parquet", ROWS)
    table = scanned(tmp_path / "t.parquet")
    os.truncate(tmp_path / "t.parquet", 100)
    assert "cannot be read as Parquet" in read(table)[1]
    write_json(tmp_path / "t.json", ROWS)
    table = scanned(tmp_path / "t.json")
    os.truncate(tmp_path / "t.json", 100)
    assert "is not JSON" in read(table)[1]


def test_other_columns_of_the_image_count(tmp_path: Path) -> None:
    """Where two columns could name the image, the one that does not is metadata."""
    row = {**ROWS[0], "image_id": "a", "image": "b"}
    table = scanned(write_csv(tmp_path / "t.csv", [row]))
    assert [sample.metadata["image"] for sample in table.rows()] == ["b"]  # type: ignore[union-attr]
    write_csv(tmp_path / "t.csv", [{**row, "image": "c"}])
    assert "question 'q0' has changed" in read(table)[1]


@pytest.mark.parametrize(
    "value", [date(2024, 1, 2), [[1], [2, 3]], {"a": {"b": 1.5}}, None, 7, b"raw", float("nan")]
)
def test_cells_of_any_type(tmp_path: Path, value: Any) -> None:
    rows = [{**ROWS[0], "topic": value}]
    path = write_parquet(tmp_path / "t.parquet", rows)
    table = scanned(path)
    assert len(list(table.rows())) == 1
    write_parquet(path, [{**ROWS[0], "topic": "other"}])
    assert "question 'q0' has changed" in read(table)[1]


def test_embedded_images_count_by_name_or_bytes(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "image": {"bytes": b"abc", "path": None}}]
    path = write_parquet(tmp_path / "t.parquet", rows)
    table = scanned(path)
    for other in (b"xyz", b"abcd"):
        write_parquet(path, [{**ROWS[0], "image": {"bytes": other, "path": None}}])
        assert "question 'q0' has changed" in read(table)[1]
    write_parquet(path, [{**ROWS[0], "image": {"bytes": b"abc", "path": "a.png"}}])
    table = scanned(path)
    write_parquet(path, [{**ROWS[0], "image": {"bytes": b"xyz", "path": "a.png"}}])
    assert len(list(table.rows())) == 1, "a name tells an image; its hash is stored with the row"


def test_nested_deeper_than_can_be_compared(tmp_path: Path) -> None:
    """Newer Pythons read JSON so deep; no metadata is, so the other cells are compared."""
    reader = open_table(write_csv(tmp_path / "t.csv", ROWS)).reader
    deep: list[Any] = []
    for _ in range(20_000):
        deep = [deep]
    digests = {
        reader.digest(Row(1, {**ROWS[0], "question": question, "topic": deep}))
        for question in ("a?", "b?", "a?")
    }
    assert len(digests) == 2


def test_a_bad_row_that_is_still_bad_is_no_change(tmp_path: Path) -> None:
    table = scanned(write_csv(tmp_path / "t.csv", [*ROWS, {**ROWS[0], "question_id": "x"}]))
    rows = [{**ROWS[0], "question": ""}, *ROWS[1:]]
    table = scanned(write_csv(tmp_path / "t.csv", rows))
    assert isinstance(next(table.rows()), Failure)
    write_csv(tmp_path / "t.csv", ROWS)
    given, error = read(table)
    assert not given
    assert "question 'q0' has changed" in error


def test_the_same_rows_written_again_are_no_change(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ROWS)
    table = scanned(path)
    path.write_text(path.read_text().replace("numbers", '"numbers"'), "utf-8")
    assert len(list(table.rows())) == len(ROWS)


def test_rows_beyond_the_limit_are_not_read(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ROWS)
    table = scanned(path, limit=3)
    write_csv(path, edited("topic")(ROWS))
    assert [row.id for row in table.rows()] == ["q0", "q1", "q2"]  # type: ignore[union-attr]
    write_csv(path, ROWS[1:])
    assert "question 'q1' where 'q0' was" in read(table)[1]
    write_csv(path, ROWS[:3])
    table = scanned(path, limit=5)
    write_csv(path, ROWS)
    assert "question 'q3' was appended" in read(table)[1]


def test_a_share_is_held_to_its_own_rows(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ROWS)
    shares = [scanned(path, share=Share(index, 2)) for index in range(2)]
    ours = [[row.id for row in share.rows()] for share in shares]  # type: ignore[union-attr]
    assert sum(map(len, ours)) == 6
    write_csv(path, edited("question")(ROWS))
    for share, ids in zip(shares, ours, strict=True):
        if "q3" in ids:
            given, error = read(share)
            assert [row.id for row in given] == ids[: ids.index("q3")]
            assert "question 'q3' has changed" in error
        else:
            assert [row.id for row in share.rows()] == ids  # type: ignore[union-attr]
    write_csv(path, [*ROWS[:3], *ROWS[4:]])  # as if it had gone to the other share
    assert [bool("q3" in ids) for ids in ours].count(True) == 1
    share, ids = next((s, ids) for s, ids in zip(shares, ours, strict=True) if "q3" in ids)
    assert "'q3'" in read(share)[1]


def test_of_rows_that_are_left_out_only_the_id_is_compared(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ROWS)
    table = scanned(path)
    passed = frozenset({"q0", "q3"})
    write_csv(path, edited("question")(ROWS))
    assert [row.id for row in table.rows(passed)] == ["q1", "q2", "q4", "q5"]
    write_csv(path, ROWS[1:])
    assert "question 'q1' where 'q0' was" in read(table, passed)[1]


def test_a_saved_dataset_that_is_saved_again(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    many = [{**ROWS[0], "question_id": f"q{i}"} for i in range(200)]
    datasets.Dataset.from_list(many).save_to_disk(folder)
    table = scanned(folder)
    (file,) = folder.glob("*.arrow")
    rows = table.rows()
    assert next(rows).id == "q0"
    file.rename(tmp_path / "old.arrow")
    (tmp_path / "other.arrow").write_bytes(b"another one")
    (tmp_path / "other.arrow").rename(file)
    assert len(list(table.rows())) == 200, "the old file is still mapped"
    file.unlink()
    (tmp_path / "old.arrow").rename(file)
    with file.open("r+b") as opened:  # in place, where going on would kill the process
        opened.truncate(1000)
    with pytest.raises(TableChangedError, match=r"was written to while it was read"):
        list(rows)
    assert "was written to while it was read" in read(table)[1]


def test_reading_ends_where_the_table_changed(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ROWS)
    table = scanned(path)
    rows = UntilChanged(table.rows())
    assert len(list(rows)) == 6
    rows.raise_error()
    assert rows.is_whole
    write_csv(path, edited("question")(ROWS))
    rows = UntilChanged(table.rows())
    assert len(list(rows)) == 3
    assert next(rows, None) is None
    assert not rows.is_whole
    with pytest.raises(TableChangedError, match="'q3' has changed"):
        rows.raise_error()


def test_the_error_can_be_sent_to_another_process() -> None:
    sent = pickle.loads(pickle.dumps(TableChangedError("text", appended=True)))  # noqa: S301
    assert (str(sent), sent.appended, sent.exit_code) == ("text", True, 1)


def test_an_unscanned_table_gives_whatever_is_there(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ROWS)
    table = open_table(path)
    table.scan()
    write_csv(path, ROWS[:2])
    assert len(list(table.rows())) == 2
