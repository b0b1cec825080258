"""Heads of 40 and 24 in vision encoders: which families attend with FlashAttention 4, how exactly.

A stand-in takes the kernel's place on a CPU. Everything else is as on a GPU: the encoder is found,
its calls are told apart, and the numbers are the reference's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.against_reference import captured_together
from families.checkpoint_folder import change_settings
from families.conformance import NONE, ONE_IMAGE, RUNNABLE, SEVERAL, build, make_image
from families.test_conformance import assert_same
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.model.attention import flash
from vlmscope.model.attention.flash import OWN_WIDTH, attending_at_own_width
from vlmscope.model.attention.switch import configurations
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Sample

WITHOUT_MASK = (
    "smolvlm", "gemma3", "llava_onevision", "paligemma", "idefics3", "llava", "llava_next",
    "internvl", "aya_vision", "ovis2", "janus", "deepseek_vl", "deepseek_vl_hybrid",
    "granite4_vision",
)  # fmt: skip
"""Families whose encoder attends to whole images of one size."""

OTHERS = tuple(name for name in RUNNABLE if name not in WITHOUT_MASK)
"""Families whose encoder packs images, masks padding or is eager, and Mllama."""

WIDTHS = {"smolvlm": 24, "idefics3": 24, "granite4_vision": 64}
"""Width of one head, if it is not 40."""

SPEC = CaptureSpec(layers="all", max_new_tokens=2)
PROMPT = CaptureSpec(layers="0", max_new_tokens=0)

SQUARES = tuple(Sample(f"{i}", make_image(70, 70, i), "Why?") for i in range(2))
"""Images of one size."""


class Kernel:
    """Stands for the package's function: plain attention over ``[batch, tokens, heads, width]``."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.error: Exception | None = None
        self.factor = 1.0

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, *, softmax_scale: float | None
    ) -> tuple[Tensor, None]:
        if self.error is not None:
            raise self.error
        assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
        self.shapes.append(tuple(query.shape))
        scale = query.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
        weights = torch.einsum("bqhw,bkhw->bhqk", query, key).mul(scale).softmax(dim=-1)
        found = torch.einsum("bhqk,bkhw->bqhw", weights, value).contiguous()
        return found * self.factor, None


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """The stand-in, on a machine where the package supports everything."""
    made = Kernel()
    monkeypatch.setattr(flash, "_load_kernel", lambda: made)
    monkeypatch.setattr(flash, "_is_supported", lambda _query: True)
    monkeypatch.setattr(flash, "_may_support", lambda _vlm: True)
    monkeypatch.setattr(flash, "_broken", [])
    monkeypatch.setattr(flash, "_compared", set())
    return made


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that called the replaced attention."""
    seen: list[nn.Module] = []
    original = flash.own_width_attention

    def spy(module: nn.Module, *states: Any, **options: Any) -> Any:
        seen.append(module)
        return original(module, *states, **options)

    monkeypatch.setattr(flash, "own_width_attention", spy)
    return seen


def load_with_one_head(family: str, folder: Path) -> VisionLanguageModel:
    """Load a family's checkpoint, whose encoder's heads are joined into one: its weights fit."""
    built = build(family, folder / family)
    change_settings(built, "vision_config", num_attention_heads=1)
    return load_model(built, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Load each family once."""
    known: dict[str, VisionLanguageModel] = {}

    def load(family: str) -> VisionLanguageModel:
        if family not in known:
            known[family] = load_with_one_head(family, tmp_path_factory.mktemp(family))
        return known[family]

    return load


@pytest.fixture(scope="module")
def smolvlm(loaded: Any) -> VisionLanguageModel:
    return loaded("smolvlm")  # type: ignore[no-any-return]


def captured(
    vlm: VisionLanguageModel,
    *rows: Sample,
    spec: CaptureSpec = PROMPT,
    own_width: bool = True,
) -> list[Capture]:
    """Capture rows as a session of many rows does."""
    return captured_together(rows, vlm, spec, own_width=own_width)


def implementations(part: nn.Module) -> list[str]:
    return [config._attn_implementation for config in configurations(part)]


@pytest.mark.first(1)
@pytest.mark.parametrize("family", WITHOUT_MASK)
def test_the_numbers_are_the_references(
    family: str, loaded: Any, kernel: Kernel, modules: list[nn.Module]
) -> None:
    """Padded rows, rows that share an image, several images, and none."""
    vlm = loaded(family)
    before = implementations(vlm.model)
    others = () if family == "paligemma" else (SEVERAL[0], NONE[0])
    found = captured(vlm, *ONE_IMAGE[:3], *others, spec=SPEC)
    assert {shape[-1] for shape in kernel.shapes} == {WIDTHS.get(family, 40)} - {64}
    assert set(modules) <= set(vlm.vision_tower.modules())
    assert implementations(vlm.model) == before
    seen = len(kernel.shapes)
    for item in (found[1], *found[3:]):
        assert_same(item, reference(item.sample, vlm, SPEC))
    assert len(kernel.shapes) == seen  # the reference runs the model as it was loaded


