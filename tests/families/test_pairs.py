"""Pairs of wrapper and decoder: those that the suite holds, and the proof of all others.

A description is of a wrapper. What it wraps may count padding as positions, or compute differently
beyond a length that its configuration names.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.against_reference import answered_by_generate
from families.checkpoints import BUILDERS
from families.conformance import ONE_IMAGE, RUNNABLE, build, make_image
from families.gemma_checkpoints import build_paligemma
from families.llava_checkpoints import build_llava, build_llava_next
from families.packed_checkpoints import build_exaone4_5
from families.qwen_checkpoints import build_glm46v
from families.test_conformance import assert_same
from families.tile_checkpoints import build_internvl
from vlmscope.engine import capture, prepare
from vlmscope.engine.decoding.support import why_not_in_slots
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.model.loading import thresholds
from vlmscope.model.loading.thresholds import named_thresholds, with_verified_lengths
from vlmscope.model.support import TESTED_DECODERS, decoder_type, is_tested
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec, Sample

WINDOW = {"sliding_window": 16}
GEMMA2 = {**WINDOW, "query_pre_attn_scalar": 14}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
GPT_OSS = {**WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2}

PROVE_THEMSELVES = ("llama4",)
"""Families of which no pair is listed."""

WITHOUT_SDPA = ("gemma2", "gpt_oss")
"""Decoders that attend with eager: ``generate`` writes their answers."""

PAIRS: dict[str, tuple[Callable[..., Path], dict[str, Any]]] = {
    "llava": (build_llava, {"mistral": WINDOW, "qwen2": {}, "qwen3": {}, "gemma2": GEMMA2,
                            "gemma3_text": WINDOW, "gpt_oss": GPT_OSS}),
    "llava_next": (build_llava_next, {"llama": {}, "qwen2": {}}),
    "internvl": (build_internvl, {"llama": {}, "qwen3": {}, "qwen3_moe": EXPERTS,
                                  "mistral": {"sliding_window": None}, "gemma2": GEMMA2,
                                  "gemma3_text": WINDOW, "gpt_oss": GPT_OSS}),
    "paligemma": (build_paligemma, {"gemma2": GEMMA2}),
    "glm46v": (build_glm46v, {"glm4v_text": {}}),
    "exaone4_5": (build_exaone4_5, {"exaone4": {"sliding_window": None,
                                                "layer_types": ["full_attention"] * 3}}),
}  # fmt: skip
"""Wrapper → its builder, and decoders beside the one that the conformance suite has."""

FEW = {("llava", "mistral"), ("internvl", "gemma2"), ("glm46v", "glm4v_text")}
"""Pairs that ``make test`` runs: with a window, without SDPA, and without either."""

ELSEWHERE = {"phi3"}
"""Decoders of LLaVA in ``engine/test_lengths.py``."""

LLAMA4 = {
    "model_type": "llama4_text", "intermediate_size_mlp": 80, "num_local_experts": 2,
    "num_experts_per_tok": 1, "num_hidden_layers": 4, "interleave_moe_layer_step": 2,
}  # fmt: skip
"""Llama 4's decoder: one block in four has no rotary embedding."""

SPEC = CaptureSpec(layers="all", max_new_tokens=6, signals="attention,heads")
LONG = Sample("long", make_image(70, 40), "Is there a cat? " + "cat " * 40)
ROWS = (*ONE_IMAGE, LONG)


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("wrapper", "decoder"),
    [
        pytest.param(name, one, marks=[] if (name, one) in FEW else pytest.mark.exhaustive)
        for name, (_, them) in PAIRS.items()
        for one in them
    ],
)
def test_a_pair_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapper: str, decoder: str
) -> None:
    builder, decoders = PAIRS[wrapper]
    folder = builder(
        tmp_path / "model", model_type=decoder, num_hidden_layers=3, **decoders[decoder]
    )
    vlm = load_model(folder, device="cpu", dtype="float32")
    assert vlm.one_at_a_time == ""
    assert vlm.lengths.alone_beyond is None
    assert ("'eager'" in why_not_in_slots(vlm)) == (decoder in WITHOUT_SDPA)
    assert decoder in WITHOUT_SDPA or why_not_in_slots(vlm) == ""
    generated = answered_by_generate(monkeypatch)
    for item in capture(ROWS, vlm, SPEC, batch_size=5):
        assert_same(item, reference(item.sample, vlm, SPEC))
    short = decoders[decoder].get("sliding_window") is not None
    assert bool(generated) == (short or decoder in WITHOUT_SDPA)


@pytest.mark.exhaustive
def test_no_pair_is_listed_that_is_not_held(tmp_path: Path) -> None:
    """Of families that can be built here, in ``test_conformance.py`` and in this file."""
    for name in RUNNABLE:
        config = load_model_config(build(name, tmp_path / name))
        key = "llava/pixtral" if name == "pixtral" else config.model_type
        more = set(PAIRS.get(key, (None, {}))[1])
        own = set() if key in PROVE_THEMSELVES else {decoder_type(config)}
        assert TESTED_DECODERS[key] == own | more | (ELSEWHERE if key == "llava" else set())
    assert set(TESTED_DECODERS) >= {
        build for build in BUILDERS if build not in {"pixtral", "fastvlm"}
    }


