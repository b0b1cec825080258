"""The layouts of image tokens, each against the family's own processor and model.

The attention of the models is switched off, so that a token depends on its own part of the image
alone. If that part of an image is painted, the token must change more than every token of another
part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.image_transforms import get_resize_output_image_size

from families.conformance import NUMPY_2, RUNNABLE, WANTS_TORCHVISION, build, make_image
from vlmscope.engine import capture
from vlmscope.image_maps import image_maps
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.model.image_grids import layout_of
from vlmscope.model.image_layouts import _seen_part, grid
from vlmscope.schema import Capture, CaptureSpec, Sample
from vlmscope.signals import BOXES

pytestmark = NUMPY_2

SPEC = CaptureSpec(
    layers="all", positions=("last_prompt_token",), max_new_tokens=0,
    signals="image_tokens,attention_map",
)  # fmt: skip
OUTPUT = re.compile(
    r"(^|\.)(attn|self_attn|attention|linear_attn)"
    r"\.(out_proj|o_proj|proj|projection_layer|output)$"
)
"""The last layers of attentions: without weights, an attention adds nothing."""

SIZES = ((96, 64), (60, 170), (200, 90))
"""Width and height: of few tiles, of a tall image, of a wide one."""

KNOWN = {
    "internvl": (4, 6),
    "aya_vision": (4, 6),
    "ovis2": (4, 4),
    "pixtral": (5, 7),
    "llava": (3, 5),
    "llava_next": (4, 6),
    "janus": (3, 4),
    "gemma4": (6, 10),
    "minicpmv4_6": (2, 4),
    "llava_onevision": (6, 9),
    "hunyuan_vl": (2, 3),
    "granite4_vision": (3, 4),
    "idefics3": (4, 6),
    "smolvlm": (4, 6),
    "mistral3": (3, 4),
    "deepseek_vl": (3, 4),
    "deepseek_vl_hybrid": (3, 4),
    "paligemma": (4, 4),
    "gemma3": (2, 2),
    "video_llama_3": (3, 4),
    "minicpmv4_7": (2, 4),
    "cohere2_vision": (4, 4),
    "llama4": (2, 3),
    "kimi_k25": (2, 3),
    "lfm2_vl": (2, 3),
    **dict.fromkeys(
        (
            "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe",
            "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "glm4v", "glm4v_moe", "glm46v",
            "exaone4_5", "ernie4_5_vl_moe",
        ),
        (2, 3),
    ),
}  # fmt: skip
"""Family → the shape of the map of the first size."""

HERE = [
    name
    for name in sorted(KNOWN, key=lambda name: name not in WANTS_TORCHVISION)
    if name in RUNNABLE
]
"""Those that run on this machine; first those of which only ``make test-extras`` tests anything."""

ELSEWHERE = {"mllama": "patches, in test_attention_maps", "got_ocr2": "a convolution mixes patches"}
"""Families whose layout is known, and why it is not tested here."""

SEVERAL_TILES = (
    "internvl", "pixtral", "minicpmv4_6", "ovis2", "aya_vision", "granite4_vision", "hunyuan_vl",
    "gemma4", "smolvlm", "mistral3",
)  # fmt: skip
"""Families whose images are laid out by their sizes."""

UNKNOWN_LAYOUT = ("idefics2", "aria", "fastvlm", "perception_lm", "phi4_multimodal", "molmo2")
"""Families without one."""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VisionLanguageModel]:
    """Return a function that loads a family's tiny model without attention, once."""
    loaded: dict[str, VisionLanguageModel] = {}

    def load(family: str) -> VisionLanguageModel:
        if family not in loaded:
            folder = build(family, tmp_path_factory.mktemp("local") / family)
            vlm = load_model(folder, device="cpu", dtype="float32")
            found = [m for name, m in vlm.model.named_modules() if OUTPUT.search(name)]
            decoder = set(vlm.decoder.modules())
            assert decoder.intersection(found)
            assert not decoder.issuperset(found), "the encoder's too"
            for module in found:
                for parameter in module.parameters():
                    parameter.data.zero_()
            loaded[family] = vlm
        return loaded[family]

    return load


