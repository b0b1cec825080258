"""A table that is edited while the model is loaded, as a user meets it: one line, exit code 1."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probe_on_disk import save
from vlmscope.dataset import Table, TableScan
from vlmscope.engine import capture
from vlmscope.executors import plan
from vlmscope.model import VisionLanguageModel
from vlmscope.risk import scorer
from vlmscope.schema import CaptureSpec, Sample
from vlmscope.store import open_run

Command = Callable[..., Any]


@pytest.fixture
def edited_meanwhile(
    table: Path, vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, prepared_commands: None
) -> None:
    """The first model takes so long to load that the sixth row is edited."""

    def load(*_: Any, **__: Any) -> VisionLanguageModel:
        text = table.read_text("utf-8")
        if "other_" not in text:
            table.write_text(text.replace("comb_5,", "comb_5,other_"), "utf-8")
        return vlm

    monkeypatch.setattr(plan, "load_with", load)
    monkeypatch.setattr(scorer, "load_with", load)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("edited_meanwhile")
def test_extract_stops_there(extract: Command, tmp_path: Path) -> None:
    done = extract("--json")
    assert done.code == 1
    assert done.out == ""
    assert done.err.splitlines()[-1] == (
        "error: questions.csv line 7: question 'question_comb_5' has changed since it was checked; "
        "run again to continue with the changed table, or restore it first"
    )
    assert set(open_run(tmp_path / "run").ids) <= {f"question_comb_{i}" for i in range(5)}
    assert extract().code == 3, "it goes on; the edited row names an image that is not there"
    assert set(open_run(tmp_path / "run").failures) == {"question_comb_5"}


@pytest.mark.first(1)
@pytest.mark.usefixtures("edited_meanwhile")
@pytest.mark.parametrize("out", [(), ("--out", "risks.parquet")])
def test_score_stops_there(
    vlmscope: Command, table: Path, checkpoint: Path, vlm: VisionLanguageModel,
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "probe", vlm, list(capture(samples, vlm, CaptureSpec("2", max_new_tokens=0))))
    done = vlmscope(
        *("score", "--data", table, "--model", checkpoint, "--probe", tmp_path / "probe"),
        *("--device", "cpu", "--batch-size", 2, *out),
    )
    assert done.code == 1
    assert "'question_comb_5' has changed since it was checked" in done.err.splitlines()[-1]
    assert not (tmp_path / "risks.parquet").exists()
    ids = [json.loads(line)["id"] for line in done.out.splitlines()]
    assert ids == ([] if out else [f"question_comb_{i}" for i in range(5)])


@pytest.mark.exhaustive
def test_verify_stops_there(
    vlmscope: Command, extract: Command, table: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Between its check of the table and the reading of the rows are seconds only."""
    assert extract().code == 0
    original = Table.scan

    def scan(self: Table) -> TableScan:
        found = original(self)
        table.write_text(table.read_text("utf-8").replace("comb_5,", "comb_5,other_"), "utf-8")
        return found

    monkeypatch.setattr(Table, "scan", scan)
    done = vlmscope("verify", tmp_path / "run", "--device", "cpu")
    assert done.code == 1
    assert "'question_comb_5' has changed since it was checked" in done.err.splitlines()[-1]
