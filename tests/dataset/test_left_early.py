"""Reading that is left before its end leaves nothing behind: no open file, no message at exit."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import GeneratorType
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmscope.dataset import read_samples

ROWS: list[Mapping[str, Any]] = [
    {"id": str(n), "image": "a.jpg", "question": f"Is it {n}?", "answer": "yes"} for n in range(3)
]


@pytest.fixture
def tables(tmp_path: Path) -> list[str]:
    """A table of every reader that holds a file open."""
    lines = "\n".join(",".join(map(str, row.values())) for row in ROWS)
    (tmp_path / "t.csv").write_text(f"id,image,question,answer\n{lines}\n")
    (tmp_path / "t.tsv").write_text(f"id,image,question,answer\n{lines}\n".replace(",", "\t"))
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "t.json").write_text(json.dumps(ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    names = ("t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet", "saved")
    return [str(tmp_path / name) for name in names]


def test_a_loop_that_is_left_closes_its_table(tables: list[str]) -> None:
    gc.collect()
    before = {id(each) for each in gc.get_objects() if type(each) is GeneratorType}
    gc.disable()
    try:
        for table in tables:
            for _ in read_samples(table):
                break
        left = [each for each in gc.get_objects() if type(each) is GeneratorType]
        assert not [each.__qualname__ for each in left if id(each) not in before]
    finally:
        gc.enable()


@pytest.mark.exhaustive
def test_a_table_that_is_open_at_exit_is_closed_without_a_word(tables: list[str]) -> None:
    """Something that outlives the modules holds the rows, as a notebook or a traceback does."""
    code = (
        "import _csv, sys, vlmscope\n"
        "_csv.held = [vlmscope.read_samples(table) for table in sys.argv[1:]]\n"
        "print(*(next(rows).id for rows in _csv.held))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *tables], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0"] * len(tables)
    assert "Exception" not in done.stderr
    assert "Error" not in done.stderr
