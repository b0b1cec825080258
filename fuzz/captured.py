"""Fuzzed: a table on its whole way into a run and out of it, without a model.

What the scan of a table accepts can be captured: each row ends as a row of the run, or as a failure
with its reason. Here the vectors are made up, and all else is what ``extract`` and those who read a
run do. An error of ours after the scan is a finding too: it would end every run of this table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vlmscope.dataset import Table, open_table
from vlmscope.errors import VlmscopeError
from vlmscope.schema import Capture, Failure, Sample
from vlmscope.score import Auto, Column
from vlmscope.store import (
    FailureLog,
    Manifest,
    Run,
    export_run,
    open_run,
    read_failures,
    write_labels,
    write_manifest,
)
from vlmscope.store.format.batch import block_of
from vlmscope.store.format.naming import is_of_image
from vlmscope.store.format.shard import build_shard
from vlmscope.sweeps.data import kind_of

FRAMES = 300
"""How much deeper in the stack a table is read for the second time."""


def made_up(sample: Sample, widths: Mapping[str, int]) -> Capture:
    """Return a capture of a sample that no model has seen."""
    images = bool(sample.images)
    return Capture(
        sample=sample,
        vectors={
            path: np.zeros(width, np.float32)
            for path, width in widths.items()
            if images or not is_of_image(path)
        },
        boundaries={"last_image_token": 1, "last_prompt_token": 2}
        if images
        else {"last_prompt_token": 2},
        num_prompt_tokens=3,
        image_sha256="+".join("ab" for _ in sample.images),
        first_token_entropy=0.5,
        first_token_ids=np.zeros(20, np.int64),
        first_token_logprobs=np.zeros(20, np.float32),
        finish_reason="stop",
        answer="Yes.",
        answer_token_ids=np.zeros(2, np.int64),
        answer_logprobs=np.zeros(2, np.float32),
    )


def capture_table(folder: Path, data: bytes, manifest: Manifest) -> None:
    """Capture a table in JSON lines, if its scan accepts it, and read the run in every way."""
    path = folder / "table.jsonl"
    path.write_bytes(data)
    table = open_table(path, text_only=True)
    scanned = table.scan()
    try:
        _capture(folder, table, scanned.ids, manifest)
    except VlmscopeError as error:
        raise AssertionError(f"the scan accepted it, and later: {error}") from error


def _capture(folder: Path, table: Table, ids: tuple[str, ...], manifest: Manifest) -> None:
    rows = list(table.rows())
    assert tuple(row.id for row in rows) == ids
    assert _deeper(FRAMES, table) == rows
    failures = [row for row in rows if isinstance(row, Failure)]
    samples = [row for row in rows if isinstance(row, Sample)]
    write_manifest(folder, manifest)
    FailureLog(folder).add_all(failures)
    assert read_failures(folder) == {failure.id: failure for failure in failures}
    assert all(len(failure.error.splitlines()) == 1 for failure in failures)
    if not samples:
        return
    block = block_of([made_up(s, manifest.widths()) for s in samples], manifest.widths())
    shard = folder / "shards" / "pack-000-000000.h5"
    shard.parent.mkdir()
    shard.write_bytes(b"".join(build_shard(block, manifest, writer="000")))
    _read(folder, samples)


def _deeper(frames: int, table: Table) -> list[Sample | Failure]:
    return _deeper(frames - 1, table) if frames else list(table.rows())


def _read(folder: Path, samples: list[Sample]) -> None:
    run = open_run(folder)
    assert not run.check()
    for found, sample in zip(run, samples, strict=True):
        for name in ("id", "question", "target", "metadata", "image_id"):
            assert getattr(found.sample, name) == getattr(sample, name)
        kind_of(sample.metadata.get("category"))
    _tables(run)
    write_labels(folder, Auto()(run.answers()), {})
    for column in dict.fromkeys(key for sample in samples for key in sample.metadata):
        _labels(run, column)
    for suffix in (".parquet", ".npz"):
        export_run(run, folder / f"out{suffix}")


def _tables(run: Run) -> None:
    frame = run.to_pandas()
    assert len(frame) == len(run)
    json.dumps([str(cell) for name in frame for cell in frame[name]])


def _labels(run: Run, column: str) -> None:
    try:
        list(Column(column)(run.answers()))
    except VlmscopeError as error:  # no label in it
        if len(str(error).splitlines()) != 1:
            raise AssertionError(f"not one line: {error}") from error
