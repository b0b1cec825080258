"""``--compat halp`` reads what the scripts of the original read; hooked here by other means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import halp_table
from families.checkpoints import BUILDERS
from families.conformance import TALL, WIDE
from vlmscope.engine import capture, prepare
from vlmscope.errors import InputError
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.model.halp import BY_FAMILY, HALP_MODELS, halp_model_for, positions_of
from vlmscope.positions import DEFAULT_POSITIONS, REPRESENTATIONS, VISION_ONLY
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Sample

QUERY = "query_token_representation"
SAMPLES = (
    Sample("wide", WIDE, "Is there a cat in the image?"),
    Sample("tall", TALL, "What colour is it?"),
    Sample("shared", WIDE, "Why?"),
)
NATIVE = ("gemma3", "qwen2_5_vl", "smolvlm", "llava_next")
"""Of the seven: what runs here beside Mllama, without timm and torchvision."""


@pytest.fixture(scope="module")
def loaded(
    tmp_path_factory: pytest.TempPathFactory, vlm: VisionLanguageModel
) -> Callable[[str], VisionLanguageModel]:
    found = {"mllama": vlm}

    def load(name: str) -> VisionLanguageModel:
        if name not in found:
            folder = BUILDERS[name](tmp_path_factory.mktemp("halp") / name)
            found[name] = load_model(folder, device="cpu", dtype="float32")
        return found[name]

    return load


def spec_for(vlm: VisionLanguageModel, **options: Any) -> CaptureSpec:
    settings = {"layers": "all", "max_new_tokens": 0, "compat": "halp"} | options
    return CaptureSpec(positions=positions_of(vlm.family.model_type), **settings)  # type: ignore[arg-type]


def error(found: np.ndarray, expected: np.ndarray | Tensor) -> float:
    expected = np.asarray(expected, dtype=np.float32)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def watch(module: Any, run: Callable[[], Any]) -> tuple[Tensor, Any]:
    """Return what a module returned first while something ran, and what that returned."""
    seen: list[Any] = []
    handle = module.register_forward_hook(lambda _m, _a, output: seen.append(output))
    with torch.inference_mode():
        result = run()
    handle.remove()
    return (seen[0][0] if isinstance(seen[0], tuple) else seen[0]), result


def inputs_of(sample: Sample, vlm: VisionLanguageModel) -> Mapping[str, Tensor]:
    [batch], _ = prepare([sample], vlm)
    return batch.inputs


def query_states(sample: Sample, vlm: VisionLanguageModel) -> list[Tensor]:
    """Return ``layer_k`` of the last token, as the script of this family took it."""
    inputs = inputs_of(sample, vlm)
    last, outputs = watch(vlm.layers[-1], lambda: vlm.model(**inputs, output_hidden_states=True))
    states = [state[0, -1] for state in outputs.hidden_states]
    if vlm.family.model_type in {"gemma3", "qwen2_5_vl"}:
        assert error(vlm.final_norm(last)[0, -1].detach().numpy(), states[-1]) < 1e-5
        return [*states[1:-1], last[0, -1]]
    if vlm.family.model_type in {"smolvlm", "llava_next"}:
        return states[:-1]
    return states[1:]


@pytest.mark.first(2)
@pytest.mark.parametrize("name", ["mllama", *NATIVE])
def test_layer_k_is_what_the_script_took(
    loaded: Callable[[str], VisionLanguageModel], name: str
) -> None:
    vlm = loaded(name)
    for item in capture(SAMPLES, vlm, spec_for(vlm), batch_size=len(SAMPLES)):
        for k, expected in enumerate(query_states(item.sample, vlm)):
            assert error(item.vectors[f"{QUERY}/layer_{k}"], expected) < 1e-5, k


@pytest.mark.first(1)
@pytest.mark.parametrize("name", ["mllama", *NATIVE])
def test_equals_the_reference(loaded: Callable[[str], VisionLanguageModel], name: str) -> None:
    vlm = loaded(name)
    spec = spec_for(vlm, max_new_tokens=3)
    for item in capture(SAMPLES, vlm, spec, batch_size=2):
        assert_same(item, reference(item.sample, vlm, spec))


def assert_same(found: Capture, expected: Capture) -> None:
    assert found.vectors.keys() == expected.vectors.keys()
    for name, vector in expected.vectors.items():
        assert error(found.vectors[name], vector) < 1e-5, name
    assert found.boundaries == expected.boundaries
    assert found.answer == expected.answer


def test_llama_is_read_as_ever(vlm: VisionLanguageModel, samples: Sequence[Sample]) -> None:
    ours = CaptureSpec(max_new_tokens=0)
    for one, other in zip(
        capture(samples, vlm, ours),
        capture(samples, vlm, replace(ours, compat="halp")),
        strict=True,
    ):
        assert one.boundaries == other.boundaries
        for name, vector in one.vectors.items():
            np.testing.assert_array_equal(other.vectors[name], vector)


@pytest.mark.first(1)
@pytest.mark.parametrize("name", ["smolvlm", "llava_next"])
def test_layer_0_is_the_embedding_and_layer_k_is_ours_before_it(
    loaded: Callable[[str], VisionLanguageModel], name: str
) -> None:
    """The original's query token has the same layer_0 in every row: it knows nothing yet."""
    vlm = loaded(name)
    ours = CaptureSpec(layers="all", max_new_tokens=0)
    pairs = zip(capture(SAMPLES, vlm, spec_for(vlm)), capture(SAMPLES, vlm, ours), strict=True)
    for one, other in pairs:
        last = inputs_of(one.sample, vlm)["input_ids"][:, -1:]
        embedding = vlm.model.get_input_embeddings()(last)[0, 0].detach()
        np.testing.assert_array_equal(one.vectors[f"{QUERY}/layer_0"], embedding)
        for k in range(1, vlm.num_layers):
            before = other.vectors[f"{QUERY}/layer_{k - 1}"]
            np.testing.assert_array_equal(one.vectors[f"{QUERY}/layer_{k}"], before)


