"""``extract`` from Python: tables in memory, a loaded model, resuming, and arguments by name."""

from __future__ import annotations

import contextlib
import inspect as inspection
import json
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

import vlmscope
from vlmscope.cli.extract import extract as command
from vlmscope.errors import InputError, ModelError, RowError, RunMismatchError
from vlmscope.executors import Request
from vlmscope.model import VisionLanguageModel
from vlmscope.model_options import ModelOptions
from vlmscope.schema import DEFAULT_LAYERS, CaptureSpec, FieldSpec, Sample

QUICK: dict[str, Any] = {"layers": [0, 2], "max_new_tokens": 3, "batch_size": 4}


@pytest.fixture
def frame(samples: list[Sample]) -> pd.DataFrame:
    """Four questions, two of them about one image."""
    return pd.DataFrame(
        [
            {"question_id": s.id, "image": s.image, "question": s.question, "answer": s.target}
            for s in (samples[i] for i in (0, 4, 5, 6))
        ]
    )


@pytest.mark.exhaustive
def test_a_table_in_memory_gives_the_rows_of_its_file(
    frame: pd.DataFrame, vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    for row in frame.itertuples():
        row.image.save(tmp_path / f"{row.question_id}.png")
    paths = [f"{id_}.png" for id_ in frame["question_id"]]
    frame.assign(image=paths).to_csv(tmp_path / "t.csv", index=False)
    expected = vlmscope.extract(tmp_path / "t.csv", vlm, tmp_path / "file", **QUICK)
    rows = frame.to_dict("records")
    tables: dict[str, Any] = {
        "frame": frame,
        "rows": rows,
        "dataset": datasets.Dataset.from_dict(frame.to_dict("list")),
        "samples": (Sample(*row.values()) for row in rows),
        "paths": frame.assign(image=[tmp_path / path for path in paths]),
    }
    for name, table in tables.items():
        options = {"images": tmp_path, "allow_absolute_paths": name == "paths"}
        run = vlmscope.extract(table, vlm, tmp_path / name, **options, **QUICK)
        assert run.ids == expected.ids, name
        assert run.manifest.capture.layers == (0, 2)
        for id_ in run.ids:
            one, other = run[id_], expected[id_]
            assert one.answer == other.answer
            assert one.image_sha256 == other.image_sha256
            for path, vector in other.vectors.items():
                np.testing.assert_array_equal(one.vectors[path], vector)
        data = json.loads((tmp_path / name / "run.json").read_text())["data"]
        assert data["in_memory"]
        assert data["path"] in ("DataFrame", "list", "Dataset", "rows of samples")
    assert not expected.manifest.data.in_memory


def test_a_run_of_a_data_frame_goes_on_by_its_ids(
    frame: pd.DataFrame, vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    out, notes = tmp_path / "run", []
    first = vlmscope.extract(frame.head(2), vlm, out, **QUICK)
    before = {path: path.read_bytes() for path in (out / "shards").iterdir()}
    grown = vlmscope.extract(frame.iloc[::-1], vlm, out, note=notes.append, **QUICK)
    assert set(grown.ids) == set(frame["question_id"])
    for id_ in first.ids:
        assert grown[id_] == first[id_]
    again = vlmscope.extract(frame.iloc[::-1], vlm, out, **QUICK)
    assert again.ids == grown.ids
    assert before  # nothing of the first session was captured anew
    assert again.manifest.data.several_tables


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"image": 3}, "(image)"),
        ({"question": 1}, "(question)"),
    ],
)
def test_a_row_in_memory_that_is_another_one_is_refused(
    frame: pd.DataFrame, vlm: VisionLanguageModel, tmp_path: Path, change: dict[str, int], what: str
) -> None:
    """Also where the table calls the other image by the same name."""
    for number, table in enumerate((frame, frame.assign(image_id="one.png"))):
        out = tmp_path / f"run{number}"
        vlmscope.extract(table.head(2), vlm, out, **QUICK)
        changed = table.copy()
        for column, row in change.items():
            other = table[column].iloc[row]
            changed.at[0, column] = other if column == "image" else f"not {other}"
        with pytest.raises(RunMismatchError, match="is another question in DataFrame") as caught:
            vlmscope.extract(changed, vlm, out, **QUICK)
        assert what in str(caught.value)
        assert "give another out" in str(caught.value)


