"""The report of a run in which no question has an image, probed on what it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fewer_forms import fewer_forms
from store_support import make_bare, make_capture, make_manifest
from vlmscope.report import ReportSpec, write_report
from vlmscope.report.figures import NAMES
from vlmscope.schema import Capture, Score
from vlmscope.store import Run, RunWriter, open_run, write_labels
from vlmscope.sweeps import SweepSpec, save_sweep, sweep

ROWS = 60


def probed(folder: Path, rows: list[Capture]) -> Run:
    """A run of these rows with labels dealt out at random, and probes."""
    with RunWriter(folder, make_manifest(data={"text_only": True})) as writer:
        writer.add(rows)
    truth = np.random.default_rng(2).random(len(rows)) < 0.4
    labels = zip(rows, truth, strict=True)
    write_labels(folder, [Score(r.sample.id, bool(t), "column", "") for r, t in labels], {})
    run = open_run(folder)
    with fewer_forms():
        save_sweep(run, sweep(run, SweepSpec(folds=3, repeats=1, permutations=100, draws=50)))
    return run


@pytest.mark.exhaustive
def test_a_report_of_questions_without_an_image(tmp_path: Path) -> None:
    run = probed(tmp_path / "run", [make_bare(i) for i in range(ROWS)])
    document = write_report(run, ReportSpec()).document
    assert document.headline is not None
    assert f"on {ROWS} held-out answers to questions without an image" in document.headline
    [tile] = [number for number in document.numbers if number.label == "images"]
    assert (tile.value, tile.note) == ("0", "no question has one")
    assert {figure.name for figure in document.figures} == set(NAMES)
    [layers] = [figure for figure in document.figures if figure.name == "auroc_by_layer"]
    assert "faithful answers to questions it has not seen" in layers.caption
    assert not any("probes" in line for line in document.missing)


@pytest.mark.exhaustive
def test_groups_of_look_alikes_are_told_beside_the_images(tmp_path: Path) -> None:
    rows = [make_capture(i, image_dhash=f"{i // 2 * 0x0F0F_1357:016x}") for i in range(ROWS)]
    document = write_report(probed(tmp_path / "run", rows), ReportSpec()).document
    assert document.headline is not None
    about = f"about {ROWS} images in {ROWS // 2} groups (near-copies, or shown in one question)"
    assert f"on {ROWS} held-out answers {about}" in document.headline
    [tile] = [number for number in document.numbers if number.label == "images"]
    assert tile.value == str(ROWS)
    [layers] = [figure for figure in document.figures if figure.name == "auroc_by_layer"]
    assert "faithful answers about images it has not seen" in layers.caption
