"""What a command says at its end: the next command, as it can be called, and what to check."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store_support import make_capture, make_manifest
from vlmscope.cli.output import command_line
from vlmscope.store import RunWriter, open_run
from vlmscope.sweeps import SweepSpec, save_sweep, sweep

pytestmark = pytest.mark.usefixtures("columns_only")
Command = Callable[..., Any]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An executable ``vlmscope`` on the path, and a ``python`` that is the interpreter."""
    for name in ("vlmscope", "python"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    return tmp_path / "vlmscope"


def test_a_command_is_shown_as_it_was_called(
    program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "vlmscope"
    for called, shown in (
        (str(program), "vlmscope label 'my run'"),
        (str(other), f"{other} label 'my run'"),
        ("/lib/vlmscope/__main__.py", "python -m vlmscope label 'my run'"),
    ):
        monkeypatch.setattr(sys, "argv", [called])
        assert command_line("label", "my run") == shown
    monkeypatch.setattr(sys, "executable", "/elsewhere/python")
    assert command_line("info") == "/elsewhere/python -m vlmscope info"


def make_run(folder: Path) -> Path:
    """A run of 30 rows about images of which no two are alike."""
    hashes = np.random.default_rng(1).integers(0, 2**63, 30)
    captures = [
        make_capture(i, image_sha256=f"{int(image):064x}", image_dhash=f"{int(image):016x}")
        for i, image in enumerate(hashes)
    ]
    with RunWriter(folder, make_manifest()) as writer:
        writer.add(captures)
    return folder


def write_csv(path: Path, ids: tuple[str, ...], step: int) -> Path:
    """Labels of which every ``step``-th is hallucinated."""
    rows = (f"{id_},{int(i % step == 0)}" for i, id_ in enumerate(ids))
    path.write_text("\n".join(["question_id,label", *rows]) + "\n")
    return path


@pytest.mark.first(1)
@pytest.mark.parametrize("name", ["human", "default"])
def test_label_says_whether_the_probes_fit_the_labels(
    vlmscope: Command, tmp_path: Path, name: str
) -> None:
    run = make_run(tmp_path / "run")
    ids = open_run(run).ids
    option = [] if name == "default" else ["--labels", name]
    probes = run / ("probes" if name == "default" else f"probes-{name}")
    labels = write_csv(tmp_path / "labels.csv", ids, 2)
    command = ("label", run, "--name", name, "--labels", labels, "--overwrite")
    first = vlmscope(*command)
    assert first.code == 0, first.err
    probe = shlex.join(["vlmscope", "probe", str(run), *option])
    report = shlex.join(["vlmscope", "report", str(run), *option])
    assert first.err.endswith(f"next: {probe}\n")
    assert "the probes in" not in first.err
    spec = SweepSpec(folds=3, repeats=1, permutations=100, draws=100)
    save_sweep(open_run(run), sweep(open_run(run), spec, labels=name))
    again = vlmscope(*command)
    assert again.err.endswith(f"the probes in {probes} fit these labels\nnext: {report}\n")
    write_csv(labels, ids, 3)
    other = vlmscope(*command)
    assert f"the probes in {probes} are out of date: " in other.err
    assert " rows have another label now; train them again\n" in other.err
    assert other.err.endswith(f"next: {probe}\n")
    (probes / "results.json").write_text("{")
    damaged = vlmscope(*command)
    assert damaged.code == 0
    assert damaged.err.endswith(f"next: {probe}\n")


@pytest.mark.exhaustive
def test_the_batch_size_that_was_found_is_reported(extract: Command) -> None:
    done = extract("--batch-size", "auto", "--json")
    assert done.code == 0, done.err
    size = json.loads(done.out)["batch_size"]
    assert size > 1
    assert f"batch size at the end: {size} rows per prefill\n" in done.err
    assert "batch size at the end" not in extract("--batch-size", "auto").err, "nothing was run"
    given = extract("--signals", "heads", out="given").err
    assert "batch size at the end" not in given, "it was given"
    assert re.search(r"^signals +entropy, heads", given, re.M)
    assert "signals" not in done.err


@pytest.mark.exhaustive
def test_when_every_row_fails_the_reason_is_to_be_checked(
    extract: Command, tmp_path: Path, table: Path
) -> None:
    header = "question_id,image_name,question,gt_answer\n"
    bad = tmp_path / "bad.csv"
    bad.write_text(f"{header}1,a.png,Q?,No\n2,b.png,Q?,No\n")
    done = extract(data=bad)
    assert done.code == 3
    assert "all 2 rows failed: see" in done.err
    assert "tries them again" not in done.err
    assert done.err.endswith("check this reason; then the same command tries all rows again\n"), (
        done.err
    )
    bad.write_text(f"{header}1,a.png,Q?,No\n2,b.png,,No\n")
    assert "check the first reason; then" in extract(data=bad, out="two").err
    bad.write_text(f"{header}1,a.png,Q?,No\n")
    assert "the only row failed: see" in extract(data=bad, out="only").err
    good = table.read_text().splitlines()
    shutil.copytree(table.parent, tmp_path / "some", dirs_exist_ok=True)
    some = tmp_path / "some" / "bad.csv"
    names = good[0].split(",")
    row = ["bad" if "id" in name else "gone.png" if "image" in name else "Q?" for name in names]
    some.write_text("\n".join([*good, ",".join(row)]) + "\n")
    partly = extract(data=some, out="partly")
    assert "1 row failed: see" in partly.err, partly.err
    assert "; the same command tries them again" in partly.err
    assert "check" not in extract(data=some, out="partly").err, "other rows are done"
