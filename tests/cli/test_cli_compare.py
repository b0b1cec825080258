"""``vlmscope compare`` as a user meets it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelled_runs import OTHER_MODEL, WIDTH, label, labelled_run, planted
from vlmscope.cli.compare import sentences
from vlmscope.schema import Score
from vlmscope.store import open_run, write_labels
from vlmscope.sweeps import SweepSpec, save_sweep, sweep
from vlmscope.sweeps.compare import Comparison, PairSummary, RunSummary

ROWS = 60
BAD_NAME = {**OTHER_MODEL, "name": "other\x1b[2J"}
pytestmark = pytest.mark.usefixtures("columns_only")
Command = Callable[..., Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of the same questions; the second hallucinates far more often."""
    folder = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(1)
    for name, share, model in (("A", 0.2, {}), ("B", 0.7, BAD_NAME), ("C", 0.2, {})):
        labelled_run(
            folder / name, (rng.random(ROWS) < share).tolist(),
            rng.standard_normal((ROWS, WIDTH)), np.arange(ROWS),
            questions=[f"number {i + (name == 'C' and i < 4)}?" for i in range(ROWS)],
            model=model, on_disk=True,
        )  # fmt: skip
    return folder


def test_it_shows_runs_side_by_side(vlmscope: Command, home: Path) -> None:
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    done = vlmscope("compare", home / "A", home / "B", home / "C", "--draws", 100)
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert "hallucinated" in text
    assert "B against A: on 60 questions in common it hallucinates more often, " in text
    found = re.search(
        r"more often, (\d\d\.\d)% against (\d\d\.\d)%, \+(\d\d\.\d) points \(95% interval "
        r"\+\d\d\.\d to \+\d\d\.\d, p ",
        text,
    )
    assert found is not None, text
    more, less, points = map(float, found.groups())
    assert more - less == pytest.approx(points, abs=1e-9), "as a reader computes it"
    assert "4 ids of 60 in both have different questions or images, and are left out" in text
    assert "on 56 questions in common the difference is not significant" in text
    assert "A: no probes yet." in text
    assert "\x1b" not in done.out, "a name out of a file moves no cursor"
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_a_machine_reads_it(vlmscope: Command, home: Path) -> None:
    done = vlmscope("compare", home / "A", home / "B", "--draws", 100, "--json")
    found = json.loads(done.out)
    assert [run["rows"] for run in found["runs"]] == [ROWS, ROWS]
    [pair] = found["pairs"]
    assert pair["difference_low"] > 0
    assert pair["difference_p_holm"] == pair["difference_p"]


def test_what_cannot_be_compared_is_refused_in_one_line(
    vlmscope: Command, home: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    rows = np.random.default_rng(0).standard_normal((5, WIDTH))
    labelled_run(bare, [], rows, range(5), on_disk=True, labelled=False)
    for runs, said in (
        ((home / "A",), "give two or more"),
        ((home / "A", home / "A"), "is the same run as"),
        ((home / "A", bare), f"run 'vlmscope label {bare}' first"),
        ((home / "A", tmp_path / "none"), "not a run folder"),
    ):
        done = vlmscope("compare", *runs)
        assert done.code == 2
        assert said in done.err
        assert len(done.err.strip().splitlines()) == 1
    label(bare, [f"q{i}" for i in range(5)], [None] * 5)
    done = vlmscope("compare", home / "A", bare, "--draws", 100)
    assert done.code == 0, done.err
    assert "0 questions in common, too few to compare" in " ".join(done.out.split())


@pytest.mark.exhaustive
def test_what_else_differs_is_said(vlmscope: Command, tmp_path: Path) -> None:
    """The model's dtype and the labels' scorer; probes of unequal training get no verdict."""
    rng = np.random.default_rng(1)
    truth, vectors = planted(rng, ROWS, np.eye(WIDTH)[0], 3.0)
    for name, dtype, rows, repeats in (("A", "float32", ROWS, 2), ("B", "bfloat16", 40, 1)):
        run = labelled_run(
            tmp_path / name, truth[:rows], vectors[:rows], np.arange(rows),
            questions=[f"number {i}?" for i in range(rows)], on_disk=True,
        )  # fmt: skip
        manifest = json.loads((run.path / "run.json").read_text())
        (run.path / "run.json").write_text(json.dumps(manifest | {"dtype": dtype}))
        scores = [Score(f"q{i}", bool(t), "column", "") for i, t in enumerate(truth[:rows])]
        write_labels(run.path, scores, {"scorer": "auto" if repeats == 1 else "column"})
        spec = SweepSpec(folds=3, draws=20, repeats=repeats, permutations=100)
        run = open_run(run.path)
        save_sweep(run, sweep(run, spec))
    done = vlmscope("compare", tmp_path / "A", tmp_path / "B", "--draws", 100)
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert "the model ran in bfloat16, the other in float32." in text
    assert "labelled by auto, the other by column" in text
    assert (
        "but the probes are not comparable: trained on 27 answers and 40; splits into folds 1 and "
        "2; labels by auto and column." in text
    )
    assert "its probe is" not in text
    assert "bfloat16" in done.out.splitlines()[4]


def test_names_are_as_long_as_it_takes_to_tell_them_apart(
    vlmscope: Command, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    for name, model in (("x/run", "/models/one/model"), ("y/run", "/models/two/model")):
        labelled_run(
            tmp_path / name, (rng.random(ROWS) < 0.4).tolist(),
            rng.standard_normal((ROWS, WIDTH)), np.arange(ROWS),
            questions=[f"number {i}?" for i in range(ROWS)],
            model={**OTHER_MODEL, "name": model}, on_disk=True,
        )  # fmt: skip
        manifest = json.loads((tmp_path / name / "run.json").read_text())
        manifest["run_id"] = name[0] * 32
        (tmp_path / name / "run.json").write_text(json.dumps(manifest))
    done = vlmscope("compare", tmp_path / "x/run", tmp_path / "y/run", "--draws", 100)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    for name, model in (("x/run", "one/model"), ("y/run", "two/model")):
        assert any(line.split()[:2] == [name, model] for line in lines), done.out
    assert "y/run against x/run: on 60 questions" in " ".join(done.out.split())


def test_a_difference_that_correction_takes_back_is_marked() -> None:
    runs = tuple(
        RunSummary(f"r/{name}", name, "m", "float32", "", 100, 100, 0, 0) for name in "abc"
    )
    pair = PairSummary(
        "b", 100, 0, 100, 60, 14, 5, 21, difference=0.09, difference_low=0.01, difference_high=0.17,
        difference_p=0.04, difference_p_holm=0.08, probe_compared=100, probe_difference=-0.05,
        probe_difference_low=-0.09, probe_difference_high=-0.01, probe_difference_p=0.03,
        probe_difference_p_holm=0.06,
    )  # fmt: skip
    lost = ", which is not significant after correction for 2 comparisons"
    first, second, *_ = sentences(Comparison(runs, (pair, pair)))
    assert "it hallucinates more often, 35.0% against 26.0%, +9.0 points" in first
    assert f"corrected 0.080){lost}: both right 60" in first
    told = "-0.050 (95% interval -0.090 to -0.010, p 0.030, corrected 0.060)"
    assert f"its probe is worse, {told}{lost}" in second
    held = replace(pair, difference_p_holm=0.04, probe_difference_p_holm=0.03)
    assert lost not in " ".join(sentences(Comparison(runs, (held, held))))
    alone = " ".join(sentences(Comparison(runs[:2], (pair,))))
    assert alone.count("which is not significant at 5%") == 2
