"""The attention to each image token, and the parts of the images that these cover."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.against_reference import answered_by_generate
from families.conformance import NONE, ONE_IMAGE, SEVERAL, build
from vlmscope.engine import capture, prepare
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Sample
from vlmscope.signals import ATTENTION_MAP, BOXES, token_states_name

SPEC = CaptureSpec(
    layers="all", positions=("last_prompt_token",), max_new_tokens=5, signals=ATTENTION_MAP
)
FAMILIES = ("mllama", "qwen2_5_vl", "llava_next", "gemma3", "qwen3_5", "smolvlm")
WITH_GENERATE = ("gemma3", "qwen3_5")


@pytest.fixture(scope="module")
def models(vlm: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that loads a family's tiny model, once."""
    loaded = {"mllama": vlm}

    def load(family: str) -> VisionLanguageModel:
        if family not in loaded:
            folder = build(family, tmp_path_factory.mktemp("maps") / family)
            loaded[family] = load_model(folder, device="cpu", dtype="float32")
        return loaded[family]

    return load


def assert_same(found: Capture, expected: Capture) -> None:
    assert found.answer == expected.answer
    assert found.signals.keys() == expected.signals.keys()
    for name in found.signals:
        if name.startswith(ATTENTION_MAP):
            np.testing.assert_allclose(
                found.signals[name], expected.signals[name], atol=3e-5, err_msg=name
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_it_equals_eager_attention(
    family: str, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = models(family)
    generated = answered_by_generate(monkeypatch)
    config = vlm.model.generation_config
    monkeypatch.setattr(config, "eos_token_id", [10**6])
    [plain] = capture(ONE_IMAGE[:1], vlm, replace(SPEC, signals="none"))
    monkeypatch.setattr(config, "eos_token_id", [int(plain.answer_token_ids[3])])  # type: ignore[index]
    generated.clear()
    layers = resolve_spec(SPEC, vlm).signals.map_layers
    assert layers
    for spec in (SPEC, replace(SPEC, signals="attention_map,attention")):
        for item in capture([*ONE_IMAGE[:3], SEVERAL[0]], vlm, spec, batch_size=3):
            expected = reference(item.sample, vlm, spec)
            assert_same(item, expected)
            for layer in layers:
                values = item.signals[token_states_name(ATTENTION_MAP, layer)]
                assert values.shape == (len(item.signals[BOXES]), 2)
                assert values.dtype == np.float32
            if "attention" in spec.signals and family != "mllama":
                share = item.signals["attention_prompt"][:, :, 0].mean(axis=1)
                known = resolve_spec(spec, vlm).signals.attention_layers
                for layer in layers:
                    total = item.signals[token_states_name(ATTENTION_MAP, layer)][:, 0].sum()
                    assert total == pytest.approx(share[known.index(layer)], abs=1e-5)
    assert bool(generated) == (family in WITH_GENERATE)


def test_prompts_that_share_beginnings(models: Any) -> None:
    vlm = models("qwen2_5_vl")
    rows = [
        Sample(f"{i}{row.id}", row.image, question)
        for i, question in enumerate(("Is it lit?", "What is it, and is it a cat?"))
        for row in (ONE_IMAGE[0], ONE_IMAGE[1])
    ]
    [batch], _ = prepare(rows, vlm, resolve_spec(SPEC, vlm))
    assert batch.prefix is not None
    for item in capture(rows, vlm, SPEC, batch_size=4):
        assert_same(item, reference(item.sample, vlm, SPEC))
        assert (item.signals[BOXES] >= 0).all()


@pytest.mark.parametrize("family", ["mllama", "qwen2_5_vl"])
@pytest.mark.parametrize("tokens", [0, 3])
def test_questions_without_an_image_and_without_an_answer(
    family: str, tokens: int, models: Any
) -> None:
    vlm, spec = models(family), replace(SPEC, max_new_tokens=tokens)
    for item in capture([ONE_IMAGE[0], *NONE], vlm, spec, batch_size=3):
        assert_same(item, reference(item.sample, vlm, spec))
        assert (BOXES in item.signals) == bool(item.sample.images)


def test_an_empty_answer_attends_to_nothing(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = models("qwen2_5_vl")
    [plain] = capture(ONE_IMAGE[:1], vlm, SPEC)
    end = int(plain.answer_token_ids[0])  # type: ignore[index]
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", [end])
    [item] = capture(ONE_IMAGE[:1], vlm, SPEC)
    values = item.signals["attention_map/layer_0"]
    assert np.isnan(values[:, 1]).all()
    assert (values[:, 0] > 0).all()
    assert_same(item, reference(item.sample, vlm, SPEC))