def smooth(width: int, height: int) -> Image.Image:
    """Return an image that a resize changes little."""
    return make_image(width // 4, height // 4, 1).resize((width, height))


def painted(image: Image.Image, box: np.ndarray) -> Image.Image:
    """Return an image with other pixels in a part of it."""
    pixels = np.array(image)
    height, width = pixels.shape[:2]
    edges = box.clip(0, 1) * [height, width, height, width]
    top, left, bottom, right = edges.round().astype(int)
    pixels[top:bottom, left:right] = 255 - pixels[top:bottom, left:right]
    return Image.fromarray(pixels)


def states(item: Capture) -> np.ndarray:
    return item.signals["image_tokens/layer_0"]


def answers_to_paint(
    vlm: VisionLanguageModel, images: Sequence[Image.Image], plain: Capture, number: int = 0
) -> Iterator[bool]:
    """Paint the parts of some tokens; yield whether the token changed most of all elsewhere.

    Args:
        vlm: The model.
        images: The images of a question.
        plain: The question as it is.
        number: Which image is painted.
    """
    boxes = plain.signals[BOXES]
    own = np.flatnonzero(boxes[:, 0] == number)
    some = own[:: max(1, len(own) // 16)]
    samples = []
    for i in some:
        other = painted(images[number], boxes[i, 1:])
        samples.append(Sample(str(i), (*images[:number], other, *images[number + 1 :]), "What?"))
    for i, item in zip(some, capture(samples, vlm, SPEC, batch_size=8), strict=True):
        change = np.linalg.norm(states(item) - states(plain), axis=1)
        first = np.maximum(boxes[:, 1:3], boxes[i, 1:3])
        shared = np.minimum(boxes[:, 3:5], boxes[i, 3:5]) - first
        elsewhere = (shared < 1e-4).any(axis=1) | (boxes[:, 0] != number)
        yield bool(change[i] > change[elsewhere].max(initial=0))


@pytest.mark.first(1)
@pytest.mark.parametrize("family", HERE)
def test_a_token_changes_with_its_own_part_of_the_image(
    family: str, local: Callable[[str], VisionLanguageModel]
) -> None:
    vlm = local(family)
    for size in SIZES:
        image = smooth(*size)
        [plain] = capture([Sample("plain", image, "What?")], vlm, SPEC)
        right = list(answers_to_paint(vlm, [image], plain))
        assert len(right) >= 4
        assert right.count(False) <= len(right) / 8, (size, right)
        layer = resolve_spec(SPEC, vlm).signals.map_layers[0]
        drawn = plain.attention_map(layer)
        assert isinstance(drawn, np.ndarray)
        if size == SIZES[0]:
            assert drawn.shape == KNOWN[family]


def test_every_family_is_known_or_known_not_to_be() -> None:
    every = {*KNOWN, *ELSEWHERE, *UNKNOWN_LAYOUT}
    assert set(RUNNABLE) <= every
    assert len(every) == len(KNOWN) + len(ELSEWHERE) + len(UNKNOWN_LAYOUT)


@pytest.mark.first(1)
@pytest.mark.parametrize("family", [name for name in UNKNOWN_LAYOUT if name in RUNNABLE])
def test_what_cannot_be_laid_out_is_said_before_the_start(family: str, models: Any) -> None:
    vlm = models(family)
    assert layout_of(vlm.family) is None
    resolved = resolve_spec(replace(SPEC, signals="attention_map"), vlm)
    [note] = [note for note in resolved.notes if "attention_map" in note]
    assert "not known which part of an image" in note
    assert vlm.family.title in note


def test_a_known_layout_needs_no_note(models: Any) -> None:
    for family in ("mllama", "qwen2_5_vl"):
        notes = resolve_spec(SPEC, models(family)).notes
        assert not any("which part of an image" in note for note in notes)


@pytest.mark.first(1)
@pytest.mark.parametrize("family", [name for name in SEVERAL_TILES if name in RUNNABLE])
def test_several_images_have_their_own_numbers(family: str, models: Any) -> None:
    """Of different sizes; each as if it were the only one."""
    vlm, images = models(family), (smooth(60, 170), smooth(96, 64))
    single = [Sample(str(i), image, "Which?") for i, image in enumerate(images)]
    both, *alone = capture([Sample("both", images, "Which?"), *single], vlm, SPEC)
    boxes = both.signals[BOXES]
    for number, item in enumerate(alone):
        own = item.signals[BOXES][item.signals[BOXES][:, 0] == 0, 1:]
        np.testing.assert_array_equal(boxes[boxes[:, 0] == number, 1:], own)


@pytest.mark.exhaustive
def test_llava_onevision_pads_each_of_several_images(
    local: Callable[[str], VisionLanguageModel],
) -> None:
    """A single image is split into tiles instead."""
    vlm, images = local("llava_onevision"), (smooth(60, 170), smooth(96, 64))
    [plain] = capture([Sample("both", images, "What?")], vlm, SPEC)
    assert plain.signals[BOXES][:, 1:].max() > 1, "a token at the edge of the padding"
    for number in range(2):
        right = list(answers_to_paint(vlm, images, plain, number))
        assert len(right) >= 3
        assert all(right)


@pytest.mark.parametrize("family", ["mllama", "qwen2_5_vl"])
def test_images_that_a_question_names_keep_their_numbers(family: str, models: Any) -> None:
    """Maps are in the order of the row's images, whatever order the prompt shows them in."""
    vlm, images = models(family), (smooth(60, 170), smooth(150, 60))
    spec = replace(SPEC, signals="attention_map")
    rows = [
        Sample("as given", images, "Is <image 1> like <image 2>?"),
        Sample("turned", images, "Is <image 2> like <image 1>?"),
        Sample("twice", images, "Is <image 2> like <image 1> or <image 2>?"),
    ]
    layer = resolve_spec(spec, vlm).signals.map_layers[-1]
    shapes = []
    for item in capture(rows, vlm, spec):
        maps = item.attention_map(layer)
        assert isinstance(maps, list)
        shapes.append([each.shape for each in maps])
        values = item.signals[f"attention_map/layer_{layer}"][:, 0]
        total = values[item.signals[BOXES][:, 0] >= 0].sum()
        assert sum(each.sum() for each in maps) == pytest.approx(total, rel=0.2)
    assert shapes[0] == shapes[1] == shapes[2]
    assert shapes[0][0][0] > shapes[0][0][1]
    assert shapes[0][1][0] < shapes[0][1][1]


def test_what_a_processor_crops_has_no_attention(models: Any) -> None:
    """LLaVA-1.5's sees the square in the middle."""
    vlm = models("llava")
    [item] = capture([Sample("wide", smooth(192, 64), "What?")], vlm, SPEC)
    boxes = item.signals[BOXES]
    assert boxes[:, 2].min() == pytest.approx(1 / 3, abs=0.02)
    assert boxes[:, 4].max() == pytest.approx(2 / 3, abs=0.02)
    drawn = item.attention_map(0)
    assert isinstance(drawn, np.ndarray)
    assert drawn.shape[1] == 3 * drawn.shape[0]
    third = drawn.shape[0]
    assert (drawn[:, :third] == 0).all()
    assert (drawn[:, third:-third] > 0).all()
    assert drawn.sum() == pytest.approx(item.signals["attention_map/layer_0"][:, 0].sum(), rel=1e-4)


def test_a_crop_is_that_of_the_size_the_library_resizes_to(models: Any) -> None:
    """Computed as there: 224 / 107 times 1284 is not 2688 in floating point."""
    images = copy(models("llava").processor.image_processor)
    images.size, images.crop_size = {"shortest_edge": 224}, {"height": 224, "width": 224}
    tall, wide = get_resize_output_image_size(np.zeros((107, 1284, 3)), 224, False)
    assert (tall, wide) == (224, 2688)
    assert _seen_part(images, 107, 1284) == (0, 1232 / 2688, 1, 1456 / 2688)


def test_padding_covers_no_part_of_an_image(models: Any) -> None:
    """Janus pads an image to a square."""
    vlm = models("janus")
    [item] = capture([Sample("wide", smooth(192, 64), "What?")], vlm, SPEC)
    known = item.signals[BOXES][:, 0] == 0
    assert known.reshape(4, 4).all(axis=1).tolist() == [False, True, True, False]
    assert (item.signals[BOXES][~known] == -1).all()


def test_settings_that_do_not_fit_the_prompt_have_no_layout(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than another one: here the settings differ from those of the processing."""
    vlm, sample = models("internvl"), Sample("wide", smooth(96, 64), "What?")
    [plain] = capture([sample], vlm, SPEC)
    assert (plain.signals[BOXES] >= 0).all()
    images = vlm.processor.image_processor
    processing, before = type(images).preprocess, images.max_patches

    def as_before(self: Any, *args: Any, **kwargs: Any) -> Any:
        return processing(self, *args, **kwargs | {"max_patches": before})

    monkeypatch.setattr(type(images), "preprocess", as_before)
    monkeypatch.setattr(images, "max_patches", 1)
    [item] = capture([sample], vlm, SPEC)
    assert len(item.signals[BOXES]) == len(plain.signals[BOXES])
    assert (item.signals[BOXES] == -1).all()


def test_a_processor_without_the_settings_has_no_layout(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another class than the family's: the rows are captured all the same."""
    vlm = models("internvl")

    class Settings:
        """The image processor, whose class is of a module without the function."""

        def __getattr__(self, name: str) -> Any:
            return getattr(processor, name)

        def __call__(self, *args: Any, **options: Any) -> Any:
            return processor(*args, **options)

    processor = vlm.processor.image_processor
    monkeypatch.setattr(vlm.processor, "image_processor", Settings())
    [item] = capture([Sample("wide", smooth(96, 64), "What?")], vlm, SPEC)
    assert (item.signals[BOXES] == -1).all()
    assert np.isfinite(item.signals["attention_map/layer_0"]).all()


def test_a_map_of_cells_that_are_cut_off_keeps_their_sum_within_the_image() -> None:
    """Of a grid that extends beyond the image, as the patches of a padded canvas do."""
    boxes = np.concatenate([np.zeros((4, 1), np.float32), grid(2, 2, (0, 0, 1.25, 1))], axis=1)
    [drawn] = image_maps(np.ones(4), boxes)
    assert drawn.shape == (2, 2)
    assert drawn.sum() == pytest.approx(4 / 1.25)


def test_files_of_layouts_name_only_families() -> None:
    """A layout of a family that does not exist would never be used."""
    from vlmscope.model.families import FAMILIES
    from vlmscope.model.image_layouts import LAYOUTS

    assert set(LAYOUTS) <= set(FAMILIES)
