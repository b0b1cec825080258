"""Every pixel format → 8-bit RGB as a person sees it.

Pillow's own ``convert("RGB")`` is not that: it shows the hidden colour of transparent pixels, and
clips 16-bit grey to white.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_ALPHA = frozenset({"LA", "PA", "RGBA", "RGBa"})
_DEEP = frozenset({"I", "F"})


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded picture to a new one of mode ``RGB``.

    - Transparency, of any kind, is laid on white.
    - Grey of 16 bits (modes ``I;16…``) keeps its upper 8 bits.
    - Mode ``I`` is read as 16-bit grey if every pixel fits in 16 bits, else as ``F``.
    - Mode ``F`` is read as 0…1 if every pixel lies there, else as 0…255 if every pixel lies there,
      else its range is stretched to 0…255. A pixel that is no finite number is black.
    - Everything else (CMYK, YCbCr, HSV, palette, 1 bit) is left to Pillow.

    Raises:
        ValueError: Pillow knows no way from this mode to RGB.
    """
    if image.mode in _DEEP or image.mode.startswith("I;16"):
        return _from_deep(image)
    if image.mode in _ALPHA or "transparency" in image.info or _has_alpha_palette(image):
        return _on_white(image)
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _has_alpha_palette(image: Image.Image) -> bool:
    return image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")


def _on_white(image: Image.Image) -> Image.Image:
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image.convert("RGBA"))
    return paper.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    grey = _from_float(pixels) if image.mode == "F" else _from_int(pixels)
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # a PNG's one transparent shade
        grey[pixels == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _from_int(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """``[H, W]`` integers → ``[H, W]`` 8-bit grey."""
    wide = pixels.astype(np.int64)
    if wide.min() < 0 or wide.max() > 0xFFFF:
        return _from_float(pixels)
    return (wide >> 8).astype(np.uint8)


def _from_float(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """``[H, W]`` numbers → ``[H, W]`` 8-bit grey."""
    wide = pixels.astype(np.float64)
    finite = np.isfinite(wide)
    known = wide[finite]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    scaled = (np.where(finite, wide, low) - low) / ((high - low) or 1.0) * 255
    return np.where(finite, np.rint(scaled), 0).astype(np.uint8)
