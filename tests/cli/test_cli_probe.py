"""``vlmscope probe`` as a user meets it, on a run whose signal was planted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store_support import make_capture, make_manifest
from vlmscope.probes.halp_network import HalpNetwork
from vlmscope.schema import Score
from vlmscope.store import RunWriter, write_labels

ROWS = 150
QUICK = ("--draws", 100, "--repeats", 1, "--permutations", 100, "--folds", 3)
pytestmark = pytest.mark.usefixtures("columns_only")
Command = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled run in which one layer knows."""
    folder = tmp_path_factory.mktemp("probe") / "run"
    path = "query_token_representation/layer_3"
    truth = np.random.default_rng(1).random(ROWS) < 0.4
    captures = []
    for i in range(ROWS):
        row = make_capture(i)
        shifted = row.vectors[path] + np.float32(2 * truth[i])
        captures.append(replace(row, image_dhash="", vectors={**row.vectors, path: shifted}))
    with RunWriter(folder, make_manifest()) as writer:
        writer.add(captures)
    scores = [
        Score(row.sample.id, bool(t), "column", "") for row, t in zip(captures, truth, strict=True)
    ]
    write_labels(folder, scores, {})
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it to write into."""
    return shutil.copytree(made, tmp_path / "run")


def test_it_shows_every_probe_and_says_what_it_means(vlmscope: Command, run: Path) -> None:
    done = vlmscope("probe", run, *QUICK, "--repeats", 2)
    assert done.code == 0, done.err
    for shown in ("query token, layer 3", "vision only", "the question's words"):
        assert shown in done.out
    text = " ".join(done.out.split())
    assert "; chosen inside training: query token, layer 3 in 6 of 6 folds (2 splits)." in text
    assert "the probe is better by" in text
    main, _, details = done.out.partition("\nDetails\n")
    assert "Before the answer is written" in main
    assert "Permutation test" not in main
    assert "\n- Permutation test" in details
    assert done.err.endswith(f"next: vlmscope report {run}\n")
    assert text.startswith("Before the answer is written"), "the verdict comes first"
    assert "permuted 100 times" in text
    assert "HALP" not in text
    assert (run / "probes" / "results.json").exists()


@pytest.mark.exhaustive
def test_a_machine_reads_it(vlmscope: Command, run: Path) -> None:
    estimators = ("--estimators", "logistic,mean-difference")
    done = vlmscope("probe", run, *QUICK, *estimators, "--json")
    summary = json.loads(done.out)
    assert summary["rows"] == ROWS
    names = {row["name"] for row in summary["results"]}
    assert "query_token_representation/layer_3 mean-difference" in names


def test_what_cannot_be_probed_is_refused_in_one_line(vlmscope: Command, run: Path) -> None:
    assert (
        "--estimators: 'tree' is not a probe" in vlmscope("probe", run, "--estimators", "tree").err
    )
    (run / "labels.parquet").unlink()
    done = vlmscope("probe", run)
    assert done.code == 2
    assert "vlmscope label" in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.exhaustive
def test_the_halp_protocol_is_shown_below_and_said_to_be_optimistic(
    vlmscope: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = HalpNetwork(hidden=(16, 8), learning_rate=0.01, epochs=20)
    monkeypatch.setattr("vlmscope.sweeps.run.network_of", lambda _: quick)
    done = vlmscope("probe", run, *QUICK, "--protocol", "halp")
    assert done.code == 0, done.err
    grouped, _, below = done.out.partition("HALP protocol, optimistic")
    assert "the question's words" in grouped
    assert "query token, layer 3" in below
    for heading in ("test AUROC", "accuracy", "precision", "recall", "F1"):
        assert heading in below
    text = " ".join(done.out.split())
    assert "HALP protocol (optimistic: not grouped by image; best layer chosen on the test" in text
    assert "the grouped protocol's" in text
    summary = json.loads((run / "probes" / "results.json").read_text())
    assert {row["kind"] for row in summary["halp"]} == {"halp"}


def test_a_protocol_and_a_column_that_are_none_are_refused(vlmscope: Command, run: Path) -> None:
    done = vlmscope("probe", run, "--protocol", "random")
    assert done.code == 2
    assert "--protocol: found 'random', expected one of grouped, halp" in done.err
    done = vlmscope("probe", run, "--by", "category,colour")
    assert done.code == 2
    assert "--by: 'category' has 1 value with 2 rows or more" in done.err
    done = vlmscope("probe", run, "--by", "colour")
    assert "--by: 'colour' is not a column of the table; columns that can be used: none" in done.err
    assert not (run / "probes").exists()


@pytest.mark.exhaustive
def test_columns_are_chosen_by_name(vlmscope: Command, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    captures = []
    for i in range(ROWS):
        row = make_capture(i)
        names = {"source": f"s{i % 3}", "hour": f"h{i % 2}"}
        captures.append(replace(row, image_dhash="", sample=replace(row.sample, metadata=names)))
    with RunWriter(folder, make_manifest()) as writer:
        writer.add(captures)
    truth = np.random.default_rng(1).random(ROWS) < 0.4
    marks = zip(captures, truth, strict=True)
    write_labels(folder, [Score(c.sample.id, bool(t), "column", "") for c, t in marks], {})
    usual = vlmscope("probe", folder, *QUICK, "--json")
    assert list(json.loads(usual.out)["by_column"]) == ["source"]
    named = vlmscope("probe", folder, *QUICK, "--by", " hour, source,hour")
    summary = json.loads((folder / "probes" / "results.json").read_text())
    assert "by hour rows hallucinated AUROC 95% interval" in " ".join(named.out.split())
    for column in summary["by_column"].values():
        for each in column["values"]:
            told = (f"{each['value']} {each['rows']} {each['share']:.1%} {each['auroc']:.3f} "
                    f"{each['interval']['low']:.3f}–{each['interval']['high']:.3f}")  # fmt: skip
            assert told in " ".join(named.out.split())
    assert list(summary["by_column"]) == ["hour", "source"]
    assert summary["settings"]["by"] == ["hour", "source"]


def test_a_sweep_is_not_written_among_the_files_of_a_run(
    vlmscope: Command, run: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    (run / "labels-human.parquet").write_bytes((run / "labels.parquet").read_bytes())
    (tmp_path / "link").symlink_to(run / "shards")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for out, said in (
        (run, "is a run, with files of its own"),
        (run / "shards", "is a part of the run"),
        (run / "shards" / "deeper", "is a part of the run"),
        (run / "plots", "is a part of the run"),
        (run / "Shards", "is a part of the run"),
        (run / "probes" / "deeper", "is a part of the run"),
        (run / "probes-human", "is a part of the run"),
        (run / "x" / ".." / "shards", "is a part of the run"),
        (tmp_path / "link", "is a part of the run"),
        (other, "is a run, with files of its own"),
        (other / "probes", "is a part of the run"),
    ):
        done = vlmscope("probe", run, *QUICK, "--out", out)
        assert done.code == 2, out
        assert said in done.err
        assert "give another folder" in done.err
        assert len(done.err.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    done = vlmscope("probe", run, *QUICK, "--labels", "human", "--out", run / "probes")
    assert done.code == 2, "the place of the default set"


@pytest.mark.exhaustive
def test_a_folder_of_its_own_may_be_in_the_run(vlmscope: Command, run: Path) -> None:
    done = vlmscope("probe", run, *QUICK, "--out", run / "by-question")
    assert done.code == 0, done.err
    assert (run / "by-question" / "results.json").exists()
    assert "next:" not in done.err, "a report reads the run's own probes"


def test_too_few_labels_say_first_what_to_do(vlmscope: Command, run: Path) -> None:
    ids = [make_capture(number).sample.id for number in range(ROWS)]
    known = {0: True, 1: True, 2: False}
    scores = [Score(id_, known.get(number), "column", "") for number, id_ in enumerate(ids)]
    write_labels(run, scores, {}, "human")
    done = vlmscope("probe", run, "--labels", "human")
    assert done.code == 2
    assert done.err.startswith("error: folds: label ")
    assert "found 2 hallucinated answers in " in done.err
    assert "1 faithful answer in 1 group" in done.err
    assert "positive" not in done.err


@pytest.mark.exhaustive
def test_a_probe_that_finds_nothing_has_no_numbers(vlmscope: Command, tmp_path: Path) -> None:
    folder, captures = tmp_path / "run", []
    for i in range(ROWS):
        row = make_capture(i)
        same = {name: np.ones_like(vector) for name, vector in row.vectors.items()}
        sample = replace(row.sample, metadata={"source": f"s{i % 3}"})
        captures.append(replace(row, image_dhash="", sample=sample, vectors=same))
    with RunWriter(folder, make_manifest()) as writer:
        writer.add(captures)
    truth = np.random.default_rng(1).random(ROWS) < 0.4
    marks = zip(captures, truth, strict=True)
    write_labels(folder, [Score(c.sample.id, bool(t), "column", "") for c, t in marks], {})
    done = vlmscope("probe", folder, *QUICK)
    assert done.code == 0, done.err
    table = done.out.partition("by source")[2].partition("Before the answer")[0]
    assert [line.split()[-2:] for line in table.splitlines() if line.startswith("s")] == [
        ["–", "–"]
    ] * 3
    assert "a linear probe on hidden states predicts a constant" in done.out
    descriptions = [path.read_text() for path in (folder / "probes").glob("*/probe.json")]
    assert descriptions
    assert all('"prevalence"' in text and '"auroc' not in text for text in descriptions)
