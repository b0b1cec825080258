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
from vlmscope.cli.output import stdout
from vlmscope.cli.transfer import show_transfer

ROWS = 48
FEW = ("--draws", 100, "--folds", 3, "--repeats", 1, "--permutations", 100)
pytestmark = pytest.mark.usefixtures("columns_only")
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
    assert "AUROC in" in text
    assert "no tested image was in training" in text
    assert "better than chance" in text
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    added = {path.name for path in other.rglob("*") if path.relative_to(other) not in names}
    assert {"transfer.json", "transfer_predictions.parquet"} <= added
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.exhaustive
def test_a_machine_reads_it(vlmscope: Command, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = vlmscope("probe", home / "A", *FEW, "-o", out, "--test", home / "B", "--json")
    summary = json.loads(done.out)
    assert summary["rows"] == ROWS
    assert summary["transfer"] == json.loads((out / "transfer.json").read_text())
    [test] = summary["transfer"]["tests"]
    assert test["run"] == str(home / "B")
    assert {row["name"] for row in test["results"]} >= {"selected", "joint", "question_words"}


@pytest.fixture(scope="module")
def carried() -> dict[str, Any]:
    """What ``transfer.json`` says, with numbers of every width."""
    ends = {"auroc": 0.742, "auroc_low": 0.715, "auroc_high": 0.767, "above_joint": -0.153,
            "above_joint_low": -0.178, "above_joint_high": -0.126}  # fmt: skip
    row = {"title": "everything known before the answer, in one model", "kind": "baseline",
           "known": "before", "found_nothing": False, "source_auroc": 0.903, "own_auroc": 0.895,
           "brier": 0.123, "ece": 0.045, **ends}  # fmt: skip
    nothing = row | {"title": "vision token, layer 10", "kind": "probe", "found_nothing": True}
    bare = row | dict.fromkeys([*ends, "own_auroc", "source_auroc"]) | {"known": "after"}
    test = {
        "run": "B",
        "relation": "other questions",
        "verdict": [],
        "results": [row, nothing, bare],
    }
    return {"tests": [test]}


@pytest.mark.parametrize("columns", [80, 70])
def test_no_number_breaks_in_a_narrow_terminal(
    carried: dict[str, Any],
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stdout, "_width", columns)
    show_transfer(carried)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    (first,) = (line for line in lines if "0.903" in line and "0.742" in line)
    words = first.split()
    assert words[-6:] == ["0.903", "0.742", "-0.153", "0.895", "0.123", "0.045"]
    below = lines[lines.index(first) + 1]
    assert below.split()[-4:] == ["0.715–0.767", "-0.178", "to", "-0.126"], "no dash beside a minus"
    assert any("constant risk" in line for line in lines)


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
        (("--test", home / "A"), "is the training run"),
        (("--test", home / "B", "--test", home / "B"), "the run is given twice"),
        (("--test", tmp_path), "not a run folder"),
        (("--test", home / "B", "-o", taken), "is not a transfer of vlmscope probe"),
    ):
        out = () if "-o" in arguments else ("-o", tmp_path / "out")
        done = vlmscope("probe", home / "A", *FEW, *out, *arguments)
        assert done.code == 2
        assert said in done.err
        assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert [path.name for path in taken.iterdir()] == ["transfer.json"]


def test_no_difference_to_a_joint_baseline_that_found_nothing(
    carried: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stdout, "_width", 120)
    [test] = carried["tests"]
    row = test["results"][0] | {"title": "query token", "name": "selected", "kind": "selected"}
    joint = row | {"title": "joint", "name": "joint", "auroc": 0.89449, "above_joint": None}
    show_transfer({"tests": [test | {"results": [row | {"auroc": 0.74251}, joint]}]})
    out = capsys.readouterr().out
    assert "-0.151" in out, "0.743 - 0.894, not -0.152"
    assert "-0.153" not in out
    show_transfer({"tests": [test | {"results": [row, joint | {"found_nothing": True}]}]})
    out = capsys.readouterr().out
    assert "0.894" not in out
    assert not any(number in out for number in ("-0.153", "-0.178", "-0.126", "0.152"))
