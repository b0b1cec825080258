"""A risk told before the answer equals what the probe says of the stored vector, or is refused."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from probe_on_disk import CALIBRATION, QUERY, save
from vlmscope.engine import capture
from vlmscope.errors import InputError, ModelChangedError, ModelError, RowError, StoreError
from vlmscope.executors import describe_model, runner
from vlmscope.metrics import Platt
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.model.loading.checksums import stamp_of
from vlmscope.probes import ProbeInfo
from vlmscope.risk import Risk, RiskScorer, find_probe
from vlmscope.risk.scorer import spec_of
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample


@pytest.fixture(scope="module")
def captures(vlm: VisionLanguageModel, samples: list[Sample]) -> list[Capture]:
    """The rows as extract keeps them: a whole answer each, whatever the probe needs of it."""
    return list(capture(samples, vlm, CaptureSpec(layers="all", max_new_tokens=4), batch_size=3))


@pytest.mark.first(1)
@pytest.mark.parametrize("path", [f"{QUERY}/layer_2", "vision_token_representation/layer_0",
                                  "vision_only_representation"])  # fmt: skip
def test_the_risk_is_the_probes_on_the_stored_vector(
    path: str,
    tmp_path: Path,
    vlm: VisionLanguageModel,
    samples: list[Sample],
    captures: list[Capture],
) -> None:
    probe = save(tmp_path / "probe", vlm, captures, path)
    matrix = np.stack([item.vectors[path] for item in captures])
    wanted = Platt(*CALIBRATION).apply(probe.decision_function(matrix))
    for size in (1, 4, "auto"):
        scorer = RiskScorer(vlm, tmp_path / "probe", batch_size=size)  # type: ignore[arg-type]
        found = list(scorer.score(samples))
        assert [risk.id for risk in found] == [sample.id for sample in samples]
        np.testing.assert_allclose([risk.risk for risk in found], wanted, atol=2e-5)
        assert [risk.flagged for risk in found] == (wanted > 0.45).tolist()
    assert scorer.risk(samples[0].image, samples[0].question) == pytest.approx(wanted[0], abs=2e-5)


def test_without_calibration_the_risk_is_the_log_odds(
    tmp_path: Path, vlm: VisionLanguageModel, samples: list[Sample], captures: list[Capture]
) -> None:
    probe = save(tmp_path, vlm, captures, calibration=None)
    vector = captures[0].vectors[f"{QUERY}/layer_2"][np.newaxis]
    found = RiskScorer(vlm, tmp_path).risk(samples[0].image, samples[0].question)
    assert found == pytest.approx(probe.predict_proba(vector)[0, 1], abs=2e-5)


def test_a_bad_row_is_a_failure_in_its_place_and_harms_nobody(
    tmp_path: Path, vlm: VisionLanguageModel, samples: list[Sample], captures: list[Capture]
) -> None:
    save(tmp_path / "probe", vlm, captures)
    scorer = RiskScorer(vlm, tmp_path / "probe", batch_size=4)
    unread = Failure("unread", "input", "t.csv line 3: no question")
    missing = Sample("missing", str(tmp_path / "no.png"), "What is it?")
    rows = [samples[0], missing, unread, samples[1], unread, unread, unread, unread, samples[2]]
    found = list(scorer.score(rows))
    assert [item.id for item in found] == [row.id for row in rows]
    assert found[2] is unread
    assert isinstance(found[1], Failure)
    assert "no.png" in found[1].error
    alone = [next(iter(scorer.score([sample]))) for sample in samples[:3]]
    for here, there in zip((found[0], found[3], found[8]), alone, strict=True):
        assert isinstance(here, Risk)
        assert isinstance(there, Risk)
        assert here.risk == pytest.approx(there.risk, abs=2e-5)
    with pytest.raises(RowError, match=r"no\.png"):
        scorer.risk(tmp_path / "no.png", "What is it?")
    assert list(scorer.score([])) == []


def test_an_image_of_many_questions_is_encoded_once_a_table(
    tmp_path: Path,
    vlm: VisionLanguageModel,
    samples: list[Sample],
    captures: list[Capture],
) -> None:
    save(tmp_path / "probe", vlm, captures)
    rows = [replace(samples[0], id=f"q{i}", question=f"Is {i} there?") for i in range(7)]
    alone = [RiskScorer(vlm, tmp_path / "probe").risk(row.image, row.question) for row in rows]
    encoded: list[int] = []
    handle = vlm.vision_encoder.register_forward_hook(
        lambda _module, _args, output: encoded.append(len(output.last_hidden_state))
    )
    try:
        found = list(RiskScorer(vlm, tmp_path / "probe", batch_size=2).score(rows))
    finally:
        handle.remove()
    assert encoded == [1]
    risks = [risk.risk for risk in found if isinstance(risk, Risk)]
    np.testing.assert_allclose(risks, alone, atol=2e-5)


def test_rows_of_equal_ids_keep_their_own_results(
    tmp_path: Path, vlm: VisionLanguageModel, samples: list[Sample], captures: list[Capture]
) -> None:
    save(tmp_path / "probe", vlm, captures)
    scorer = RiskScorer(vlm, tmp_path / "probe", batch_size=2)
    missing = Sample("same", str(tmp_path / "no.png"), "What is it?")
    rows = [replace(samples[0], id="same"), missing, replace(samples[1], id="same"), missing]
    first, second, third, fourth = scorer.score(rows)
    expected = [next(iter(scorer.score([row]))) for row in (rows[0], rows[2])]
    for here, there in zip((first, third), expected, strict=True):
        assert isinstance(here, Risk)
        assert isinstance(there, Risk)
        assert here.id == "same"
        assert here.risk == pytest.approx(there.risk, abs=2e-5)
    for here in (second, fourth):
        assert isinstance(here, Failure)
        assert here.id == "same"
        assert "no.png" in here.error


class Id(str):
    """An id that can be counted."""

    __slots__ = ("__weakref__",)


@pytest.mark.exhaustive
def test_nothing_is_kept_of_the_rows_of_an_endless_stream(
    tmp_path: Path, vlm: VisionLanguageModel, samples: list[Sample], captures: list[Capture]
) -> None:
    ids: list[weakref.ref[Id]] = []
    read = 0

    def endless() -> Iterator[Sample]:
        nonlocal read
        while True:
            read += 1
            id_ = Id(f"q{read // 2}")  # each comes twice
            ids.append(weakref.ref(id_))
            image = samples[0].image if read % 3 else tmp_path / "no.png"
            yield replace(samples[0], id=id_, image=image)

    save(tmp_path / "probe", vlm, captures)
    risks = RiskScorer(vlm, tmp_path / "probe", batch_size=2).score(endless())
    found = [next(risks).id for _ in range(24)]
    assert found == [f"q{i // 2}" for i in range(1, 25)]
    found.clear()
    gc.collect()
    assert len([None for id_ in ids if id_() is not None]) <= read - 24 + 4
    risks.close()


def test_risks_of_rows_before_one_that_cannot_be_read_come_first(
    tmp_path: Path, vlm: VisionLanguageModel, samples: list[Sample], captures: list[Capture]
) -> None:
    def rows() -> Iterator[Sample]:
        yield from samples[:3]
        raise ConnectionError("the line is dead")

    save(tmp_path / "probe", vlm, captures)
    scores = RiskScorer(vlm, tmp_path / "probe", batch_size=2).score(rows())
    assert [next(scores).id for _ in range(3)] == [sample.id for sample in samples[:3]]
    with pytest.raises(ConnectionError, match="the line is dead"):
        next(scores)


def test_errors_of_rows_stay_failures_once_a_row_went_well(
    tmp_path: Path,
    vlm: VisionLanguageModel,
    samples: list[Sample],
    captures: list[Capture],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before, the same error on three rows is a bug, and raised."""
    save(tmp_path / "probe", vlm, captures)
    original = runner.prepare

    def prepare(rows: Sequence[Sample], *rest: Any) -> Any:
        if any("strange" in row.question for row in rows):
            raise ZeroDivisionError("strange words")
        return original(rows, *rest)

    monkeypatch.setattr(runner, "prepare", prepare)
    scorer = RiskScorer(vlm, tmp_path / "probe", batch_size=2)
    strange = [replace(sample, question="How strange?") for sample in samples[:4]]
    with pytest.raises(ZeroDivisionError):
        list(scorer.score(strange))
    assert isinstance(next(iter(scorer.score(samples[:1]))), Risk)
    assert all(isinstance(item, Failure) for item in scorer.score(strange))


