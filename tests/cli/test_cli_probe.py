"""``vlmscope probe`` as a user meets it, on a run whose signal was planted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store_support import make_capture, make_manifest
from vlmscope.schema import Score
from vlmscope.store import RunWriter, write_labels

ROWS = 150
Command = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A labelled run in which one layer knows."""
    folder = tmp_path / "run"
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


def test_it_shows_every_probe_and_says_what_it_means(vlmscope: Command, run: Path) -> None:
    done = vlmscope("probe", run, "--draws", 100)
    assert done.code == 0, done.err
    for shown in ("query token, layer 3", "vision only", "the question's words"):
        assert shown in done.out
    text = " ".join(done.out.split())
    assert (
        "its layer, chosen inside training, is query token, layer 3 in 15 of 15 folds (3 splits)"
        in text
    )
    assert "the probe is better by" in text
    assert "permuted 200 times" in text
    assert (run / "probes" / "results.json").exists()


def test_a_machine_reads_it(vlmscope: Command, run: Path) -> None:
    done = vlmscope(
        "probe",
        run,
        "--draws",
        100,
        "--repeats",
        1,
        "--estimators",
        "logistic,mean-difference",
        "--json",
    )
    summary = json.loads(done.out)
    assert summary["rows"] == ROWS
    names = {row["name"] for row in summary["results"]}
    assert "query_token_representation/layer_3 mean-difference" in names


def test_what_cannot_be_probed_is_refused_in_one_line(vlmscope: Command, run: Path) -> None:
    assert "--estimators: 'tree' is no probe" in vlmscope("probe", run, "--estimators", "tree").err
    (run / "labels.parquet").unlink()
    done = vlmscope("probe", run)
    assert done.code == 2
    assert "vlmscope label" in done.err
    assert len(done.err.strip().splitlines()) == 1