def test_rows_that_fail_are_recorded_and_tried_again(
    frame: pd.DataFrame, vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    broken = frame.copy()
    broken.at[1, "image"] = b"no image"
    broken.at[2, "question"] = " "
    broken.at[3, "image"] = None
    with pytest.warns(vlmscope.FailedRowsWarning) as caught:
        run = vlmscope.extract(broken, vlm, tmp_path / "run", **QUICK)
    [told] = caught
    assert told.filename == __file__
    assert str(told.message).startswith(f"{tmp_path / 'run'}: 3 rows failed, one of them: ")
    assert "; run.failures has all" in str(told.message)
    ids = frame["question_id"].tolist()
    assert run.ids == (ids[0],)
    assert set(run.failures) == set(ids[1:])
    assert run.failures[ids[1]].stage == "image"
    assert run.failures[ids[3]].error.startswith("DataFrame.iloc[3]: no image in column 'image'")
    assert "text_only=True" in run.failures[ids[3]].error
    whole = vlmscope.extract(frame, vlm, tmp_path / "run", **QUICK)
    assert set(whole.ids) == set(ids)
    assert whole.failures == {}


def test_a_loaded_model_is_left_as_it_was(
    frame: pd.DataFrame, vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    processor = vlm.processor
    run = vlmscope.extract(frame.head(1), vlm, tmp_path / "run", **QUICK)
    assert vlm.processor is processor
    assert run.manifest.model.name == vlm.name
    with pytest.raises(InputError, match=r"^dtype: the model is loaded already"):
        vlmscope.extract(frame, vlm, tmp_path / "other", dtype="float32")
    with pytest.raises(
        InputError, match=r"^allow_pickle_weights=True: the model is loaded already"
    ):
        vlmscope.extract(frame, vlm, tmp_path / "other", allow_pickle_weights=True)
    with pytest.raises(InputError, match=r"^model and ray=True: the model is loaded here"):
        vlmscope.extract(frame, vlm, tmp_path / "other", ray=True)
    with pytest.raises(ModelError, match="the source of the weights is unknown"):
        vlmscope.extract(frame, replace(vlm, identity=None), tmp_path / "other", **QUICK)
    vlm.model.train()
    try:
        with pytest.raises(InputError, match="is in training mode"):
            vlmscope.extract(frame, vlm, tmp_path / "other", **QUICK)
    finally:
        vlm.model.eval()
    assert not (tmp_path / "other").exists()


@pytest.mark.exhaustive
def test_the_most_frequent_reason_is_told(
    frame: pd.DataFrame, vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    """Of the rows of this call; and an error where nothing came of it."""
    out, empty = tmp_path / "run", tmp_path / "images"
    empty.mkdir()
    lost = frame.assign(image=["a.png", "b.png", "c.png", None])
    options = {**QUICK, "images": empty}
    with pytest.raises(RowError, match=r"run: all 4 rows failed, most often \(3\): ") as caught:
        vlmscope.extract(lost, vlm, out, **options)
    assert caught.value.stage == "image"
    assert "\n" not in str(caught.value)
    assert "; failures.jsonl there has all" in str(caught.value)
    with pytest.raises(RowError, match=r"one: the only row failed: .*a\.png"):
        vlmscope.extract(lost.head(1), vlm, tmp_path / "one", **options)
    with pytest.raises(RowError, match=r"strict-run: 1 row failed, and strict stopped the run: "):
        vlmscope.extract(
            lost, vlm, tmp_path / "strict-run", **{**options, "strict": True, "batch_size": 1}
        )
    vlmscope.extract(frame.head(1), vlm, out, **QUICK)
    with pytest.warns(vlmscope.FailedRowsWarning, match=r"2 rows failed, most often \(2\): "):
        run = vlmscope.extract(pd.concat([frame.head(1), lost.iloc[1:3]]), vlm, out, **options)
    assert len(run) == 1


def test_a_run_is_continued_by_itself(
    frame: pd.DataFrame, vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    run = vlmscope.extract(frame.head(1), vlm, tmp_path / "run", **QUICK)
    assert len(vlmscope.extract(frame.head(2), vlm, run, **QUICK)) == 2


WRONG: dict[str, Any] = {
    "max_new_tokens": -1, "layers": "9x", "positions": "nowhere", "vision_pooling": "most",
    "compat": "x", "batch_size": 0, "limit": "3", "store_dtype": "int8", "time_limit": "5",
    "shard": "9/3", "address": "x", "actors": 1, "map": {"id": "gone", "nothing": "x"},
    "images": "gone", "observer": print, "note": True, "progress": print,
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_bad_argument_is_a_value_error_that_names_it(
    name: str, frame: pd.DataFrame, vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b") as caught:
        vlmscope.extract(frame, vlm, tmp_path / "run", **{"max_new_tokens": 0, name: WRONG[name]})
    assert isinstance(caught.value, InputError)
    assert "--" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.exhaustive
def test_columns_may_be_mapped_in_any_way(
    frame: pd.DataFrame, vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    odd = frame.rename(columns={"question": "text", "answer": "gold"}).assign(part="a")
    columns = {"id": ["part", "question_id"], "question": "text", "target": "gold"}
    run = vlmscope.extract(odd.head(1), vlm, tmp_path / "a", map=columns, **QUICK)
    assert run.ids == (f"a_{frame['question_id'][0]}",)
    spec = FieldSpec(id="part,question_id", question="text", target="gold")
    assert vlmscope.extract(odd.head(1), vlm, tmp_path / "a", map=spec, **QUICK).ids == run.ids
    numbered = vlmscope.extract(frame.head(1), vlm, tmp_path / "b", number_rows=True, **QUICK)
    assert numbered.ids == ("row_1",)
    with pytest.raises(InputError, match=r"^number_rows=True: give it in the FieldSpec"):
        vlmscope.extract(odd, vlm, tmp_path / "c", map=spec, number_rows=True)


def test_a_specification_is_given_whole_or_not_at_all(
    frame: pd.DataFrame, vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    spec = CaptureSpec(layers=1, max_new_tokens=0)
    run = vlmscope.extract(frame.head(1), vlm, tmp_path / "run", spec=spec)
    assert run.manifest.capture.layers == (1,)
    options: dict[str, Any] = {
        "layers": "all", "positions": "last_prompt_token", "vision_pooling": "valid",
        "max_new_tokens": 7, "compat": "halp",
    }  # fmt: skip
    either = pytest.raises(InputError, match=r"^spec: give it, or layers")
    for name, value in [*options.items(), ("layers", 1)]:
        with either:
            vlmscope.extract(frame, vlm, tmp_path / "new", spec=spec, **{name: value})
        with either:
            vlmscope.capture(frame, vlm, spec, **{name: value})
        with contextlib.nullcontext() if value == "all" else either:  # the default there
            vlmscope.inspect(frame, vlm, spec=spec, **{name: value})
    with either:
        vlmscope.inspect(frame, vlm, spec=spec, layers=DEFAULT_LAYERS)
    wrong: Any = "0,1"
    with pytest.raises(InputError, match=r"^spec '0,1': expected a CaptureSpec"):
        vlmscope.capture(frame, vlm, wrong)
    assert not (tmp_path / "new").exists()


def test_every_option_of_the_command_is_an_argument() -> None:
    """By the same name; and what the command gives a request, Python can give it too."""
    arguments = inspection.signature(vlmscope.extract).parameters
    options = set(inspection.signature(command).parameters) - {"as_json", "fields", "data", "yes"}
    assert options <= set(arguments)
    assert {"map", "table"} <= set(arguments)
    assert {f.name for f in fields(Request)} - {"data", "fields", "loading"} <= set(arguments)
    assert {f.name for f in fields(ModelOptions)} <= set(arguments)
    assert vlmscope.extract.__doc__
    for name in arguments:
        assert f"        {name}: " in vlmscope.extract.__doc__
        assert name in vlmscope.extract.__annotations__


@pytest.mark.exhaustive
def test_another_thread_may_extract(
    frame: pd.DataFrame, vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    done: list[int] = []

    def work(name: str) -> None:
        done.append(len(vlmscope.extract(frame.head(2), vlm, tmp_path / name, **QUICK)))

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [2, 2]


def test_notes_name_arguments(
    frame: pd.DataFrame, vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    notes: list[str] = []
    say: Callable[[str], None] = notes.append
    frame = frame.head(2).assign(image=[None, frame["image"][0]])
    with pytest.warns(vlmscope.FailedRowsWarning, match="pass text_only=True"):
        vlmscope.extract(frame.drop(columns="answer"), vlm, tmp_path / "run", note=say, **QUICK)
    assert any("pass text_only=True" in note for note in notes)
    assert not any(note.startswith("--") or " --" in note for note in notes if "label" not in note)
