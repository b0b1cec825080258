"""Thumbnails: small copies of images, stored with their rows to find near-copies later.

A thumbnail is 24 × 24 cells of luma and 8 × 8 cells of colour, whatever the shape of the image.
Luma is stretched to the image's own range, which is stored too, so that a night scene or a page
with one line of text has as much detail as a photograph.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int8, UInt8
from PIL import Image

LUMA, COLOUR = 24, 8
"""Cells per side."""

_OVERSAMPLING = 8
_RANGE_STEPS = 256  # the range is stored in steps of 1/256 grey level, as 16-bit numbers
_BYTES = 4 + LUMA**2 + 2 * COLOUR**2


@dataclass(frozen=True, slots=True, eq=False)
class Thumbnails:
    """Thumbnails of ``n`` images."""

    luma: UInt8[np.ndarray, "n 24 24"]
    """0 is the darkest cell of the image, 255 its brightest."""
    low: Float32[np.ndarray, " n"]
    """Grey level of the darkest cell, 0 to 255."""
    high: Float32[np.ndarray, " n"]
    """Grey level of the brightest cell."""
    colour: Int8[np.ndarray, "n 2 8 8"]
    """Cb and Cr (ITU-R BT.601), 0 for grey."""

    def __len__(self) -> int:
        return len(self.luma)


def image_thumbnail(image: Image.Image) -> str:
    """Return the thumbnail of an RGB image as text: URL-safe base64, without padding.

    >>> len(image_thumbnail(Image.new("RGB", (40, 30))))
    944
    """
    side = LUMA * _OVERSAMPLING
    rgb = np.asarray(image.resize((side, side), Image.Resampling.BOX), dtype=np.float32)
    red, green, blue = np.moveaxis(rgb, 2, 0)
    luma = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    colour = np.stack([np.float32(0.564) * (blue - luma), np.float32(0.713) * (red - luma)])
    grey, tint = _cells(luma[None], LUMA)[0], _cells(colour, COLOUR)
    ends = np.array([np.floor(grey.min() * _RANGE_STEPS), np.ceil(grey.max() * _RANGE_STEPS)])
    ends = ends.clip(0, 2**16 - 1)
    low, high = ends / _RANGE_STEPS
    stretched = (grey - low) / max(high - low, 1 / _RANGE_STEPS) * 255
    data = (
        ends.astype("<u2").tobytes()
        + stretched.round().clip(0, 255).astype(np.uint8).tobytes()
        + tint.round().clip(-128, 127).astype(np.int8).tobytes()
    )
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def read_thumbnails(texts: Sequence[str]) -> Thumbnails:
    """Return the thumbnails that ``image_thumbnail`` wrote.

    Raises:
        ValueError: A text is not a thumbnail.
    """
    data = np.empty((len(texts), _BYTES), dtype=np.uint8)
    for i, text in enumerate(texts):
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError("a thumbnail is not base64") from error
        if len(raw) != _BYTES:
            raise ValueError(f"a thumbnail has {len(raw)} bytes, expected {_BYTES}")
        data[i] = np.frombuffer(raw, np.uint8)
    ends = np.ascontiguousarray(data[:, :4]).view("<u2").astype(np.float32) / _RANGE_STEPS
    luma, colour = np.split(data[:, 4:], [LUMA**2], axis=1)
    return Thumbnails(
        luma.reshape(-1, LUMA, LUMA),
        ends[:, 0],
        ends[:, 1],
        np.ascontiguousarray(colour).view(np.int8).reshape(-1, 2, COLOUR, COLOUR),
    )


def _cells(planes: Float32[np.ndarray, "planes side side"], cells: int) -> np.ndarray:
    """Return the mean of each of ``cells`` × ``cells`` squares of each plane."""
    size = planes.shape[1] // cells
    return np.asarray(planes.reshape(len(planes), cells, size, cells, size).mean(axis=(2, 4)))
