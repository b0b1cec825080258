"""Results by columns of the table: which columns, what is compared, what is known of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store_support import make_capture, make_manifest
from vlmscope.errors import InputError
from vlmscope.metrics import rate, resample_within
from vlmscope.probes.baselines import BaselineInputs, joint_candidates
from vlmscope.schema import Score
from vlmscope.store import RunWriter, open_run, write_labels
from vlmscope.sweeps import ProbeData, SweepResult, SweepSpec, probe_data, save_sweep, sweep
from vlmscope.sweeps.by_column import by_column, column_document, column_sentences
from vlmscope.sweeps.data import with_columns
from vlmscope.sweeps.grouping import Grouping
from vlmscope.sweeps.run import sweep_rows
from vlmscope.sweeps.verdict import verdict

ROWS, EACH = 360, 3
PLACE = ("query_token_representation", 2)


def rows_of(
    truth: np.ndarray, columns: Mapping[str, Sequence[str]], groups: np.ndarray | None = None
) -> ProbeData:
    """Rows of which nothing is known but these columns."""
    count = len(truth)
    groups = np.arange(count) // EACH if groups is None else groups
    nothing = dict.fromkeys(
        ("answer_type", "first_token_entropy", "first_token_logprob", "num_answer_tokens",
         "mean_answer_logprob")
    )  # fmt: skip
    category = columns.get("category")
    return ProbeData(
        rows=np.arange(count),
        ids=tuple(map(str, range(count))),
        truth=truth,
        grouping=Grouping(groups, "content", len(np.unique(groups))),
        baseline_inputs=BaselineInputs(
            question=["Is it there?"] * count, category=category, **nothing
        ),
        categories=None if category is None else tuple(category),
        unscorable=0,
        layer_keys=(PLACE,),
        columns=columns,
    )


def source_world(rng: np.random.Generator) -> tuple[ProbeData, np.ndarray]:
    """The source decides how often, and the vectors know the source and nothing more."""
    source = rng.integers(0, 3, ROWS)
    truth = rng.random(ROWS) < np.array([0.08, 0.4, 0.75])[source]
    vectors = 0.3 * rng.standard_normal((ROWS, 8))
    vectors[:, :3] += np.eye(3)[source]
    cells = [f"s{each}" for each in source]
    return rows_of(truth, {"source": cells}), vectors.astype(np.float32)


@pytest.fixture(scope="module")
def by_source() -> SweepResult:
    data, vectors = source_world(np.random.default_rng(2))
    return sweep_rows(
        with_columns(data), lambda *_: vectors, SweepSpec(repeats=1, permutations=100, draws=200)
    )


def test_a_probe_that_knows_the_source_knows_nothing_within_it(by_source: SweepResult) -> None:
    assert by_source["selected"].auroc > 0.72
    found = by_source.by_column["source"]
    within = found.within["selected"]
    assert within.interval.low < 0.5 < within.interval.high
    assert within.share < 0.5
    gap = next(each for each in found.gaps if (each.of, each.over) == ("selected", "joint"))
    assert gap.gap.interval.low < 0
    for value in found.values:
        assert value.simultaneous.low <= value.interval.low <= value.auroc <= value.interval.high
        assert value.interval.high <= value.simultaneous.high
        assert value.simultaneous.low < 0.5 < value.simultaneous.high
    shares = [value.share for value in found.values]
    assert shares == sorted(shares, reverse=True)
    assert sum(value.rows for value in found.values) == ROWS
    assert sum(value.hallucinated for value in found.values) == by_source.data.truth.sum()


def test_the_joint_baseline_knows_the_column(by_source: SweepResult) -> None:
    joint = by_source["joint"]
    assert joint.auroc > 0.72, "the source tells, and it is known before the answer"
    data = by_source.data
    without = sweep_rows(
        replace(data, by=(), baseline_inputs=replace(data.baseline_inputs, columns={})),
        lambda *_: np.ones((ROWS, 2), np.float32),
        SweepSpec(repeats=1, permutations=100, draws=100),
    )
    assert without["joint"].auroc < 0.6
    assert without.by_column == {}


@pytest.mark.exhaustive
def test_a_probe_that_knows_more_is_told_within_the_source() -> None:
    data, vectors = source_world(np.random.default_rng(3))
    vectors[:, 5] += 0.5 * data.truth
    result = sweep_rows(
        with_columns(data), lambda *_: vectors, SweepSpec(repeats=1, permutations=100, draws=200)
    )
    found = result.by_column["source"]
    assert found.within["selected"].interval.low > 0.6
    gap = next(each for each in found.gaps if (each.of, each.over) == ("selected", "joint"))
    assert gap.gap.interval.low > 0
    text = " ".join(verdict(result))
    assert "another column" in text
    assert "source 0." in text
    document = column_document(result.by_column)
    planned = [each for each in document["by_column"]["source"]["gaps"] if "p_holm" in each]
    assert [(each["of"], each["over"]) for each in planned] == [("selected", "joint")]
    assert planned[0]["p_holm"] == planned[0]["p_value"], "of one column nothing is corrected"


def test_pairs_are_of_one_value_and_fold(by_source: SweepResult) -> None:
    data = by_source.data
    expected = resample_within(
        data.truth, {"": by_source.risks["selected"][0]}, list(data.columns["source"]),
        data.groups, by_source.fold_of[0], draws=50,
    )  # fmt: skip
    found = by_source.by_column["source"].within["selected"]
    assert found.auroc == pytest.approx(expected.observed[""]["auroc"])


@pytest.mark.exhaustive
def test_p_values_are_corrected_for_the_number_of_columns() -> None:
    data, vectors = source_world(np.random.default_rng(3))
    vectors[:, 5] += 0.5 * data.truth
    other = [f"d{i % 2}" for i in range(ROWS)]
    data = with_columns(replace(data, columns={**data.columns, "domain": other}))
    document = column_document(
        sweep_rows(
            data, lambda *_: vectors, SweepSpec(repeats=1, permutations=100, draws=100)
        ).by_column
    )["by_column"]
    gaps = [each for column in document.values() for each in column["gaps"] if "p_holm" in each]
    assert len(gaps) == 2
    least = min(gaps, key=lambda each: each["p_value"])
    assert least["p_holm"] == pytest.approx(min(1, 2 * least["p_value"]))
    assert "simultaneous" in column_document({})["by_column_note"]


def cells(*counts: int) -> list[str]:
    return [f"v{i}" for i, count in enumerate(counts) for _ in range(count)]


@pytest.fixture
def table() -> ProbeData:
    truth = np.random.default_rng(0).random(120) < 0.5
    columns = {
        "category": cells(60, 60),
        "source": cells(119, 1),
        "type": cells(*[2] * 60),
        "domain": cells(40, 40, 40),
        "level": cells(100, 20),
        "label": ["yes" if each else "no" for each in truth],
        "note": [f"text {i}" for i in range(120)],
    }
    return rows_of(truth, {name: each for name, each in columns.items() if name != "label"})


def test_the_usual_columns_are_taken_where_they_can_be(table: ProbeData) -> None:
    data = with_columns(table)
    assert data.by == ("category", "domain")
    assert list(data.baseline_inputs.columns) == ["domain"], "the category is known by itself"


def test_others_are_taken_where_they_are_named(table: ProbeData) -> None:
    data = with_columns(table, ("level", "level"))
    assert list(data.by) == list(data.baseline_inputs.columns) == ["level"]
    assert with_columns(table, ()).by == ()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("sauce", "is not a column of the table"),
        ("source", "has 1 value with 2 rows or more, expected 2 to 50 such values"),
        ("type", "has 60 different values, expected 2 to 50"),
        ("label", "is the question, its image, the answer or the label"),
        ("answer", "is the question, its image, the answer or the label"),
    ],
)
def test_a_column_that_cannot_be_used_is_refused(table: ProbeData, name: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        with_columns(table, ("category", name))
    assert str(caught.value) == (
        f"by: {name!r} {why}; columns that can be used: category, domain, level"
    )


def test_a_column_made_of_the_labels_is_not_known_before(table: ProbeData) -> None:
    told = ["bad" if each else "good" for each in table.truth]
    data = with_columns(replace(table, columns={**table.columns, "type": told}))
    assert "type" in data.by
    assert list(data.baseline_inputs.columns) == ["domain"]
    assert [each.what for each in data.left_out] == ["column type"]
    assert "may be made of the labels" in data.left_out[0].reason


def test_columns_are_features_of_every_form_of_the_joint_baseline() -> None:
    rng = np.random.default_rng(0)
    source, domain = (rng.integers(0, 3, 200).astype(str).tolist() for _ in range(2))
    nothing = dict.fromkeys(
        ("category", "answer_type", "first_token_entropy", "first_token_logprob",
         "num_answer_tokens", "mean_answer_logprob")
    )  # fmt: skip
    inputs = BaselineInputs(question=["Is it?"] * 200, **nothing)
    plain = joint_candidates(inputs)
    one = joint_candidates(replace(inputs, columns={"source": source}))
    both = joint_candidates(replace(inputs, columns={"source": source, "domain": domain}))
    twice = joint_candidates(replace(inputs, columns={"source": source, "copy": source}))
    widths = [
        {name: each.features.shape[1] for name, each in found.items()}
        for found in (plain, one, both, twice)
    ]
    assert set(widths[2]) - set(widths[0]) == {"column source", "column domain"}
    for name in ("few, C=0.3", "trees"):
        assert widths[0][name] < widths[1][name] or widths[0][name] == 1
    assert widths[2]["few, C=0.3"] == 6
    assert widths[2]["pairs, C=0.3"] == 6 + 9, "and pairs of the two"
    assert widths[3]["pairs, C=0.3"] == 6, "a copy adds no pairs"
    assert widths[2]["trees"] == 2


def test_values_with_next_to_no_rows_have_no_interval() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(ROWS) < 0.4
    source = np.where(np.arange(ROWS) < 6, "rare", "often").astype(object)
    source[6:12] = "one sided"
    truth[:6] = [True, False, False, False, False, False]
    truth[6:12] = False
    source[12:15] = ""
    vectors = rng.standard_normal((ROWS, 4)).astype(np.float32)
    data = with_columns(rows_of(truth, {"source": source.tolist()}))
    result = sweep_rows(data, lambda *_: vectors, SweepSpec(repeats=1, permutations=100, draws=100))
    values = {each.value: each for each in result.by_column["source"].values}
    assert set(values) == {"rare", "often", "one sided"}
    assert np.isnan([values["rare"].interval.low, values["one sided"].auroc]).all()
    often = values["often"]
    assert often.simultaneous == pytest.approx(often.interval), "the only one that is told"


def test_how_often_a_value_is_hallucinated_is_as_sure_as_its_images_are() -> None:
    """An image decides all its answers: 24 images of 15 rows say no more than 24 answers."""
    groups = np.arange(ROWS) // 15
    truth = np.isin(groups % 12, (0, 3, 6, 9))
    source = np.where(groups < 12, "one", "other").astype(object)
    source[groups == 23] = "one image"
    data = with_columns(rows_of(truth, {"source": source.tolist()}, groups))
    risk = {name: np.full((1, ROWS), 0.5) for name in ("selected", "joint")}
    found = by_column(
        data, risk, [("selected", "joint")], (groups % 4)[None] * 1, draws=100, seed=0
    )
    values = {each.value: each for each in found["source"].values}
    assert (values["one"].share, values["one"].rows) == (pytest.approx(4 / 12), 180)
    expected = rate(truth[groups < 12], groups[groups < 12], draws=100).interval
    assert values["one"].share_interval == expected
    assert expected.high - expected.low > 0.4, "by rows it would be 0.14"
    assert np.isnan(values["one image"].share_interval.low)


def names_of(capture: Any, i: int) -> dict[str, Any]:
    return {
        "category": "relation",
        "source": f"s{i % 2}",
        "level": i % 3,
        "\x1b[31mred": f"r{i % 2}",
        "answer": f"a{i % 2}",
        "verdict": "true" if i % 2 else "false",
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("columns") / "run"
    captures = []
    for i in range(120):
        row = make_capture(i, image_sha256=f"{i // 3:064x}", image_dhash="")
        captures.append(replace(row, sample=replace(row.sample, metadata=names_of(row, i))))
    with RunWriter(folder, make_manifest()) as writer:
        writer.add(captures)
    truth = np.random.default_rng(1).random(120) < 0.4
    scores = [
        Score(c.sample.id, bool(t), "column", "") for c, t in zip(captures, truth, strict=True)
    ]
    write_labels(folder, scores, {"scorer": "column", "column": "verdict"})
    return folder


def test_columns_of_a_run_are_those_of_its_table(run: Path) -> None:
    data = probe_data(open_run(run))
    names = {"category", "source", "level", "\x1b[31mred", "metadata.answer"}
    assert set(data.columns) == names, "not what the run says itself, nor the labels' column"
    assert data.columns["level"][:4] == ("0", "1", "2", "0")
    with pytest.raises(InputError, match=r"used: source, level, '\\x1b\[31mred', metadata.answer$"):
        with_columns(data, ("verdict",))


def test_columns_of_every_label_set_are_left_out(run: Path, tmp_path: Path) -> None:
    """Also if the default set is missing, or was read from no column."""
    run = shutil.copytree(run, tmp_path / "run")
    ids = open_run(run).ids
    scores = [Score(id_, i % 2 == 0, "column", "") for i, id_ in enumerate(ids)]
    (run / "labels.parquet").unlink()
    write_labels(run, scores, {"scorer": "column", "column": "verdict"}, name="human")
    assert "verdict" not in probe_data(open_run(run), labels="human").columns
    write_labels(run, scores, {"scorer": "auto"})
    assert "verdict" not in probe_data(open_run(run)).columns
    (run / "labels-human.parquet").write_bytes(b"damaged")
    assert "source" in probe_data(open_run(run)).columns


def test_what_is_saved(run: Path, tmp_path: Path) -> None:
    source = open_run(run)
    result = sweep(
        source, SweepSpec(repeats=1, permutations=100, draws=100, by=("source", "\x1b[31mred"))
    )
    summary = json.loads((save_sweep(source, result, tmp_path / "p") / "results.json").read_text())
    assert list(summary["by_column"]) == ["source", "\x1b[31mred"]
    found = summary["by_column"]["source"]
    assert set(found) == {"within", "gaps", "values"}
    assert set(found["within"]["selected"]) == {"auroc", "interval", "share"}
    assert sorted(value["value"] for value in found["values"]) == ["s0", "s1"]
    assert {"rows", "hallucinated", "share", "auroc", "interval", "simultaneous"} <= set(
        found["values"][0]
    )
    assert summary["within_category"] == {}, "as before: there is one category only"
    assert summary["settings"]["by"] == ["source", "\x1b[31mred"]
    assert "\x1b" not in " ".join(column_sentences(result.by_column))


@pytest.mark.exhaustive
def test_the_category_is_told_twice_and_the_same(run: Path) -> None:
    rng = np.random.default_rng(5)
    truth = rng.random(ROWS) < 0.4
    data = with_columns(rows_of(truth, {"category": [f"c{i % 4}" for i in range(ROWS)]}))
    vectors = rng.standard_normal((ROWS, 4)).astype(np.float32)
    result = sweep_rows(data, lambda *_: vectors, SweepSpec(repeats=1, permutations=100, draws=100))
    assert result.within_category == result.by_column["category"].within
    assert set(result.within_category) == {
        "selected", result.best_baseline, "joint", "joint_and_probe"
    }  # fmt: skip
    other = sweep_rows(
        replace(data, by=()),
        lambda *_: vectors,
        SweepSpec(repeats=1, permutations=100, draws=100),
    )
    assert other.within_category == result.within_category
    assert list(column_sentences(result.by_column)) == []
