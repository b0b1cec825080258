"""``vlmscope extract`` with a made-up model, again and again, its table changed in between."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from executors.captured_rows import make_capture, make_manifest
from executors.made_up_model import made_up
from vlmscope.dataset import TableScan
from vlmscope.executors import Request, local, make_plan, plan, runner
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample
from vlmscope.store import DataRecord, Run, as_path, open_run

SPEC = CaptureSpec(layers="0,2,3", max_new_tokens=20)

Cells = dict[str, Any]


def rows(*numbers: int, **cells: Any) -> list[Cells]:
    """Return rows of the table by their numbers; ``cells`` stand in each of them."""
    return [
        {"id": f"q{i}", "image": f"{i % 4}.png", "question": f"Is it {i}?", "answer": "Yes"} | cells
        for i in numbers
    ]


def write_csv(path: Path, table: Sequence[Mapping[str, Any]]) -> Path:
    """Write a table whose columns are those of its first row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path


def capture(sample: Sample) -> Capture:
    """Return what the made-up model records of a row: always the same of the same question."""
    made = make_capture(sum(map(ord, sample.id + sample.question)))
    return replace(made, sample=sample)


@dataclass
class Sessions:
    """Sessions of one run."""

    folder: Path
    out: Any
    unreadable: set[str] = field(default_factory=set)
    captured: list[str] = field(default_factory=list)
    loads: int = 0

    @property
    def table(self) -> Path:
        """The table that sessions read."""
        return self.folder / "t.csv"

    def plan(self, table: Sequence[Mapping[str, Any]] | None = None, **options: Any) -> plan.Plan:
        """Write the table, if one is given, and plan a session."""
        data = options.pop("data", self.table)
        if table is not None:
            write_csv(data, table)
        options = {"batch_size": 2, "spec": SPEC} | options
        return make_plan(Request(str(data), "model", self.out, **options))

    def start(
        self, table: Sequence[Mapping[str, Any]] | None = None, **options: Any
    ) -> local.Summary:  # fmt: skip
        """Run a session."""
        self.captured.clear()
        return local.run_plan(self.plan(table, **options))

    @property
    def run(self) -> Run:
        """What is stored."""
        return open_run(self.out)

    def load(
        self, request: Request, scan: TableScan
    ) -> tuple[Any, Any, tuple[str, ...]]:  # fmt: skip
        """Stand for ``load_checked``."""
        self.loads += 1
        images = request.images
        data = DataRecord(
            request.data, images, asdict(request.fields), scan.fingerprint, request.text_only
        )
        return made_up(), replace(make_manifest(), data=data), ()

    def prepare(self, samples: Sequence[Sample], *_: Any) -> tuple[list[Any], list[Failure]]:
        """Stand for ``engine.prepare``."""
        good = tuple(sample for sample in samples if sample.id not in self.unreadable)
        bad = [Failure(row.id, "image", "is broken") for row in samples if row not in good]
        return ([SimpleNamespace(samples=good, nbytes=0)] if good else []), bad

    def capture_batch(self, batch: Any, *_: Any) -> list[Capture]:
        """Stand for ``engine.capture_batch``."""
        self.captured += [sample.id for sample in batch.samples]
        return list(map(capture, batch.samples))


def sessions_at(folder: Path, out: str | Path, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    """Return sessions whose model is made up."""
    sessions = Sessions(folder, as_path(out))
    monkeypatch.setattr(plan, "load_checked", sessions.load)
    monkeypatch.setattr(runner, "prepare", sessions.prepare)
    monkeypatch.setattr(runner, "capture_batch", sessions.capture_batch)
    return sessions
