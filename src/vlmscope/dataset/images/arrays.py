"""Images as NumPy arrays: of pixels, as other libraries return them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vlmscope.errors import RowError

EXPECTED = (
    "expected uint8 of the shape (height, width, 3), in the order red, green, blue, or (height, "
    "width); convert it, or give a PIL image"
)


def flaw_of_array(pixels: np.ndarray) -> str:
    """Return why an array is no image, and what to do, as the end of a sentence; else nothing."""
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype == np.uint8 and is_image and pixels.size:
        return ""
    return f"is an array of {pixels.dtype} of the shape {pixels.shape}, {EXPECTED}"


def image_of_array(pixels: np.ndarray) -> Image.Image:
    """Return pixels as an image.

    Raises:
        RowError: They are of another type or shape.
    """
    if flaw := flaw_of_array(pixels):
        raise RowError("image", f"the image {flaw}")
    return Image.fromarray(np.ascontiguousarray(pixels))


def file_of_array(pixels: np.ndarray) -> bytes:
    r"""Return pixels without a flaw as the bytes of a PPM file, which is not compressed.

    >>> file_of_array(np.array([[7, 8]], np.uint8))
    b'P5\n2 1\n255\n\x07\x08'
    """
    height, width = pixels.shape[:2]
    kind = "P6" if pixels.ndim == 3 else "P5"
    return f"{kind}\n{width} {height}\n255\n".encode() + pixels.tobytes()
