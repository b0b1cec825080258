"""Write the same rows in every format, and read them back one by one."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmscope.dataset import open_table, read_samples
from vlmscope.errors import InputError
from vlmscope.schema import Failure, Sample

NAN = float("nan")

ROWS = [
    {"question_id": "q1", "image": "a.png", "question": "What is it?", "answer": "a cat"},
    {"question_id": "q2", "image": "b.png", "question": "How many?", "answer": "3"},
]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_json(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    return path


WRITERS = {
    "t.csv": write_csv,
    "t.tsv": lambda path, rows: write_csv(path, rows, delimiter="\t"),
    "t.jsonl": write_jsonl,
    "t.ndjson": write_jsonl,
    "t.json": write_json,
    "t.parquet": write_parquet,
}


def one(path: Path, **options: Any) -> Sample:
    (sample,) = read_samples(path, **options)
    return sample


def failure(path: Path) -> Failure:
    """The only failure; the rows around it come through."""
    rows = list(open_table(path).rows())
    (failed,) = (row for row in rows if isinstance(row, Failure))
    assert [type(row) for row in rows] == [Sample, Failure, Sample]
    assert failed.stage == "input"
    assert "\n" not in failed.error
    with pytest.raises(InputError) as caught:
        list(read_samples(path))
    assert str(caught.value) == failed.error
    return failed


def around(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [ROWS[0], {**ROWS[1], "question_id": "bad", **row}, ROWS[1]]
