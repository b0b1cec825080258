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
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(
        InputError, match=r"a quotation mark opens on the first .* as \.jsonl"
    ) as found:
        open_table(path, text_only=True).scan()
    assert "\n" not in str(found.value)
