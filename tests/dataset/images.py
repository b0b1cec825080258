"""Small images with known pixels, and what ``load_image`` makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlmscope.dataset import load_image
from vlmscope.errors import RowError

RED, GREEN, BLUE, WHITE, BLACK = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
)


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def pixels(image: Any) -> list[list[tuple[int, ...]]]:
    loaded = load_image(image)
    assert type(loaded) is Image.Image
    assert loaded.mode == "RGB"
    return [[tuple(map(int, pixel)) for pixel in row] for row in np.asarray(loaded)]


def refusal(image: Any) -> str:
    with pytest.raises(RowError) as caught:
        load_image(image)
    assert caught.value.stage == "image"
    text = str(caught.value)
    assert "\n" not in text
    assert "; " in text, "a remedy follows the finding"
    return text


def corners() -> Image.Image:
    """Two rows of three: red green blue, then white black black."""
    image = Image.new("RGB", (3, 2))
    for x, colour in enumerate((RED, GREEN, BLUE)):
        image.putpixel((x, 0), colour)
    image.putpixel((0, 1), WHITE)
    return image
