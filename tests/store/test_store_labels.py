"""``labels.parquet``: what goes in comes out, whole or not at all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from store_support import make_captures, make_manifest
from vlmscope.errors import InputError, StoreError
from vlmscope.schema import Score
from vlmscope.store import RunWriter, label_settings, open_run, read_labels, write_labels

SCORES = [
    Score("question_comb_1", True, "yesno", "says no, truth yes"),
    Score("../we ird/é.", False, "vqa", "is the truth"),
    Score("question_comb_2", None, "judge", "cannot tell"),
]


def test_what_goes_in_comes_out(run: Path) -> None:
    path = write_labels(run, iter(SCORES), {"scorer": "auto", "labels": Path("x.csv")})
    assert path == run / "labels.parquet"
    assert list(read_labels(run).values()) == SCORES
    record = label_settings(run)
    assert record["settings"] == {"scorer": "auto", "labels": "x.csv"}
    assert record["created_at"].endswith("+00:00")
    assert record["vlmscope_version"]
    frame = pq.read_table(path)
    assert frame["outcome"].to_pylist() == ["hallucinated", "faithful", "unscorable"]
    assert str(frame.schema.field("hallucinated").type) == "bool"
    assert json.loads(frame.schema.metadata[b"vlmscope"]) == record


def test_labels_are_replaced_as_a_whole(run: Path) -> None:
    write_labels(run, SCORES, {})
    write_labels(run, SCORES[:1], {})
    assert list(read_labels(run)) == ["question_comb_1"]

    def torn() -> object:
        yield SCORES[1]
        raise InputError("stopped")

    with pytest.raises(InputError, match="stopped"):
        write_labels(run, torn(), {})  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="two labels"):
        write_labels(run, SCORES[:1] * 2, {})
    assert list(read_labels(run)) == ["question_comb_1"]
    assert not list(run.glob(".labels*"))


def test_any_text_and_no_rows(run: Path) -> None:
    write_labels(run, [], {})
    assert read_labels(run) == {}
    write_labels(run, [Score("q", None, "judge", "half \ud800 and \0")], {})
    assert read_labels(run)["q"].evidence.startswith("half ")


def test_a_run_without_labels_says_what_to_do(run: Path) -> None:
    with pytest.raises(InputError, match="run 'vlmscope label"):
        read_labels(run)
    with pytest.raises(InputError, match="no labels yet"):
        label_settings(run)


def test_a_damaged_file_is_refused(run: Path) -> None:
    path = write_labels(run, SCORES, {})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match="cannot be read") as caught:
        read_labels(run)
    assert "\n" not in str(caught.value)
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be read"):
        label_settings(run)
    write_labels(run, SCORES, {})
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["outcome"]), path)
    with pytest.raises(StoreError, match="no column outcome"):
        read_labels(run)
    pq.write_table(table.replace_schema_metadata(None), path)
    with pytest.raises(StoreError, match="no record of its settings"):
        read_labels(run)
    pq.write_table(table.replace_schema_metadata({b"vlmscope": b"{"}), path)
    with pytest.raises(StoreError, match="not JSON"):
        label_settings(run)


@pytest.mark.parametrize(
    ("column", "cells", "said"),
    [
        ("hallucinated", ["yes", "no", "no"], "a cell of hallucinated is 'yes', not true or false"),
        ("hallucinated", [2, 0, 0], "a cell of hallucinated is 2"),
        ("hallucinated", [False, False, None], "says 'faithful'"),
        ("outcome", ["hallucinated", "right", "unscorable"], "is 'right'"),
        ("id", ["q", "q", "r"], "two labels of the question 'q'"),
        ("id", [1, 2, 3], "a cell is not text"),
        ("scorer", [None, None, None], "a cell is not text"),
        ("error_kind", ["both", None, None], "a cell of error_kind is 'both'"),
    ],
)
def test_cells_that_no_label_has_are_refused(
    run: Path, column: str, cells: list[object], said: str
) -> None:
    """They would be read as labels: every text is true, of two labels of a row the last counted."""
    path = write_labels(run, SCORES, {})
    table = pq.read_table(path)
    pq.write_table(
        table.set_column(table.column_names.index(column), column, [cells]).replace_schema_metadata(
            table.schema.metadata
        ),
        path,
    )
    with pytest.raises(StoreError, match=f"not a label file, .*{re.escape(said)}") as caught:
        read_labels(run)
    assert "run 'vlmscope label'" in str(caught.value)


def test_a_run_yields_its_answers_without_vectors(run: Path) -> None:
    opened = open_run(run)
    rows = list(opened.answers())
    assert [row.id for row in rows] == list(opened.ids)
    capture = opened[rows[3].id]
    assert rows[3].answer == capture.answer
    assert rows[3].question == capture.sample.question
    assert rows[3].target == capture.sample.target
    assert rows[3].metadata == capture.sample.metadata


def test_a_prefill_only_run_yields_rows_without_answers(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", make_manifest(capture={"max_new_tokens": 0})) as writer:
        writer.add(make_captures(range(3), answered=False))
    assert [row.answer for row in open_run(tmp_path / "run").answers()] == [None] * 3
