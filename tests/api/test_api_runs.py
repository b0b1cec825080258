"""A run for scikit-learn, pandas, PyTorch and notebooks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import vlmscope
from fewer_forms import fewer_forms
from labelled_runs import QUERY, label, labelled_run
from store_support import make_capture, make_manifest
from vlmscope.api.runs import StaleLabelsWarning
from vlmscope.errors import InputError, RowNumberError, UnknownIdError
from vlmscope.schema import Score
from vlmscope.store import RunWriter, replace_ground_truths, write_labels
from vlmscope.sweeps import SweepSpec, probe_data, save_sweep, sweep

ROWS = 90
TRUTH = [None if i % 15 == 0 else i % 3 == 0 for i in range(ROWS)]
"""The labels of the shared run."""


@pytest.fixture
def folder(labelled: Path) -> Path:
    return labelled


@pytest.fixture
def run(folder: Path) -> vlmscope.Run:
    return vlmscope.open_run(folder)


def test_xy_is_what_scikit_learn_takes(run: vlmscope.Run) -> None:
    X, y, groups = run.Xy("last_prompt_token", layer=3)  # noqa: N806
    labelled = [i for i, truth in enumerate(TRUTH) if truth is not None]
    assert (X.dtype, y.dtype, groups.dtype) == (np.float32, np.int64, np.int64)
    np.testing.assert_array_equal(X, run.matrix(QUERY, 3)[labelled])
    assert y.tolist() == [int(TRUTH[i]) for i in labelled]  # type: ignore[arg-type]
    assert len(set(groups)) == len({i // 2 for i in labelled})
    same = groups[:, None] == groups[None, :]
    images = np.array([i // 2 for i in labelled])
    np.testing.assert_array_equal(same, images[:, None] == images[None, :])
    assert run.labelled_ids("last_prompt_token", 3) == tuple(run.ids[i] for i in labelled)


def test_the_groups_are_those_of_the_probe_command(run: vlmscope.Run) -> None:
    found = run.Xy("last_prompt_token", 3)
    data = probe_data(run)
    np.testing.assert_array_equal(found.y, data.truth)
    same = found.groups[:, None] == found.groups[None, :]
    np.testing.assert_array_equal(same, data.groups[:, None] == data.groups[None, :])


def test_positions_go_wherever_names_of_groups_do(run: vlmscope.Run) -> None:
    for name in ("last_prompt_token", QUERY):
        np.testing.assert_array_equal(run.matrix(name, layer=3), run.matrix(QUERY, 3))
        assert run.layers(name) == (2, 3)
        assert run.column(name, 2) == f"{QUERY}/layer_2"
        assert run.iloc[0].vector(name, 2) is not None
        assert len(run.Xy(name, 2).X) == len(run.Xy("vision_only_representation").X)
    with pytest.raises(InputError, match="did you mean 'last_prompt_token'"):
        run.matrix("last_prompt_tokn", 3)
    with pytest.raises(InputError, match="no layer given, last_prompt_token has layers 2, 3"):
        run.Xy("last_prompt_token")
    with pytest.raises(InputError, match="no layer 9, last_prompt_token has layers 2, 3"):
        run.Xy("last_prompt_token", 9)
    with pytest.raises(InputError, match="vision_only_representation has no layers"):
        run.Xy("vision_only_representation", 2)
    with pytest.raises(ValueError, match=r"^copies alike: choose from near, exact"):
        run.Xy("last_prompt_token", 2, copies="alike")


WRONG_LAYERS: dict[str, tuple[Any, str]] = {
    "fraction": (7.0, r"^layer 7\.0: expected a whole number"),
    "text": ("3", r"^layer '3': expected a whole number"),
    "truth": (True, r"^layer True: expected a whole number"),
    "several": ([2, 3], r"^layer \[2, 3\]: expected a whole number"),
    "not stored": (-4, r"no layer -4 \(the model's layer 0\), last_prompt_token has layers 2, 3"),
    "before the first": (-5, r"no layer -5, last_prompt_token has layers 2, 3"),
}


@pytest.mark.parametrize("name", WRONG_LAYERS)
def test_a_layer_that_is_none(name: str, run: vlmscope.Run) -> None:
    layer, message = WRONG_LAYERS[name]
    for ask in (run.Xy, run.matrix, run.column, run.labelled_ids, run.torch_dataset):
        with pytest.raises(InputError, match=message):
            ask("last_prompt_token", layer)


def test_a_row_counts_layers_from_the_first(run: vlmscope.Run) -> None:
    row = run.iloc[0]
    np.testing.assert_array_equal(row.vector(QUERY, np.int64(3)), row.vector(QUERY, 3))
    with pytest.raises(InputError, match=r"no vector .*/layer_-1 \(a row does not know how many"):
        row.vector(QUERY, -1)
    for wrong in (3.0, "3", True):
        with pytest.raises(InputError, match=r"^layer .*: expected a whole number"):
            row.vector(QUERY, wrong)  # type: ignore[arg-type]


def test_layers_count_from_the_end_of_the_model(run: vlmscope.Run) -> None:
    depth = run.manifest.model.num_layers
    for layer in (3 - depth, np.int64(3), np.int32(3 - depth)):
        np.testing.assert_array_equal(run.matrix(QUERY, layer), run.matrix(QUERY, 3))
        np.testing.assert_array_equal(run.Xy(QUERY, layer).X, run.Xy(QUERY, 3).X)
        assert run.column(QUERY, layer) == f"{QUERY}/layer_3"


@pytest.mark.exhaustive
def test_a_named_label_set(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "run")
    scores = [Score(f"q{i}", i % 2 == 0, "file", "by hand") for i in range(10)]
    write_labels(copy, [*scores, Score("gone", True, "file", "")], {}, "human")
    run = vlmscope.open_run(copy)
    assert run.Xy("last_prompt_token", 3, labels="human").y.tolist() == [1, 0] * 5
    table = run.labels("human")
    assert table.index.tolist() == list(run.ids)
    assert table.index.name == "question_id"
    assert table["outcome"].tolist() == ["hallucinated", "faithful"] * 5 + ["unlabelled"] * 80
    assert table["hallucinated"].isna().sum() == 80
    assert table.loc["q3", "evidence"] == "by hand"
    joined = run.to_pandas().join(table, on="question_id")
    assert joined["outcome"].tolist() == table["outcome"].tolist()
    with pytest.raises(InputError, match="no label set 'nobody' yet, there are label sets default"):
        run.Xy("last_prompt_token", 3, labels="nobody")
    label(copy, run.ids, [None] * ROWS)
    with pytest.raises(InputError, match="of 90 rows none has last_prompt_token and is labelled"):
        run.Xy("last_prompt_token", 3)


def test_rows_without_an_image_have_no_vector_of_it(tmp_path: Path) -> None:
    rows = np.zeros((4, 8))
    bare = labelled_run(
        tmp_path / "bare", [True, False] * 2, rows, [0] * 4, bare=True, on_disk=True
    )
    run = vlmscope.open_run(bare.path)
    X, y, groups = run.Xy("last_prompt_token", 2)  # noqa: N806
    assert y.tolist() == [1, 0, 1, 0]
    assert len(set(groups)) == 4, "each question is its own group"
    assert not np.isnan(X).any()
    with pytest.raises(InputError, match="none has vision_only_representation"):
        run.Xy("vision_only_representation")


def test_stale_labels_are_said(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "run")
    write_labels(copy, [Score("q1", True, "auto", ""), Score("q2", False, "auto", "")], {})
    run = vlmscope.open_run(copy)
    assert len(run.Xy("last_prompt_token", 3).y) == 2
    replace_ground_truths(copy, {"q1": "another"})
    with pytest.warns(StaleLabelsWarning, match="truths have changed") as caught:
        vlmscope.open_run(copy).Xy("last_prompt_token", 3)
    assert caught[0].filename == __file__


def test_a_dataset_for_torch(run: vlmscope.Run) -> None:
    dataset = run.torch_dataset("last_prompt_token", layer=3)
    found = run.Xy("last_prompt_token", 3)
    assert len(dataset) == len(found.y)
    x, y = dataset[4]
    assert (x.dtype, y.dtype, x.shape, y.shape) == (torch.float32, torch.int64, (8,), ())
    np.testing.assert_array_equal(dataset.X, found.X)
    assert dataset.y.tolist() == found.y.tolist()
    assert dataset.groups.tolist() == found.groups.tolist()
    assert dataset.ids == run.labelled_ids("last_prompt_token", 3)
    loader = torch.utils.data.DataLoader(dataset, batch_size=7, shuffle=True)
    assert sum(len(labels) for _, labels in loader) == len(dataset)
    assert repr(dataset) == "VectorDataset(84 rows of 8 numbers, 24 hallucinated)"


def test_the_predictions_of_the_probes(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "run")
    run = vlmscope.open_run(copy)
    assert run.predictions is None
    spec = SweepSpec(folds=3, repeats=1, draws=100, permutations=100, copies="exact")
    with fewer_forms():
        save_sweep(run, sweep(run, spec))
    found = run.predictions
    assert isinstance(found, pd.DataFrame)
    assert set(found["id"]) == set(run.labelled_ids("last_prompt_token", 3))
    assert {"fold", "risk/selected", "hallucinated"} <= set(found)
    assert run.predictions_of("human") is None
    label(copy, run.ids, [not truth for truth in TRUTH])
    with pytest.warns(StaleLabelsWarning, match="out of date: .* have another label now"):
        assert run.predictions is not None


def test_rows_by_id_and_by_number(run: vlmscope.Run) -> None:
    assert run["q7"] == run.iloc[7] == run.iloc[-ROWS + 7] == run.iloc[np.int64(7)]
    assert [c.sample.id for c in run.iloc[:2]] == ["q0", "q1"]
    assert [c.sample.id for c in run.iloc[88:200]] == ["q88", "q89"]
    assert [c.sample.id for c in run.iloc[::-40]] == ["q89", "q49", "q9"]
    assert [c.sample.id for c in run.iloc[[5, -1, 5]]] == ["q5", "q89", "q5"]
    chosen = run.to_pandas()["question_id"].isin(["q3", "q50"]).to_numpy()
    assert [c.sample.id for c in run.iloc[chosen]] == ["q3", "q50"]
    assert run.iloc[5:5] == run.iloc[[]] == []
    assert [c.sample.id for c in run] == list(run.ids)
    assert len(run) == ROWS
    assert "q5" in run
    assert "x" not in run


WRONG: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "id": (
        lambda run: run["q777"],
        UnknownIdError,
        "no question 'q777' among 90 rows; did you mean",
    ),
    "slice": (lambda run: run[:2], UnknownIdError, r"run\[:2\]: .* use run\.iloc\[:2\] "),
    "step": (lambda run: run[1:9:2], UnknownIdError, r"use run\.iloc\[1:9:2\]"),
    "number": (lambda run: run[0], UnknownIdError, r"use run\.iloc\[0\]"),
    "list": (lambda run: run[["q0"]], UnknownIdError, r"expected the id of a question"),
    "beyond": (lambda run: run.iloc[90], RowNumberError, r"iloc\[90\]: the run has 90 rows"),
    "before": (lambda run: run.iloc[-91], RowNumberError, r"iloc\[-91\]: the run has 90 rows"),
    "in a list": (lambda run: run.iloc[[0, 90]], RowNumberError, r"iloc\[90\]"),
    "id as number": (lambda run: run.iloc["q0"], RowNumberError, r"use run\[id\] to select"),
    "fraction": (lambda run: run.iloc[1.5], RowNumberError, r"iloc\[1\.5\]: expected a number"),
    "short mask": (lambda run: run.iloc[[True]], RowNumberError, "mask of 1 values, expected one"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_row_that_is_not_there(name: str, run: vlmscope.Run) -> None:
    ask, kind, message = WRONG[name]
    with pytest.raises(kind, match=message) as caught:
        ask(run)
    assert isinstance(caught.value, KeyError if kind is UnknownIdError else IndexError)
    assert isinstance(caught.value, InputError)


def test_a_run_says_what_it_is(folder: Path, tmp_path: Path) -> None:
    text = repr(vlmscope.open_run(folder))
    assert text.startswith(f"Run('{folder}'; 90 rows; ")
    assert "; last_prompt_token; layers 2, 3 of " in text
    assert text.endswith("; labels default: 24 hallucinated, 60 faithful, 6 unscorable)")
    assert "\n" not in text
    copy = shutil.copytree(folder, tmp_path / "run")
    (copy / "labels.parquet").write_bytes(b"damaged")
    assert repr(vlmscope.open_run(copy)).endswith("; labels cannot be read)")
    (copy / "labels.parquet").unlink()
    assert repr(vlmscope.open_run(copy)).endswith("; no labels)")


def test_a_notebook_shows_five_rows_and_no_markup_of_strangers(tmp_path: Path) -> None:
    rows = [make_capture(i) for i in range(8)]
    hostile = "<script>alert(1)</script>"
    rows[0] = replace(rows[0], answer=hostile, sample=replace(rows[0].sample, question=hostile))
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        writer.add(rows[:3])
        writer.add(rows[3:])
    write_labels(tmp_path / "run", [Score(rows[1].sample.id, True, "column", "")], {})
    run = vlmscope.open_run(tmp_path / "run")
    page = run._repr_html_()
    assert page.count("<tr") == 7, "five rows below two lines of headings"
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "8 rows" in page
    assert page.count("unlabelled") == 4
    empty = tmp_path / "empty"
    with RunWriter(empty, make_manifest()):
        pass
    assert "0 rows" in vlmscope.open_run(empty)._repr_html_()
    assert vlmscope.open_run(empty).iloc[:3] == []