@pytest.mark.first(1)
@pytest.mark.parametrize("family", ["idefics2", *(name for name in OTHERS if name != "idefics2")])
def test_an_encoder_with_a_mask_or_of_packed_images_attends_as_before(
    family: str, tmp_path: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the width of its heads. Mllama's call the kernel from ``tiles``."""
    monkeypatch.setattr(flash, "_is_padded_by_torch", lambda _width: True)
    vlm = load_model(build(family, tmp_path / family), device="cpu", dtype="float32")
    captured(vlm, *ONE_IMAGE[:2])
    assert (kernel.shapes != []) == (family == "mllama")


@pytest.mark.exhaustive
def test_a_mask_is_dropped_by_the_library_where_nothing_is_padded(
    loaded: Any, kernel: Kernel
) -> None:
    """Aria's encoder has a mask over the padding of images; ours has no need to look at it."""
    vlm = loaded("aria")
    found = captured(vlm, *ONE_IMAGE[:2], spec=SPEC)
    assert kernel.shapes == []
    assert_same(found[1], reference(ONE_IMAGE[1], vlm, SPEC))
    found = captured(vlm, *SQUARES, spec=SPEC)
    assert {shape[-1] for shape in kernel.shapes} == {40}
    assert_same(found[1], reference(SQUARES[1], vlm, SPEC))


def test_every_layer_of_the_encoder_and_nothing_else(
    smolvlm: VisionLanguageModel, kernel: Kernel, modules: list[nn.Module]
) -> None:
    seen: list[str] = []
    layer = smolvlm.layers[0]
    handle = layer.register_forward_hook(lambda *_: seen.extend(implementations(smolvlm.decoder)))
    try:
        captured(smolvlm, ONE_IMAGE[0])
    finally:
        handle.remove()
    layers = smolvlm.model.config.vision_config.num_hidden_layers
    assert len(kernel.shapes) == len(modules) == layers
    assert seen
    assert OWN_WIDTH not in seen


def test_few_rows_are_not_worth_its_compilation(
    smolvlm: VisionLanguageModel, kernel: Kernel, modules: list[nn.Module]
) -> None:
    captured(smolvlm, *ONE_IMAGE[:2], own_width=False)
    assert (kernel.shapes, modules) == ([], [])


def test_a_prompt_without_an_image(smolvlm: VisionLanguageModel, kernel: Kernel) -> None:
    [found] = captured(smolvlm, NONE[0], spec=SPEC)
    assert_same(found, reference(NONE[0], smolvlm, SPEC))
    assert kernel.shapes == []


def test_eager_attention_is_left_alone(smolvlm: VisionLanguageModel, kernel: Kernel) -> None:
    config = smolvlm.vision_tower.config
    config._attn_implementation = "eager"
    try:
        with attending_at_own_width(smolvlm):
            assert config._attn_implementation == "eager"
        captured(smolvlm, ONE_IMAGE[0])
    finally:
        config._attn_implementation = "sdpa"
    assert kernel.shapes == []


def test_on_a_cpu_nothing_is_replaced(
    smolvlm: VisionLanguageModel, modules: list[nn.Module]
) -> None:
    with attending_at_own_width(smolvlm):
        assert set(implementations(smolvlm.model)) == {"sdpa"}
    captured(smolvlm, ONE_IMAGE[0])
    assert modules == []


def test_without_the_package(
    smolvlm: VisionLanguageModel,
    kernel: Kernel,
    modules: list[nn.Module],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flash, "_load_kernel", lambda: None)
    [found] = captured(smolvlm, ONE_IMAGE[0], spec=SPEC)
    assert_same(found, reference(ONE_IMAGE[0], smolvlm, SPEC))
    assert modules
    assert kernel.shapes == []


def test_a_kernel_that_fails_is_not_used_again(
    smolvlm: VisionLanguageModel, kernel: Kernel, recwarn: pytest.WarningsRecorder
) -> None:
    kernel.error = RuntimeError("no such tile")
    [found] = captured(smolvlm, ONE_IMAGE[0], spec=SPEC)
    assert [str(each.message) for each in recwarn if "flash-attn-4" in str(each.message)] == [
        "flash-attn-4 failed (no such tile); torch's attention is used instead"
    ]
    kernel.error = None
    captured(smolvlm, ONE_IMAGE[1])
    assert kernel.shapes == []
    assert_same(found, reference(ONE_IMAGE[0], smolvlm, SPEC))


def test_a_kernel_with_another_result_is_not_used(
    smolvlm: VisionLanguageModel, kernel: Kernel
) -> None:
    kernel.factor = 1.03
    with pytest.warns(RuntimeWarning, match="result for heads of 24 differs .* 3.0e-02"):
        [found] = captured(smolvlm, ONE_IMAGE[0], spec=SPEC)
    assert len(kernel.shapes) == 1
    assert_same(found, reference(ONE_IMAGE[0], smolvlm, SPEC))


@pytest.fixture
def shared(smolvlm: VisionLanguageModel) -> Iterator[VisionLanguageModel]:
    """A model whose encoder has the decoder's configuration."""
    tower, own = smolvlm.vision_tower, smolvlm.vision_tower.config
    attentions = [part for part in tower.modules() if getattr(part, "config", None) is own]
    for part in attentions:
        part.config = smolvlm.decoder.config
    yield dataclasses.replace(smolvlm)
    for part in attentions:
        part.config = own


def test_a_configuration_that_is_the_decoders_too(
    shared: VisionLanguageModel, kernel: Kernel
) -> None:
    assert shared.decoder.config in configurations(shared.vision_tower)
    with attending_at_own_width(shared):
        assert set(implementations(shared.model)) == {"sdpa"}


def test_a_configuration_that_contains_others(
    smolvlm: VisionLanguageModel, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The complete model's, for example: to set it would set the decoder's."""
    monkeypatch.setattr(smolvlm.vision_tower.embeddings, "config", smolvlm.model.config, False)
    with attending_at_own_width(smolvlm):
        assert set(implementations(smolvlm.decoder)) == {"sdpa"}
        assert smolvlm.vision_tower.config._attn_implementation == OWN_WIDTH
