"""Questions about one image in a batch: it is encoded once, and the numbers are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.against_reference import captured_together
from families.conformance import (
    NONE,
    RUNNABLE,
    TALL,
    THIRD,
    WANTS_TIMM,
    WANTS_TORCHVISION,
    WIDE,
    build,
)
from families.test_conformance import assert_same
from vlmscope.engine import prepare, repeated_images
from vlmscope.engine.session import CaptureSession
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.model.host_positions import HostCopies
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec, Sample

SPEC = CaptureSpec(layers="all", max_new_tokens=3)

ROWS = (
    Sample("a", WIDE, "Is there a cat in the image?"),
    Sample("b", TALL, "Why?"),
    Sample("c", WIDE, "What colour is the largest thing in it?"),
    Sample("d", THIRD, "Is it lit?"),
    Sample("e", TALL, "How many people are there?"),
    Sample("f", WIDE, "Why?"),
)

WITH_EXTRAS = tuple(name for name in WANTS_TORCHVISION + WANTS_TIMM if name in RUNNABLE)

FIRST = ("gemma3", "qwen3_5", *WITH_EXTRAS)
"""One entry per image, a packed batch, and what only ``make test-extras`` runs."""

WHOLE = ("mllama", "minicpmv4_6", "minicpmv4_7")
"""Families with another way, and whose images are one long picture."""


@pytest.fixture(autouse=True)
def unknown() -> None:
    """Every model is new to it."""
    repeated_images._proven.clear()
    repeated_images._refused.clear()


def entries_of(tower: nn.Module, calls: list[int]) -> Any:
    """Return the class's ``forward``, noting how many entries its input has."""
    own = type(tower).forward

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        pixels = args[0] if args else kwargs.get("pixel_values", kwargs.get("hidden_states"))
        if self is tower:
            calls.append(len(pixels))
        return own(self, *args, **kwargs)

    return forward


def load(family: str, folder: Path) -> VisionLanguageModel:
    return load_model(build(family, folder / family), device="cpu", dtype="float32")


