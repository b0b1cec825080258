"""Images of every tile count and questions of every length, for tests of all stages."""

from __future__ import annotations

import numpy as np
from PIL import Image

IMAGE_SIZES = {"one": (50, 40), "two_wide": (100, 50), "two_tall": (40, 90), "four": (110, 100)}
"""Name → (width, height) in pixels; against tiles of 56 pixels these make 1, 2, 2 and 4 tiles."""

QUESTIONS = (
    "Is the forest lit by a full moon?",
    "What is it?",
    "How many people are there, and is there a cat in the image, or a rocket, or a cup?",
    "Describe this image.",
    "Où est le café ☕?",
)


def make_image(name: str, seed: int = 0) -> Image.Image:
    """Return an image of noise with the size that ``name`` stands for."""
    width, height = IMAGE_SIZES[name]
    rng = np.random.default_rng([seed, width, height])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
