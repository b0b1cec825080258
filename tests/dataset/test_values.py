"""Questions, targets, ids, metadata: what becomes of each cell, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmscope.dataset import open_table
from vlmscope.dataset.values import LEFT_OUT, to_json
from vlmscope.errors import InputError
from vlmscope.schema import Failure

from .tables import NAN, ROWS, around, failure, one, write_csv, write_jsonl, write_parquet


@pytest.mark.parametrize("question", ["", " \t", None, NAN])
def test_empty_question(tmp_path: Path, question: Any) -> None:
    failed = failure(write_jsonl(tmp_path / "t.jsonl", around({"question": question})))
    assert failed == Failure(
        "bad",
        "input",
        "t.jsonl line 2: the question in column 'question' is empty; write a question there",
    )


def test_question_that_is_no_text(tmp_path: Path) -> None:
    failed = failure(write_jsonl(tmp_path / "t.jsonl", around({"question": ["a", "b"]})))
    assert "the question in column 'question' is a list; write text there" in failed.error


@pytest.mark.parametrize("key", ["question", "answer", "image"])
@pytest.mark.parametrize(("bad", "what"), [("a\0b", "NUL character"), ("\ud83d", "lone surrogate")])
def test_text_no_file_can_hold(tmp_path: Path, key: str, bad: str, what: str) -> None:
    failed = failure(write_jsonl(tmp_path / "t.jsonl", around({key: bad})))
    field = {"answer": "target", "image": "image name"}.get(key, key)
    assert failed.error == f"t.jsonl line 2: the {field} contains a {what}; write plain text there"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (NAN, ""),
        ("", ""),
        (" x ", " x "),
        ("nan", "nan"),
        (3, "3"),
        (3.5, "3.5"),
        (True, "True"),
        (["a", "é", 1], '["a", "é", 1]'),
        ({"a": None}, '{"a": null}'),
    ],
)
def test_target_values(tmp_path: Path, value: Any, text: str) -> None:
    assert one(write_jsonl(tmp_path / "t.jsonl", [{**ROWS[0], "answer": value}])).target == text


@pytest.mark.parametrize(("text", "target"), [("nan", ""), ("NaN", ""), ("Nan", "Nan"), ("", "")])
def test_target_nan_in_csv(tmp_path: Path, text: str, target: str) -> None:
    assert one(write_csv(tmp_path / "t.csv", [{**ROWS[0], "answer": text}])).target == target


def test_target_bytes(tmp_path: Path) -> None:
    rows = [
        {**row, "answer": data} for row, data in zip(around({}), [None, b"x", None], strict=True)
    ]
    failed = failure(write_parquet(tmp_path / "t.parquet", rows))
    assert "the target in column 'answer' is bytes; write text there" in failed.error


@pytest.mark.parametrize(
    "value", ["a/b", ".", "..", " a b ", "köln/象.png", "nan", "007", "a\u2028b"]
)
def test_ids_as_they_are(tmp_path: Path, value: str) -> None:
    path = write_csv(tmp_path / "t.csv", [{**ROWS[0], "question_id": value}])
    assert open_table(path).scan().ids == (value,)
    assert one(path).id == value


@pytest.mark.parametrize(("value", "text"), [(12, "12"), (12.0, "12.0"), (True, "True")])
def test_numeric_ids(tmp_path: Path, value: Any, text: str) -> None:
    path = write_parquet(tmp_path / "t.parquet", [{**ROWS[0], "question_id": value}])
    assert one(path).id == text


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "is empty"),
        ("", "is empty"),
        ("  ", "is empty"),
        (NAN, "is empty"),
        ([1], "is a list, expected text or a number"),
        ("a\0", "'a\\x00' contains a NUL character"),
        ("\udc00", "'\\udc00' contains a lone surrogate"),
        ("x" * 70_000, f"'{'x' * 60}…' has 70,000 bytes, expected at most 16,000"),
        ("é" * 8_001, f"'{'é' * 60}…' has 16,002 bytes, expected at most 16,000"),
    ],
)
def test_unusable_id_stops_the_table(tmp_path: Path, value: Any, found: str) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", around({"question_id": value}))
    expected = f"t.jsonl line 2: the id in column 'question_id' {found}; give the row an id"
    for read in (open_table(path).scan, lambda: list(open_table(path).rows())):
        with pytest.raises(InputError) as caught:
            read()
        assert str(caught.value).startswith(expected)
        assert "--map id=COLUMN" in str(caught.value)


def test_metadata_is_json(tmp_path: Path) -> None:
    when = datetime(2024, 5, 1, 12, tzinfo=UTC)
    extra = {
        "when": when,
        "day": when.date(),
        "price": Decimal("1.50"),
        "score": NAN,
        "far": float("inf"),
        "tags": ["a", None],
        "raw": b"x",
        "other_image": {"bytes": b"x", "path": "p"},
        "n": 3,
        "flag": True,
        "none": None,
    }
    sample = one(write_parquet(tmp_path / "t.parquet", [{**ROWS[0], **extra}]))
    assert json.loads(json.dumps(sample.metadata, allow_nan=False)) == {
        "when": "2024-05-01T12:00:00+00:00",
        "day": "2024-05-01",
        "price": "1.50",
        "score": None,
        "far": "inf",
        "tags": ["a", None],
        "other_image": {"path": "p"},
        "n": 3,
        "flag": True,
        "none": None,
    }


def test_numpy_values_and_strangers() -> None:
    assert to_json({"a": np.float32(0.5), "b": np.arange(2)}) == {"a": 0.5, "b": [0, 1]}
    assert type(to_json(np.int64(3))) is int
    assert to_json(object()) is LEFT_OUT
