"""A table that grows, is sorted, loses rows and gets other truths, as a user meets it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmscope.labelling import with_truth
from vlmscope.store import Run, open_run

Command = Callable[..., Any]
HEADER = ("question_id", "image_name", "question", "gt_answer", "category")


def read(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(table: Path, rows: list[dict[str, str]]) -> None:
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def assert_equal(found: Run, expected: Run) -> None:
    """Compare all arrays and texts of two runs, bit for bit."""
    assert sorted(found.ids) == sorted(expected.ids)
    for wanted in expected:
        one = found[wanted.sample.id]
        assert (one.answer, one.image_sha256, one.boundaries) == (
            wanted.answer, wanted.image_sha256, wanted.boundaries,
        )  # fmt: skip
        assert one.sample.question == wanted.sample.question
        assert one.sample.target == wanted.sample.target
        np.testing.assert_array_equal(one.answer_logprobs, wanted.answer_logprobs)
        np.testing.assert_array_equal(one.first_token_logprobs, wanted.first_token_logprobs)
        assert one.vectors.keys() == wanted.vectors.keys()
        for name, vector in wanted.vectors.items():
            np.testing.assert_array_equal(one.vectors[name], vector)


@pytest.mark.exhaustive
def test_it_equals_one_run_on_the_whole_table(
    extract: Command, vlmscope: Command, table: Path, tmp_path: Path
) -> None:
    whole = read(table)
    write(table, [row | {"gt_answer": ""} for row in whole[:5]])
    assert extract("--batch-size", 1).code == 0
    write(table, whole[::-1])
    done = extract("--batch-size", 1, "--json")
    assert done.code == 0
    assert json.loads(done.out)["captured"] == 5
    assert "of the 5 rows in the run 5 are the same questions in it" in done.err
    assert "ground truth changed, the run uses the new one: 5 rows ('question_comb_4'" in done.err
    assert extract("--batch-size", 1, out="whole").code == 0
    assert_equal(open_run(tmp_path / "run"), open_run(tmp_path / "whole"))
    done = vlmscope("verify", tmp_path / "run", "--device", "cpu", "--sample", 2)
    assert (done.code, "note" in done.err) == (0, False)


@pytest.mark.exhaustive
def test_verify_compares_rows_and_not_files(
    extract: Command, vlmscope: Command, table: Path, tmp_path: Path
) -> None:
    whole = read(table)
    assert extract().code == 0
    write(table, [row | {"gt_answer": "No"} for row in [*whole[:6:-1], *whole[:5]]])
    done = vlmscope("verify", tmp_path / "run", "--device", "cpu", "--sample", 20)
    assert done.code == 0
    assert "8 rows, tolerance" in done.out
    gone = "2 rows of the run are not in the table any more, and cannot be recomputed: "
    assert f"{gone}'question_comb_5', 'question_comb_6'" in done.err
    write(table, [whole[0] | {"question": "Is it so?"}, *whole[1:]])
    done = vlmscope("verify", tmp_path / "run", "--device", "cpu")
    assert done.code == 2
    assert "1 row of this run is another question in questions.csv: " in done.err
    assert "'question_comb_0' (question)" in done.err


@pytest.mark.exhaustive
def test_labels_of_old_truths_are_said_to_be_stale(
    extract: Command, vlmscope: Command, table: Path, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", read(table)
    assert extract().code == 0
    assert vlmscope("label", run, "--scorer", "exact").code == 0
    assert "stale" not in vlmscope("info", run).out
    write(table, [row | {"gt_answer": "No"} for row in whole])
    done = extract()
    assert (
        "label sets default were made from the old ground truth: run 'vlmscope label' again"
        in done.err
    )
    assert "labels default: 0 hallucinated" not in vlmscope("info", run).out
    assert "stale, the ground truth has changed since: label again" in vlmscope("info", run).out
    done = vlmscope("probe", run)
    assert "has changed since the labels were made; label again" in done.err
    assert vlmscope("report", run).code == 0
    assert "ground truth in the table has changed since" in (run / "report.html").read_text("utf-8")
    assert vlmscope("label", run, "--scorer", "exact").code == 0
    assert "stale" not in vlmscope("info", run).out


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("how", [(), ("--target", "gold")])
def test_a_truth_that_is_mapped_afterwards_labels_all_rows(
    extract: Command, vlmscope: Command, table: Path, tmp_path: Path, how: tuple[str, ...]
) -> None:
    rows = [{("gold" if k == "gt_answer" else k): v for k, v in row.items()} for row in read(table)]
    write(table, rows)
    assert extract("--limit", 4).code == 0
    assert extract("--map", "target=gold").code == 0
    done = vlmscope("label", tmp_path / "run", "--scorer", "exact", "--json", *how)
    assert {row.target for row in open_run(tmp_path / "run").answers()} == {"Yes"}
    assert json.loads(done.out)["all"]["unscorable"] <= 1, "one answer is empty"


@pytest.mark.exhaustive
def test_the_truth_by_the_name_it_had_in_the_table(
    extract: Command, vlmscope: Command, table: Path, tmp_path: Path
) -> None:
    """By the user's name and by the field's; else one line that says what there is."""
    run = tmp_path / "run"
    names = {"gt_answer": "gold", "question": "query", "question_id": "qid"}
    rows = [{names.get(k, k): v for k, v in row.items()} for row in read(table)]
    write(table, [row | {"question": "other"} for row in rows])
    maps = ("--map", "target=gold", "--map", "question=query", "--map", "id=qid")
    assert extract(*maps).code == 0
    for name in ("gold", "target"):
        done = vlmscope("label", run, "--scorer", "exact", "--target", name, "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["all"]["unscorable"] <= 1
    fields = open_run(run).manifest.data.fields
    found = {
        name: next(with_truth(open_run(run).answers(), name, fields)).target
        for name in ("query", "qid", "id", "question", "target", "category")
    }
    first = rows[0]
    assert found == {
        "query": first["query"], "question": "other", "qid": first["qid"], "id": first["qid"],
        "target": "Yes", "category": first["category"],
    }  # fmt: skip
    done = vlmscope("label", run, "--target", "gt_answer")
    assert done.code == 2
    [line] = done.err.strip().splitlines()
    assert "--target gt_answer: no such column; there are: category, question, " in line
    assert "gold (the target)" in line


@pytest.mark.exhaustive
def test_the_truth_that_was_taken_by_itself(
    extract: Command, vlmscope: Command, table: Path, tmp_path: Path
) -> None:
    assert extract().code == 0
    done = vlmscope("label", tmp_path / "run", "--scorer", "exact", "--target", "gt_answer")
    assert done.code == 0, done.err
    table.rename(tmp_path / "elsewhere.csv")
    done = vlmscope("label", tmp_path / "run", "--scorer", "exact", "--target", "gt_answer")
    assert done.code == 2
    assert "and target for the ground truth of the run" in done.err
    done = vlmscope("label", tmp_path / "run", "--scorer", "exact", "--target", "target")
    assert done.code == 0, done.err