def load_model_config(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("settings", "beyond"),
    [
        pytest.param({}, None, marks=pytest.mark.exhaustive),
        pytest.param({"attention_chunk_size": 48}, None, marks=pytest.mark.exhaustive),
        pytest.param({"floor_scale": 48}, 48, marks=pytest.mark.exhaustive),
        ({"floor_scale": 256, "attention_chunk_size": 48}, 256),
    ],
)
def test_llava_with_llama_4(tmp_path: Path, settings: dict[str, int], beyond: int | None) -> None:
    """Its attention is scaled by the position in the padded row, from ``floor_scale`` on."""
    folder = build_llava(tmp_path / "model", **LLAMA4, **settings)
    vlm = load_model(folder, device="cpu", dtype="float32")
    assert vlm.lengths.alone_beyond == beyond
    assert "this decoder (llama4_text) was not verified step by step" in why_not_in_slots(vlm)
    notes = list(vlm.lengths.notes())
    assert notes == [] if beyond is None else "floor_scale: beyond it" in notes[0]
    longest = Sample("longest", make_image(70, 40), "cat " * 280)
    for item in capture([*ROWS, longest], vlm, SPEC, batch_size=6):
        assert_same(item, reference(item.sample, vlm, SPEC))
    batches, _ = prepare(ROWS, vlm, resolve_spec(SPEC, vlm))
    assert len(batches) == (3 if beyond == 48 else 1)


@pytest.mark.exhaustive
def test_a_pair_whose_short_prompts_differ_already(tmp_path: Path) -> None:
    folder = build_llava(tmp_path / "model", **LLAMA4, floor_scale=4)
    vlm = load_model(folder, device="cpu", dtype="float32")
    assert "in a batch" in vlm.one_at_a_time
    for item in capture(ROWS[:2], vlm, SPEC, batch_size=2):
        assert_same(item, reference(item.sample, vlm, SPEC))


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("decoder", "norm"), [("gpt_neox", "final_layer_norm"), ("lfm2", "embedding_norm")]
)
def test_the_norm_of_a_decoder_that_is_not_listed_is_found(
    tmp_path: Path, decoder: str, norm: str
) -> None:
    """The wrapper is described; what its decoder calls its norm is not."""
    folder = build_llava(tmp_path / "model", model_type=decoder, num_hidden_layers=3)
    vlm = load_model(folder, device="cpu", dtype="float32")
    assert vlm.family.final_norm == norm
    assert vlm.family.vision_encoder == "model.vision_tower"
    for item in capture(ROWS, vlm, SPEC, batch_size=5):
        assert_same(item, reference(item.sample, vlm, SPEC))


@pytest.fixture(scope="module")
def llama4(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    folder = build_llava(tmp_path_factory.mktemp("pairs") / "model", **LLAMA4)
    return load_model(folder, device="cpu", dtype="float32")


@pytest.mark.exhaustive
def test_a_length_that_cannot_be_afforded(
    llama4: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration names 8,192 tokens, beyond the 4,096 that it has positions for."""
    assert [t.length for t in named_thresholds(llama4.model.config.text_config)] == [8192, 8192]
    assert llama4.lengths.alone_beyond is None
    config = llama4.model.config.text_config
    monkeypatch.setattr(config, "attention_chunk_size", 64)
    assert with_verified_lengths(llama4).lengths.alone_beyond is None
    monkeypatch.setattr(thresholds, "OPERATIONS_ON_CPU", 1e6)
    bounded = with_verified_lengths(llama4)
    assert bounded.lengths.alone_beyond == 64
    assert "would take too long" in next(bounded.lengths.notes())


@pytest.mark.exhaustive
def test_a_scale_that_half_precision_does_not_show(
    llama4: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama4.model.config.text_config, "floor_scale", 128)
    monkeypatch.setattr(VisionLanguageModel, "dtype", torch.bfloat16)
    bounded = with_verified_lengths(llama4)
    assert bounded.lengths.alone_beyond == 128
    assert "smaller than the rounding of bfloat16" in next(bounded.lengths.notes())


def test_an_encoder_makes_a_pair_of_its_own(llama4: VisionLanguageModel) -> None:
    """Pixtral is LLaVA's class around another encoder, and was held with Mistral alone."""
    config = copy.deepcopy(llama4.model.config)
    config.text_config.model_type = "llama"
    assert is_tested(llama4.family, config)
    assert not is_tested(dataclasses.replace(llama4.family, vision_type="pixtral"), config)


def test_a_proof_that_fails_at_a_length_leaves_shorter_rows_in_batches(
    llama4: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bool:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(llama4.model.config.text_config, "attention_chunk_size", 256)
    monkeypatch.setattr(thresholds, "_is_same_in_batch", fail)
    bounded = with_verified_lengths(llama4)
    assert bounded.lengths.alone_beyond == 256
    batches, _ = prepare(ROWS, bounded, resolve_spec(SPEC, bounded))
    assert [len(batch.samples) for batch in batches] == [len(ROWS)]
