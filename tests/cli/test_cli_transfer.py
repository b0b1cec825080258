"""``vlmscope probe --test`` as a user meets it, on runs whose signal was planted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelled_runs import OTHER_MODEL, WIDTH, labelled_run, planted

ROWS = 75
FEW = ("--draws", 100, "--folds", 3, "--repeats", 1, "--permutations", 100)
Command = Callable[..., Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labelled runs about different images, in which the same direction knows."""
    folder = tmp_path_factory.mktemp("transfer")
    for noise, name in enumerate("AB"):
        truth, vectors = planted(np.random.default_rng(noise), ROWS, np.eye(WIDTH)[0], 3.0)
        images = 1000 * noise + np.arange(ROWS)
        model = {**OTHER_MODEL, "name": "other\x1b[2J"} if noise else {}
        labelled_run(folder / name, truth, vectors, images, noise=noise, model=model, on_disk=True)
    return folder


def test_it_shows_a_table_and_says_what_it_means(
    vlmscope: Command, home: Path, tmp_path: Path
) -> None:
    one, other = tmp_path / "alone", tmp_path / "with"
    assert vlmscope("probe", home / "A", *FEW, "--out", one).code == 0
    done = vlmscope("probe", home / "A", *FEW, "--out", other, "--test", home / "B")
    assert done.code == 0, done.err
    assert f"transfer to {home / 'B'}: other questions on another model" in done.out
    assert "\x1b" not in done.out, "a name out of a file moves no cursor"
    text = " ".join(done.out.split())
    assert "AUROC in training" in text
    assert "no image judged was in training" in text
    assert "better than chance" in text
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    added = {path.name for path in other.rglob("*") if path.relative_to(other) not in names}
    assert {"transfer.json", "transfer_predictions.parquet"} <= added
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_machine_reads_it(vlmscope: Command, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = vlmscope("probe", home / "A", *FEW, "-o", out, "--test", home / "B", "--json")
    summary = json.loads(done.out)
    assert summary["rows"] == ROWS
    assert summary["transfer"] == json.loads((out / "transfer.json").read_text())
    [test] = summary["transfer"]["tests"]
    assert test["run"] == str(home / "B")
    assert {row["name"] for row in test["results"]} >= {"selected", "joint", "question_words"}


def test_what_cannot_be_judged_is_refused_before_anything_is_done(
    vlmscope: Command, home: Path, tmp_path: Path
) -> None:
    bare = Path(shutil.copytree(home / "B", tmp_path / "bare"))
    (bare / "labels.parquet").unlink()
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "transfer.json").write_text("{}")
    for arguments, said in (
        (("--test", bare), f"no labels yet; run 'vlmscope label {bare}' first"),
        (("--test", home / "A"), "is the run that is learnt from"),
        (("--test", home / "B", "--test", home / "B"), "the run is given twice"),
        (("--test", tmp_path), "not a run folder"),
        (("--test", home / "B", "-o", taken), "is no transfer of vlmscope probe"),
    ):
        out = () if "-o" in arguments else ("-o", tmp_path / "out")
        done = vlmscope("probe", home / "A", *FEW, *out, *arguments)
        assert done.code == 2
        assert said in done.err
        assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert [path.name for path in taken.iterdir()] == ["transfer.json"]
