"""The sweep on files of the original research: the same protocol, nothing dropped in silence."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from research_support import HIDDEN, VISION, research_row, write_part
from store_support import make_capture, make_manifest
from vlmscope.errors import InputError
from vlmscope.probes import load_probe
from vlmscope.probes.baselines import BaselineInputs
from vlmscope.schema import Score
from vlmscope.store import RunWriter, export_run, open_halp_files, open_run, write_labels
from vlmscope.sweeps import (
    SweepResult,
    SweepSpec,
    open_source,
    probe_data,
    read_label_table,
    save_sweep,
    sweep,
)
from vlmscope.sweeps.data import LeftOut, ProbeData
from vlmscope.sweeps.halp_files import research_data
from vlmscope.sweeps.missing_inputs import unknown_sentence
from vlmscope.sweeps.verdict import verdict

ROWS = 120
SOME = 60
"""Rows of a run that is swept only to be compared with its export."""
FEW = 12
"""Rows of what is only read, and not swept."""

SPEC = SweepSpec(folds=3, repeats=1, permutations=100, draws=100)
QUERY = "query_token_representation"
AT_IMAGE = "vision_token_representation"
VISION_ONLY = "vision_only_representation"
PLANTED = f"{QUERY}/layer_2"
TRUTH = np.random.default_rng(5).random(ROWS) < 0.4
KINDS = ("relation", "été; «objects»")
Row = dict[str, Any]


def planted_rows() -> list[Row]:
    """Rows in which one layer knows, and the question's words know a little."""
    rng = np.random.default_rng(7)
    rows = [research_row(i) for i in range(ROWS)]
    for row, hallucinated in zip(rows, TRUTH, strict=True):
        row[QUERY]["layer_2"] += np.float32(2 * hallucinated)
        told = hallucinated if rng.random() < 0.8 else not hallucinated
        row["question"] = "Is it dark, été?" if told else "Is it bright, été?"
    return rows


