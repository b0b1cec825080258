"""What keeps a model from writing its answers step by step, and that they are the same without."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.against_reference import (
    answered_by_generate,
    assert_all_same,
    assert_same,
    expected_of,
    run_session,
)
from families import strangers
from families.checkpoints import BUILDERS
from families.conformance import ONE_IMAGE
from vlmscope.engine import capture
from vlmscope.engine.decoding.support import AS_GRAPH, why_not_as_graph, why_not_in_slots
from vlmscope.executors import Request, make_plan, plan
from vlmscope.model import FAMILIES, VisionLanguageModel, load_model
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec, Sample

SPEC = CaptureSpec(layers="0,n-1", max_new_tokens=8)
NOTE = "answers are decoded by the library's generate"


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Questions that the library's ``generate`` answered."""
    return answered_by_generate(monkeypatch)


@pytest.fixture
def with_settings(talkative: Path, tmp_path: Path) -> Callable[..., VisionLanguageModel]:
    """Load the talkative model with generation settings of its own."""

    def load(settings: dict[str, Any]) -> VisionLanguageModel:
        folder = Path(shutil.copytree(talkative, tmp_path / "copy"))
        path = folder / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
        return load_model(folder, device="cpu", dtype="float32")

    return load


@pytest.fixture
def eager(talkative_vlm: VisionLanguageModel) -> Iterator[VisionLanguageModel]:
    talkative_vlm.model.set_attn_implementation("eager")
    yield talkative_vlm
    talkative_vlm.model.set_attn_implementation("sdpa")


def assert_exact(vlm: VisionLanguageModel, samples: Sequence[Sample]) -> None:
    found = list(capture(samples, vlm, SPEC, batch_size=len(samples)))
    for item, sample in zip(found, samples, strict=True):
        assert_same(item, reference(sample, vlm, SPEC))


def note_of(
    vlm: VisionLanguageModel, table: Path, monkeypatch: pytest.MonkeyPatch, **spec: Any
) -> tuple[str, ...]:
    monkeypatch.setattr(plan, "load_with", lambda *_, **__: vlm)
    chosen = dataclasses.replace(SPEC, **spec)
    return make_plan(Request(str(table), "model", table.parent / "run", spec=chosen)).notes


def test_nothing_keeps_the_plain_model_from_it(
    talkative_vlm: VisionLanguageModel,
    samples: Sequence[Sample],
    generated: list[str],
    table: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert why_not_in_slots(talkative_vlm) == ""
    assert_exact(talkative_vlm, samples[:3])
    assert generated == []
    assert note_of(talkative_vlm, table, monkeypatch) == ()


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"bad_words_ids": [[47], [60], [117]]}, "NoBadWordsLogitsProcessor"),
        ({"suppress_tokens": [47, 60, 117]}, "SuppressTokensLogitsProcessor"),
        ({"no_repeat_ngram_size": 2}, "NoRepeatNGramLogitsProcessor"),
        ({"forced_eos_token_id": 641}, "ForcedEOSTokenLogitsProcessor"),
        ({"min_new_tokens": 7}, "MinNewTokensLengthLogitsProcessor"),
    ],
    ids=lambda value: next(iter(value)),
)
def test_settings_that_change_the_logits(
    with_settings: Callable[..., VisionLanguageModel],
    talkative_vlm: VisionLanguageModel,
    samples: Sequence[Sample],
    generated: list[str],
    table: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    named: str,
) -> None:
    vlm, rows = with_settings(settings), samples[:4]
    assert named in why_not_in_slots(vlm)
    assert_exact(vlm, rows)
    assert generated == [sample.id for sample in rows]
    [note] = note_of(vlm, table, monkeypatch)
    assert note.startswith(NOTE)
    assert named in note
    assert note_of(vlm, table, monkeypatch, max_new_tokens=0) == ()


