"""``verify``, ``inspect`` and ``load_probe`` from Python."""

from __future__ import annotations

import inspect as inspection
import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import vlmscope
from probe_on_disk import save
from vlmscope.cli.inspect import inspect as inspect_command
from vlmscope.cli.verify import verify as verify_command
from vlmscope.engine import capture
from vlmscope.errors import (
    InputError,
    RowError,
    RunMismatchError,
    StoreError,
    ToleranceError,
    UnknownIdError,
)
from vlmscope.model import VisionLanguageModel
from vlmscope.report import ReportSpec
from vlmscope.report.thumbnails import find_table
from vlmscope.risk import RiskScorer
from vlmscope.schema import CaptureSpec, Sample


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def frame(samples: list[Sample]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"question_id": s.id, "image": s.image, "question": s.question, "answer": s.target}
            for s in samples[:3]
        ]
    )


@pytest.fixture(scope="module")
def run(
    frame: pd.DataFrame, vlm: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> vlmscope.Run:
    out = tmp_path_factory.mktemp("checked") / "run"
    return vlmscope.extract(frame, vlm, out, layers=[0, 2], max_new_tokens=3)


@pytest.mark.exhaustive
def test_a_run_of_a_table_in_memory_is_verified_with_it(
    run: vlmscope.Run, frame: pd.DataFrame, vlm: VisionLanguageModel, checkpoint: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    checks = vlmscope.verify(run, data=frame, model=vlm)
    assert {check.id for check in checks} == set(run.ids)
    assert all(check.same_answer for check in checks)
    [one] = vlmscope.verify(run.path, data=list(vlmscope.read_samples(frame)), model=vlm, sample=1)
    assert one.id in run.ids
    files = [png(image) for image in frame["image"]]
    frame.assign(image=files).to_parquet(tmp_path / "t.parquet")
    assert len(vlmscope.verify(run, data=tmp_path / "t.parquet", model=vlm, sample=1)) == 1
    for row in frame.itertuples():
        row.image.save(tmp_path / f"{row.question_id}.png")
    names = [f"{id_}.png" for id_ in frame["question_id"]]
    frame.assign(image=names).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(RunMismatchError, match=r"is another question|are other questions"):
        vlmscope.verify(run, data=tmp_path / "t.csv", model=vlm)  # its images have names


def test_without_its_table_it_says_what_it_needs(run: vlmscope.Run) -> None:
    with pytest.raises(
        InputError, match=r"its table was in memory .DataFrame., .*give it with data"
    ):
        vlmscope.verify(run)
    assert vlmscope.verify(run, files=True) == []
    table, why = find_table(run, ReportSpec())
    assert table is None
    assert why.startswith("No images: ")
    assert "its table was in memory (DataFrame)" in why


def test_a_report_takes_the_table(run: vlmscope.Run, frame: pd.DataFrame) -> None:
    table, why = find_table(run, ReportSpec(data=frame))
    assert why == ""
    assert table is not None
    assert table.scan().fingerprint == run.manifest.data.fingerprint


def test_what_is_not_as_it_was_is_refused(
    run: vlmscope.Run,
    frame: pd.DataFrame,
    vlm: VisionLanguageModel,
    talkative_vlm: VisionLanguageModel,
) -> None:
    with pytest.raises(ToleranceError, match=r"differs by .*, tolerance"):
        vlmscope.verify(run, data=frame, model=vlm, tolerance=0)
    with pytest.raises(RunMismatchError, match="not the model of this run, its generation_hash"):
        vlmscope.verify(run, data=frame, model=talkative_vlm)
    with pytest.raises(ValueError, match=r"^sample 0: give 1 or more"):
        vlmscope.verify(run, data=frame, sample=0)
    for tolerance in (-1e-5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"^tolerance .*: give a number of 0 or more"):
            vlmscope.verify(run, data=frame, model=vlm, tolerance=tolerance)
    with pytest.raises(RunMismatchError, match="is another question in DataFrame"):
        vlmscope.verify(run, data=frame.assign(question=["?", *frame["question"][1:]]), model=vlm)
    with pytest.raises(InputError, match="not a run folder"):
        vlmscope.verify(run.path.parent)


@pytest.mark.exhaustive
def test_a_damaged_file_is_named(run: vlmscope.Run, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(run.path, tmp_path / "run")
    [shard] = (copy / "shards").glob("*.h5")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="1 damaged file: "):
        vlmscope.verify(copy, files=True)


def test_one_question_is_inspected(frame: pd.DataFrame, vlm: VisionLanguageModel) -> None:
    first = vlmscope.inspect(frame, vlm, max_new_tokens=0)
    assert first.sample.id == frame["question_id"][0]
    asked = vlmscope.inspect(frame, vlm, frame["question_id"][2], layers=1, max_new_tokens=2)
    assert asked.capture.vector("last_prompt_token", 1).shape == (64,)
    assert repr(asked).startswith(f"Inspection('{frame['question_id'][2]}', ")
    assert "\n" not in repr(asked)
    with pytest.raises(KeyError, match="id 'gone': DataFrame contains no such question") as caught:
        vlmscope.inspect(frame, vlm, "gone")
    assert isinstance(caught.value, UnknownIdError)
    with pytest.raises(InputError, match=r"^attention: the model is loaded already"):
        vlmscope.inspect(frame, vlm, attention="eager")
    with pytest.raises(RowError, match="the question in column 'question' is empty"):
        vlmscope.inspect(frame.assign(question=""), vlm)
    lost = pd.DataFrame({"id": ["a"], "image": ["gone.png"], "question": ["Is it red?"]})
    with pytest.raises(RowError, match=r"gone\.png: not found"):  # before a model is looked for
        vlmscope.inspect(lost, "no-model")


def test_the_options_of_the_commands_are_arguments() -> None:
    for function, command in (
        (vlmscope.verify, verify_command),
        (vlmscope.inspect, inspect_command),
    ):
        options = set(inspection.signature(command).parameters) - {"as_json", "fields", "id_"}
        arguments = set(inspection.signature(function).parameters)
        assert options - {"data"} <= arguments
        for name in arguments:
            assert f"        {name}: " in (function.__doc__ or ""), name


def test_a_probe_is_loaded_by_its_folder(
    run: vlmscope.Run, vlm: VisionLanguageModel, samples: list[Sample], tmp_path: Path
) -> None:
    captures = list(capture(samples, vlm, CaptureSpec(layers=2, max_new_tokens=0)))
    saved = save(tmp_path / "probe", vlm, captures)
    probe, info = vlmscope.load_probe(str(tmp_path / "probe"))
    vectors = [item.vector("last_prompt_token", 2) for item in captures]
    assert probe.predict(vectors).tolist() == saved.predict(vectors).tolist()
    assert info.representation == "query_token_representation"
    with pytest.raises(InputError, match="a run without probes"):
        vlmscope.load_probe(run.path)
    with pytest.raises(InputError, match=f"{run.path.name}: is a run without probes"):
        vlmscope.load_probe(run)
    text = repr(RiskScorer(vlm, tmp_path / "probe"))
    assert text.startswith(f"RiskScorer('{vlm.name}' in float32, MeanDifferenceProbe of ")
    assert "at layer 2, trained on" in text
    assert "\n" not in text


def test_what_is_no_model_is_refused_in_one_line(
    run: vlmscope.Run, frame: pd.DataFrame, vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    """A model of transformers, or nothing, is not taken for the name of a hub."""
    for wrong in (vlm.model, vlm.processor, 3, b"models/first", [vlm]):
        name = type(wrong).__name__
        message = rf"^model: found {name}, expected .* or a model that vlmscope loaded$"
        with pytest.raises(InputError, match=message):
            vlmscope.extract(frame, wrong, tmp_path / "run")
        with pytest.raises(InputError, match=message):
            vlmscope.inspect(frame, wrong)
        with pytest.raises(InputError, match=message):
            vlmscope.verify(run, data=frame, model=wrong)
    with pytest.raises(InputError, match=r"^model: found NoneType"):
        vlmscope.extract(frame, None, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_is_shown_in_one_line(vlm: VisionLanguageModel) -> None:
    expected = (
        f"VisionLanguageModel('{vlm.name}', Llama-3.2-Vision, 8 layers of 64, float32 on cpu)"
    )
    assert repr(vlm) == expected
    assert repr(replace(vlm, adapter="lora", quantization="4bit")).endswith(
        "rounded to 4bit, adapter 'lora')"
    )
