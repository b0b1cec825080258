"""Tiles that are filled up: LFM2-VL's, Idefics2's, Aria's, and whose they are in a batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from families.conformance import ONE_IMAGE, RUNNABLE, SEVERAL, build
from families.test_conformance import assert_same
from vlmscope.engine import capture
from vlmscope.model import load_model
from vlmscope.model.vision_rows import Encoded, by_patch_mask, by_patch_shapes
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec

IMAGE, OTHER = 7, 1

FILLED_UP = ("mllama", "lfm2_vl", "idefics2", "aria")
"""Families whose tiles or images are filled up with padding."""


def encoded(tokens: list[int], shapes: list[tuple[int, int]]) -> Encoded:
    """Return the output for questions of so many image tokens, and tiles of these shapes."""
    most = max(height * width for height, width in shapes)
    mask = torch.zeros(len(shapes), most, dtype=torch.int32)
    for row, (height, width) in zip(mask, shapes, strict=True):
        row[: height * width] = 1
    ids = torch.full((len(tokens), max(tokens) + 1), OTHER)
    for row, count in zip(ids, tokens, strict=True):
        row[:count] = IMAGE
    inputs: dict[str, Tensor] = {
        "input_ids": ids, "spatial_shapes": torch.tensor(shapes), "pixel_attention_mask": mask,
    }  # fmt: skip
    features = torch.arange(len(shapes) * most, dtype=torch.float32).reshape(len(shapes), most, 1)
    config = SimpleNamespace(downsample_factor=2)
    return Encoded(features, inputs, [1] * len(tokens), config, IMAGE)


def test_tiles_are_dealt_out_by_their_image_tokens() -> None:
    """A question of one tile, one of none, and one of two; a tile of 3 x 2 makes 2 tokens."""
    rows = by_patch_shapes(encoded([1, 0, 4], [(2, 2), (3, 2), (2, 4)]))
    assert [features.flatten().tolist() for features, _ in rows] == [
        [*range(8)], [], [*range(8, 24)]
    ]  # fmt: skip
    assert [int(valid.sum()) for _, valid in rows] == [4, 0, 6 + 8]


@pytest.mark.parametrize("tokens", [[2, 3], [1, 3], [1, 5], [6, 1]])
def test_tiles_that_do_not_make_up_the_tokens_are_refused(tokens: list[int]) -> None:
    with pytest.raises(RuntimeError, match="tiles"):
        by_patch_shapes(encoded(tokens, [(2, 2), (3, 2), (2, 4)]))


def masked(sizes: list[list[tuple[int, int]]], largest: tuple[int, int], patches: int) -> Encoded:
    """Return the output for questions whose tiles are so large, in pixels; a patch has 2 x 2."""
    most = max(map(len, sizes))
    mask = torch.zeros(len(sizes), most, *largest, dtype=torch.int64)
    for question, own in zip(mask, sizes, strict=True):
        for tile, (height, width) in zip(question, own, strict=False):
            tile[:height, :width] = 1
    tiles = sum(map(len, sizes))
    features = torch.arange(tiles * patches, dtype=torch.float32).reshape(tiles, patches, 1)
    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=2))
    return Encoded(features, {"pixel_attention_mask": mask}, [1] * len(sizes), config, IMAGE)


def test_only_patches_that_lie_wholly_in_a_tile_are_its_own() -> None:
    """Of a question of two tiles, of one without any, and of one whose patches are cut off."""
    rows = by_patch_mask(masked([[(4, 4), (2, 4)], [], [(3, 5)]], (4, 5), 4))
    assert [features.flatten().tolist() for features, _ in rows] == [
        [0, 1, 2, 3, 4, 5], [], [8, 9]
    ]  # fmt: skip
    assert all(valid.all() for _, valid in rows)


def test_an_encoder_that_dropped_a_tile_is_refused() -> None:
    encoded = masked([[(4, 4)], [(4, 4)]], (4, 4), 4)
    with pytest.raises(RuntimeError, match=r"returned \(1, 4\) tiles and patches.*has \(2, 4\)"):
        by_patch_mask(dataclasses.replace(encoded, features=encoded.features[:1]))


@pytest.mark.first(1)
@pytest.mark.parametrize("family", [n for n in FILLED_UP if n in RUNNABLE])
def test_valid_pooling_leaves_the_padding_out(family: str, tmp_path: Path) -> None:
    vlm = load_model(build(family, tmp_path / family), device="cpu", dtype="float32")
    spec = CaptureSpec(layers="all", vision_pooling="valid", max_new_tokens=0)
    for item in capture([*ONE_IMAGE, *SEVERAL], vlm, spec, batch_size=4):
        assert_same(item, reference(item.sample, vlm, spec))
