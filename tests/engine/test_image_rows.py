"""Images of a batch are prepared one at a time where that gives the same bits, else together."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vlmscope.engine import image_rows
from vlmscope.engine.image_rows import ImageRows, with_image_rows

Images = Sequence[int]
"""Images of the processors here: the number of tiles that each becomes."""


class Processor:
    """An image processor that counts the images of its calls.

    Args:
        process: Makes the outputs.
    """

    def __init__(self, process: Callable[[Images], dict[str, Any]]) -> None:
        self.process = process
        self.calls: list[list[int]] = []
        self.patch_size = 14

    def __call__(self, images: Images, *, scale: float = 1.0) -> dict[str, Any]:
        self.calls.append(list(images))
        made = self.process(images)
        return {n: v * scale if isinstance(v, Tensor) else v for n, v in made.items()}


def tiles(count: int) -> Tensor:
    """Return the tiles of an image, which bfloat16 rounds."""
    return torch.arange(1, 1 + 6 * count, dtype=torch.float32).reshape(count, 2, 3) + 1 / 3


def one_after_another(images: Images) -> dict[str, Any]:
    """Return the tiles of all images in one row, as InternVL's processor does."""
    return {
        "pixel_values": torch.cat([tiles(n) for n in images]),
        "num_tiles": torch.tensor(images), "rows": [[n] for n in images], "size": (2, 3),
        "side": torch.tensor(2),
    }  # fmt: skip


def filled_up(images: Images, value: float = 0.0) -> dict[str, Any]:
    """Return the tiles of each image, padded to the most, as SmolVLM's processor does."""
    found = torch.full((len(images), max(images), 2, 3), value)
    for row, count in zip(found, images, strict=True):
        row[:count] = tiles(count)
    return {"pixel_values": found, "mask": (found > 0.0).long()}


def side_by_side(images: Images) -> dict[str, Any]:
    """Return all images in one, as MiniCPM-V's processor does."""
    return {"pixel_values": torch.cat([tiles(n) for n in images])[None]}


def filled_up_with_ones(images: Images) -> dict[str, Any]:
    return filled_up(images, 1.0)


def most_of_all(images: Images) -> dict[str, Any]:
    """Return an output that depends on the other images."""
    return {**one_after_another(images), "most": max(images)}


def numbered(images: Images) -> dict[str, Any]:
    """Return outputs of which one numbers the images of a batch."""
    return {**one_after_another(images), "number": list(range(len(images)))}


def list_filled_up(images: Images) -> dict[str, Any]:
    """Return a list for each image, padded to the longest; it is as long for images of a size."""
    rows = [[n] * n + [0] * (max(images) - n) for n in images]
    return {**one_after_another(images), "rows": rows}


def list_of_tiles(images: Images) -> dict[str, Any]:
    """Return a list of tiles for each image, which is not padded."""
    return {**one_after_another(images), "rows": [list(range(n)) for n in images]}


def as_arrays(images: Images) -> dict[str, Any]:
    return {"pixel_values": torch.cat([tiles(n) for n in images]).numpy()}


def in_bfloat16(_: str, tensor: Tensor) -> torch.dtype:
    return torch.bfloat16 if tensor.is_floating_point() else tensor.dtype