def write_csv(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def labels_of(rows: Iterable[Row]) -> list[Row]:
    """Return the lines of a label file as the research has it."""
    return [
        {
            "question_id": row["question_id"],
            "is_hallucinating": "False",
            "is_hallucinating_manual": str(bool(TRUTH[i])),
            "category": KINDS[i % 2],
            "domain_type": "Spatial, Reasoning",
            "image_name": f"seen_{i // 3}.png",
        }
        for i, row in enumerate(rows)
    ]


def left_out_of(folder: Path, rows: list[Row], lines: list[Row] | None = None) -> list[LeftOut]:
    path = write_part(folder / "x_part_001.h5", rows)
    table = read_label_table(write_csv(folder / "labels.csv", lines or labels_of(rows)))
    return list(research_data(open_halp_files(path), table).left_out)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SweepResult]:
    """Two parts with every trait that such files have, swept and saved."""
    folder = tmp_path_factory.mktemp("research") / "data"
    folder.mkdir()
    rows = planted_rows()
    rows[3] |= {VISION_ONLY: None}
    rows[4] |= {AT_IMAGE: {}, QUERY: {}, "answer": "[Generation failed: out of memory]"}
    rows[5] |= {AT_IMAGE: {}, QUERY: {}}
    rows[6] |= {VISION_ONLY: np.zeros(VISION // 2, np.float32)}
    for row in rows[40:60]:
        del row[AT_IMAGE]["layer_0"]
    write_part(folder / "m_part_001.h5", rows[:70], {"model_name": "tiny"})
    write_part(folder / "m_part_002.h5", rows[68:], {"model_name": "tiny"}, as_bytes=True)
    lines = labels_of(rows)
    lines[7]["is_hallucinating_manual"] = ""
    del lines[8:10]
    lines.append({**lines[0], "question_id": "elsewhere"})
    table = read_label_table(write_csv(folder / "labels.csv", lines))
    files = open_halp_files(folder)
    result = sweep(files, SPEC, labels=table)
    save_sweep(files, result)
    return folder, result


def test_a_planted_sign_is_found(found: tuple[Path, SweepResult]) -> None:
    result = found[1]
    assert result.chosen["selected"] == (PLANTED,) * SPEC.folds
    assert result["selected"].auroc > 0.95
    assert len(result.data.truth) == ROWS - 7
    names = {row.name for row in result.rows if row.kind == "baseline"}
    assert names == {"majority", "category", "question_words", "joint"}, (
        "no first token, no lengths"
    )
    assert len(np.unique(result.data.groups)) == ROWS // 3 - 2, "two lost all their rows"


def test_what_is_left_out_is_counted_and_said(found: tuple[Path, SweepResult]) -> None:
    folder, result = found
    summary = json.loads((folder / "probes" / "results.json").read_text())
    assert [tuple(each.values()) for each in summary["left_out"]] == [
        ("copy", 2, "the question is repeated in a later file"),
        ("label", 1, "the files do not have the question"),
        ("row", 2, "not in labels.csv"),
        ("row", 1, "no label in labels.csv"),
        ("row", 1, "generation failed, there is no answer"),
        (f"{AT_IMAGE}/layer_0", 21, "of 116 vectors 21 missing"),
        ("row", 1, f"{VISION_ONLY} missing"),
        ("row", 1, f"{QUERY} missing, {AT_IMAGE} missing"),
        ("row", 1, f"{VISION_ONLY} of another width"),
    ]
    assert (summary["unscorable"], summary["unlabelled"]) == (3, 3)
    assert summary["source"] == "research files"
    assert summary["files"] == ["m_part_001.h5", "m_part_002.h5"]
    assert summary["labels"] == str(folder / "labels.csv")
    assert summary["images_by"] == "image_id"
    lines = verdict(result)
    assert lines == summary["verdict"]
    assert "2 earlier copies are left out: the question is repeated in a later file." in lines
    assert "1 label is left out: the files do not have the question." in lines
    assert f"{AT_IMAGE}/layer_0 is left out: of 116 vectors 21 missing." in lines
    assert any("identified by their image_id: there are no hashes" in line for line in lines)
    assert f"{AT_IMAGE}/layer_0" not in {row.name for row in result.rows}


def test_what_is_saved(found: tuple[Path, SweepResult]) -> None:
    folder, result = found
    risks = pd.read_parquet(folder / "probes" / "predictions.parquet")
    assert risks["id"].tolist() == list(result.data.ids)
    assert set(risks["metadata/domain_type"]) == {"Spatial, Reasoning"}
    assert set(risks["metadata/category"]) == {"relation", "été; «objects»"}
    assert "metadata/is_hallucinating_manual" not in risks
    summary = json.loads((folder / "probes" / "results.json").read_text())
    assert summary["run_id"] == ""
    _, info = load_probe(folder / "probes" / summary["probes"][0]["folder"])
    assert (info.representation, info.layer, info.width) == (QUERY, 2, HIDDEN)
    assert info.images is None, "the files do not tell which questions have an image"
    assert info.model == {"model_name": "tiny", "source": "research files"}, "fits no loaded model"
    assert set(summary["within_category"]["joint"]) == {"auroc", "interval", "share"}
    assert {(each["of"], each["over"]) for each in summary["within_category_gaps"]} == {
        ("selected", result.best_baseline),
        ("selected", "joint"),
        ("joint_and_probe", "joint"),
    }


def test_the_best_baseline_is_compared_with_once(found: tuple[Path, SweepResult]) -> None:
    result = found[1]
    assert result.best_baseline == "question_words"
    assert result["selected"].above("baseline") == result["selected"].above("question")
    compared = [(test.of, test.over, test.within_category) for test in result.tests]
    assert len(set(compared)) == len(compared)


def vision_of(width: Callable[[int], int | None]) -> list[Row]:
    rows = [research_row(i) for i in range(40)]
    for i, row in enumerate(rows):
        size = width(i)
        row[VISION_ONLY] = None if size is None else np.ones(size, np.float32)
    return rows


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (lambda i: None if i < 2 else 12, ("row", 2, f"{VISION_ONLY} missing")),
        (lambda i: None if i < 3 else 12, (VISION_ONLY, 3, "of 40 vectors 3 missing")),
        # LLaVA's post-projector vectors: as long as the image has tokens
        (lambda i: 20 + i % 3, (VISION_ONLY, 26, "of 40 vectors 26 of another width")),
    ],
    ids=["few", "many", "LLaVA"],
)
def test_few_rows_or_a_whole_representation(
    tmp_path: Path, width: Callable[[int], int | None], left_out: tuple[str, int, str]
) -> None:
    assert left_out_of(tmp_path, vision_of(width)) == [LeftOut(*left_out)]


