"""Answers in the style of known models to questions of known benchmarks, with a reader's verdict.

``field_rows.jsonl`` holds question, truth as the benchmark writes it, answer, and verdict: H
hallucinated, F faithful, U cannot be told. The verdicts were written before any rule saw the rows.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from vlmscope.schema import Answered
from vlmscope.score import Auto

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent / "field_rows.jsonl").read_text("utf-8").splitlines()
]
BENCHMARKS = sorted({row["benchmark"] for row in ROWS})
SCORABLE = 0.92
"""Least share of the rows with a verdict of H or F that is scored."""


@cache
def outcomes() -> list[tuple[dict[str, str], str]]:
    """Each row with the verdict of the rules."""
    answered = [
        Answered(str(n), row["question"], row["answer"], row["truth"]) for n, row in enumerate(ROWS)
    ]
    letter = {True: "H", False: "F", None: "U"}
    scores = Auto()(answered)
    return [(row, letter[s.hallucinated]) for row, s in zip(ROWS, scores, strict=True)]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_no_row_of_a_benchmark_is_scored_wrong(benchmark: str) -> None:
    own = [(row, got) for row, got in outcomes() if row["benchmark"] == benchmark]
    assert len(own) >= 20
    assert not [(row, got) for row, got in own if got not in ("U", row["verdict"])]


@pytest.mark.parametrize("verdict", ["H", "F"])
def test_most_rows_with_a_verdict_are_scored(verdict: str) -> None:
    counts = Counter(got for row, got in outcomes() if row["verdict"] == verdict)
    assert counts.total() >= 350
    assert counts[verdict] / counts.total() >= SCORABLE


def test_the_rows_are_of_many_benchmarks_and_distinct() -> None:
    assert len(ROWS) >= 1100
    assert len(BENCHMARKS) >= 15
    keys = [(row["question"], row["truth"], row["answer"]) for row in ROWS]
    assert len(set(keys)) == len(keys)
    assert {row["verdict"] for row in ROWS} == {"H", "F", "U"}
