"""Hunyuan-VL numbers the images of a batch; vlmscope lets it number those of each question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from families.checkpoints import BUILDERS
from families.conformance import NONE, ONE_IMAGE, SEVERAL
from families.test_conformance import assert_same
from vlmscope.engine import capture
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.model.loading.corrections import count_images
from vlmscope.prompt import encode, render
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec, Sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS["hunyuan_vl"](tmp_path_factory.mktemp("numbers") / "hunyuan")


@pytest.fixture(scope="module")
def vlm(folder: Path) -> VisionLanguageModel:
    return load_model(folder, device="cpu", dtype="float32")


def inputs_of(vlm: VisionLanguageModel, *samples: Sample) -> dict[str, Tensor]:
    texts = [render(vlm.processor, one.question, len(one.images)) for one in samples]
    return encode(vlm.processor, texts, [one.images for one in samples])


def positions(model: Any, inputs: dict[str, Tensor], row: int) -> Tensor:
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    found, _ = model.get_rope_index(**{name: inputs[name] for name in names})
    return found[:, row, inputs["attention_mask"][row].bool()]


def test_every_question_counts_from_zero(vlm: VisionLanguageModel) -> None:
    rows = (SEVERAL[0], NONE[0], SEVERAL[1], ONE_IMAGE[0])
    together = inputs_of(vlm, *rows)
    assert count_images(together["mm_token_type_ids"]) == [2, 0, 3, 1]
    for row, sample in enumerate(rows):
        if sample.images:
            alone = positions(vlm.model.model, inputs_of(vlm, sample), 0)
            assert torch.equal(positions(vlm.model.model, together, row), alone)


def test_the_library_still_counts_through_the_batch(folder: Path, vlm: VisionLanguageModel) -> None:
    """When this fails, transformers has mended it, and ``image_numbers`` may go."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder).model
    alone = positions(model, inputs_of(vlm, ONE_IMAGE[1]), 0)
    together = positions(model, inputs_of(vlm, *ONE_IMAGE[:2]), 1)
    assert torch.equal(alone[:3], together[:3])
    assert not torch.equal(alone[3], together[3])


def test_batches_of_several_images_equal_the_reference(vlm: VisionLanguageModel) -> None:
    spec = CaptureSpec(layers="all", max_new_tokens=6)
    rows = [SEVERAL[0], Sample("again", SEVERAL[0].images, "Why?"), SEVERAL[1]]
    for item in capture(rows, vlm, spec, batch_size=4):
        assert_same(item, reference(item.sample, vlm, spec))
