"""Omni checkpoints: a whole one is loaded as its thinker, which neither hears nor speaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from adapter_folder import write_adapter
from families.conformance import NONE, ONE_IMAGE, SEVERAL, WIDE
from families.omni_checkpoints import build_qwen2_5_omni, build_qwen3_omni_moe, build_whole
from families.test_conformance import assert_same, error
from vlmscope.engine import capture
from vlmscope.engine.decoding.support import why_not_in_slots
from vlmscope.errors import RowError
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.model.chat import load_chat_model
from vlmscope.model.loading.thinker import thinker_of
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec, Sample

SPEC = CaptureSpec(layers="all", max_new_tokens=6)
ROWS = (*ONE_IMAGE, SEVERAL[0], NONE[0])


@pytest.fixture(scope="module", params=[build_qwen2_5_omni, build_qwen3_omni_moe])
def thinker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder: Callable[[Path], Path] = request.param
    return builder(tmp_path_factory.mktemp("omni") / "thinker")


@pytest.fixture(scope="module")
def folder(thinker: Path) -> Path:
    return build_whole(thinker, thinker.parent / "whole")


@pytest.fixture(scope="module")
def whole(folder: Path) -> VisionLanguageModel:
    return load_model(folder, device="cpu", dtype="float32")


@pytest.mark.first(1)
def test_a_whole_checkpoint_is_its_thinker(thinker: Path, whole: VisionLanguageModel) -> None:
    alone = load_model(thinker, device="cpu", dtype="float32")
    assert whole.family == alone.family
    assert whole.family.model_type == whole.model.config.model_type
    assert whole.projector is not None
    assert why_not_in_slots(whole) == whole.one_at_a_time == ""
    weights = dict(alone.model.named_parameters())
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, weights.pop(name)), name
    assert not weights
    assert whole.identity is not None
    assert alone.identity is not None
    assert whole.identity.config_hash != alone.identity.config_hash
    assert whole.identity.weights_hash != alone.identity.weights_hash


@pytest.mark.first(1)
def test_it_is_as_exact(whole: VisionLanguageModel) -> None:
    for item in capture(ROWS, whole, SPEC, batch_size=3):
        assert_same(item, reference(item.sample, whole, SPEC))


def test_its_answers_end_where_a_turn_ends(folder: Path, whole: VisionLanguageModel) -> None:
    """The released files do not say where, and the library's code for the whole model does."""
    assert not (folder / "generation_config.json").exists()
    end = whole.processor.tokenizer.eos_token
    assert end == "<|im_end|>"
    assert whole.model.generation_config.eos_token_id == whole.processor.tokenizer.eos_token_id


def test_no_memory_is_kept_for_an_encoder_of_sound(
    folder: Path, whole: VisionLanguageModel
) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["thinker_config"]["audio_config"]
    assert not [name for name, _ in whole.model.named_parameters() if "audio" in name]


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_an_adapter_of_all_encoders_is_attached(thinker: Path, folder: Path) -> None:
    """Also one with layers in the encoder for sound, which is dropped with them."""
    adapter = write_adapter(thinker, thinker.parent / "adapter", target_modules=["q_proj"])
    names = load_file(adapter / "adapter_model.safetensors")
    assert any("audio_tower" in name for name in names)
    adapted = load_model(folder, device="cpu", dtype="float32", adapter=adapter)
    assert not [name for name, _ in adapted.model.named_parameters() if "audio" in name]
    for item in capture(ROWS[:2], adapted, SPEC, batch_size=2):
        assert_same(item, reference(item.sample, adapted, SPEC))


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_a_question_with_a_sound_or_a_video_is_refused(
    whole: VisionLanguageModel, kind: str
) -> None:
    mark = getattr(whole.processor, f"{kind}_token")
    with pytest.raises(RowError, match="control token"):
        list(capture([Sample("it", WIDE, f"{mark} What is it?")], whole, SPEC))


@pytest.mark.exhaustive
def test_half_precision(folder: Path) -> None:
    """Rounding may send a token to another expert beside other rows: most vectors, not all."""
    vlm = load_model(folder, device="cpu", dtype="bfloat16")
    spec = CaptureSpec(layers="all", max_new_tokens=0)
    gaps = [
        error(item.vectors[name], vector)
        for item in capture(ROWS, vlm, spec, batch_size=3)
        for name, vector in reference(item.sample, vlm, spec).vectors.items()
    ]
    assert np.median(gaps) < 0.02
    assert np.isfinite(gaps).all()


@pytest.mark.first(1)
def test_a_judge_is_a_thinker_too(folder: Path) -> None:
    chat = load_chat_model(folder, dtype="float32")
    assert chat.batches
    assert chat.model.generation_config.eos_token_id == chat.tokenizer.eos_token_id


def test_how_the_whole_was_rounded_holds_for_its_thinker(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert getattr(thinker_of(config), "quantization_config", None) is None
    config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    assert thinker_of(config).quantization_config == config.quantization_config
    other = AutoConfig.for_model("llava")
    assert thinker_of(other) is other
