"""Questions of several lines that look like rows of the table, and rows that were swallowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmscope.dataset import open_table
from vlmscope.errors import InputError
from vlmscope.schema import Sample

from .tables import write_csv

TABLE = "Sum the table:\n1,2,3\n4,5,6"


def questions(path: Path) -> list[str]:
    table = open_table(path)
    table.scan()
    return [row.question for row in table.rows() if isinstance(row, Sample)]


def assert_refused(path: Path, text: str, message: str) -> None:
    """Check that a table is refused in one line."""
    path.write_text(text)
    with pytest.raises(InputError, match=message) as found:
        open_table(path, text_only=True).scan()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "rows",
    [
        [{"question_id": "1", "image": "a.png", "question": TABLE}],
        [{"question_id": "1", "image": "1", "question": TABLE}],
        [{"question_id": "1", "image": "", "question": TABLE, "answer": "9"}],
        [{"id": "1", "image": "a", "answer": "3", "question": "Add:\n1,2,3,4\n5,6,7,8"}],
        [{"id": "q1", "image": "a.png", "question": "Which?\nred,green,blue\none,two,three"}],
        [{"id": "1", "question": TABLE, "image": "a.png"}],
        [{"question": TABLE, "id": "1", "image": "a.png"}],
        [
            {"id": "1", "image": "a.png", "question": "Which is it?\n2,b.png,a dog\n3,c.png,a cat"},
            {"id": "2", "image": "b.png", "question": "?"},
        ],
    ],
)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_table_in_a_question_is_read(
    tmp_path: Path, rows: list[dict[str, str]], ends: str
) -> None:
    rows = [{**row, "question": row["question"].replace("\n", ends)} for row in rows]
    more = dict.fromkeys(rows[0], "other") | {"image": "z.png"}
    path = write_csv(tmp_path / "t.csv", [*rows, more])
    text = path.read_bytes()
    table = open_table(path, text_only=True)
    table.scan()
    read = [row.question for row in table.rows() if isinstance(row, Sample)]
    assert read == [row["question"] for row in (*rows, more)]
    assert path.read_bytes() == text


@pytest.mark.parametrize(
    "text",
    [
        'id,image,question\n1,a.png,"Is it?\n2,b.png,Is it?"\n',
        'question,id,image\n"Is it?,1,a.png\nIs it?",2,b.png\n',
        'id,image,question,answer\n1,a.png,"Is it?,no\n2,1,Is it?,yes\n3,c.png,Is it?",no\n',
        'id,image,question\n0a9f31,COCO_0001,"Is it?\nb7c220,COCO_0002,Is it?"\n',
        'id,image,question\n1,458752,"Is it?\n2,262148,Is it?"\n',
        'id,question,answer\n1,"Is it?,no\n2,Is it?",yes\n',
        # The ids are not unique: that they stand elsewhere says nothing.
        'id,image,question\n1,a.png,"Is it?\n2,b.png,Is it?"\n2,b.png,Or?\n2,b.png,And?\n',
    ],
)
def test_rows_that_were_swallowed_are_refused(tmp_path: Path, text: str) -> None:
    assert_refused(tmp_path / "t.csv", text, r"a quotation mark opens on the first .* as \.jsonl")


# --- TSV, which many programs write without quoting


TSV_TABLE = TABLE.replace(",", "\t")
ASKED = [{"id": "z", "image": "z.png", "question": "Is it?"}]


@pytest.mark.parametrize(
    "rows",
    [
        [{"id": "1", "image": "a.png", "question": TSV_TABLE}, *ASKED],
        [{"id": "1", "image": "1", "question": TSV_TABLE}, *ASKED],
        [{"id": "10", "image": "", "question": TSV_TABLE}, *ASKED],
        [{"question": TSV_TABLE, "id": "1", "image": "a.png"}],
        [{"id": "q1", "image": "a.png", "question": "Which?\nred\tgreen\tblue\none\ttwo\tthree"}],
        [
            {"id": "1", "image": "a.png", "question": "Which?\n2\tb.png\ta dog\n3\tc.png\ta cat"},
            {"id": "2", "image": "b.png", "question": "?"},
        ],
    ],
)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_lines_with_tabs_in_a_quoted_tsv_are_read(
    tmp_path: Path, rows: list[dict[str, str]], ends: str
) -> None:
    rows = [{**row, "question": row["question"].replace("\n", ends)} for row in rows]
    path = write_csv(tmp_path / "t.tsv", rows, delimiter="\t")
    table = open_table(path, text_only=True)
    assert table.scan().ids == tuple(row["id"] for row in rows)
    read = [row.question for row in table.rows() if isinstance(row, Sample)]
    assert read == [row["question"] for row in rows]


@pytest.mark.parametrize(
    "text",
    [
        'id\timage\tquestion\n1\ta.png\t"Is it?\n2\tb.png\tIs it?"\n',
        'id\timage\tquestion\n1\ta.png\t"Is it?\nx7\tb.png\tIs it?"\n',
        'id\timage\tquestion\n1\t458752\t"Is it?\n2\t262148\tIs it?"\n',
        'id\timage\tquestion\n0a9f31\tCOCO_1\t"Is it?\nb7c220\tCOCO_2\tIs it?"\n',
        'question\tid\timage\n"Is it?\t1\ta.png\nIs it?"\t2\tb.png\n',
    ],
)
def test_rows_of_a_tsv_without_quoting_stay_rows(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.tsv"
    path.write_text(text)
    assert sorted(map(len, questions(path))) == [7, 7]


@pytest.mark.parametrize(
    "text",
    [
        'id\timage\tquestion\n1\t17\t"Is it?\n2\t23\tIs it?"\n',
        'id\timage\tquestion\n1\ta.png\t"Is it?\n2\t\tIs it?"\n',
        'id\timage\tquestion\n1\t17\t"Is it?\n1\t17\tOr?"\n',
        'id\tquestion\n1\t"Is it?\nx2\tIs it?"\n3\tWhy?\n',
    ],
)
def test_a_tsv_that_may_be_quoted_or_not_is_refused(tmp_path: Path, text: str) -> None:
    assert_refused(tmp_path / "t.tsv", text, r"which cannot be decided; save the table as \.jsonl")


def test_two_questions_with_one_id_stay_two_in_a_tsv_without_quoting(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('id\timage\tquestion\n1\ta.png\t"Is it?\n1\ta.png\tOr is it?"\n2\tb.png\tX?\n')
    with pytest.raises(InputError, match="1 id occurs more than once: '1'"):
        open_table(path).scan()
