"""``vlmscope label --judge-model DIR``: a judge that is loaded here."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forced_chat import write_forced_chat
from store_support import make_capture, make_manifest
from vlmscope.store import RunWriter, label_settings, read_labels

pytestmark = pytest.mark.usefixtures("columns_only")

Command = Callable[..., Any]
SAID = ["It may be.", "Perhaps zqh.", "zqn, maybe.", "It may be.", "Yes"]


@pytest.fixture(scope="module")
def forced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_forced_chat(tmp_path_factory.mktemp("forced") / "chat")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Five rows, of which two are equal."""
    folder = tmp_path / "run"
    rows = [make_capture(i) for i in range(len(SAID))]
    with RunWriter(folder, make_manifest()) as writer:
        writer.add([
            replace(row, answer=said, sample=replace(row.sample, question="Is it?", target="Yes"))
            for row, said in zip(rows, SAID, strict=True)
        ])  # fmt: skip
    return folder


def test_it_judges_without_a_server_and_unasked(
    vlmscope: Command, run: Path, forced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    options = ("--scorer", "judge", "--judge-model", forced, "--judge-batch-size", 2)
    done = vlmscope("label", run, *options, "--name", "judged")
    assert done.code == 0, done.err
    assert (
        f"{forced}: 4 requests to make, 1 equal to others of these, 0 answered before" in done.err
    )
    outcomes = [score.hallucinated for score in read_labels(run, "judged").values()]
    assert outcomes == [False, True, None, False, False]
    judge = label_settings(run, "judged")["settings"]["judge"]
    assert (judge["model"], judge["batch_size"]) == (str(forced), 2)
    assert len(judge["model_identity"]) == 64
    again = vlmscope("label", run, *options, "--json")
    assert "1 request to make, 4 answered before" in again.err
    assert json.loads(again.out)["all"]["unscorable"] == 1


@pytest.mark.exhaustive
def test_auto_leaves_it_what_the_rules_cannot_tell(
    vlmscope: Command, run: Path, forced: Path
) -> None:
    assert vlmscope("label", run, "--judge-model", forced).code == 0
    scorers = [score.scorer for score in read_labels(run).values()]
    assert scorers[-1] != "judge"
    assert "judge" in scorers


@pytest.mark.exhaustive
def test_a_table_keeps_its_verdicts_beside_the_labelled_one(
    vlmscope: Command, tmp_path: Path, forced: Path
) -> None:
    table, out = tmp_path / "t.csv", tmp_path / "o.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "truth", "answer"])
        writer.writerows(["Is it?", "Yes", said] for said in SAID)
    options = ("--scorer", "judge", "--judge-model", forced, "--out", out)
    assert vlmscope("label", table, *options).code == 0
    with out.open(newline="") as file:
        outcomes = [row["outcome"] for row in csv.DictReader(file)]
    assert outcomes == ["faithful", "hallucinated", "unscorable", "faithful", "faithful"]
    assert len((tmp_path / "o.judge.jsonl").read_text().splitlines()) == 3


def test_a_folder_that_is_no_checkpoint(vlmscope: Command, run: Path, tmp_path: Path) -> None:
    done = vlmscope("label", run, "--scorer", "judge", "--judge-model", tmp_path)
    assert done.code == 2
    assert "has no config.json; give the folder of a complete checkpoint" in done.err
    assert not (run / "labels.parquet").exists()
