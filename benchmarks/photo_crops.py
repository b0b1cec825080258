"""Random parts of the photographs, as images of the size that most benchmarks have."""

from __future__ import annotations

import random

from PIL import Image

IMAGE_SIZES = ((640, 480), (480, 640))
"""Width and height, in turn."""


def crop(photo: Image.Image, rng: random.Random, width: int, height: int) -> Image.Image:
    """Return a random part of a photograph, of this shape and scaled to this size."""
    scale = min(photo.width / width, photo.height / height) * rng.uniform(0.6, 0.95)
    wide, high = int(width * scale), int(height * scale)
    left, top = rng.randint(0, photo.width - wide), rng.randint(0, photo.height - high)
    part = photo.crop((left, top, left + wide, top + high))
    return part.resize((width, height), Image.LANCZOS)
