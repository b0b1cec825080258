"""What a sweep makes of questions about no image and about several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from store_support import LAYERS, make_bare, make_capture, make_manifest
from vlmscope.errors import InputError
from vlmscope.probes import load_probe
from vlmscope.risk import find_probe
from vlmscope.schema import Capture, Score
from vlmscope.store import RunWriter, export_run, open_halp_files, open_run, write_labels
from vlmscope.sweeps import SweepSpec, probe_data, read_sweep, save_sweep, sweep
from vlmscope.sweeps.data import LeftOut
from vlmscope.sweeps.grouping import NO_IMAGE, Grouping
from vlmscope.sweeps.halp_files import LabelTable, research_data
from vlmscope.sweeps.verdict import verdict

ROWS = 96
BARE = tuple(range(0, ROWS, 8))
UNSCORABLE = (0, 5)
"""One without an image, one with."""


def labelled(folder: Path, captures: list[Capture]) -> Path:
    """A run of these rows; the labels are dealt out at random."""
    with RunWriter(folder, make_manifest()) as writer:
        writer.add(captures)
    truth = np.random.default_rng(2).random(len(captures)) < 0.4
    scores = [
        Score(item.sample.id, None if i in UNSCORABLE else bool(truth[i]), "column", "")
        for i, item in enumerate(captures)
    ]
    write_labels(folder, scores, {})
    return folder


def trained_on(run: Path) -> str | None:
    """Which training rows of the saved probe had an image."""
    return load_probe(find_probe(run))[1].images


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    rows = [make_bare(i) if i in BARE else make_capture(i, image_dhash="") for i in range(ROWS)]
    return labelled(tmp_path / "run", rows)


def test_rows_without_an_image_are_left_out_and_counted(mixed: Path) -> None:
    data = probe_data(open_run(mixed))
    assert len(data.ids) == ROWS - len(BARE) - 1
    assert not {f"question_comb_{i}" for i in BARE} & set(data.ids)
    assert data.unscorable == 2
    assert data.left_out == (
        LeftOut("row", 2, "the answer could not be scored"),
        LeftOut("row", len(BARE) - 1, NO_IMAGE),
    )


@pytest.mark.exhaustive
def test_a_sweep_over_them_is_read_back_and_fits(mixed: Path) -> None:
    run = open_run(mixed)
    result = sweep(run, SweepSpec(folds=3, repeats=1, permutations=100, draws=50))
    assert all(np.isfinite(risk).all() for risk in result.risks.values())
    save_sweep(run, result)
    found = read_sweep(run)
    assert found is not None
    assert found.stale == ""
    assert len(found.predictions) == ROWS - len(BARE) - 1
    assert trained_on(mixed) == "all", "those without an image are left out"
    other = make_bare(500)
    with RunWriter(mixed, make_manifest(data={"text_only": True})) as writer:
        writer.add([other])
    again = read_sweep(open_run(mixed))
    assert again is not None
    assert again.stale == f"the run had {ROWS} rows when they were trained and has {ROWS + 1} now"


@pytest.mark.exhaustive
def test_without_any_image_the_words_are_probed(tmp_path: Path) -> None:
    run = open_run(labelled(tmp_path / "run", [make_bare(i) for i in range(ROWS)]))
    data = probe_data(run)
    count = ROWS - len(UNSCORABLE)
    assert data.layer_keys == tuple(("query_token_representation", layer) for layer in LAYERS)
    assert sorted(data.groups.tolist()) == list(range(count)), "every question is its own group"
    assert (data.grouped_by, data.grouping.images) == ("question", 0)
    assert data.left_out == (LeftOut("row", 2, "the answer could not be scored"),)
    result = sweep(run, SweepSpec(folds=3, repeats=1, permutations=100, draws=50))
    assert f"on {count} held-out answers to questions without an image" in (verdict(result)[0])
    save_sweep(run, result)
    found = read_sweep(run)
    assert found is not None
    assert found.stale == ""
    assert (found.summary["images"], found.summary["image_groups"]) == (0, count)
    assert trained_on(run.path) == "none"


def test_an_export_without_any_image_is_probed_too(tmp_path: Path) -> None:
    run = open_run(labelled(tmp_path / "run", [make_bare(i) for i in range(24)]))
    files = open_halp_files(export_run(run, tmp_path / "rows.h5"))
    marks = {id_: i % 3 == 0 for i, id_ in enumerate(run.ids)}
    data = research_data(files, LabelTable(Path("labels.csv"), marks, {}))
    assert {name for name, _ in data.layer_keys} == {"query_token_representation"}
    assert data.groups.tolist() == list(range(24))
    assert data.left_out == ()


def test_scorable_rows_without_an_image_beside_others_are_refused(tmp_path: Path) -> None:
    rows = [make_capture(0), *(make_bare(i) for i in range(1, 12))]
    folder = labelled(tmp_path / "run", rows)
    with pytest.raises(InputError, match="none of the 10 scorable questions has an image, though"):
        probe_data(open_run(folder))


def test_a_run_that_holds_only_vectors_of_images_is_refused(tmp_path: Path) -> None:
    """Its questions have no image, so there is nothing to probe."""
    manifest = make_manifest(capture={"positions": ("last_image_token",)})
    bare = [replace(make_bare(i), vectors={}, boundaries={}) for i in range(12)]
    with RunWriter(tmp_path / "run", manifest) as writer:
        writer.add(bare)
    truth = [Score(row.sample.id, i % 2 == 0, "column", "") for i, row in enumerate(bare)]
    write_labels(tmp_path / "run", truth, {})
    with pytest.raises(InputError, match="with positions='last_prompt_token'"):
        probe_data(open_run(tmp_path / "run"))


@pytest.mark.parametrize(
    ("groups", "exact", "images", "said"),
    [
        ([0, 1, 1, 2], [0, 1, 1, 2], 3, "about 3 images"),
        ([0, 0, 0], [0, 0, 0], 1, "about 1 image"),
        ([0, 1, 1, 0], [0, 1, 2, 3], 4,
         "about 4 images in 2 groups (near-copies, or shown in one question)"),
        ([0, 0], [0, 1], 2, "about 2 images in 1 group (near-copies, or shown in one question)"),
        ([0, 0], [0, 0], 2, "about 2 images in 1 group (shown in one question)"),
        ([0, 1], [0, 1], 0, "to questions without an image"),
    ],
)  # fmt: skip
def test_what_answers_are_about(
    groups: list[int], exact: list[int], images: int, said: str
) -> None:
    assert Grouping(np.array(groups), "content", images, np.array(exact)).phrase == said


def test_a_question_about_several_images_joins_their_groups(tmp_path: Path) -> None:
    looks = {"a": "00000000000000ff", "b": "ffffffff00000000", "c": "0f0f0f0f0f0f0f0f"}
    shown = ["a", "b", "c", "a+b", "c", "b"] * 2
    rows = [
        make_capture(
            i, image_sha256=images, image_dhash="+".join(map(looks.get, images.split("+")))
        )  # type: ignore[arg-type]
        for i, images in enumerate(shown)
    ]
    folder = labelled(tmp_path / "run", rows)
    data = probe_data(open_run(folder))
    assert data.grouped_by == "content and likeness"
    by_id = dict(zip(data.ids, data.groups.tolist(), strict=True))
    found = [by_id.get(row.sample.id) for row in rows]
    assert [found[i] for i in (1, 3, 6, 7, 9, 11)] == [found[1]] * 6
    assert found[2] == found[4] == found[8] != found[1]


@pytest.mark.exhaustive
def test_an_export_leaves_them_out_too(mixed: Path, tmp_path: Path) -> None:
    run = open_run(mixed)
    files = open_halp_files(export_run(run, tmp_path / "rows.h5"))
    marks = {id_: i % 3 == 0 for i, id_ in enumerate(run.ids)}
    data = research_data(files, LabelTable(Path("labels.csv"), marks, {}))
    assert LeftOut("row", len(BARE), NO_IMAGE) in data.left_out
    assert len(data.ids) == ROWS - len(BARE)
    assert ("vision_only_representation", None) in data.layer_keys
    assert data.grouped_by == "content"


def test_near_copies_are_found_beside_rows_without_an_image(tmp_path: Path) -> None:
    rows = [make_bare(i) if i % 4 == 0 else make_capture(i) for i in range(24)]
    rows[7] = replace(rows[7], image_dhash=rows[6].image_dhash)
    data = probe_data(open_run(labelled(tmp_path / "run", rows)))
    groups = dict(zip(data.ids, data.groups.tolist(), strict=True))
    assert data.grouped_by == "content and likeness"
    assert groups["question_comb_6"] == groups["question_comb_7"]
    assert data.grouping.images == len(data.ids), "no two have the same content"


def test_a_run_without_rows_is_refused(tmp_path: Path) -> None:
    run = labelled(tmp_path / "run", [])
    for _ in "with", "without labels":
        with pytest.raises(InputError, match=r"run: has no rows to learn from; run vlmscope extr"):
            probe_data(open_run(run))
        (run / "labels.parquet").unlink(missing_ok=True)
