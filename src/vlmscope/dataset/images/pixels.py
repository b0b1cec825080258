"""Conversion of every pixel format to 8-bit RGB as displayed.

Pillow's own ``convert("RGB")`` differs: it shows the hidden colour of transparent pixels, and
clips 16-bit grey to white.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BAND_PIXELS = 4 * 2**20
"""Pixels that are converted at a time."""

_ALPHA = frozenset({"LA", "PA", "RGBA", "RGBa"})
_DEEP = frozenset({"I", "F"})


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image to a new one of mode ``RGB``.

    - Transparency of any kind is composited on white.
    - Grey of 16 bits (modes ``I;16…``) keeps its upper 8 bits.
    - Mode ``I`` is read as 16-bit grey if every pixel fits in 16 bits, else as ``F``.
    - Mode ``F`` is read as 0…1 if every pixel is in that range, else as 0…255 if every pixel is,
      else its range is stretched to 0…255. A pixel that is not finite is black.
    - Everything else (CMYK, YCbCr, HSV, palette, 1 bit) is left to Pillow.

    Raises:
        ValueError: Pillow has no conversion from this mode to RGB.
    """
    if image.mode in _DEEP or image.mode.startswith("I;16"):
        return _from_deep(image)
    if image.mode in _ALPHA or "transparency" in image.info or _has_alpha_palette(image):
        return _by_band(image, _on_white)
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _has_alpha_palette(image: Image.Image) -> bool:
    return image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")


def bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield an image in bands of full width, top to bottom, each with its first row number.

    Computing on a band takes memory for that band only: for an image of 89 million pixels, a
    float64 each would be 0.7 GB.
    """
    rows = max(1, BAND_PIXELS // image.width)
    if rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _by_band(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert an image band by band to a new one of mode ``RGB``."""
    rgb = Image.new("RGB", image.size)
    for top, band in bands(image):
        rgb.paste(convert(band), (0, top))
    return rgb


def _on_white(image: Image.Image) -> Image.Image:
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image.convert("RGBA"))
    return paper.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    scale = _scale_of(image)
    clear = image.info.get("transparency")

    def convert(band: Image.Image) -> Image.Image:
        pixels = np.asarray(band)
        grey = _upper_bits(pixels) if scale is None else _stretched(pixels, *scale)
        if isinstance(clear, int):  # a PNG's one transparent shade
            grey[pixels == clear] = 255
        return Image.fromarray(grey).convert("RGB")

    return _by_band(image, convert)


def _scale_of(image: Image.Image) -> tuple[float, float] | None:
    """Return which values become 0 and 255; None for integers that all fit in 16 bits."""
    low, high = math.inf, -math.inf
    for _, band in bands(image):
        pixels = np.asarray(band)
        known = pixels[np.isfinite(pixels)]
        if known.size:
            low, high = min(low, float(known.min())), max(high, float(known.max()))
    if image.mode != "F" and low >= 0 and high <= 0xFFFF:
        return None
    if low > high:
        low, high = 0.0, 0.0
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return (0.0, 255.0) if low >= 0 and high <= 255 else (low, high)


def _upper_bits(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """``[H, W]`` integers of 16 bits → ``[H, W]`` 8-bit grey."""
    return (pixels.astype(np.int64) >> 8).astype(np.uint8)


def _stretched(pixels: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    """``[H, W]`` numbers → ``[H, W]`` 8-bit grey."""
    wide = pixels.astype(np.float64)
    finite = np.isfinite(wide)
    scaled = (np.where(finite, wide, low) - low) / ((high - low) or 1.0) * 255
    return np.where(finite, np.rint(scaled), 0).astype(np.uint8)
