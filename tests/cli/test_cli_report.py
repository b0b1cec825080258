"""``vlmscope report`` as a user meets it, on a run of the bundled demo."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlmscope.store import open_run, write_manifest

pytestmark = pytest.mark.usefixtures("columns_only")

Command = Callable[..., Any]


@pytest.fixture
def run(demo_run: Path, tmp_path: Path) -> Path:
    """A copy of the demo's captures that a test may write into."""
    later = shutil.ignore_patterns("labels.parquet", "probes", "plots", "report.html")
    return shutil.copytree(demo_run, tmp_path / "run", ignore=later)


@pytest.mark.exhaustive
def test_the_way_from_a_run_to_its_page(vlmscope: Command, run: Path) -> None:
    done = vlmscope("report", run)
    assert done.code == 0, done.err
    assert "80 questions in the gallery" in done.out
    assert f"missing: No labels yet: vlmscope label {run} determines" in done.out
    assert vlmscope("label", run).code == 0
    assert vlmscope("probe", run, "--folds", 3, "--draws", 100).code == 0
    done = vlmscope("report", run)
    assert done.code == 0, done.err
    page = run / "report.html"
    assert done.out.startswith(f"{page}: ")
    assert f"6 figures as SVG, PNG and CSV in {run / 'plots'}" in done.out
    assert "missing" not in done.out
    assert done.err == ""
    text = page.read_text("utf-8")
    assert page.stat().st_size < 1_000_000
    for shown in ("Before the answer is written", "demo_0001", "data:image/", "vision_token_bound"):
        assert shown in text
    assert not list(run.glob(".*.tmp"))


def test_a_machine_reads_where_it_is(vlmscope: Command, run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = vlmscope("report", run, "--out", page, "--samples", 7, "--id", "demo_0005", "--json")
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert (record["page"], record["bytes"]) == (str(page), page.stat().st_size)
    assert record["questions"] == 7
    assert record["headline"] is None
    assert record["notes"] == record["plots"] == []
    assert len(record["missing"]) == 1
    assert 'The prompt of <bdi class="name">demo_0005</bdi>' in page.read_text("utf-8")


def test_what_is_gone_is_a_note_and_no_failure(vlmscope: Command, run: Path) -> None:
    manifest = open_run(run).manifest
    gone = replace(
        manifest,
        data=replace(manifest.data, path="/gone/questions.csv"),
        model=replace(manifest.model, name="/gone/model"),
    )
    write_manifest(run, gone)
    done = vlmscope("report", run)
    assert done.code == 0
    tables, tokens = done.err.strip().splitlines()
    assert tables.startswith("note: No images: /gone/questions.csv: no such file or folder")
    assert "give --data and --images" in tables
    assert tokens.startswith("note: Tokens are shown by their ids: /gone/model: no such folder")
    found = vlmscope(
        *("report", run, "--data", manifest.data.path, "--images", manifest.data.images),
        *("--model", manifest.model.name),
    )
    assert found.err == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--id", "demo_00001"), "did you mean 'demo_0001'"),
        (("--out", "no/such/page.html"), "make it first"),
    ],
)
def test_a_wrong_argument_is_one_line(
    vlmscope: Command, run: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = vlmscope("report", run, *arguments)
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert said in done.err
    assert not (run / "report.html").exists()


def test_the_page_never_replaces_a_part_of_the_run(vlmscope: Command, run: Path) -> None:
    before = (run / "run.json").read_bytes()
    done = vlmscope("report", run, "--out", run / "run.json")
    assert done.code == 2
    assert "name it .html" in done.err
    assert (run / "run.json").read_bytes() == before


def test_a_damaged_run_is_refused(vlmscope: Command, run: Path) -> None:
    (run / "probes").mkdir()
    (run / "probes" / "results.json").write_text("{")
    done = vlmscope("report", run)
    assert done.code == 1
    assert f"run 'vlmscope probe {run}' again" in done.err