@pytest.mark.first(len(FIRST))
@pytest.mark.parametrize("family", [*FIRST, *(name for name in RUNNABLE if name not in FIRST)])
def test_the_numbers_are_those_of_the_slow_method(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = load(family, tmp_path)
    batches, _ = prepare(ROWS, vlm, resolve_spec(SPEC, vlm))
    if not (shares := any(batch.prefix is not None for batch in batches)):
        expected_rows = {row.id: reference(row, vlm, SPEC) for row in ROWS}
    else:  # its beginnings are shared: without that, a few rows are enough
        expected_rows = {row.id: reference(row, vlm, SPEC) for row in ROWS[:3]}
        monkeypatch.setattr("vlmscope.engine.batch.distinct_enough", lambda _entries: False)
    rows = [row for row in ROWS if row.id in expected_rows]
    calls: list[int] = []
    whole = 0
    tower = vlm.vision_tower
    monkeypatch.setattr(type(tower), "forward", entries_of(tower, calls))
    for again in range(2):
        calls.clear()
        for capture in captured_together(rows, vlm, SPEC):
            assert_same(capture, expected_rows[capture.sample.id])
        if not shares and family not in WHOLE:
            assert tower in repeated_images._proven, family
            # The first result is compared with that of all images.
            assert len(set(calls)) == 2 - again
            assert calls.count(max(calls)) == 1 or again
            whole = whole or max(calls)
            assert min(calls) < whole


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return load("gemma3", tmp_path_factory.mktemp("gemma3"))


def calls_for(
    vlm: VisionLanguageModel, rows: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """Return the entries of each call of the encoder."""
    calls: list[int] = []
    tower = vlm.vision_tower
    with monkeypatch.context() as patching:
        patching.setattr(type(tower), "forward", entries_of(tower, calls))
        captured_together(rows, vlm, CaptureSpec(layers="0", max_new_tokens=0))
    assert "forward" not in vars(tower)
    return calls


def test_without_a_repeated_image_nothing_is_looked_at(
    gemma: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeated_images, "_forward", None)
    assert calls_for(gemma, (ROWS[0], ROWS[1], ROWS[3]), monkeypatch) == [3]
    assert calls_for(gemma, NONE[:2], monkeypatch) == []


def test_an_image_within_a_row_counts(
    gemma: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (Sample("x", (WIDE, WIDE, TALL), "Same?"), Sample("y", (TALL, THIRD, WIDE), "Same?"))
    assert calls_for(gemma, rows, monkeypatch) == [3, 6]
    assert calls_for(gemma, rows, monkeypatch) == [3]


def test_an_output_that_cannot_be_repeated_is_computed_as_a_whole(
    gemma: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Tensor:
        raise repeated_images._NotRepeatableError

    with monkeypatch.context() as patching:
        patching.setattr(repeated_images._Distinct, "_repeat_tensor", refuse)
        assert calls_for(gemma, ROWS[:3], monkeypatch) == [2, 3]
    assert calls_for(gemma, ROWS[:3], monkeypatch) == [3]  # it is not tried again


def test_an_encoder_whose_images_affect_each_other_is_used_as_it_is(
    gemma: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = gemma.vision_tower
    own = type(tower).forward

    def mixed(self: nn.Module, pixel_values: Tensor, **options: Any) -> Any:
        return own(self, pixel_values + pixel_values.mean(dim=0, keepdim=True), **options)

    monkeypatch.setattr(type(tower), "forward", mixed)
    images = torch.randn(3, 3, 28, 28).repeat(2, 1, 1, 1)[:4]
    size = gemma.model.config.vision_config.image_size
    images = nn.functional.interpolate(images, size=(size, size))
    with torch.no_grad():
        whole = mixed(tower, images).last_hidden_state
        found = repeated_images._forward(
            tower, {}, HostCopies(), pixel_values=images
        ).last_hidden_state
    torch.testing.assert_close(found, whole, rtol=0, atol=0)
    assert tower in repeated_images._refused


@dataclass
class Encoded:
    """An output that is no mapping."""

    states: Tensor


Given = Mapping[str, Any]


class Tower(nn.Module):
    """An encoder that is right for its first batch, and perhaps not for later ones."""

    def __init__(self, compute: Callable[[Given], Any]) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, patches: Tensor, **options: Any) -> Any:
        return self.compute({"patches": patches, **options})


def doubled(given: Given) -> Any:
    return given["patches"] * 2


def plain(given: Given) -> Any:
    return Encoded(given["patches"] * 2)


def listed(given: Given) -> Any:
    """It is told the sizes as a list."""
    return torch.stack([each * given["sizes"][i] for i, each in enumerate(given["patches"])])


def masked(given: Given) -> Any:
    """It returns numbers of other kinds too."""
    patches: Tensor = given["patches"]
    return {"states": patches * 2, "mask": patches[:, 0] > 0, "order": patches[:, 0].long()}


def with_table(given: Given) -> Any:
    """An argument happens to have as many entries as there are images, in the second batch."""
    return given["patches"] * given["table"].sum()


def rounded_up(given: Given) -> Any:
    """It merges blocks of 2 × 2, also incomplete ones at the edges."""
    tokens = [-(-int(h) // 2) * -(-int(w) // 2) for _, h, w in given["grid"]]
    parts = torch.split(given["patches"], given["grid"].prod(dim=1).tolist())
    return torch.cat([p.mean(0).expand(n, -1) for p, n in zip(parts, tokens, strict=True)])


def shifted(given: Given) -> Any:
    """It is told something of each patch."""
    return given["patches"] * given["shifts"][:, None]


def packed_of(*images: tuple[int, int, int]) -> dict[str, Any]:
    """Return images of some heights, widths, and contents."""
    patches = [torch.arange(1.0, h * w + 1)[:, None].expand(-1, 3) + c for h, w, c in images]
    return {"patches": torch.cat(patches), "grid": torch.tensor([(1, h, w) for h, w, _ in images])}


ENTRIES = torch.arange(1.0, 4)[[0, 1, 0, 2]][:, None].expand(-1, 3).clone()
"""Four images, of which two are the same."""


@pytest.mark.parametrize(
    ("compute", "batches"),
    [
        (plain, [{"patches": ENTRIES}]),
        (listed, [{"patches": ENTRIES, "sizes": [2.0] * 4},
                  {"patches": ENTRIES, "sizes": [1.0, 2.0, 3.0, 4.0]}]),
        (masked, [{"patches": ENTRIES}]),
        (with_table, [{"patches": ENTRIES, "table": torch.ones(3)},
                      {"patches": ENTRIES[:3], "table": torch.ones(3)}]),
        (rounded_up, [packed_of((6, 6, 1), (6, 6, 1)),
                      packed_of((3, 3, 1), (3, 3, 2), (3, 3, 3), (6, 6, 1), (6, 6, 1))]),
        (shifted, [packed_of((2, 2, 1), (2, 2, 1)) | {"shifts": torch.ones(8)},
                   packed_of((2, 2, 1), (2, 2, 1)) | {"shifts": torch.arange(8.0)}]),
        (doubled, [{"patches": torch.ones(0, 3)}]),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)  # fmt: skip
def test_a_later_batch_is_not_taken_for_one_like_the_first(
    compute: Callable[[Given], Any], batches: list[dict[str, Any]]
) -> None:
    tower = Tower(compute)
    for batch in batches * 2:
        patches, named = batch["patches"], {k: v for k, v in batch.items() if k != "patches"}
        found = repeated_images._forward(tower, {}, HostCopies(), patches, **named)
        expected = tower(patches, **named)
        if isinstance(expected, Encoded):
            found, expected = found.states, expected.states
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_shape_of_a_projector_in_the_encoder_is_that_of_all_images(tmp_path: Path) -> None:
    vlm = load("qwen3_vl", tmp_path)
    spec = resolve_spec(CaptureSpec(layers="0", max_new_tokens=0), vlm)
    shapes = []
    for images in ((WIDE, TALL, WIDE), (WIDE, TALL, WIDE), (WIDE, TALL, THIRD)):
        session = CaptureSession(vlm, spec, 1)
        [batch], _ = prepare([Sample("a", images, "Same?")], session.prepares_with, spec)
        session.submit(batch)
        shapes.append(session.shapes_)
    assert vlm.vision_tower in repeated_images._proven
    merged = vlm.model.config.vision_config.spatial_merge_size**2
    assert [each["projector"][0] * merged for each in shapes] == [
        each["vision_encoder"][0] for each in shapes
    ]
    assert shapes[0] == shapes[1]


def test_images_are_the_same_if_all_numbers_are() -> None:
    images = torch.zeros(5, 3, 40, 40)
    images[1, 2, 39, 39] = 1e-6  # not among those that are looked at first
    images[3] = images[1]
    images[4, 0, 0, 0] = float("nan")
    found = repeated_images._grouped(images, [], [1] * 5, [1] * 5)
    assert found is not None
    assert found.first == (0, 1, 4)
    assert found.entries == (0, 1, 0, 1, 2)
    images[4] = images[0]
    sizes = torch.tensor([1, 1, 2, 1, 1])  # another argument with an entry for each image
    found = repeated_images._grouped(images, [sizes], [1] * 5, [1] * 5)
    assert found is not None
    assert found.first == (0, 1, 2)
    assert found.entries == (0, 1, 2, 1, 0)
    packed = torch.arange(6.0).repeat(2)[:, None].repeat(1, 3)  # images of 4, 2, 4 and 2 patches
    found = repeated_images._grouped(packed, [], [4, 2, 4, 2], [4, 2, 4, 2])
    assert found is not None
    assert found.first == (0, 1)
    assert found.entries == (0, 1, 0, 1)
    torch.testing.assert_close(found.repeat(found.choose(packed)), packed)
    assert repeated_images._grouped(packed, [], [2, 4, 4, 2], [2, 4, 4, 2]) is None
