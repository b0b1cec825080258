"""Columns: the names in use, the mapping, and what is said when one is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vlmscope.dataset import open_table, parse_mapping, read_answers, table_notes
from vlmscope.dataset.answers import parse_answer_mapping
from vlmscope.errors import InputError
from vlmscope.schema import FieldSpec
from vlmscope.score import read_label_file
from vlmscope.sweeps import read_label_table

from .tables import ROWS, WRITERS, one, write_csv


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
    hint = {"id": " (or --number-rows)", "image": " (or --image-pattern, --text-only)"}
    assert str(caught.value) == (
        f"t.csv: {expected}: give --map {field}=COLUMN{hint.get(field, '')}; columns found: "
        f"{', '.join(row)}"
    )


def test_a_message_about_missing_columns_is_short_and_begins_with_what_to_give(
    tmp_path: Path,
) -> None:
    names = ["Index", "img_path", "prompt", "gold", *(f"column_number_{n}" for n in range(60))]
    path = write_csv(tmp_path / "t.csv", [dict.fromkeys(names, "x")])
    with pytest.raises(InputError) as caught:
        open_table(path)
    text = str(caught.value)
    assert text.startswith(
        "t.csv: no columns for the id, the image and the question: give --map id=Index --map "
        "image=img_path --map question=prompt --map target=gold (or --number-rows, "
        "--image-pattern, --text-only); columns found: Index, img_path, "
    )
    assert text.endswith(" and 52 more")
    assert len(text) < 450
    given = re.findall(r"--map (\S+)", text)
    assert one(path, fields=parse_mapping(given)).target == "x", "what it says can be pasted"
    with pytest.raises(
        InputError, match=r"^t\.csv: no column 'pic' for the image, no columns for "
    ):
        open_table(path, fields=FieldSpec(image="pic"))


@pytest.mark.parametrize(
    "header",
    [
        "Id,Image,Question,Answer",
        "ID,IMAGE_NAME,QUESTION,GT_Answer",
        "Question_ID,Image,Text,Label",
        "id, image, question, answer",
        " Id , Image , Question , Answer ",
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json"])
def test_names_in_other_case_and_with_spaces(tmp_path: Path, header: str, suffix: str) -> None:
    path, question = tmp_path / f"t{suffix}", "Is it red, or blue?"
    cells = ["q1", "a.png", question, "red"]
    if suffix == ".json":
        path.write_text(json.dumps([dict(zip(header.split(","), cells, strict=True))]))
    else:
        mark = "," if suffix == ".csv" else "\t"
        cells[2] = f'"{question}"' if suffix == ".csv" else question
        row = f"{mark}{' ' if ', ' in header else ''}".join(cells)
        path.write_text(f"{header.replace(',', mark)}\n{row}\n")
    sample = one(path)
    assert (sample.id, sample.image_id, sample.question, sample.target) == (
        "q1", "a.png", question, "red",
    )  # fmt: skip


def test_a_name_as_it_is_counts_before_one_in_other_case(tmp_path: Path) -> None:
    row = {"ID": "a", "id": "b", "image": "i", "Image_ID": "j", "question": "?", "Answer": "x"}
    sample = one(write_csv(tmp_path / "t.csv", [row]))
    assert (sample.id, sample.image_id, sample.target) == ("b", "i", "x")
    row = {"ID": "a", "Id": "b", "image": "i", "question": "?"}
    with pytest.raises(InputError, match="no column 'question_id' or 'id' for the id"):
        open_table(write_csv(tmp_path / "t.csv", [row]))


def test_a_space_that_not_every_comma_has_is_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,image,question, topic\n1,a.png, Is it?, cups\n")
    sample = one(tmp_path / "t.csv")
    assert (sample.question, sample.metadata) == (" Is it?", {" topic": " cups"})
    assert one(tmp_path / "t.csv", fields=FieldSpec(target="topic")).target == " cups"


@pytest.mark.parametrize(
    "first",
    [
        "q1,a.jpg,Is it red?,yes",
        "q1,a.jpg,Is it red?,yes,yes",
        "1,sub/A.PNG,What is it?,",
        "1,262148,Is it red?,no",
    ],
)
def test_a_file_without_a_header_is_told_as_such(tmp_path: Path, first: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{first}\n{first}\n")
    for read in (open_table, read_answers):
        with pytest.raises(
            InputError, match=r"^t\.csv: the first line looks like data \(.*, such as id,"
        ):
            read(path)
    path.write_text("Timestamp,What do you see?,What else?\n1,2,3\n")
    with pytest.raises(InputError, match="no columns for the id"):
        open_table(path)
    path.write_text("id,image,question,Is it a.jpg\n1,a.png,?,x\n")
    assert one(path).metadata == {"Is it a.jpg": "x"}


def test_mapping_uses_exactly_that_column(tmp_path: Path) -> None:
    row = {"question_id": "1", "uid": "2", "image": "i", "pic": "p", "question": "a", "q": "b"}
    path = write_csv(tmp_path / "t.csv", [{**row, "answer": "x", "gold": "y"}])
    sample = one(path, fields=parse_mapping(["id=uid", "image=pic", "question=q", "target=gold"]))
    assert (sample.id, sample.image_id, sample.question, sample.target) == ("2", "p", "b", "y")
    assert sample.metadata == {"question_id": "1", "image": "i", "question": "a", "answer": "x"}


def test_mapping_to_a_column_that_is_not_there(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ROWS)
    with pytest.raises(
        InputError, match="no column 'gold' for the target: give --map target=answer; c"
    ):
        open_table(path, fields=FieldSpec(target="gold"))


def test_column_that_stands_twice(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,image,question,id\n1,i,?,2\n")
    with pytest.raises(InputError, match="column 'id' appears twice"):
        open_table(tmp_path / "t.csv")


KINDS = {"id": "1", "image": "a.png", "question": "?", "answer": "yes", "kind": "colour"}


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_mapped_category_has_that_name_in_the_metadata(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name, [KINDS | {"topic": "t"}])
    assert one(path, fields=parse_mapping(["category= kind"])).metadata == {
        "category": "colour", "topic": "t"
    }  # fmt: skip
    assert one(path).metadata == {"kind": "colour", "topic": "t"}
    own = WRITERS[name](tmp_path / f"own_{name}", [KINDS | {"category": "c"}])
    found = one(own, fields=parse_mapping(["category=category"])).metadata
    assert found == {"kind": "colour", "category": "c"}


def test_a_mapped_category_of_bytes_is_said(tmp_path: Path) -> None:
    path = WRITERS["t.parquet"](tmp_path / "t.parquet", [KINDS | {"kind": b"\x01\x02"}])
    assert "kind" not in one(path).metadata, "as another column it is no metadata"
    with pytest.raises(InputError, match="the category in column 'kind' is bytes; write text"):
        one(path, fields=parse_mapping(["category=kind"]))


@pytest.mark.parametrize(
    ("mapping", "row", "said"),
    [
        ("category=sort", KINDS, "no column 'sort' for the category: give --map category=COLUMN; "
         "columns found: id, image, question, answer, kind"),
        ("category=answer", KINDS, "--map category=answer: this column is the target; name"),
        ("category=question", KINDS, "--map category=question: this column is the question"),
        ("category=image", KINDS, "--map category=image: this column is the image"),
        ("category=my answer", {"id": "1", "image": "a.png", "question": "?", "my answer": "no",
         "category": "c"}, "--map category='my answer': the table has a column 'category' too"),
        ("category=kind", KINDS | {"category": "c"}, "--map category=kind: the table has a column "
         "'category' too, which would be lost; rename it in the table, or leave the option out"),
    ],
)  # fmt: skip
def test_a_category_that_cannot_be_mapped_is_refused(
    tmp_path: Path, mapping: str, row: dict[str, str], said: str
) -> None:
    path = write_csv(tmp_path / "t.csv", [row])
    with pytest.raises(InputError) as caught:
        open_table(path, fields=parse_mapping([mapping]))
    assert str(caught.value).startswith(f"t.csv: {said}")
    assert "\n" not in str(caught.value)


def test_the_category_of_a_table_of_answers(tmp_path: Path) -> None:
    rows = [KINDS | {"answer": "no", "truth": "yes"}]
    path = write_csv(tmp_path / "t.csv", rows)
    fields = parse_answer_mapping(["category=kind"])
    [found] = read_answers(path, fields).answers()
    assert found.metadata["category"] == "colour"
    assert "category" not in read_answers(path, fields).columns, "the table is written as it is"
    [found] = read_answers(path).answers()
    assert "category" not in found.metadata
    with pytest.raises(InputError, match="no column for the category"):
        read_answers(path, parse_answer_mapping(["category=sort"]))


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


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        (
            {"gold": "x"},
            {},
            "; if it is 'gold', pass --map target=gold now, or --target gold to vlmscope label",
        ),
        (
            {"my gold": "x", "Correct Answer": "y"},
            {},
            "--map target='Correct Answer' now, or --target 'Correct Answer' to vlmscope label",
        ),
        (
            {"topic": "x", "n": "1"},
            {},
            "; if it is one of topic, n, pass --map target=COLUMN now, or --target COLUMN to ",
        ),
        (
            {},
            {},
            "; vlmscope label --labels FILE reads labels from a file instead",
        ),
        ({"n": "1"}, {"image_pattern": "{n}.png"}, "if it is one of image, pass"),
        ({"o": "1"}, {"question_template": "{question} {o}"}, "; vlmscope label --labels"),
    ],
)
def test_the_note_on_a_missing_truth_is_a_sentence(
    tmp_path: Path, row: dict[str, str], options: dict[str, str], said: str
) -> None:
    path = write_csv(tmp_path / "t.csv", [{"id": "1", "image": "a.png", "question": "?", **row}])
    table = open_table(path, fields=parse_mapping([], **options))
    [note] = [note for note in table_notes(table, table.scan()) if "truth" in note]
    assert note.startswith("t.csv: no column with the ground truth, which labels need")
    assert said in note
    assert "; or" not in note


def test_tables_of_answers_and_label_files_take_names_in_other_case(tmp_path: Path) -> None:
    row = {"Question_ID": "q1", " Question": "?", "Ground_Truth": "yes", "Response ": "No."}
    [answered] = read_answers(write_csv(tmp_path / "answers.csv", [row])).answers()
    assert (answered.id, answered.question, answered.target) == ("q1", "?", "yes")
    assert answered.answer == "No."
    (tmp_path / "labels.csv").write_text("ID, Is_Correct\nq1,1\n")
    assert read_label_file(tmp_path / "labels.csv") == {"q1": False}
    assert read_label_table(tmp_path / "labels.csv").metadata == {}
