"""Columns: the names in use, the mapping, and what is said when one is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmscope.dataset import open_table, parse_mapping
from vlmscope.errors import InputError
from vlmscope.schema import FieldSpec

from .tables import ROWS, one, write_csv


@pytest.mark.parametrize("column", ["question_id", "id"])
def test_known_id_columns(tmp_path: Path, column: str) -> None:
    row = {column: "x", "image": "a.png", "question": "?"}
    assert one(write_csv(tmp_path / "t.csv", [row])).id == "x"


@pytest.mark.parametrize("column", ["answer", "gt_answer", "ground_truth_answer"])
def test_known_target_columns(tmp_path: Path, column: str) -> None:
    row = {"id": "x", "image": "a.png", "question": "?", column: "gold"}
    assert one(write_csv(tmp_path / "t.csv", [row])).target == "gold"


def test_first_known_column_wins_and_the_other_is_metadata(tmp_path: Path) -> None:
    row = {"id": "1", "answer": "a", "question": "?", "image": "i", "question_id": "2"}
    sample = one(write_csv(tmp_path / "t.csv", [{**row, "gt_answer": "b", "topic": "t"}]))
    assert (sample.id, sample.target) == ("2", "b")
    assert sample.metadata == {"id": "1", "answer": "a", "topic": "t"}
    truth = {**row, "gt_answer": "b", "ground_truth_answer": "c"}
    assert one(write_csv(tmp_path / "t.csv", [truth])).target == "c"


@pytest.mark.parametrize("separator", ["\t", ";", "|"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_a_table_with_other_separators_is_read(tmp_path: Path, separator: str, name: str) -> None:
    lines = [["id", "image", "question"], ["1", "a.png", "Is it red, or blue?"]]
    (tmp_path / name).write_text("\n".join(map(separator.join, lines)))
    assert one(tmp_path / name).question == "Is it red, or blue?"


def test_no_target_column(tmp_path: Path) -> None:
    assert (
        one(write_csv(tmp_path / "t.csv", [{"id": 1, "image": "i", "question": "?"}])).target == ""
    )


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        ("question_id", "no column 'question_id' or 'id' for the id"),
        ("image", "no column 'image_id' or 'image_name' or 'image' for the image"),
        ("question", "no column 'question' for the question"),
    ],
)
def test_missing_column(tmp_path: Path, gone: str, expected: str) -> None:
    row = {("x_" + name if name == gone else name): value for name, value in ROWS[0].items()}
    with pytest.raises(InputError) as caught:
        open_table(write_csv(tmp_path / "t.csv", [row]))
    field = "id" if gone == "question_id" else gone
    hint = {
        "id": ", or pass --number-rows if no column tells the rows apart",
        "image": ", or pass --image-pattern if the names of the files are made of other columns, "
        "or pass --text-only if no question is about an image",
    }.get(field, "")
    assert str(caught.value) == (
        f"t.csv: {expected}; columns found: {', '.join(row)}; say which one it is with "
        f"--map {field}=COLUMN{hint}"
    )


def test_mapping_uses_exactly_that_column(tmp_path: Path) -> None:
    row = {"question_id": "1", "uid": "2", "image": "i", "pic": "p", "question": "a", "q": "b"}
    path = write_csv(tmp_path / "t.csv", [{**row, "answer": "x", "gold": "y"}])
    sample = one(path, fields=parse_mapping(["id=uid", "image=pic", "question=q", "target=gold"]))
    assert (sample.id, sample.image_id, sample.question, sample.target) == ("2", "p", "b", "y")
    assert sample.metadata == {"question_id": "1", "image": "i", "question": "a", "answer": "x"}


def test_mapping_to_a_column_that_is_not_there(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ROWS)
    with pytest.raises(InputError, match="no column 'gold' for the target; columns found: quest"):
        open_table(path, fields=FieldSpec(target="gold"))


def test_column_that_stands_twice(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,image,question,id\n1,i,?,2\n")
    with pytest.raises(InputError, match="column 'id' stands twice"):
        open_table(tmp_path / "t.csv")


def test_parse_mapping() -> None:
    assert parse_mapping([]) == FieldSpec()
    assert parse_mapping(["image=a=b", "id= x"]) == FieldSpec(image="a=b", id=" x")


@pytest.mark.parametrize("item", ["id", "image=", "=x", "answer=x", "ID=x", ""])
def test_parse_mapping_refuses(item: str) -> None:
    with pytest.raises(InputError, match="expected field=column with one of the fields id, image"):
        parse_mapping([item])


def test_parse_mapping_refuses_a_field_twice() -> None:
    with pytest.raises(InputError, match="id is already mapped"):
        parse_mapping(["id=a", "id=b"])


def test_only_the_id_is_given_by_its_position(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [{"n": "7", **ROWS[0]}])
    assert one(path, fields=parse_mapping(["id=1"])).id == "7"
    assert one(path, fields=parse_mapping(["id=1,2"])).id == "7_q1"
    for field in ("question", "image", "target"):
        with pytest.raises(InputError, match=f"no column '4' for the {field}"):
            open_table(path, fields=parse_mapping([f"{field}=4"]))
    with pytest.raises(InputError, match="no column '3' and '4' for the image"):
        open_table(path, fields=parse_mapping(["image=3,4"]))
    numbered = write_csv(tmp_path / "n.csv", [{"question_id": "q", "4": "a.png", "question": "?"}])
    assert one(numbered, fields=parse_mapping(["image=4"])).image_id == "a.png"


def test_backslashes_of_an_image_pattern_are_part_of_the_path(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [{"id": "1", "n": "7"}])
    fields = parse_mapping([], image_pattern=r"imgs\new_{n}\t.jpg", question_template=r"A\n{n}\tB")
    sample = one(path, fields=fields)
    assert (sample.image_id, sample.question) == (r"imgs\new_7\t.jpg", "A\n7\tB")