@pytest.mark.exhaustive
def test_few_rows_of_each_may_be_many_in_all(tmp_path: Path) -> None:
    """Seven places that lack 4% each, of other rows: the worst go, not a quarter of the rows."""
    rows = [research_row(i) for i in range(100)]
    for number, layer in enumerate(("layer_0", "layer_2", "layer_3")):
        for at, name in enumerate((QUERY, AT_IMAGE)):
            start = 4 * (2 * number + at)
            for row in rows[start : start + 4 + (name == QUERY)]:
                row[name].pop(layer, None)
    left_out = left_out_of(tmp_path, rows)
    given_up = sum(each.count for each in left_out if each.what == "row")
    assert given_up <= 10
    assert any("too many together with others" in each.reason for each in left_out)


def test_vectors_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    rows = [research_row(i) for i in range(30)]
    rows[9][QUERY]["layer_3"][4] = np.inf
    assert left_out_of(tmp_path, rows) == [LeftOut("row", 1, f"{QUERY} not finite")]


@pytest.mark.exhaustive
def test_images_without_a_name(tmp_path: Path) -> None:
    """Research code wrote "nan" where the table named the image in another column."""
    rows = [research_row(i, image_id="nan") for i in range(30)]
    files = open_halp_files(write_part(tmp_path / "x.h5", rows))
    lines = labels_of(rows)
    data = research_data(files, read_label_table(write_csv(tmp_path / "a.csv", lines)))
    assert data.grouped_by == "image_id"
    assert len(set(data.groups.tolist())) == 10
    half = [research_row(i, image_id="nan" if i % 3 else f"name {i // 3}") for i in range(30)]
    data = research_data(
        open_halp_files(write_part(tmp_path / "half.h5", half)),
        read_label_table(tmp_path / "a.csv"),
    )
    assert len(set(data.groups.tolist())) == 10, "one image, named in two ways by two columns"
    for line in lines[:3]:
        line["image_name"] = ""
    data = research_data(files, read_label_table(write_csv(tmp_path / "a.csv", lines)))
    assert data.grouped_by == "image_id (3 rows have none and count as one image)"
    assert len(set(data.groups.tolist())) == 10


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A labelled run, and its export with the same labels in a CSV file beside it."""
    return run_and_export(tmp_path_factory.mktemp("both"), SOME)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same of the first rows only."""
    return run_and_export(tmp_path_factory.mktemp("few"), FEW)


def run_and_export(folder: Path, rows: int) -> tuple[Path, Path]:
    captures = []
    for i, hallucinated in enumerate(TRUTH[:rows]):
        row = make_capture(i, f"q{i:03}", image_sha256=f"{i // 3:064x}", image_dhash="")
        vectors = dict(row.vectors)
        vectors[PLANTED] = vectors[PLANTED] + np.float32(0.7 * hallucinated)
        # The first question of each image calls it by another name: content tells, names do not.
        sample = replace(
            row.sample,
            image_id=f"{i // 3}.png" if i % 3 else f"copy of {i // 3}.png",
            metadata={"category": KINDS[i % 2], "source": "POPE"},
        )
        captures.append(replace(row, sample=sample, vectors=vectors))
    with RunWriter(folder / "run", make_manifest()) as writer:
        writer.add(captures)
    scores = [
        Score(row.sample.id, None if i < 2 else bool(TRUTH[i]), "column", "")
        for i, row in enumerate(captures)
    ]
    write_labels(folder / "run", scores, {})
    export_run(open_run(folder / "run"), folder / "all.h5")
    lines = [
        {"id": s.id, "hallucinated": s.hallucinated, "category": KINDS[i % 2]}
        for i, s in enumerate(scores)
    ]
    write_csv(folder / "labels.csv", lines)
    return folder / "run", folder / "all.h5"


