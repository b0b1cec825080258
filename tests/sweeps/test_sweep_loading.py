"""A saved sweep, read back: whole, damaged, and of a run that has gone on since."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from labelled_runs import labelled_run
from store_support import make_capture, make_manifest
from vlmscope.errors import StoreError
from vlmscope.schema import Score
from vlmscope.store import Run, RunWriter, open_run, read_labels, write_labels
from vlmscope.sweeps import SweepResult, SweepSpec, probe_data, read_sweep, save_sweep, sweep
from vlmscope.sweeps.results import ProbeResult, without_nan

ROWS = 90
UNSCORABLE = 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SweepResult]:
    """A labelled and probed run; random, so that nothing about it is special."""
    folder = tmp_path_factory.mktemp("loading") / "run"
    captures = [make_capture(i, image_dhash="") for i in range(ROWS)]
    with RunWriter(folder, make_manifest()) as writer:
        writer.add(captures)
    truth = np.random.default_rng(2).random(ROWS) < 0.4
    scores = [
        Score(item.sample.id, None if i < UNSCORABLE else bool(truth[i]), "column", "")
        for i, item in enumerate(captures)
    ]
    write_labels(folder, scores, {})
    result = sweep(open_run(folder), SweepSpec(folds=3, repeats=2, permutations=100, draws=50))
    save_sweep(open_run(folder), result)
    return folder, result


@pytest.fixture
def run(saved: tuple[Path, SweepResult], tmp_path: Path) -> Run:
    """A copy that a test may change."""
    return open_run(shutil.copytree(saved[0], tmp_path / "run"))


def test_what_was_saved_is_read(run: Run, saved: tuple[Path, SweepResult]) -> None:
    found, result = read_sweep(run), saved[1]
    assert found is not None
    assert found.stale == ""
    for one, other in zip(found.results, result.rows, strict=True):
        assert without_nan(one.to_dict()) == without_nan(other.to_dict()), one.name
    assert found.predictions["id"].tolist() == list(result.data.ids)
    assert found.truth.tolist() == result.data.truth.tolist()
    assert found.groups.tolist() == result.data.groups.tolist()
    for name, risk in result.risks.items():
        assert np.array_equal(found.risk(name), risk[0]), name
        assert np.array_equal(found.stacked(name).risks[name], risk.ravel()), name
    assert found.repeats == 2
    assert found.summary["best_baseline"] == result.best_baseline


def test_of_repeats_all_penalties_are_kept(saved: tuple[Path, SweepResult]) -> None:
    probes = [row for row in saved[1].rows if row.kind == "probe"]
    assert {len(row.chosen_c or ()) for row in probes} == {6}, "two splits into three folds"


def test_before_the_probes_there_is_none(run: Run) -> None:
    (run.path / "probes" / "results.json").unlink()
    assert read_sweep(run) is None
    shutil.rmtree(run.path / "probes")
    assert read_sweep(run) is None


def test_a_risk_that_is_no_number_is_damage(run: Run) -> None:
    path = run.path / "probes" / "predictions.parquet"
    table = pq.read_table(path).to_pandas()
    table.loc[3, "risk/selected"] = float("nan")
    table.to_parquet(path)
    with pytest.raises(StoreError, match="has a risk that is not a number"):
        read_sweep(run)


@pytest.mark.parametrize(
    ("column", "change", "said"),
    [
        ("risk/selected", str, "has a column risk/selected of the type"),
        ("repeat_2/fold", str, "has a column repeat_2/fold of the type"),
        ("group", float, "has a column group of the type float64"),
        ("hallucinated", int, "has a column hallucinated of the type int64"),
        ("id", len, "has an id that is not text"),
        ("id", lambda _: "q", "stands more than once"),
    ],
)
def test_cells_of_another_type_are_damage(
    run: Run, column: str, change: Callable[[Any], object], said: str
) -> None:
    path = run.path / "probes" / "predictions.parquet"
    table = pq.read_table(path).to_pandas()
    table[column] = [change(cell) for cell in table[column]]
    table.to_parquet(path)
    with pytest.raises(StoreError, match=f"predictions.parquet: damaged, .*{said}"):
        read_sweep(run)


def test_predictions_of_rows_that_the_run_does_not_have_are_stale(run: Run) -> None:
    path = run.path / "probes" / "predictions.parquet"
    table = pq.read_table(path).to_pandas()
    table["id"] = table["id"].mask(table.index < 2, table["id"] + "x")
    table.to_parquet(path)
    assert _stale(run) == "they were trained on 2 rows that the run does not have"


def test_labels_made_anew_with_the_same_verdicts_change_nothing(run: Run) -> None:
    write_labels(run.path, reversed(read_labels(run.path).values()), {"scorer": "again"})
    assert read_sweep(run).stale == ""  # type: ignore[union-attr]


def test_probes_of_other_labels_are_stale(run: Run) -> None:
    scores = list(read_labels(run.path).values())
    scores[0] = replace(scores[0], hallucinated=True)  # could not be scored before
    scores[9] = replace(scores[9], hallucinated=not scores[9].hallucinated)
    write_labels(run.path, scores, {})
    assert _stale(run) == f"2 of {ROWS} rows have another label now"
    (run.path / "labels.parquet").unlink()
    assert _stale(run) == "the labels that they were trained on no longer exist"


def test_probes_of_fewer_rows_are_stale(run: Run) -> None:
    with RunWriter(run.path, run.manifest) as writer:
        writer.add([make_capture(ROWS)])
    grown = open_run(run.path)
    assert _stale(grown) == f"the run had {ROWS} rows when they were trained and has {ROWS + 1} now"


def test_probes_of_another_run_are_stale(run: Run) -> None:
    _change(run, run_id="ab" * 16)
    assert _stale(run) == "they are of another run (run_id abababab…)"


NAMELESS = {each.name: 0.5 for each in fields(ProbeResult)} | {"name": {}}

DAMAGES = [
    ("has no settings", {"settings": None}),
    ("has no rows", {"rows": "90"}),
    ("has a result without title", {"results": [{"name": "selected"}]}),
    ("has a result whose name is no text", {"results": [NAMELESS]}),
    ("has no result 'tea leaves'", {"best_baseline": "tea leaves"}),
    ("is from another sweep than results.json", {"hallucinated": 1}),
    ("has no group_by", {"group_by": None}),
    ("has no label_set", {"label_set": 3}),
    ("has no compared", {"compared": None}),
    ("has no left_out", {"left_out": None}),
    ("has something left out without a count", {"left_out": [{"what": "row"}]}),
    ("has something left out without a count", {"left_out": [7]}),
    ("has no effect of abstaining", {"abstaining": {"share": 0.1}}),
    ("has no before of abstaining", {"abstaining": {"share": 0.1, "interval": {}}}),
    ("has a by_column that is not an object", {"by_column": []}),
    ("has no usable entry for the column 'source'", {"by_column": {"source": []}}),
    (
        "has no usable entry for the column 'source'",
        {"by_column": {"source": {"within": {"selected": {"auroc": 0.7}}, "values": []}}},
    ),
    (
        "has no usable entry for the column 'source'",
        {"by_column": {"source": {"within": {}, "values": [{"value": "a", "rows": "3"}]}}},
    ),
]


@pytest.mark.parametrize(("finding", "changes"), DAMAGES)
def test_a_summary_that_lacks_something_is_refused(
    run: Run, finding: str, changes: dict[str, Any]
) -> None:
    _change(run, **changes)
    with pytest.raises(StoreError, match=f"{finding}; run 'vlmscope probe {run.path}' again"):
        read_sweep(run)


@pytest.mark.parametrize("text", ["{", "[]", "null", ""])
def test_a_summary_that_is_none_is_refused(run: Run, text: str) -> None:
    (run.path / "probes" / "results.json").write_text(text)
    with pytest.raises(StoreError, match=r"results\.json: damaged, .* run 'vlmscope probe"):
        read_sweep(run)


def test_predictions_that_are_gone_cut_or_of_another_sweep_are_refused(run: Run) -> None:
    path = run.path / "probes" / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["group"]), path)
    with pytest.raises(StoreError, match="has no column group"):
        read_sweep(run)
    pq.write_table(table.drop_columns(["risk/combined"]), path)
    with pytest.raises(StoreError, match="has no column risk/combined"):
        read_sweep(run)
    shuffled = table["risk/selected"].take(np.arange(len(table))[::-1].copy())
    where = table.column_names.index("risk/selected")
    pq.write_table(table.set_column(where, "risk/selected", shuffled), path)
    with pytest.raises(StoreError, match="is from another sweep"):
        read_sweep(run)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"predictions\.parquet: damaged, cannot be read"):
        read_sweep(run)
    path.unlink()
    with pytest.raises(StoreError, match=r"predictions\.parquet: damaged, cannot be read"):
        read_sweep(run)


def _stale(run: Run) -> str:
    found = read_sweep(run)
    assert found is not None
    return found.stale


def _change(run: Run, **changes: Any) -> None:
    path = run.path / "probes" / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "value"), [("found_nothing", None), ("above_joint", "gone"), ("above_joint_low", None)]
)
def test_a_summary_without_gains_is_damage(run: Run, name: str, value: str | None) -> None:
    path = run.path / "probes/results.json"
    summary = json.loads(path.read_text("utf-8"))
    row = next(row for row in summary["results"] if row["name"] == "joint_and_probe")
    if value == "gone":
        del row[name]
    else:
        row[name] = value
    path.write_text(json.dumps(summary))
    with pytest.raises(StoreError, match=r"results\.json: damaged, .*gains"):
        read_sweep(run)


@pytest.mark.parametrize(("name", "value"), [("auroc", "high"), ("layer", 1.5), ("title", {})])
def test_a_result_of_another_type_is_damage(run: Run, name: str, value: object) -> None:
    path = run.path / "probes/results.json"
    summary = json.loads(path.read_text("utf-8"))
    summary["results"][0][name] = value
    path.write_text(json.dumps(summary))
    with pytest.raises(StoreError, match=f"damaged, has a result whose {name} is "):
        read_sweep(run)


def test_rows_that_nobody_labelled_are_no_unscorable_answers(tmp_path: Path) -> None:
    """Whether they could be scored is not known: nobody has looked."""
    rng = np.random.default_rng(0)
    run = labelled_run(tmp_path / "run", [True, False] * 10, rng.random((20, 8)), range(20))
    evidence = [*["no label in the column: judged is empty"] * 2,
                "not in the label file: l.csv", "no label in the file: l.csv", "needs a judge",
                "no verdict came"]  # fmt: skip
    scorers = ["column", "column", "file", "file", "auto", "judge"]
    scores = [
        Score(id_, None if i < 6 else i % 2 == 0, scorers[i] if i < 6 else "file",
              evidence[i] if i < 6 else "", labelled=i in (4, 5) or i >= 6)
        for i, id_ in enumerate(run.ids)
    ]  # fmt: skip
    write_labels(run.path, scores, {})
    data = probe_data(run)
    assert {(each.what, each.count, each.reason) for each in data.left_out} == {
        ("row", 2, "no label in the column"),
        ("row", 2, "no label in l.csv"),
        ("row", 2, "the answer could not be scored"),
    }
    assert (data.unscorable, data.unlabelled, len(data.rows)) == (6, 4, 14)
