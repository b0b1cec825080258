"""Which attention implementation a checkpoint gets: parts without sdpa, and the option."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from families import strangers
from families.conformance import ONE_IMAGE, build
from families.llava_checkpoints import build_llava
from families.test_conformance import assert_same, error
from vlmscope.engine import capture
from vlmscope.engine.decoding.support import why_not_in_slots
from vlmscope.errors import ModelError
from vlmscope.executors import make_plan
from vlmscope.executors.request import Request
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.model.attention.implementations import is_chosen_by_library, requested_by
from vlmscope.model.loading.device import bytes_of
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec

GEMMA2 = {"model_type": "gemma2", "num_hidden_layers": 3, "query_pre_attn_scalar": 14}
"""A decoder that caps its attention scores, which sdpa cannot."""

SPEC = CaptureSpec(layers="all", max_new_tokens=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llava(tmp_path_factory.mktemp("capped") / "model", **GEMMA2)


@pytest.fixture(scope="module")
def mixed(folder: Path) -> VisionLanguageModel:
    return load_model(folder, device="cpu", dtype="float32")


@pytest.mark.exhaustive
def test_a_decoder_without_sdpa_gets_eager_and_the_encoder_sdpa(
    folder: Path, mixed: VisionLanguageModel
) -> None:
    """The same numbers as eager in all parts, in one pass and in three."""
    assert mixed.attention == "eager, vision encoder sdpa"
    assert why_not_in_slots(mixed)
    eager = load_model(folder, device="cpu", dtype="float32", attention="eager")
    assert eager.attention == "eager"
    for item in capture(ONE_IMAGE, mixed, SPEC, batch_size=4):
        assert_same(item, reference(item.sample, mixed, SPEC))
        assert_same(item, reference(item.sample, eager, SPEC))


def test_an_encoder_without_sdpa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.clip.modeling_clip import CLIPPreTrainedModel

    monkeypatch.setattr(CLIPPreTrainedModel, "_supports_sdpa", False)
    vlm = load_model(build("llava", tmp_path / "model"), device="cpu", dtype="float32")
    assert vlm.attention == "sdpa, vision encoder eager"
    assert is_chosen_by_library(vlm.model)
    assert why_not_in_slots(vlm) == ""
    for item in capture(ONE_IMAGE, vlm, SPEC, batch_size=4):
        assert_same(item, reference(item.sample, vlm, SPEC))


def test_sdpa_for_all_parts_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(ModelError, match=r" attention sdpa: .*text_config.* use auto") as caught:
        load_model(folder, device="cpu", attention="sdpa")
    assert "\n" not in str(caught.value)


def test_a_part_that_the_library_refuses_sdpa_for(tmp_path: Path) -> None:
    """GPT-OSS has attention sinks; its configuration does not tell."""
    decoder = {"model_type": "gpt_oss", "num_hidden_layers": 2, "num_local_experts": 2}
    folder = build_llava(tmp_path / "model", num_experts_per_tok=1, **decoder)
    with pytest.raises(ModelError, match=r" attention sdpa: .*GptOssModel.* use auto"):
        load_model(folder, device="cpu", attention="sdpa")


def test_scores_are_capped_where_the_library_would_take_sdpa(
    folder: Path, mixed: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As transformers 5.17 does for Gemma 2: sdpa leaves the cap out and says nothing."""
    from transformers.models.gemma2.modeling_gemma2 import Gemma2PreTrainedModel

    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)
    vlm = load_model(folder, device="cpu", dtype="float32")
    assert vlm.attention == "eager, vision encoder sdpa"
    assert is_chosen_by_library(vlm.model)
    [found], [expected] = (list(capture(ONE_IMAGE[:1], each, SPEC)) for each in (vlm, mixed))
    assert_same(found, expected)


@pytest.mark.parametrize("name", ["", "SDPA", "owner/kernel", "paged|eager", "flash_attention_2"])
def test_other_implementations_are_refused_before_weights_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(
        "vlmscope.model.loading.load.load_weights", lambda *_, **__: pytest.fail("read")
    )
    with pytest.raises(ModelError, match="choose from auto, sdpa, eager"):
        load_model(folder, device="cpu", attention=name)


def test_what_the_configuration_names_is_not_taken(tmp_path: Path) -> None:
    """Phi-4's released config.json names flash attention, of the GPU it was trained on."""
    folder = build("llava", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["_attn_implementation"] = "flash_attention_2"
    config["text_config"]["_attn_implementation"] = "flash_attention_2"
    (folder / "config.json").write_text(json.dumps(config))
    vlm = load_model(folder, device="cpu")
    assert vlm.attention == "sdpa"
    from transformers import AutoConfig

    assert bytes_of(AutoConfig.from_pretrained(folder), np.dtype("float32"), None) > 0  # type: ignore[arg-type]


@pytest.mark.exhaustive
def test_a_third_part_without_sdpa_does_not_keep_a_run_from_being_loaded_again(
    tmp_path: Path,
) -> None:
    """A run records decoder and encoder; to ask for sdpa in all parts would be refused."""
    strangers.register()
    known = build_llava(tmp_path / "known", num_hidden_layers=2)
    folder = strangers.redraw(known, tmp_path / "hearing", "acme_hearing")
    vlm = load_model(folder, device="cpu", dtype="float32")
    assert vlm.attention == "sdpa"
    assert vlm.model.ears.config._attn_implementation == "eager"
    with pytest.raises(ModelError, match=r"AcmeEars.* has no sdpa"):
        load_model(folder, device="cpu", attention="sdpa")
    again = load_model(folder, device="cpu", dtype="float32", attention=requested_by("sdpa"))
    assert again.attention == vlm.attention


def test_a_described_family_that_attends_otherwise_proves_itself(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suite holds families with what the library chooses, and nothing else."""
    asked = []
    monkeypatch.setattr(
        "vlmscope.model.loading.load.with_verified_rule",
        lambda vlm: asked.append(vlm.attention) or vlm,
    )
    vlm = load_model(checkpoint, device="cpu", dtype="float32", attention="eager")
    assert asked == ["eager"]
    assert not is_chosen_by_library(vlm.model)
    sdpa = load_model(checkpoint, device="cpu", dtype="float32")
    assert asked == ["eager"]
    [one], [other] = (list(capture(ONE_IMAGE[:1], each, SPEC)) for each in (vlm, sdpa))
    worst = max(error(one.vectors[name], other.vectors[name]) for name in other.vectors)
    assert 0 < worst < 1e-5


def test_the_plan_says_that_it_is_slower(
    mixed: VisionLanguageModel, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmscope.executors.plan.load_with", lambda *_, **__: mixed)
    plan = make_plan(Request(str(table), "model", table.parent / "run", spec=SPEC))
    assert any("eager, vision encoder sdpa: slower than sdpa" in note for note in plan.notes)
    assert plan.manifest.attention == "eager, vision encoder sdpa"