@pytest.mark.exhaustive
def test_a_run_and_its_export_give_the_same_numbers(both: tuple[Path, Path]) -> None:
    run, file = both
    one = sweep(open_run(run), SPEC)
    table = read_label_table(file.with_name("labels.csv"))
    other = sweep(open_halp_files(file), SPEC, labels=table)
    assert one.data.ids == other.data.ids
    assert one.data.groups.tolist() == other.data.groups.tolist()
    assert len(set(other.data.groups.tolist())) == SOME // 3
    assert other.data.grouped_by == "content"
    assert one.data.unscorable == other.data.unscorable == 2
    assert one.chosen == other.chosen
    assert [row.name for row in one.rows] == [row.name for row in other.rows]
    assert {"first_token_entropy", "first_token_in_category", "answer_probability"} <= {
        row.name for row in other.rows
    }
    for row in one.rows:
        assert row.auroc == other[row.name].auroc, row.name
        assert (row.ece_low, row.ece_high) == (other[row.name].ece_low, other[row.name].ece_high)
        assert row.above("joint") == other[row.name].above("joint"), row.name
    assert verdict(one) == [
        line.replace("no label in labels.csv", "the answer could not be scored")
        for line in verdict(other)
    ]


@pytest.mark.exhaustive
def test_the_facts_of_an_export_are_those_of_its_run(few: tuple[Path, Path]) -> None:
    run, file = few
    for copy in (file, run / "index.h5"):  # shards keep them at the same names
        data = research_data(open_halp_files(copy), read_label_table(file.with_name("labels.csv")))
        same_facts(data.baseline_inputs, probe_data(open_run(run)).baseline_inputs)


def same_facts(one: BaselineInputs, other: BaselineInputs) -> None:
    for field in fields(BaselineInputs):
        values = getattr(one, field.name), getattr(other, field.name)
        assert (values[0] is None) == (values[1] is None), field.name
        if isinstance(values[0], np.ndarray):
            np.testing.assert_array_equal(*values, err_msg=field.name)
        elif values[0] is not None:
            assert list(values[0]) == list(values[1]), field.name


def test_an_export_brings_the_columns_of_its_table(few: tuple[Path, Path], tmp_path: Path) -> None:
    """A label file need not say the category again; where it does, its word counts."""
    file = few[1]
    lines = [{"id": f"q{i:03}", "label": int(truth)} for i, truth in enumerate(TRUTH[:FEW])]
    table = read_label_table(write_csv(tmp_path / "bare.csv", lines))
    data = research_data(open_halp_files(file), table)
    assert (
        data.baseline_inputs.category == data.categories == tuple(KINDS[i % 2] for i in range(FEW))
    )
    assert data.columns["source"] == ("POPE",) * FEW
    told = [{**line, "category": "own"} for line in lines]
    table = read_label_table(write_csv(tmp_path / "told.csv", told))
    assert set(research_data(open_halp_files(file), table).baseline_inputs.category or ()) == {
        "own"
    }


def spoiled(file: Path, out: Path, spoil: Callable[[Any], None]) -> ProbeData:
    """Return the rows of a copy of an export whose row q007 somebody changed."""
    shutil.copy(file, out)
    with h5py.File(out, "r+") as opened:
        spoil(opened["q007"])
    return research_data(open_halp_files(out), read_label_table(file.with_name("labels.csv")))


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("spoil", "unknown"),
    [
        (lambda row: row.attrs.pop("first_token_entropy"), "the entropy of the first token"),
        (lambda row: row.pop("first_token_logprobs"), "the first token's probabilities"),
        (lambda row: row.attrs.create("first_token_entropy", np.nan), "the entropy of the"),
        (lambda row: row.attrs.create("first_token_entropy", "0.5"), "the entropy of the first"),
        (lambda row: row.attrs.create("first_token_entropy", [0.5, 1]), "the entropy of the"),
        (lambda row: replaced(row, "first_token_logprobs", "no numbers"), "the first token's"),
        (lambda row: replaced(row, "first_token_logprobs", [[0.5]]), "the first token's"),
        (lambda row: replaced(row, "first_token_logprobs", [np.nan]), "the first token's"),
        (lambda row: replaced(row, "first_token_ids", [1, 2]), "the first token's"),
    ],
)
def test_what_one_row_lacks_is_not_known(
    few: tuple[Path, Path], tmp_path: Path, spoil: Callable[[Any], None], unknown: str
) -> None:
    data = spoiled(few[1], tmp_path / "spoiled.h5", spoil)
    (said,) = unknown_sentence(data.baseline_inputs)
    assert said.startswith(f"Not known here: {unknown}"), said
    assert "category" not in said
    whole = spoiled(few[1], tmp_path / "whole.h5", lambda _: None)
    assert not list(unknown_sentence(whole.baseline_inputs))


