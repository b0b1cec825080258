"""``vlmscope probe`` as somebody meets it who has files of the original research."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research_support import research_row, write_part
from store_support import make_captures, make_manifest
from vlmscope.probes.halp_network import HalpNetwork
from vlmscope.store import RunWriter

ROWS = 60
Command = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two parts, and labels beside it; one layer knows."""
    home = tmp_path_factory.mktemp("seed") / "home"
    folder = home / "gemma3"
    folder.mkdir(parents=True)
    truth = np.random.default_rng(2).random(ROWS) < 0.4
    rows = [research_row(i) for i in range(ROWS)]
    for row, hallucinated in zip(rows, truth, strict=True):
        row["query_token_representation"]["layer_3"] += np.float32(2 * hallucinated)
    rows[0]["answer"] = "[Generation failed: 月]"
    write_part(folder / "gemma3_12b_embeddings_part_001.h5", rows[:40])
    write_part(folder / "gemma3_12b_embeddings_part_002.h5", rows[40:])
    with (home / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "is_hallucinating_manual", "category"])
        writer.writerows(
            [row["question_id"], bool(t), "été"] for row, t in zip(rows, truth, strict=True)
        )
    return home


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A copy of the folder to write into, with the labels beside it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "gemma3"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return tmp_path / "labels.csv"


@pytest.mark.exhaustive
def test_they_cannot_be_learnt_from_for_another_run(
    vlmscope: Command, data: Path, labels: Path, tmp_path: Path
) -> None:
    done = vlmscope("probe", data, "--labels", labels, "--test", tmp_path / "run")
    assert done.code == 2
    assert "contains HALP files, which identify neither their model" in done.err
    assert not (data / "probes").exists()


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("times", [1, 2])  # what the first wrote does not disturb the second
def test_a_folder_of_parts(vlmscope: Command, data: Path, labels: Path, times: int) -> None:
    for _ in range(times):
        done = vlmscope("probe", data, "--labels", labels, "--draws", 100)
        assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert "chosen inside training: query token, layer 3 in 3 of 3 folds" in text
    assert "1 row is left out: generation failed, there is no answer." in text
    assert "Images are identified by their image_id" in text
    assert f"results, predictions and probes are in {data / 'probes'}" in text
    assert (data / "probes" / "query_token_representation-layer_3" / "probe.json").exists()


@pytest.mark.exhaustive
def test_one_file_and_where_to(vlmscope: Command, data: Path, labels: Path, tmp_path: Path) -> None:
    part = data / "gemma3_12b_embeddings_part_001.h5"
    assert vlmscope("probe", part, "--labels", labels, "--draws", 100).code == 0
    assert (data / "gemma3_12b_embeddings_part_001-probes" / "results.json").exists()
    out = tmp_path / "there" / "deep"
    done = vlmscope("probe", part, "--labels", labels, "--draws", 100, "--out", out, "--json")
    summary = json.loads(done.out)
    assert summary == json.loads((out / "results.json").read_text())
    assert summary["rows"] == 39
    assert summary["left_out"][0] == {
        "what": "label", "count": 20, "reason": "the files do not have the question"
    }  # fmt: skip


@pytest.mark.exhaustive
def test_columns_of_the_label_file_and_the_papers_protocol(
    vlmscope: Command, data: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = HalpNetwork(hidden=(16, 8), learning_rate=0.01, epochs=10)
    monkeypatch.setattr("vlmscope.sweeps.run.network_of", lambda _: quick)
    head, *lines = labels.read_text("utf-8").splitlines()
    lines = [f"{line},s{i % 2}" for i, line in enumerate(lines)]
    labels.write_text("\n".join([f"{head},source", *lines]), "utf-8")
    asked = ("probe", data, "--labels", labels, "--draws", 100, "--repeats", 1, "--folds", 3,
             "--permutations", 100)  # fmt: skip
    error = refused(vlmscope(*asked, "--by", "is_hallucinating_manual"))
    assert "is the question, its image, the answer or the label; columns that can be" in error
    done = vlmscope(*asked, "--protocol", "halp", "--json")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert list(summary["by_column"]) == ["source"], "the category has one value"
    assert len(summary["halp"]) == sum(row["kind"] == "probe" for row in summary["results"])
    assert summary["halp_protocol"]["best"] == "query_token_representation/layer_3"


def refused(done: Any) -> str:
    assert done.code == 2
    assert not done.out
    error: str = done.err
    assert len(error.strip().splitlines()) == 1
    return error


def test_what_is_refused_in_one_line(
    vlmscope: Command, data: Path, labels: Path, tmp_path: Path
) -> None:
    assert "contain no labels; give --labels FILE" in refused(vlmscope("probe", data))
    missing = refused(vlmscope("probe", tmp_path / "no.h5", "--labels", labels))
    assert "no such file or folder; give a run folder, or .h5 files" in missing
    (tmp_path / "empty").mkdir()
    assert "no .h5 files there" in refused(vlmscope("probe", tmp_path / "empty"))
    out = refused(vlmscope("probe", data, "--labels", labels, "--out", labels))
    assert "cannot be written; give another folder with --out" in out
    assert "no column question_id or id" in refused(
        vlmscope("probe", data, "--labels", write_text(tmp_path / "bad.csv", "a,b\n1,2\n"))
    )
    part = data / "gemma3_12b_embeddings_part_002.h5"
    part.write_bytes(part.read_bytes()[:-1])
    cut = refused(vlmscope("probe", data, "--labels", labels))
    assert f"{part}: truncated" in cut
    assert "move it out of the folder" in cut
    assert not (data / "probes").exists()


def write_text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_run_keeps_its_own_labels(vlmscope: Command, labels: Path, data: Path) -> None:
    run = data / "run"
    with RunWriter(run, make_manifest()) as writer:
        writer.add(make_captures(range(4)))
    error = refused(vlmscope("probe", run, "--labels", labels))
    assert f"run 'vlmscope label {run} --labels FILE' first" in error
