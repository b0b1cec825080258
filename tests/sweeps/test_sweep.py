"""The sweep on runs whose signal is known, because it was planted."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from store_support import make_capture, make_manifest
from vlmscope import metrics
from vlmscope.errors import InputError, StoreError
from vlmscope.metrics import Platt
from vlmscope.probes import load_probe
from vlmscope.schema import Capture, Score
from vlmscope.store import RunWriter, open_run, write_labels
from vlmscope.sweeps import (
    SweepResult,
    SweepSpec,
    abstaining,
    probe_data,
    results,
    save_sweep,
    sweep,
)
from vlmscope.sweeps.grouping import Grouping
from vlmscope.sweeps.verdict import verdict

ROWS = 240
SPEC = SweepSpec(folds=3, repeats=1, permutations=100, draws=100)
PLANTED = "query_token_representation/layer_2"
Plant = Callable[[Capture, bool], Capture]


def labelled_run(folder: Path, plant: Plant, *, unscorable: int = 0, rows: int = ROWS) -> Path:
    """A run of random vectors, three questions an image, with random labels and a planted sign."""
    rng = np.random.default_rng(5)
    truth = rng.random(ROWS)[:rows] < 0.4
    images = rng.integers(0, 2**63, ROWS).repeat(3)
    captures = []
    for i, image in enumerate(images[:rows]):
        row = make_capture(i, image_sha256=f"{image:064x}", image_dhash=f"{image:016x}")
        captures.append(plant(row, bool(truth[i])))
    with RunWriter(folder, make_manifest()) as writer:
        writer.add(captures)
    scores = [
        Score(item.sample.id, bool(label) if i >= unscorable else None, "column", "planted")
        for i, (item, label) in enumerate(zip(captures, truth, strict=True))
    ]
    write_labels(folder, scores, {})
    return folder


def planted(row: Capture, hallucinated: bool) -> Capture:
    vectors = dict(row.vectors)
    vectors[PLANTED] = vectors[PLANTED] + np.float32(2.0 if hallucinated else 0.0)
    return replace(row, vectors=vectors)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SweepResult]:
    folder = labelled_run(tmp_path_factory.mktemp("sweep") / "run", planted, unscorable=4)
    return folder, sweep(open_run(folder), SPEC)


def test_a_planted_sign_is_found_where_it_is_and_nowhere_else(
    found: tuple[Path, SweepResult],
) -> None:
    result = found[1]
    assert result.chosen["selected"] == (PLANTED,) * SPEC.folds
    assert result["selected"].auroc > 0.95
    assert result["combined"].auroc > 0.95
    for row in result.rows:
        if row.kind == "probe" and row.name != PLANTED:
            assert 0.38 < row.auroc < 0.63, row.name
    assert result.chance is not None
    assert result.chance.p_value == 1 / 101
    assert 0.4 < result.chance.median < result.chance.high < 0.65, "the best of six"
    known = [name for name, each in result.chance.by_layer.items() if each.p_value <= 0.05]
    assert known == [PLANTED]
    assert result.recognition is not None
    assert not result.recognition.suspicious
    assert result["selected"].above_baseline is not None
    assert result["selected"].above_baseline_low > 0.2
    for name in ("selected", "joint_and_probe"):
        assert result[name].above_joint is not None
        assert result[name].above_joint_low > 0.2, name
    text = " ".join(verdict(result))
    assert "Adding the probe to the joint baseline adds +" in text
    assert "hidden states know something more" in text


def test_with_no_sign_nothing_is_found_and_that_is_said(tmp_path: Path) -> None:
    folder = labelled_run(tmp_path / "run", lambda row, _: row)
    result = sweep(open_run(folder), SPEC)
    assert 0.35 < result["selected"].auroc < 0.62
    assert "the difference to the probe is not significant" in " ".join(verdict(result))


@pytest.mark.exhaustive
def test_a_risk_that_is_the_same_for_every_answer_is_told_to_be_nothing(tmp_path: Path) -> None:
    """Vectors without a difference: no AUROC, and above all none below one half."""
    folder = labelled_run(
        tmp_path / "run",
        lambda row, _: replace(
            row, vectors={name: np.ones_like(v) for name, v in row.vectors.items()}
        ),
        rows=60,
    )
    run = open_run(folder)
    result = sweep(run, SPEC)
    assert result["selected"].constant == 1
    assert result["selected"].auroc == 0.5
    first, *others = verdict(result)
    assert "a linear probe on hidden states predicts a constant risk" in first
    assert "in 3 of 3 folds it gives every answer the same risk" in first
    assert not any("the probe" in line for line in others), "there is nothing to compare"
    saved = json.loads((save_sweep(run, result) / "results.json").read_text())
    rows = {row["name"]: row for row in saved["results"]}
    assert rows["selected"]["found_nothing"] is True
    assert rows["majority"]["found_nothing"] is True


def test_little_data_is_said_to_be_little(found: tuple[Path, SweepResult]) -> None:
    result = found[1]
    assert not any("little data" in line for line in verdict(result))
    truth = np.arange(236) % 20 == 0  # twelve of them
    few = replace(result, data=replace(result.data, truth=truth))
    assert any("are little data" in line for line in verdict(few))
    grouping = replace(result.data.grouping, groups=np.arange(236) // 8)
    few = replace(result, data=replace(result.data, grouping=grouping))
    assert any("Warning: 30 groups of answers" in line for line in verdict(few))


@pytest.mark.exhaustive
@pytest.mark.usefixtures("every_form")
def test_facts_that_the_vectors_repeat_are_no_gain(tmp_path: Path) -> None:
    """Vectors that hold the category and the entropy, which decide: known without them."""
    rng = np.random.default_rng(11)
    kinds, entropy = rng.integers(0, 4, ROWS), rng.normal(size=ROWS)
    logit = np.array([-2.5, -1, 0, 1.5])[kinds] + 1.5 * entropy
    truth = rng.random(ROWS) < 1 / (1 + np.exp(-logit))

    def inputs(row: Capture, _: bool) -> Capture:
        i = int(row.sample.id.rsplit("_", 1)[1])
        vector = np.r_[np.eye(4)[kinds[i]], entropy[i], np.zeros(3)].astype(np.float32)
        return replace(
            row,
            sample=replace(row.sample, metadata={"category": f"c{kinds[i]}"}),
            first_token_entropy=float(entropy[i]),
            vectors={**row.vectors, PLANTED: vector},
        )

    folder = labelled_run(tmp_path / "run", inputs)
    run = open_run(folder)
    marks = zip(run.ids, truth, strict=True)
    write_labels(folder, [Score(id_, bool(t), "column", "facts") for id_, t in marks], {})
    result = sweep(run, replace(SPEC, folds=5, draws=200))
    selected, both = result["selected"], result["joint_and_probe"]
    assert selected.above_baseline is not None
    assert selected.above_baseline_low > 0, "better than each fact alone"
    assert selected.above_joint is not None
    assert selected.above_joint_low < 0
    assert both.above_joint is not None
    assert both.above_joint_low < 0
    assert both.above_joint < 0.02
    assert result.chance is not None
    document = result.chance.to_dict()
    assert document["by_place"].keys() == result.chance.by_layer.keys(), "the key on disk"
    assert "by_layer" not in document
    text = " ".join(verdict(result))
    assert "hidden states know something more" not in text
    assert set(result.within_category) == {
        "selected", result.best_baseline, "joint", "joint_and_probe"
    }  # fmt: skip
    saved = json.loads((save_sweep(run, result) / "results.json").read_text())
    assert set(saved["within_category"]["joint"]) == {"auroc", "interval", "share"}
    assert {(each["of"], each["over"]) for each in saved["within_category_gaps"]} == {
        ("selected", result.best_baseline),
        ("selected", "joint"),
        ("joint_and_probe", "joint"),
    }


@pytest.mark.exhaustive
def test_an_image_that_gives_the_label_away_does_not_count(tmp_path: Path) -> None:
    """All questions about an image share vector and label: random folds would be perfect."""
    rng = np.random.default_rng(0)
    looks: dict[str, np.ndarray] = {}

    def same_within_image(row: Capture, _: bool) -> Capture:
        look = looks.setdefault(row.image_sha256, rng.standard_normal(8).astype(np.float32))
        return replace(row, vectors={**row.vectors, PLANTED: look})

    folder = labelled_run(tmp_path / "run", same_within_image)
    run = open_run(folder)
    images = {item.sample.id: item.image_sha256 for item in run}
    marks = {image: bool(rng.random() < 0.4) for image in dict.fromkeys(images.values())}
    write_labels(folder, [Score(i, marks[images[i]], "column", "by image") for i in run.ids], {})
    assert sweep(run, SPEC)[PLANTED].auroc < 0.65


def test_no_image_is_on_both_sides(found: tuple[Path, SweepResult]) -> None:
    result = found[1]
    for image in np.unique(result.data.groups):
        assert len(set(result.fold_of[0, result.data.groups == image])) == 1
    assert len(np.unique(result.data.groups)) == ROWS // 3 - 1  # one lost all its rows
    assert result.data.unscorable == 4


def test_what_is_saved(found: tuple[Path, SweepResult]) -> None:
    path, result = found
    folder = save_sweep(open_run(path), result)
    table = pd.read_parquet(folder / "results.parquet").set_index("name")
    assert table.loc[PLANTED, "layer"] == 2
    assert table.loc["selected", "auroc_low"] <= table.loc["selected", "auroc"]
    assert set(table["kind"]) == {"probe", "selected", "combined", "baseline"}
    risks = pd.read_parquet(folder / "predictions.parquet")
    assert risks["id"].tolist() == list(result.data.ids)
    assert risks.filter(like="risk/").notna().all(axis=None)
    summary = json.loads((folder / "results.json").read_text())
    assert summary["verdict"] == verdict(result)
    assert (summary["unscorable"], summary["unlabelled"]) == (4, 0)
    assert (summary["group_by"], summary["rows_without_group"]) == ("image", 0)
    probe, info = load_probe(folder / summary["probes"][0]["folder"])
    assert (info.representation, info.layer) == ("query_token_representation", 2)
    assert info.model["weights_hash"] == "w" * 64
    assert info.images == "all"
    vectors = open_run(path).matrix("query_token_representation", 2)[result.data.rows]
    assert info.calibration is not None
    risk = Platt(*info.calibration).apply(probe.decision_function(vectors))
    assert ((risk > 0.5) == result.data.truth).mean() > 0.9
    faithful = risk[~result.data.truth]
    assert (faithful > info.threshold).mean() <= 0.05


def test_labels_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    folder = labelled_run(tmp_path / "run", planted, rows=30)
    run = open_run(folder)
    write_labels(folder, [Score(id_, True, "column", "all") for id_ in run.ids], {})
    with pytest.raises(InputError, match="30 are hallucinated"):
        probe_data(run)
    write_labels(folder, [Score(run.ids[0], True, "column", "one")], {})
    with pytest.raises(InputError, match="29 of 30 rows have no label"):
        probe_data(run)
    (folder / "labels.parquet").unlink()
    with pytest.raises(InputError, match="vlmscope label"):
        probe_data(run)


@pytest.mark.parametrize("labels", [["human"], Path("human"), b"human", 0, {}])
def test_labels_that_are_no_name_are_not_the_default_ones(tmp_path: Path, labels: Any) -> None:
    folder = labelled_run(tmp_path / "run", planted, rows=30)
    with pytest.raises(InputError, match=r"^labels is .*, expected the name of a label set"):
        sweep(folder, labels=labels)


def test_an_unknown_probe_is_refused() -> None:
    with pytest.raises(InputError, match=r"^estimators: 'forest'"):
        SweepSpec(estimators=("forest",))


def test_a_later_sweep_leaves_no_older_probe_behind(
    found: tuple[Path, SweepResult], tmp_path: Path
) -> None:
    folder, result = found
    run = open_run(folder)
    saved = save_sweep(run, result, tmp_path / "probes")
    here = {path.name for path in saved.iterdir() if path.is_dir()}
    summary = json.loads((saved / "results.json").read_text())
    assert summary["selected_probe"] == PLANTED.replace("/", "-")
    assert summary["selected_probe"] in here
    older = saved / "query_token_representation-layer_9"
    shutil.copytree(saved / summary["selected_probe"], older)
    summary["probes"].append({"folder": older.name, "known": "before"})
    (saved / "results.json").write_text(json.dumps(summary))
    shutil.copytree(older, saved / "mine")  # nobody's sweep says that it made this one
    save_sweep(run, result, saved)
    assert {path.name for path in saved.iterdir() if path.is_dir()} == here | {"mine"}
    _, info = load_probe(saved / summary["selected_probe"])
    assert info.model["dtype"] == "float32"
    assert info.metrics["auroc"] == result["selected"].auroc
    others = [name for name in here if name != summary["selected_probe"]]
    assert all("auroc" not in load_probe(saved / name)[1].metrics for name in others)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, locks left out."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if not path.name.startswith(".lock-")
    }


def test_a_save_that_cannot_be_written_leaves_the_earlier_sweep(
    found: tuple[Path, SweepResult], tmp_path: Path
) -> None:
    run, folder = open_run(found[0]), tmp_path / "probes"
    save_sweep(run, found[1], folder)
    shutil.rmtree(folder / "vision_only_representation")
    (folder / "vision_only_representation").write_text("in the way")
    before = contents(folder)
    with pytest.raises(StoreError, match="where a folder is expected"):
        save_sweep(run, found[1], folder)
    assert contents(folder) == before


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("module", "name", "calls"),
    [
        ("vlmscope.sweeps.save", "probe_files", 1),
        ("vlmscope.sweeps.save", "parquet_bytes", 1),
        ("vlmscope.sweeps.save", "publish_together", 0),
        ("vlmscope.store.storage.atomic", "sync", 0),
        ("vlmscope.store.storage.atomic", "sync", 4),
    ],
)
def test_a_save_that_is_killed_leaves_the_earlier_sweep(
    found: tuple[Path, SweepResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    name: str,
    calls: int,
) -> None:
    run, folder = open_run(found[0]), tmp_path / "probes"
    save_sweep(run, found[1], folder)
    before = contents(folder)
    original = getattr(importlib.import_module(module), name)
    made = []

    def killed(*given: Any) -> Any:
        if len(made) == calls:
            raise KeyboardInterrupt
        made.append(given)
        return original(*given)

    monkeypatch.setattr(importlib.import_module(module), name, killed)
    with pytest.raises(KeyboardInterrupt):
        save_sweep(run, replace(found[1], best_baseline="majority"), folder)
    assert contents(folder) == before


@pytest.mark.exhaustive
def test_few_hallucinations_do_not_break_the_null(tmp_path: Path) -> None:
    """Permuted, five of them often lie in four images, which no five folds can share."""
    folder = labelled_run(tmp_path / "run", lambda row, _: row, rows=60)
    run = open_run(folder)
    marked = set(range(0, 30, 6))
    scores = [Score(id_, i in marked, "column", "few") for i, id_ in enumerate(run.ids[:45])]
    scores += [Score(id_, None, "column", "") for id_ in run.ids[45:]]
    write_labels(folder, scores, {})
    for seed in range(2):
        result = sweep(run, SweepSpec(repeats=1, permutations=100, draws=100, seed=seed))
        assert result.chance is not None
        assert 0 < result.chance.p_value <= 1
        assert np.isfinite(result.chance.high)


@pytest.mark.exhaustive
def test_only_pairs_of_one_category_are_compared_within_categories(tmp_path: Path) -> None:
    def of_a_kind(row: Capture, hallucinated: bool) -> Capture:
        kind = None if int(row.sample.id.rsplit("_", 1)[1]) < 20 else f"only {hallucinated}"
        return replace(row, sample=replace(row.sample, metadata={"category": kind}))

    folder = labelled_run(tmp_path / "run", of_a_kind, rows=60)
    result = sweep(open_run(folder), SPEC)
    assert result.within_category == {}, "each category has one outcome; those without are none"
    saved = save_sweep(open_run(folder), result)

    def refuse(text: str) -> None:
        raise AssertionError(text)

    json.loads((saved / "results.json").read_text(), parse_constant=refuse)


def every_third(result: SweepResult) -> Grouping:
    """Three rows an image, of 240."""
    return replace(result.data.grouping, groups=np.arange(240) // 3)


@pytest.mark.parametrize(
    ("risky", "said"),
    [
        (True, "lowers the share of hallucinations from 40.0% to 33.3%, by 6.7 points (95% int"),
        (False, "raises the share of hallucinations from 40.0% to 44.4%, by 4.4 points (95% int"),
    ],
)
def test_abstaining_is_said_as_it_turned_out(
    found: tuple[Path, SweepResult], risky: bool, said: str
) -> None:
    truth = np.arange(240) < 96
    risk = np.where(np.arange(240) < 24, 0.9, 0.1) if risky else np.linspace(0, 1, 240)
    result = replace(
        found[1],
        data=replace(found[1].data, truth=truth, grouping=every_third(found[1])),
        risks={**found[1].risks, "selected": risk[None]},
        fold_of=np.zeros((1, 240), dtype=np.int64),
    )
    assert any(f"Abstaining from the riskiest 10% {said}" in line for line in verdict(result))


def test_abstaining_is_computed_once(
    found: tuple[Path, SweepResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    original = metrics.abstention
    for module in (results, abstaining):
        if hasattr(module, "abstention"):
            monkeypatch.setattr(
                module, "abstention", lambda *a, **k: calls.append("") or original(*a, **k)
            )
    result = replace(found[1])
    lines = verdict(result)
    folder = save_sweep(open_run(found[0]), result, tmp_path / "probes")
    assert len(calls) == 1
    saved = json.loads((folder / "results.json").read_text())["abstaining"]["change"]
    assert any(f"{abs(100 * saved):.1f} points" in line for line in lines)


def test_a_share_that_abstaining_does_not_change_is_left(found: tuple[Path, SweepResult]) -> None:
    truth = np.tile(np.arange(10) < 4, 24)
    result = replace(
        found[1],
        data=replace(found[1].data, truth=truth, grouping=every_third(found[1])),
        risks={**found[1].risks, "selected": np.full((1, 240), 0.5)},
        fold_of=np.zeros((1, 240), dtype=np.int64),
    )
    assert any("leaves the share of hallucinations at 40.0%." in line for line in verdict(result))
