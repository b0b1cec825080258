"""The thumbnail that is kept with each row."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from PIL import Image

from vlmscope.dataset import image_thumbnail, read_thumbnails


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    cells = np.stack([40 + 100 * x, 40 + 100 * x, 60 + 150 * y], axis=2)
    return Image.fromarray(cells.astype(np.uint8))


def test_cells_are_the_means_of_the_image() -> None:
    image = gradient(480, 240)
    found = read_thumbnails([image_thumbnail(image)])
    rgb = np.asarray(image, dtype=np.float64)
    luma = (rgb @ [0.299, 0.587, 0.114]).reshape(24, 10, 24, 20).mean(axis=(1, 3))
    levels = found.low[0] + found.luma[0] / 255 * (found.high[0] - found.low[0])
    assert np.abs(levels - luma).max() < 0.7
    assert (found.luma.min(), found.luma.max()) == (0, 255), "stretched to its own range"
    blue = 0.564 * (rgb[..., 2] - rgb @ [0.299, 0.587, 0.114])
    blue = blue.reshape(8, 30, 8, 60).mean(axis=(1, 3))
    assert np.abs(found.colour[0, 0] - blue).max() < 1.2


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (28, 28), (192, 192), (1000, 7)])
def test_any_shape_has_one_that_a_joined_text_can_hold(size: tuple[int, int]) -> None:
    texts = [image_thumbnail(gradient(*size)), image_thumbnail(Image.new("RGB", size, "white"))]
    assert all(len(text) == 944 and "+" not in text for text in texts)
    found = read_thumbnails("+".join(texts).split("+"))
    assert len(found) == 2
    assert found.low[1] == found.high[1] == 255
    assert not found.luma[1].any()
    assert not found.colour[1].any()


def test_a_faint_image_has_as_much_detail_as_a_strong_one() -> None:
    rng = np.random.default_rng(0)
    cells = np.kron(rng.random((24, 24)), np.ones((8, 8)))
    faint, strong = (
        Image.fromarray((3 + cells * span).astype(np.uint8)).convert("RGB") for span in (8, 250)
    )
    one, other = read_thumbnails([image_thumbnail(faint), image_thumbnail(strong)]).luma
    assert np.corrcoef(one.reshape(-1), other.reshape(-1))[0, 1] > 0.98
    assert one.max() - one.min() == 255


def test_every_value_is_read_back() -> None:
    data = np.random.default_rng(1).integers(0, 256, 708, dtype=np.uint8).tobytes()
    found = read_thumbnails([base64.urlsafe_b64encode(data).decode().rstrip("=")])
    assert found.luma.tobytes() == data[4:580]
    assert found.colour.tobytes() == data[580:]
    assert found.low[0] * 256 == int.from_bytes(data[:2], "little")
    assert found.high[0] * 256 == int.from_bytes(data[2:4], "little")


@pytest.mark.parametrize("text", ["", "abc", "=" * 944, "é" * 944, "A" * 943, "A" * 948, "A+/" * 4])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a thumbnail"):
        read_thumbnails([image_thumbnail(Image.new("RGB", (2, 2))), text])


def test_no_texts_are_no_thumbnails() -> None:
    assert len(read_thumbnails([])) == 0
