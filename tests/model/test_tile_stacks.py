"""Images with different numbers of tiles in one batch of Perception LM's processor."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from vlmscope.model.loading.corrections import join_tiles


class PerceptionLMProcessor:
    """As the library's: an image is the number of its tiles here, and each needs its own."""

    def _process_images(
        self, images: list[int], return_tensors: str | None = None
    ) -> tuple[dict[str, Any], list[str]]:
        tiles: list[Tensor] = [torch.full((n, 3, 2, 2), float(n)) for n in images]
        made: Any = torch.stack(tiles) if return_tensors == "pt" else tiles
        return {"pixel_values": made}, ["<|image|>" * len(own) for own in made]


@pytest.fixture
def joined() -> PerceptionLMProcessor:
    processor = PerceptionLMProcessor()
    join_tiles(processor)
    join_tiles(processor)
    return copy.copy(processor)


def test_different_numbers_of_tiles(joined: PerceptionLMProcessor) -> None:
    with pytest.raises(RuntimeError, match="equal size"):
        PerceptionLMProcessor()._process_images([2, 5], return_tensors="pt")
    made, texts = joined._process_images([2, 5], return_tensors="pt")
    assert made["pixel_values"].shape == (1, 7, 3, 2, 2)
    assert made["pixel_values"][0, :, 0, 0, 0].tolist() == [2.0] * 2 + [5.0] * 5
    assert texts == ["<|image|>" * 2, "<|image|>" * 5]


def test_equal_numbers_are_the_same_to_the_model(joined: PerceptionLMProcessor) -> None:
    plain, texts = PerceptionLMProcessor()._process_images([3, 3], return_tensors="pt")
    made, own = joined._process_images([3, 3], return_tensors="pt")
    torch.testing.assert_close(
        made["pixel_values"].flatten(0, 1), plain["pixel_values"].flatten(0, 1)
    )
    assert own == texts


def test_the_class_keeps_its_name_and_is_changed_once(joined: PerceptionLMProcessor) -> None:
    assert isinstance(joined, PerceptionLMProcessor)
    assert type(joined).__name__ == "PerceptionLMProcessor"
    assert len(type(joined).__mro__) == 4
