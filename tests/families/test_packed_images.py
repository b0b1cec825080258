"""Encoders that pack the images of a batch into one row: every one of them, held to the library."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn

from families.conformance import NONE, ONE_IMAGE, RUNNABLE, SEVERAL, build
from families.packed_checkpoints import build_video_llama_3
from families.test_conformance import assert_same
from vlmscope.engine import capture
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.model.attention import packed as packing
from vlmscope.model.attention.packed import PACKED, packed, packing_configurations
from vlmscope.model.attention.switch import GROUPED, attending_with, grouped_attention
from vlmscope.model.loading.batching import with_verified_packing
from vlmscope.positions import VISION_ONLY
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec

CUTS = (
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v", "ernie4_5_vl_moe", "exaone4_5",
    "video_llama_3", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker",
)  # fmt: skip
"""Families whose encoder is cut at ``cu_seqlens`` by the library."""

WINDOWS = ("qwen2_5_vl", "qwen2_5_omni_thinker", "exaone4_5")
"""Families whose encoder attends within windows of an image in all layers but one."""

MASKS = ("pixtral", "mistral3")
"""Families whose encoder has a mask over the square of the whole row."""

OLD = Version(transformers.__version__) < Version("5.18")
"""Whether Pixtral's encoder does not pass the bounds of its images on."""

PASSES = CUTS if OLD else CUTS + MASKS
"""Families whose code passes the bounds on."""

OTHERS = ("llava", "internvl", "gemma3", *(MASKS if OLD else ()))
"""Families whose code does not, some of them."""

TOLERANCE = 3e-5

SPEC = CaptureSpec(layers="all", max_new_tokens=2)

GRIDS = {
    "one image": [(1, 4, 6)],
    "one merged patch": [(1, 2, 2)],
    "images of one size": [(1, 4, 4)] * 3,
    "images of all sizes": [(1, 2, 2), (1, 6, 10), (1, 4, 4), (1, 12, 2), (1, 6, 10), (1, 2, 2)],
    "two frames": [(2, 4, 6), (1, 6, 4)],
}
"""Frames, rows and columns of patches of each image. Qwen2.5's windows are 4 × 4 of them here."""


FEW = {*CUTS[:2], *MASKS[:2]}
"""Those of ``make test``; the others are for ``make test-exhaustive``."""

LOADED = [pytest.param(n, marks=() if n in FEW else pytest.mark.exhaustive) for n in PASSES]


@pytest.fixture(scope="module", params=LOADED)
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = build(request.param, tmp_path_factory.mktemp("packed") / request.param)
    return load_model(folder, device="cpu", dtype="float32")


def inputs_of(vlm: VisionLanguageModel, grids: list[tuple[int, int, int]]) -> dict[str, Tensor]:
    """Return what the tower is called with for images of these grids, noise in every pixel."""
    config, rng = vlm.model.config.vision_config, torch.Generator().manual_seed(len(grids))
    if vlm.family.model_type == "glm4v":  # the library gives it one frame an entry
        grids = [(1, rows, columns) for frames, rows, columns in grids for _ in range(frames)]
    if vlm.family.model_type in CUTS:
        size = 3 * getattr(config, "temporal_patch_size", 1) * config.patch_size**2
        patches = sum(frames * rows * columns for frames, rows, columns in grids)
        pixels = torch.randn(patches, size, generator=rng)
        if vlm.family.model_type == "video_llama_3":
            merges = torch.ones(len(grids), dtype=torch.int64)
            return {
                "pixel_values": pixels, "grid_thw": torch.tensor(grids), "merge_sizes": merges,
            }  # fmt: skip
        return {"hidden_states": pixels, "grid_thw": torch.tensor(grids)}
    sizes = torch.tensor([(rows, columns) for _, rows, columns in grids]) * config.patch_size
    most = sizes.max(dim=0).values.tolist()
    return {
        "pixel_values": torch.randn(len(grids), 3, *most, generator=rng),
        "image_sizes": sizes,
    }


