"""The penalties that folds choose: kept with results and probes, and said at an end of the grid."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from store_support import make_capture, make_manifest
from vlmscope.probes import GRID, crossfit_logistic, load_probe
from vlmscope.schema import Score
from vlmscope.store import RunWriter, open_run, write_labels
from vlmscope.sweeps import SweepResult, SweepSpec, save_sweep, sweep
from vlmscope.sweeps.results import grid_edge, penalty_sentence
from vlmscope.sweeps.splitting import repeated_splits
from vlmscope.sweeps.verdict import verdict

PLANTED = "query_token_representation/layer_2"
ROWS = 150


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SweepResult]:
    folder = tmp_path_factory.mktemp("penalty") / "run"
    truth = np.random.default_rng(1).random(ROWS) < 0.4
    captures = []
    for i in range(ROWS):
        row = make_capture(i, image_sha256=f"{i // 3:064x}", image_dhash="")
        vector = row.vectors[PLANTED] + np.float32(9 * truth[i])
        captures.append(replace(row, vectors={**row.vectors, PLANTED: vector}))
    with RunWriter(folder, make_manifest()) as writer:
        writer.add(captures)
    marks = zip(captures, truth, strict=True)
    write_labels(folder, [Score(c.sample.id, bool(t), "column", "") for c, t in marks], {})
    return folder, sweep(open_run(folder), SweepSpec(repeats=1, permutations=100, draws=100))


@pytest.mark.exhaustive
def test_results_hold_the_penalty_of_each_fold(found: tuple[Path, SweepResult]) -> None:
    path, result = found
    data = result.data
    (folds,) = repeated_splits(data, 5, 0, 1)
    matrix = open_run(path).matrix("query_token_representation", 2)
    expected = crossfit_logistic(matrix, data.truth, folds, data.groups).chosen_c
    assert result[PLANTED].chosen_c == tuple(expected)
    for row in result.rows:
        assert (row.chosen_c is not None) == (row.kind == "probe"), row.name
        assert row.chosen_c is None or set(row.chosen_c) <= set(GRID)


@pytest.mark.exhaustive
def test_what_is_saved(found: tuple[Path, SweepResult], tmp_path: Path) -> None:
    path, result = found
    folder = save_sweep(open_run(path), result, tmp_path / "probes")
    summary = json.loads((folder / "results.json").read_text())
    rows = {row["name"]: row for row in summary["results"]}
    assert rows[PLANTED]["chosen_c"] == list(result[PLANTED].chosen_c or ())
    assert rows["selected"]["chosen_c"] is None
    assert summary["grid_edge"] == rows[PLANTED]["grid_edge"] == "high", "perfectly separated"
    table = pd.read_parquet(folder / "results.parquet").set_index("name")
    assert table.loc[PLANTED, "chosen_c"].tolist() == rows[PLANTED]["chosen_c"]
    info = load_probe(folder / summary["selected_probe"])[1]
    assert info.chosen_c == result[PLANTED].chosen_c
    assert any("the weakest of the grid (C = 1)" in line for line in summary["verdict"])


@pytest.mark.exhaustive
def test_vectors_without_a_sign_choose_the_strongest_and_nobody_is_alarmed(
    found: tuple[Path, SweepResult],
) -> None:
    noise = {row.name: row.grid_edge for row in found[1].rows if row.kind == "probe"}
    assert list(noise.values()).count("low") >= 2
    low = replace(found[1][PLANTED], chosen_c=(1e-5, 1e-5, 1e-5, 1e-5, 1e-1))
    rows = [low if row.name == PLANTED else row for row in found[1].rows]
    text = " ".join(verdict(replace(found[1], rows=tuple(rows))))
    assert "the strongest of the grid (C = 1e-05) in 4 of 5 folds, as is usual" in text
    assert "Warning" not in text


@pytest.mark.parametrize(
    ("chosen", "edge"),
    [
        ((1e-5, 1e-5, 1e-4, 1e-4, 1e-5), "low"),
        ((1.0, 1.0, 1e-1, 1.0), "high"),
        ((1.0, 1.0, 1e-5, 1e-5), None),
        ((1e-3,) * 5, None),
        ((), None),
        (None, None),
    ],
)
def test_an_end_counts_where_most_folds_chose_it(
    chosen: tuple[float, ...] | None, edge: str | None
) -> None:
    assert grid_edge(chosen) == edge
    assert len(list(penalty_sentence(chosen))) == (edge is not None)
