"""The attention to each image token, and the parts of the images that these cover."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import vlmscope
from engine.against_reference import answered_by_generate
from families.conformance import NONE, ONE_IMAGE, SEVERAL, make_image
from vlmscope.engine import capture, prepare
from vlmscope.errors import InputError
from vlmscope.model import VisionLanguageModel, resolve_spec
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Sample
from vlmscope.signals import ATTENTION_MAP, BOXES, token_states_name
from vlmscope.store import StoreDtype
from vlmscope.verification import (
    HALF_STORAGE_TOLERANCE,
    TOLERANCES,
    check_rows,
    limit_of,
    signal_errors,
)

# Some processors turn tensors into arrays in a way that NumPy 2 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SPEC = CaptureSpec(
    layers="all", positions=("last_prompt_token",), max_new_tokens=5, signals=ATTENTION_MAP
)
FAMILIES = ("mllama", "qwen2_5_vl", "gemma3", "llava_next", "qwen3_5", "smolvlm")
WITH_GENERATE = ("gemma3",)


def assert_same(found: Capture, expected: Capture) -> None:
    assert found.answer == expected.answer
    assert found.signals.keys() == expected.signals.keys()
    for name in found.signals:
        if name.startswith(ATTENTION_MAP):
            np.testing.assert_allclose(
                found.signals[name], expected.signals[name], atol=3e-5, err_msg=name
            )


@pytest.mark.first(1)
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


@pytest.mark.exhaustive
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


@pytest.mark.first(1)
@pytest.mark.parametrize("family", ["mllama", "qwen2_5_vl"])
@pytest.mark.parametrize("tokens", [0, 3])
def test_questions_without_an_image_and_without_an_answer(
    family: str, tokens: int, models: Any
) -> None:
    vlm, spec = models(family), replace(SPEC, max_new_tokens=tokens)
    for item in capture([ONE_IMAGE[0], *NONE], vlm, spec, batch_size=3):
        assert_same(item, reference(item.sample, vlm, spec))
        assert (BOXES in item.signals) == bool(item.sample.images)


@pytest.mark.exhaustive
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


def changed(image: Image.Image, box: np.ndarray) -> Image.Image:
    """Return an image with other pixels in a part of it."""
    pixels = np.array(image)
    height, width = pixels.shape[:2]
    top, left, bottom, right = (box * [height, width, height, width]).round().astype(int)
    pixels[top:bottom, left:right] = 255 - pixels[top:bottom, left:right]
    return Image.fromarray(pixels)


def test_maps_of_several_images_and_of_none(models: Any) -> None:
    vlm = models("qwen2_5_vl")
    several, none, alone = capture([SEVERAL[1], NONE[0], ONE_IMAGE[0]], vlm, SPEC)
    maps = several.attention_map(0, "answer")
    assert isinstance(maps, list)
    assert len(maps) == 3
    assert maps[0].shape == maps[1].shape != maps[2].shape
    assert sum(each.sum() for each in maps) == pytest.approx(
        several.signals["attention_map/layer_0"][:, 1].sum(), rel=1e-4
    )
    with pytest.raises(InputError, match="no attention_map/layer_0, there are none"):
        none.attention_map(0)
    with pytest.raises(InputError, match="no attention_map/layer_77, there are attention_map"):
        alone.attention_map(77)
    with pytest.raises(InputError, match="no attention of 'image', choose from prompt, answer"):
        alone.attention_map(0, "image")  # type: ignore[arg-type]
    boxes = alone.signals[BOXES]
    for others in ({}, {BOXES: boxes[1:]}, {BOXES: boxes[:, :3]}):
        arrays = {name: each for name, each in alone.signals.items() if name != BOXES} | others
        with pytest.raises(InputError, match="restore the run from a copy"):
            replace(alone, signals=arrays).attention_map(0)


def test_an_unknown_layout_has_values_and_no_map(models: Any) -> None:
    vlm = models("idefics2")
    [item] = capture(ONE_IMAGE[:1], vlm, SPEC)
    assert (item.signals[BOXES] == -1).all()
    assert np.isfinite(item.signals["attention_map/layer_0"]).all()
    with pytest.raises(InputError, match="it is not known which part of the image"):
        item.attention_map(0)


@pytest.mark.first(1)
@pytest.mark.parametrize(("width", "height"), [(90, 60), (20, 70), (16, 16)])
def test_patches_of_tiles_are_where_the_encoder_changes(
    width: int, height: int, models: Any
) -> None:
    """Of layers of cross-attention: the image is in the top left of a canvas of tiles."""
    vlm, image = models("mllama"), make_image(width, height, 2)
    layer = min(vlm.skipped_without_image)
    spec = replace(SPEC, max_new_tokens=0)
    [plain] = capture([Sample("plain", image, "What?")], vlm, spec)
    boxes = plain.signals[BOXES]
    own = np.flatnonzero(boxes[:, 0] == 0)
    encoded = features(vlm, image)
    right = 0
    for i in own[:: max(1, len(own) // 6)]:
        other = features(vlm, changed(image, boxes[i, 1:].clip(0, 1)))
        most = boxes[np.linalg.norm(other - encoded, axis=1).argmax(), 1:]
        middle = (boxes[i, 1:3] + boxes[i, 3:5].clip(0, 1)) / 2
        right += bool((most[:2] < middle).all() and (middle < most[2:]).all())
    assert right > len(own[:: max(1, len(own) // 6)]) / 2
    drawn = plain.attention_map(layer)
    total = plain.signals[f"attention_map/layer_{layer}"][own, 0].sum()
    assert 0 < drawn.sum() <= total + 1e-6  # type: ignore[union-attr]
    tall, wide = drawn.shape  # type: ignore[union-attr]
    assert (wide > tall) == (width > height)


def features(vlm: VisionLanguageModel, image: Image.Image) -> np.ndarray:
    """Return the projected patches of an image, ``[patches, hidden]``."""
    found: list[torch.Tensor] = []

    def keep(_module: Any, _args: Any, output: torch.Tensor) -> None:
        found.append(output)

    assert vlm.projector is not None
    handle = vlm.projector.register_forward_hook(keep)
    try:
        list(capture([Sample("q", image, "What?")], vlm, replace(SPEC, max_new_tokens=0)))
    finally:
        handle.remove()
    return found[0].flatten(0, -2).numpy()


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("family", ["mllama", "qwen2_5_vl"])
def test_stored_maps(family: str, models: Any, tmp_path: Path) -> None:
    """In two sessions; exported and verified."""
    vlm = models(family)
    rows = [ONE_IMAGE[0], NONE[0], ONE_IMAGE[1]]
    spec = replace(SPEC, signals="attention_map,image_tokens")
    for some in (rows[:1], rows):
        run = vlmscope.extract(some, vlm, tmp_path / "run", spec=spec, text_only=True)
    assert not run.check()
    for check in check_rows(run, rows, vlm):
        assert not check.faults(3e-5, "float32")
    layer = min(vlm.skipped_without_image or [0])
    name = f"attention_map/layer_{layer}"
    with h5py.File(run.path / "index.h5") as file:
        group = file[rows[0].id]["signals"]
        assert group[name].dtype == np.float16
        assert group["attention_map/boxes"].dtype == np.float32
        assert "attention_map" not in file[rows[1].id]["signals"]
    vlmscope.export_run(run, tmp_path / "run.npz")
    arrays = np.load(tmp_path / "run.npz")
    offsets = arrays["attention_map_offsets"]
    for i, id_ in enumerate(run.ids):
        own = arrays[f"signals/{name}"][offsets[i] : offsets[i + 1]]
        wanted = run[id_].signals.get(name, np.zeros((0, 2), np.float32))
        np.testing.assert_array_equal(own, wanted)
    [one, _, other] = [each.signals for each in capture(rows, vlm, spec)]
    for id_, expected in ((rows[0].id, one), (rows[2].id, other)):
        np.testing.assert_allclose(run[id_].signals[name], expected[name], atol=1e-3)
        np.testing.assert_array_equal(run[id_].signals[BOXES], expected[BOXES])


def test_attention_to_the_wrong_tokens_is_an_error() -> None:
    """In every precision, though each value of a map is small."""
    weights = np.random.default_rng(0).lognormal(0, 1.5, (576, 1)).astype(np.float32)
    expected = np.repeat(0.3 * weights / weights.sum(), 2, axis=1)
    name = "attention_map/layer_2"
    for found, wrong in ((expected[::-1], True), (expected.astype(np.float16), False)):
        error = signal_errors({name: found.astype(np.float32)}, {name: expected})[name]
        for tolerance in TOLERANCES.values():
            assert (error > max(tolerance, HALF_STORAGE_TOLERANCE)) == wrong


def test_layers_without_weights_are_left_out(models: Any) -> None:
    vlm = models("qwen3_5")
    resolved = resolve_spec(SPEC, vlm)
    assert resolved.signals.map_layers == (1, 3)
    assert any("no attention_map of layers 0, 2, 4" in note for note in resolved.notes)
    with pytest.raises(InputError, match=r"none of the chosen layers .* that have it: 1,3$"):
        resolve_spec(replace(SPEC, layers="0"), vlm)


@pytest.mark.parametrize("states_dtype", ["float16", "float32"])
def test_a_map_is_half_precision_whatever_states_are_stored_as(states_dtype: StoreDtype) -> None:
    """With few image tokens each has much attention, whose rounding exceeds float32's tolerance."""
    expected = np.array([[0.21, 0.07], [0.013, 0.3]], np.float32)
    name = "attention_map/layer_2"
    stored = expected.astype(np.float16).astype(np.float32)
    error = signal_errors({name: stored}, {name: expected})[name]
    assert TOLERANCES["float32"] < error
    assert error <= limit_of(f"signals/{name}", TOLERANCES["float32"], states_dtype)
    assert limit_of(f"signals/{BOXES}", 3e-5, states_dtype) == 3e-5, "they are float32"