def test_another_prompt_is_refused(
    tmp_path: Path, checkpoint: Path, vlm: VisionLanguageModel, captures: list[Capture]
) -> None:
    save(tmp_path / "probe", vlm, captures)
    template = (checkpoint / "chat_template.jinja").read_text()
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{# polite #}" + template)
    with pytest.raises(InputError, match=r"differs in chat template \(the prompt\);"):
        RiskScorer.load(folder, tmp_path / "probe", device="cpu")


def test_other_weights_are_refused(
    tmp_path: Path, vlm: VisionLanguageModel, captures: list[Capture]
) -> None:
    record = asdict(describe_model(vlm)) | {"vision_pooling": "all"}
    save(tmp_path, vlm, captures, model=record | {"weights_hash": "0" * 64})
    with pytest.raises(InputError, match="differs in weights;"):
        RiskScorer(vlm, tmp_path)
    files = {"weights_hash": "0" * 64, "weight_files": {"model.safetensors": "0" * 64}}
    save(tmp_path, vlm, captures, model=record | files)
    with pytest.raises(InputError, match=r"weights: other bytes in 'model.safetensors';"):
        RiskScorer(vlm, tmp_path)
    save(tmp_path, vlm, captures, model=record | {"weights_hash": "0", "config_hash": "0"})
    with pytest.raises(InputError, match="differs in configuration and weights;"):
        RiskScorer(vlm, tmp_path)


def test_no_risk_is_told_once_the_models_files_are_rewritten(
    tmp_path: Path, vlm: VisionLanguageModel, samples: list[Sample], captures: list[Capture]
) -> None:
    save(tmp_path / "probe", vlm, captures)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"before")
    assert vlm.identity is not None
    identity = replace(vlm.identity, stamps={file: stamp_of(file.stat())})
    scores = RiskScorer(replace(vlm, identity=identity), tmp_path / "probe", batch_size=2)
    found = scores.score(iter(samples))
    assert isinstance(next(found), Risk)
    file.write_bytes(b"after it")
    with pytest.raises(ModelChangedError, match=r"model.safetensors: was changed"):
        list(found)