@pytest.mark.first(1)
@pytest.mark.parametrize("name", ["gemma3", "qwen2_5_vl", "smolvlm"])
def test_the_vision_only_vector_is_the_scripts(
    loaded: Callable[[str], VisionLanguageModel], name: str
) -> None:
    vlm = loaded(name)
    pooled: Mapping[str, Callable[[Mapping[str, Tensor]], Tensor]] = {
        "gemma3": lambda inputs: vlm.model.model.vision_tower(
            inputs["pixel_values"]
        ).last_hidden_state.mean(1)[0],
        "qwen2_5_vl": lambda inputs: watch(
            vlm.model.model.visual.blocks[-1],
            lambda: vlm.model.model.visual(
                inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]
            ),
        )[0].mean(0),
        "smolvlm": lambda inputs: (
            vlm.model.model.vision_model(
                inputs["pixel_values"].flatten(0, 1), output_hidden_states=True
            )
            .hidden_states[-1]
            .mean((0, 1))
        ),
    }
    ours = replace(spec_for(vlm), compat="")
    for item, other in zip(
        capture(SAMPLES, vlm, spec_for(vlm)), capture(SAMPLES, vlm, ours), strict=True
    ):
        with torch.inference_mode():
            expected = pooled[name](inputs_of(item.sample, vlm))
        assert error(item.vectors[VISION_ONLY], expected) < 1e-5
        moved = error(item.vectors[VISION_ONLY], other.vectors[VISION_ONLY]) > 1e-3
        assert moved == (name == "smolvlm")


def test_fastvlm_reads_the_first_image_token(
    loaded: Callable[[str], VisionLanguageModel],
) -> None:
    """On another decoder under its name: its own encoder needs timm."""
    vlm = loaded("llava_next")
    vlm = replace(vlm, family=replace(vlm.family, model_type="fast_vlm"))
    assert positions_of("fast_vlm") == ("last_image_token",)
    ours = CaptureSpec(layers="all", positions=("first_image_token",), max_new_tokens=0)
    for item, other in zip(
        capture(SAMPLES, vlm, spec_for(vlm)), capture(SAMPLES, vlm, ours), strict=True
    ):
        assert item.boundaries["last_image_token"] == other.boundaries["first_image_token"]
        assert_same(item, reference(item.sample, vlm, spec_for(vlm)))
        for k in range(1, vlm.num_layers):
            np.testing.assert_array_equal(
                item.vectors[f"vision_token_representation/layer_{k}"],
                other.vectors[f"first_image_token_representation/layer_{k - 1}"],
            )


@pytest.mark.parametrize(
    ("name", "position", "did"),
    [
        ("gemma3", "last_image_token", r"min\(255, length // 2\)"),
        ("qwen2_5_vl", "last_image_token", r"min\(T x H x W, length // 2\)"),
        ("smolvlm", "last_image_token", r"min\(max\(200, length // 4\), 800\)"),
        ("llava_next", "last_image_token", r"min\(max\(400, length // 3\), 1500\)"),
        ("fast_vlm", "last_prompt_token", "last index of the unexpanded prompt"),
    ],
)
def test_an_accident_is_refused(name: str, position: str, did: str) -> None:
    spec = CaptureSpec(positions=(position,), compat="halp")
    with pytest.raises(InputError, match=did) as caught:
        halp_model_for(name, spec)
    message = str(caught.value)
    assert BY_FAMILY[name].title in message
    assert REPRESENTATIONS[position] in message
    [rest] = set(DEFAULT_POSITIONS) - {position}
    assert f"positions={rest!r}, or omit compat" in message
    assert halp_model_for(name, CaptureSpec(positions=(rest,), compat="halp")) is BY_FAMILY[name]
    assert halp_model_for(name, replace(spec, compat="")) is None


def test_an_accident_is_refused_before_an_image_is_read(
    loaded: Callable[[str], VisionLanguageModel], tmp_path: Path
) -> None:
    missing = Sample("q", str(tmp_path / "no.png"), "Why?")
    with pytest.raises(InputError, match="SmolVLM2"):
        next(capture([missing], loaded("smolvlm"), CaptureSpec(compat="halp")))


@pytest.mark.parametrize("name", ["llava", "molmo2", "idefics3"])
def test_a_model_that_the_original_did_not_have_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is not one of .*Llama-3.2-Vision.*omit compat"):
        halp_model_for(name, CaptureSpec(compat="halp"))
    assert positions_of(name) == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compat": "seed"}, "give halp"),
        ({"compat": "halp", "positions": ("image_mean",)}, "positions image_mean"),
        ({"compat": "halp", "positions": ("answer_mean",)}, "positions answer_mean"),
        ({"compat": "halp", "vision_pooling": "valid"}, "vision_pooling valid"),
    ],
)
def test_what_the_original_has_not_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CaptureSpec(**options)


def test_the_page_has_the_tables() -> None:
    page = halp_table.PAGE.read_text("utf-8")
    assert halp_table.tables() in page, "run scripts/halp_table.py"
    assert len(HALP_MODELS) == 8
    for original in HALP_MODELS:
        assert page.count(original.checkpoint) >= 1