def assert_same_outputs(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        if isinstance(value, Tensor):
            dtype = in_bfloat16(name, value)
            assert torch.equal(found[name].to(dtype), value.to(dtype))
        else:
            np.testing.assert_equal(found[name], value)


@pytest.mark.parametrize("process", [one_after_another, filled_up, list_of_tiles])
@pytest.mark.parametrize("images", [[2, 2, 2, 2], [1, 4, 2, 7, 1], [5, 1, 1, 1]])
def test_images_are_processed_one_at_a_time(process: Any, images: Images) -> None:
    own = Processor(process)
    wrapped = ImageRows(own, in_bfloat16)
    found = wrapped(images, scale=0.5)
    expected = {
        name: value * 0.5 if isinstance(value, Tensor) else value
        for name, value in process(images).items()
    }
    assert_same_outputs(found, expected)
    assert found["pixel_values"].dtype == torch.bfloat16
    assert wrapped.patch_size == 14, "other attributes are those of the processor"
    assert max(map(len, own.calls)) == 2, "two together only to try"
    own.calls.clear()
    assert_same_outputs(ImageRows(own, in_bfloat16)(images, scale=0.5), expected)
    assert own.calls == [[n] for n in images], "and it is tried once"


def test_padding_is_tried_when_it_first_occurs() -> None:
    own = Processor(filled_up)
    wrapped = ImageRows(own, in_bfloat16)
    wrapped([2, 2, 2])
    own.calls.clear()
    assert_same_outputs(wrapped([2, 2, 1, 3]), filled_up([2, 2, 1, 3]))
    assert own.calls == [[2], [2], [1], [2, 1], [3]]


UNLIKE_SINGLE_ONES = [side_by_side, filled_up_with_ones, most_of_all, numbered, list_filled_up]
"""What processors return that the outputs of single images do not make up."""


@pytest.mark.parametrize("process", UNLIKE_SINGLE_ONES)
def test_what_cannot_be_joined_is_processed_together(process: Any) -> None:
    images = [2, 2, 3, 1]
    own = Processor(process)
    wrapped = ImageRows(own, in_bfloat16)
    assert_same_outputs(wrapped(images), process(images))
    own.calls.clear()
    assert_same_outputs(wrapped(images), process(images))
    assert own.calls == [images], "single images are not tried again"


def test_outputs_without_names_are_those_of_one_call() -> None:
    def process(images: Images) -> Tensor:
        return torch.cat([tiles(n) for n in images])

    found = ImageRows(process, in_bfloat16)([2, 1, 1])
    assert torch.equal(found, process([2, 1, 1]))


def test_few_images_and_what_is_no_list_are_processed_together() -> None:
    own = Processor(one_after_another)
    wrapped = ImageRows(own, in_bfloat16)
    wrapped([1, 2])
    wrapped(np.array([1, 2, 3]))
    assert own.calls == [[1, 2], [1, 2, 3]]


def test_errors_of_an_image_are_the_processors() -> None:
    def process(images: Images) -> dict[str, Any]:
        if 0 in images:
            raise ValueError("an image without pixels")
        return one_after_another(images)

    own = Processor(process)
    with pytest.raises(ValueError, match="without pixels"):
        ImageRows(own, in_bfloat16)([1, 1, 0, 1])
    ImageRows(own, in_bfloat16)([1, 1, 1])
    assert own.calls[-1] == [1], "it is called for single images from then on, too"


def test_a_processor_that_reads_values_gets_its_own_dtype() -> None:
    """NumPy has no bfloat16; LLaVA's processor makes an array of each image."""
    own, processor = Processor(one_after_another), Processor(as_arrays)
    seen: list[torch.dtype] = []

    def encode(with_images: Callable[[Any], Any]) -> dict[str, Tensor]:
        made: dict[str, Tensor] = with_images(own)([1, 2, 1])
        seen.append(made["pixel_values"].dtype)
        made["pixel_values"].numpy()
        return made

    for _ in range(2):
        found = with_image_rows(processor, in_bfloat16, encode)
        assert torch.equal(found["pixel_values"], one_after_another([1, 2, 1])["pixel_values"])
    assert seen == [torch.bfloat16, torch.float32, torch.float32]


def test_other_type_errors_are_raised() -> None:
    def encode(_: Callable[[Any], Any]) -> dict[str, Tensor]:
        raise TypeError("an image of no type")

    processor = Processor(one_after_another)
    with pytest.raises(TypeError, match="no type"):
        with_image_rows(processor, in_bfloat16, encode)
    assert processor not in image_rows._reading


def test_results_are_the_only_arrays_of_all_images() -> None:
    """The float32 tiles of an image are freed while the next are made."""
    made: list[weakref.ref[Tensor]] = []
    most = 0

    def process(images: Images) -> dict[str, Any]:
        nonlocal most
        outputs = one_after_another(images)
        made.append(weakref.ref(outputs["pixel_values"]))
        most = max(most, sum(each() is not None for each in made))
        return outputs

    ImageRows(process, in_bfloat16)([3] * 12)
    assert len(made) == 13
    assert most <= 3, "the first, the one before, and this one"