def seen_by(vlm: VisionLanguageModel, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    """Return what ``vision_encoder`` makes of images, ``[patches, width]``."""
    seen: list[Tensor] = []
    handle = vlm.vision_encoder.register_forward_hook(
        lambda _module, _args, output: seen.append(getattr(output, "last_hidden_state", output))
    )
    try:
        with torch.inference_mode():
            vlm.vision_tower(**inputs, **options)
    finally:
        handle.remove()
    [features] = seen
    return features.flatten(0, -2)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Windows of every packed call: 0 where they came one by one, or with a mask."""
    seen: list[int] = []
    original = packing.packed_attention

    def spy(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *rest: Any,
        **options: Any,
    ) -> Any:
        bounds = options.get("cu_seq_lens_q")
        seen.append(0 if bounds is None or attention_mask is not None else len(bounds) - 1)
        return original(module, query, key, value, attention_mask, *rest, **options)

    monkeypatch.setattr(packing, "packed_attention", spy)
    return seen


@contextlib.contextmanager
def attention(vlm: VisionLanguageModel, name: str) -> Iterator[None]:
    config = vlm.vision_tower.config
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_the_encoder_sees_the_same(
    vlm: VisionLanguageModel, grids: list[tuple[int, int, int]], calls: list[int]
) -> None:
    """As with ``sdpa`` and with ``eager``: every patch of every image, and in one call a layer."""
    inputs = inputs_of(vlm, grids)
    expected = seen_by(vlm, inputs)
    with packed(vlm):
        found = seen_by(vlm, inputs)
    config = vlm.vision_tower.config
    layers = getattr(config, "depth", None) or config.num_hidden_layers
    assert len(calls) == layers
    assert 0 not in calls
    with attention(vlm, "eager"):
        eager = seen_by(vlm, inputs)
    assert error(found, expected) < TOLERANCE
    assert error(found, eager) < TOLERANCE
    for patch, other in zip(found, expected, strict=True):
        assert error(patch, other) < TOLERANCE


def test_images_do_not_see_each_other(vlm: VisionLanguageModel) -> None:
    grids = GRIDS["images of all sizes"]
    inputs = inputs_of(vlm, grids)
    name = "hidden_states" if "hidden_states" in inputs else "pixel_values"
    other = dict(inputs)
    other[name] = inputs[name].clone()
    other[name][-4 if "grid_thw" in inputs else -1 :] += 1  # the last image
    with packed(vlm):
        one, two = seen_by(vlm, inputs), seen_by(vlm, other)
    changed = (one - two).norm(dim=1) > 1e-4 * one.norm(dim=1)
    own = grids[-1][0] * grids[-1][1] * grids[-1][2]
    assert changed[-own:].any()
    assert not changed[:-own].any()


def test_windows_and_whole_images_in_one_encoder(
    vlm: VisionLanguageModel, calls: list[int]
) -> None:
    """Windows of different lengths in two layers, whole images in one of them."""
    with packed(vlm):
        seen_by(vlm, inputs_of(vlm, GRIDS["images of all sizes"]))
    windows = vlm.family.model_type in WINDOWS
    assert (len(set(calls)) == 2) == windows
    assert min(calls) == len(GRIDS["images of all sizes"])


def implementations(part: nn.Module) -> set[str]:
    return {m.config._attn_implementation for m in part.modules() if hasattr(m, "config")}


@pytest.mark.parametrize("fails", [False, True])
def test_only_the_tower_and_only_for_a_while(vlm: VisionLanguageModel, fails: bool) -> None:
    with contextlib.suppress(ArithmeticError), packed(vlm):
        assert implementations(vlm.vision_tower) == {PACKED}
        assert implementations(vlm.decoder) == {"sdpa"}
        assert vlm.attention == "sdpa"
        with attending_with(GROUPED, grouped_attention, vlm.decoder):
            assert implementations(vlm.decoder) == {GROUPED}
            assert implementations(vlm.vision_tower) == {PACKED}
        if fails:
            raise ArithmeticError
    assert implementations(vlm.model) == {"sdpa"}


@pytest.mark.first(2)
def test_a_capture_attends_in_this_way(vlm: VisionLanguageModel, calls: list[int]) -> None:
    spec = CaptureSpec(layers="0", max_new_tokens=0)
    items = list(capture(ONE_IMAGE, vlm, spec, batch_size=4))
    assert calls
    once = vlm.vision_tower is vlm.vision_encoder  # then an image of two rows is encoded once
    assert min(calls) == len({id(row.image) for row in ONE_IMAGE} if once else ONE_IMAGE)
    calls.clear()
    plain = dataclasses.replace(vlm, family=dataclasses.replace(vlm.family, packs_images=False))
    for item, other in zip(items, capture(ONE_IMAGE, plain, spec, batch_size=4), strict=True):
        found, expected = (torch.from_numpy(i.vectors[VISION_ONLY]) for i in (item, other))
        assert error(found, expected) < TOLERANCE
    assert calls == []


def test_eager_attention_is_left_alone(vlm: VisionLanguageModel, calls: list[int]) -> None:
    inputs = inputs_of(vlm, GRIDS["images of all sizes"])
    with attention(vlm, "eager"), packed(vlm):
        assert implementations(vlm.vision_tower) == {"eager"}
        seen_by(vlm, inputs, output_attentions=True)
    assert calls == []


@pytest.mark.first(2)
def test_somebody_elses_encoder_is_proven(
    vlm: VisionLanguageModel, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert with_verified_packing(vlm).family.packs_images
    assert calls
    calls.clear()
    original = packing.packed_attention

    def leaking(*states: Any, cu_seq_lens_q: Tensor, **options: Any) -> Any:
        """All images of the batch see each other."""
        both = cu_seq_lens_q[[0, -1]]
        most = int(both[-1])
        options |= {"cu_seq_lens_k": both, "max_length_q": most, "max_length_k": most}
        return original(*states, cu_seq_lens_q=both, **options)

    monkeypatch.setattr(packing, "packed_attention", leaking)
    wrong = with_verified_packing(vlm)
    assert not wrong.family.packs_images
    with packed(wrong):
        assert implementations(wrong.vision_tower) == {"sdpa"}


def test_an_encoder_that_shrinks_what_it_returns(tmp_path: Path, calls: list[int]) -> None:
    """VideoLLaMA 3 with merged patches: its output is the mean of each four, and so is pooled."""
    vlm = load_model(build_video_llama_3(tmp_path / "model", 2), device="cpu", dtype="float32")
    rows = (*ONE_IMAGE[:2], SEVERAL[0], NONE[0])
    for item in capture(rows, vlm, SPEC, batch_size=4):
        assert_same(item, reference(item.sample, vlm, SPEC))
    assert calls
    inputs = inputs_of(vlm, GRIDS["images of all sizes"])
    inputs["merge_sizes"] *= 2
    norm = dataclasses.replace(
        vlm.family, vision_encoder=f"{vlm.family.vision_encoder}.post_layernorm"
    )
    patches = seen_by(dataclasses.replace(vlm, family=norm), inputs)
    merged = seen_by(vlm, inputs)
    assert 4 * len(merged) == len(patches)
    assert error(merged.mean(dim=0), patches.mean(dim=0)) < TOLERANCE


@pytest.mark.first(1)
@pytest.mark.parametrize("family", OTHERS)
def test_other_encoders_are_left_alone(family: str, tmp_path: Path) -> None:
    assert family in RUNNABLE
    vlm = load_model(build(family, tmp_path / family), device="cpu", dtype="float32")
    assert packing_configurations(vlm.vision_tower) == []
    with packed(vlm):
        assert implementations(vlm.model) == {"sdpa"}