def replaced(row: Any, name: str, values: object) -> None:
    del row[name]
    row[name] = values


@pytest.mark.exhaustive
def test_metadata_of_somebody_else_is_none_of_ours(few: tuple[Path, Path], tmp_path: Path) -> None:
    for number, value in enumerate(("no JSON", "[1]", "[" * 10_000, 7, [1, 2])):
        data = spoiled(few[1], tmp_path / f"{number}.h5", metadata_to(value))
        assert data.columns["source"][5] == ""
        assert data.columns["source"][4] == "POPE"


def metadata_to(value: object) -> Callable[[Any], None]:
    return lambda row: row.attrs.create("metadata", value)


def test_rows_with_fewer_likeliest_tokens_have_those_that_all_have(
    few: tuple[Path, Path], tmp_path: Path
) -> None:
    def shorten(row: Any) -> None:
        for name in ("first_token_ids", "first_token_logprobs"):
            replaced(row, name, row[name][:3])

    inputs = spoiled(few[1], tmp_path / "short.h5", shorten).baseline_inputs
    assert inputs.first_token_ids is not None
    assert inputs.first_token_ids.shape == (FEW - 2, 3)


def test_what_is_not_known_is_named(found: tuple[Path, SweepResult], tmp_path: Path) -> None:
    """The research's own files hold no probabilities; a label file without categories no kinds."""
    folder, result = found
    summary = json.loads((folder / "probes" / "results.json").read_text())
    assert summary["not_known"] == ["the first token's probabilities"]
    lines = verdict(result)
    assert (
        "Not known here: the first token's probabilities; whether hidden states contain more "
        "information than this is unknown." in lines
    )
    more = [line for line in lines if "hidden states know something more" in line]
    assert more
    assert all("something more than what is known here" in line for line in more)
    bare = replace(result.data.baseline_inputs, category=None)
    assert list(unknown_sentence(bare)) == [
        "Not known here: the first token's probabilities, the question's category; whether hidden "
        "states contain more information than these is unknown. If the table has the category in "
        "a column of another name, --by COLUMN adds it to what is known."
    ]
    assert list(unknown_sentence(replace(bare, category=("",) * 3))) == list(unknown_sentence(bare))
    (said,) = unknown_sentence(replace(bare, columns={"kind": ("a", "b", "a")}))
    assert "--by" not in said


def test_labels_go_where_they_belong(both: tuple[Path, Path], tmp_path: Path) -> None:
    run, file = both
    files, table = open_halp_files(file), read_label_table(file.with_name("labels.csv"))
    with pytest.raises(InputError, match="keeps its labels; run 'vlmscope label "):
        sweep(open_run(run), SPEC, labels=table)
    with pytest.raises(InputError, match="contain no labels; give labels=FILE"):
        sweep(files, SPEC)
    with pytest.raises(InputError, match="contain no labels"):
        open_source(file, labelled=False)
    assert len(probe_data(open_run(run)).layer_keys) == 7
    other = write_csv(tmp_path / "other.csv", [{"id": "7", "label": "yes"}])
    with pytest.raises(InputError, match="its ids look like '7', theirs like 'q000'"):
        sweep(files, SPEC, labels=read_label_table(other))
    alike = [{"id": id_, "label": 0} for id_ in open_run(run).ids]
    with pytest.raises(InputError, match=f"of {SOME} scorable answers 0 are hallucinated"):
        sweep(files, SPEC, labels=read_label_table(write_csv(tmp_path / "alike.csv", alike)))


def test_an_extraction_that_failed_on_many_rows_is_refused(tmp_path: Path) -> None:
    rows = [
        research_row(i, **({VISION_ONLY: None, AT_IMAGE: {}, QUERY: {}} if i % 9 == 0 else {}))
        for i in range(27)
    ]
    with pytest.raises(InputError, match="no representation that 95% of the 27 labelled rows"):
        left_out_of(tmp_path, rows)