def test_a_repetition_penalty(
    talkative_vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not run: transformers 5.17 looks for a logit of Mllama's image token; it has none."""
    monkeypatch.setattr(talkative_vlm.model.generation_config, "repetition_penalty", 1.7)
    assert "RepetitionPenaltyLogitsProcessor" in why_not_in_slots(talkative_vlm)


@pytest.mark.exhaustive
def test_settings_that_were_only_for_sampling(
    with_settings: Callable[..., VisionLanguageModel],
    samples: Sequence[Sample],
    generated: list[str],
) -> None:
    """Loading makes them greedy; nothing is left of them."""
    vlm = with_settings({"do_sample": True, "temperature": 0.3, "top_p": 0.5, "top_k": 3})
    assert why_not_in_slots(vlm) == ""
    assert_exact(vlm, samples[:3])
    assert generated == []


def test_token_healing(vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlm.model.generation_config, "token_healing", True)
    assert "token_healing" in why_not_in_slots(vlm)


@pytest.mark.exhaustive
def test_another_attention(
    eager: VisionLanguageModel,
    samples: Sequence[Sample],
    generated: list[str],
    table: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert why_not_in_slots(eager) == "its attention is 'eager'"
    assert_exact(eager, samples[:3])
    assert len(generated) == 3
    slower, note = note_of(eager, table, monkeypatch)
    assert "slower than sdpa" in slower
    assert note.startswith(NOTE)


def test_a_description_of_the_users_own(talkative_vlm: VisionLanguageModel) -> None:
    described = dataclasses.replace(talkative_vlm, description={"title": "Mine"})
    assert "not verified step by step" in why_not_in_slots(described)


def made_of(where: dict[str, str], device: str, *parts: str) -> VisionLanguageModel:
    """A model with an embedding on ``device`` and other parts elsewhere; nothing is allocated."""
    embeddings = SimpleNamespace(weight=SimpleNamespace(device=torch.device(device)))
    every = [embeddings.weight, *(SimpleNamespace(device=torch.device(part)) for part in parts)]
    model = SimpleNamespace(
        hf_device_map=where,
        parameters=lambda: iter(every),
        get_input_embeddings=lambda: embeddings,
    )
    return VisionLanguageModel(model, None, FAMILIES["llava"], "tiny")


def test_the_gpus_of_a_model() -> None:
    first, second = torch.device("cuda:0"), torch.device("cuda:1")
    assert made_of({"": "cpu"}, "cpu", "cpu").cuda_devices == ()
    assert made_of({}, "cuda:1", "cuda:1").cuda_devices == (second,)
    assert made_of({"": "cpu"}, "cuda:1").cuda_devices == (second,), "it was moved after loading"
    spread = made_of({"eyes": "1", "mind": "0", "rest": "cpu"}, "cpu", "cuda:1", "cuda:0", "cpu")
    assert spread.cuda_devices == (first, second)
    walked = made_of({"": "cpu"}, "cpu")
    object.__setattr__(walked.model, "parameters", None)
    assert walked.cuda_devices == (), "no parameter is looked at"


def test_a_model_on_several_gpus(
    talkative_vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VisionLanguageModel, "cuda_devices", ("cuda:0", "cuda:1"))
    assert why_not_in_slots(talkative_vlm) == "the model is spread over several GPUs"
    monkeypatch.setattr(VisionLanguageModel, "cuda_devices", ("cuda:0",))
    assert why_not_in_slots(talkative_vlm) == ""


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("model_type", "reason", "said"),
    [
        ("acme", "this architecture was not verified step by step", NOTE),
        ("acme_backwards", "in a batch", "one question goes through the model at a time"),
    ],
)
def test_a_stranger(
    tmp_path: Path,
    generated: list[str],
    table: Path,
    monkeypatch: pytest.MonkeyPatch,
    model_type: str,
    reason: str,
    said: str,
) -> None:
    strangers.register()
    known = BUILDERS["llava"](tmp_path / "known")
    vlm = load_model(strangers.rename(known, tmp_path / "copy", model_type), device="cpu")
    assert reason in why_not_in_slots(vlm)
    assert_exact(vlm, ONE_IMAGE)
    assert sorted(generated) == sorted(sample.id for sample in ONE_IMAGE)
    [note] = note_of(vlm, table, monkeypatch)
    assert note.startswith(said)


def test_what_keeps_a_step_from_being_recorded(
    talkative_vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = [why_not_as_graph(talkative_vlm)]
    monkeypatch.setattr(VisionLanguageModel, "device", torch.device("cuda"))
    assert why_not_as_graph(talkative_vlm) == ""
    reasons.append(why_not_as_graph(dataclasses.replace(talkative_vlm, quantization="4bit")))

    class Experts(torch.nn.Module):
        """Those of a mixture."""

    monkeypatch.setattr(VisionLanguageModel, "decoder", torch.nn.Sequential(Experts()))
    monkeypatch.setattr(
        talkative_vlm.model, "get_experts_implementation", lambda: {"": "grouped_mm"}
    )
    reasons.append(why_not_as_graph(talkative_vlm))
    loop = type("AriaGroupedExpertsGemm", (torch.nn.Module,), {})()
    monkeypatch.setattr(VisionLanguageModel, "decoder", torch.nn.Sequential(loop))
    reasons.append(why_not_as_graph(talkative_vlm))
    monkeypatch.setattr(VisionLanguageModel, "decoder", torch.nn.Sequential(Experts()))
    assert all(reasons)
    assert len(set(reasons)) == len(AS_GRAPH)
    monkeypatch.setattr(VisionLanguageModel, "dtype", torch.bfloat16)
    assert why_not_as_graph(talkative_vlm) == ""


def test_rows_that_go_one_at_a_time(talkative_vlm: VisionLanguageModel) -> None:
    rounded = dataclasses.replace(talkative_vlm, quantization="8bit")
    assert "8-bit" in why_not_in_slots(rounded)


@pytest.mark.exhaustive
def test_a_prompt_without_an_image_where_blocks_are_skipped(
    talkative_vlm: VisionLanguageModel, samples: Sequence[Sample], generated: list[str]
) -> None:
    """Mllama leaves its cross-attention out then; the rows beside it are still in the slots."""
    rows = [samples[0], Sample("none", None, "Why?"), samples[2], samples[3]]
    assert_exact(talkative_vlm, rows)
    assert generated == ["none"]
    pieces = run_session(rows, talkative_vlm, SPEC, rows=2, size=1)
    assert generated == ["none", "none"]
    found = [item for piece in pieces for item in piece]
    assert_all_same(found, expected_of(rows, talkative_vlm, SPEC), rows)