def test_a_model_that_nobody_loaded_is_not_described(vlm: VisionLanguageModel) -> None:
    with pytest.raises(ModelError, match="load it by load_model"):
        describe_model(replace(vlm, identity=None))


def test_a_probe_of_unknown_origin_is_refused(
    tmp_path: Path, vlm: VisionLanguageModel, captures: list[Capture]
) -> None:
    save(tmp_path, vlm, captures, model={"name": "llama", "source": "research files"})
    with pytest.raises(InputError, match="does not record which model"):
        RiskScorer(vlm, tmp_path)


def test_a_probe_that_needs_the_answer_is_refused(
    tmp_path: Path, vlm: VisionLanguageModel, captures: list[Capture]
) -> None:
    save(tmp_path, vlm, captures, representation="answer_mean_representation")
    with pytest.raises(InputError, match="only after the answer is generated"):
        RiskScorer(vlm, tmp_path)
    save(tmp_path, vlm, captures, representation="soul_representation")
    with pytest.raises(InputError, match="cannot capture"):
        RiskScorer(vlm, tmp_path)


@pytest.mark.exhaustive
def test_the_probes_dtype_is_the_models(
    tmp_path: Path, checkpoint: Path, vlm: VisionLanguageModel, captures: list[Capture]
) -> None:
    record = asdict(describe_model(vlm)) | {"vision_pooling": "all", "dtype": "bfloat16"}
    save(tmp_path, vlm, captures, model=record)
    scorer = RiskScorer.load(checkpoint, tmp_path, device="cpu")
    assert scorer.dtype == "bfloat16"
    again = RiskScorer(load_model(checkpoint, device="cpu", dtype="float32"), tmp_path)
    assert again.dtype == "float32"


def test_a_threshold_is_a_risk(
    tmp_path: Path, vlm: VisionLanguageModel, samples: list[Sample], captures: list[Capture]
) -> None:
    save(tmp_path, vlm, captures)
    assert not any(item.flagged for item in RiskScorer(vlm, tmp_path, threshold=1.0).score(samples))
    with pytest.raises(InputError, match=r"^threshold 1\.5: give a risk from 0 to 1"):
        RiskScorer(vlm, tmp_path, threshold=1.5)


def test_a_probe_is_found_in_its_folder_or_by_its_run(
    tmp_path: Path, vlm: VisionLanguageModel, captures: list[Capture]
) -> None:
    with pytest.raises(InputError, match="is not a probe"):
        find_probe(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="run without probes"):
        find_probe(tmp_path)
    save(tmp_path / "probes" / "best", vlm, captures)
    summary = tmp_path / "probes" / "results.json"
    summary.write_text(json.dumps({"selected_probe": "best"}))
    assert find_probe(tmp_path) == find_probe(tmp_path / "probes" / "best")
    summary.write_text(json.dumps({"selected_probe": "../../elsewhere"}))
    with pytest.raises(StoreError, match="names no selected probe; run vlmscope probe"):
        find_probe(tmp_path)


def test_an_image_of_any_kind(
    tmp_path: Path, vlm: VisionLanguageModel, samples: list[Sample], captures: list[Capture]
) -> None:
    save(tmp_path / "probe", vlm, captures)
    scorer = RiskScorer(vlm, tmp_path / "probe")
    image = samples[0].image
    assert isinstance(image, Image.Image)
    image.save(tmp_path / "image.png")
    by_object = scorer.risk(image, "What is it?")
    assert scorer.risk(tmp_path / "image.png", "What is it?") == by_object
    assert scorer.risk((tmp_path / "image.png").read_bytes(), "What is it?") == by_object


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 999}, "layer is 999, but vision_only_representation has no layers"),
        ({"model": {"adapter": 5}}, "model.adapter is 5, expected text"),
        ({"model": {"dtype": ["float32"]}}, "model.dtype is"),
    ],
)
def test_a_description_with_wrong_values_is_refused_before_a_model_is_loaded(
    change: dict[str, Any], message: str
) -> None:
    info = ProbeInfo("vision_only_representation", None, 4, "LogisticProbe", 9, model={"type": "x"})
    assert spec_of(Path("probe"), info).layers == "0"
    with pytest.raises(InputError, match=message):
        spec_of(Path("probe"), replace(info, **change))
