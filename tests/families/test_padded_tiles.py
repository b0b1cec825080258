"""Tiles that are filled up to the most patches: LFM2-VL's, and whose they are in a batch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from families.conformance import ONE_PICTURE, RUNNABLE, SEVERAL, build
from families.test_conformance import assert_same
from vlmscope.engine import capture
from vlmscope.model import load_model
from vlmscope.model.vision_rows import Encoded, by_patch_shapes
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


@pytest.mark.parametrize("family", [n for n in FILLED_UP if n in RUNNABLE])
def test_valid_pooling_leaves_the_padding_out(family: str, tmp_path: Path) -> None:
    vlm = load_model(build(family, tmp_path / family), device="cpu", dtype="float32")
    spec = CaptureSpec(layers="all", vision_pooling="valid", max_new_tokens=0)
    for item in capture([*ONE_PICTURE, *SEVERAL], vlm, spec, batch_size=4):
        assert_same(item, reference(item.sample, vlm, spec))
