"""Benchmarks of multiple choice: read, asked and labelled through their columns of options."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from vlmscope.dataset import open_table, parse_mapping, table_notes
from vlmscope.schema import Answered, Sample
from vlmscope.score import Auto, read_code, read_option_targets
from vlmscope.score.parsing.options import options_of

from .test_benchmark_files import CASES, IMAGES, notes, read, samples

LIST = r"{question}\n{%s:A}"
EACH = r"{question}\nA. {choice_a}\nB. {choice_b}\nC. {choice_c}\nD. {choice_d}"
BENCHMARKS: dict[str, tuple[str, tuple[str, ...], dict[str, Any], str]] = {
    "scienceqa": ("problems.json", (), {"image_pattern": "demo_{id:04d}.jpg"}, LIST % "choices"),
    "seedbench": ("seedbench.json", ("image=data_id",), {"records": "questions"}, EACH),
    "ai2d": ("ai2d.jsonl", (), {}, LIST % "options"),
    "aokvqa": ("aokvqa.json", ("target=correct_choice_idx",), {}, LIST % "choices"),
    "mmmu": ("mmmu.parquet", (), {}, LIST % "options"),
}
"""Benchmark → file, --map, other options, the template that its note names."""


def verdicts(rows: list[Sample], answers: list[str]) -> list[bool | None]:
    plain = [
        Answered(row.id, row.question, answer, row.target, row.metadata)
        for row, answer in zip(rows, answers, strict=True)
    ]
    truths = read_option_targets(plain)
    read = list(map(truths.resolve, plain))
    return [score.hallucinated for score in Auto(code=read_code(read))(read)]


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("shown", [False, True])
def test_the_right_option_is_faithful_and_another_is_not(name: str, shown: bool) -> None:
    file, maps, options, template = BENCHMARKS[name]
    said = notes(file, *maps, **options)
    assert f"pass --question-template '{template}'" in said
    if shown:
        options = {**options, "question_template": template}
        assert "--question-template" not in notes(file, *maps, **options)
    rows = samples(read(file, *maps, **options))
    assert all(("A. " in row.question) is shown for row in rows)
    right = {"Which": "a cup", "How": "5", "What": "cup"}
    if name == "seedbench":
        right = {"Which": "two boats", "How": "2"}
    if name == "scienceqa":
        right = {"Which": "cup"}
    if name == "mmmu":
        right = {"Which": "cup"}
    texts = [right[row.question.split()[0]] for row in rows]
    assert verdicts(rows, [f"It shows {text}." for text in texts]) == [False] * len(rows)
    wrong = ["3 hats" if "hats" in json.dumps(row.metadata) else "boat" for row in rows]
    wrong = [
        "3" if row.question.startswith("How") else w for row, w in zip(rows, wrong, strict=True)
    ]
    assert verdicts(rows, wrong) == [True] * len(rows)


def test_truths_in_words_are_read_as_before() -> None:
    rows = samples(read("aokvqa.json", "target=direct_answers"))
    assert verdicts(rows, ["a cup", "3"]) == [False, True]
    [row] = samples(read("mmstar.jsonl", "id=index"))
    assert verdicts([row], ["A"]) == verdicts([row], ["A: a cup"]) == [False]
    assert verdicts([row], ["two boats"]) == [True]
    assert "template" not in notes("mmstar.jsonl", "id=index")


@pytest.mark.parametrize(
    ("row", "noted"),
    [
        ({"answer": 1, "choices": ["cup", "boat"]}, "number of an option in 'choices'"),
        ({"answer": "1", "options": "['cup', 'boat']"}, "number of an option in 'options'"),
        ({"answer": "b", "A": "cup", "B": "boat"}, "letter of an option in 'A'"),
        ({"answer": "boat", "choices": ["cup", "boat"]}, ""),
        ({"answer": 2, "choices": ["2", "boat"]}, ""),
        ({"answer": 200, "choices": ["cup", "boat"]}, ""),
        ({"answer": 1, "choices": []}, ""),
        ({"answer": 1, "choices": "cup"}, ""),
        ({"answer": 1, "tags": ["cup", "boat"]}, ""),
        ({"answer": 1, "choices": ["cup", "boat"], "question": "Cup or boat?"}, ""),
        ({"choices": ["cup", "boat"]}, ""),
        ({"answer": "b", "A": "cup", "B": "", "C": "boat"}, ""),
        ({"answer": 1, "choices": ["cup", None, "boat"]}, ""),
    ],
)
def test_the_note_stands_where_options_are_not_asked(
    tmp_path: Path, row: dict[str, Any], noted: str
) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps([{"id": "x", "image": "demo_0000.jpg", "question": "?", **row}]))
    table = open_table(path, images=IMAGES)
    said = [note for note in table_notes(table, table.scan()) if "option" in note]
    assert bool(said) == bool(noted)
    assert noted in "".join(said)
    if said:  # what it says is taken
        template = re.findall(r"--question-template '(.*)'", said[0])[0]
        [asked] = open_table(path, fields=parse_mapping([], question_template=template)).rows()
        assert isinstance(asked, Sample)
        assert asked.question == "?\nA. cup\nB. boat"


def test_a_template_names_the_options_that_other_rows_have(tmp_path: Path) -> None:
    """The first row has fewer; the scorer reads both as the note does."""
    rows = [{"A": "cup", "B": "boat", "C": ""}, {"A": "cup", "B": "boat", "C": "hat"}]
    common = {"image": "demo_0000.jpg", "question": "?", "answer": "b"}
    path = tmp_path / "t.json"
    path.write_text(json.dumps([{"id": str(i), **common, **row} for i, row in enumerate(rows)]))
    table = open_table(path, images=IMAGES)
    [said] = [note for note in table_notes(table, table.scan()) if "option" in note]
    assert r"--question-template '{question}\nA. {A}\nB. {B}\nC. {C}'" in said
    read = [row for row in table.rows() if isinstance(row, Sample)]
    found = [options_of(row.metadata) for row in read]
    assert [each and each.texts for each in found] == [("cup", "boat"), ("cup", "boat", "hat")]


def test_every_benchmark_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tables.md").read_text("utf-8")
    for file, _, _, template in BENCHMARKS.values():
        assert (CASES / file).is_file()
        row = next(line for line in page.splitlines() if f"`{file}`" in line)
        assert f"'{template}'" in row
