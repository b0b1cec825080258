"""Which part of an image each image token, or each patch, covers.

A box is a part of the image, as fractions of its height and width: top, left, bottom, right. Tokens
of padding that a processor adds cover none, and no token covers what it crops. Which layout a
family has: ``image_layouts``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vlmscope.model.families import Family
from vlmscope.model.image_layouts import LAYOUTS, UNKNOWN, ShownImages, grid
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.signals import PATCHES

SIZES = ("image_grid_thw", "image_sizes")
"""Inputs with the sizes of the images."""

TILES = "aspect_ratio_ids"
"""Input with the number of the layout of each image's tiles."""


def layout_of(family: Family) -> Any:
    """Return the layout of a family's image tokens; None if there is none."""
    return LAYOUTS.get(f"{family.model_type}/{family.vision_type}".rstrip("/"))


def boxes_of_row(
    vlm: VisionLanguageModel,
    ids: NDArray[Any],
    mask: NDArray[Any],
    order: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    inputs: Mapping[str, Tensor],
) -> NDArray[np.float32]:
    """Return image number and box of each image token of a prompt, ``[tokens, 5]``.

    Args:
        vlm: The model.
        ids: Token ids of the prompt.
        mask: 1 where a token is real.
        order: Number of each image that the prompt shows, among those of the row.
        sizes: Height and width of each image that the prompt shows.
        inputs: What the processor returns of the sizes of the images, by name.
    """
    is_image = mask.astype(bool) & (ids == vlm.image_token_id)
    count = int(is_image.sum())
    layout, found = layout_of(vlm.family), None
    if layout is not None and sizes and count:
        shown = ShownImages(inputs, ids, is_image, sizes, vlm.model.config, vlm.processor)
        with suppress(AttributeError):  # another class of processor, without these settings
            found = layout(shown)
    boxes = np.full((count, 5), UNKNOWN, np.float32)
    if found is None or len(found) != len(sizes) or sum(map(len, found)) != count:
        return boxes
    boxes[:, 1:] = np.concatenate(found)
    boxes[:, 0] = np.repeat(order, [len(each) for each in found])
    boxes[~_on_image(boxes)] = UNKNOWN
    return boxes


def _on_image(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return whether a box has more than a thousandth of its sides on the image."""
    first, last = boxes[:, 1:3], boxes[:, 3:5]
    on = np.minimum(last, 1) - np.maximum(first, 0) > 1e-3 * (last - first)
    return np.asarray((on & (last > first)).all(axis=1))


def boxes_of_patches(
    vlm: VisionLanguageModel,
    order: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    layouts: Tensor | None,
) -> NDArray[np.float32]:
    """Return image number and box of each patch that layers of cross-attention attend to.

    An image is fitted into the top left of a canvas of tiles (Llama-3.2-Vision), whose last patches
    may extend beyond the image. The first patch of a tile is no part of the image.

    Args:
        vlm: The model.
        order: Number of each image that the prompt shows, among those of the row.
        sizes: Height and width of each image that the prompt shows.
        layouts: Number of the layout of each image's tiles, from 1.
    """
    config: Any = vlm.model.config.vision_config
    side, shape = _patches(vlm, len(sizes))
    boxes = np.full((math.prod(shape), 5), UNKNOWN, np.float32)
    if layouts is None or shape[2] != side * side + 1:
        return boxes
    patches = boxes.reshape(*shape, 5)
    for position, (layout, number) in enumerate(zip(layouts.tolist(), order, strict=False)):
        height, width = sizes[position]
        rows, columns = config.supported_aspect_ratios[int(layout) - 1]
        down, across = _tile_on_image(height, width, rows, columns, config.image_size)
        for i in range(rows * columns):
            top, left = i // columns * down, i % columns * across
            cells = grid(side, side, (top, left, top + down, left + across))
            cells[(cells[:, :2] >= 1).any(axis=1)] = UNKNOWN
            patches[position, i, 1:, 1:] = cells
            patches[position, i, 1:, 0] = np.where(cells[:, 0] >= 0, number, UNKNOWN)
    return boxes


def _patches(vlm: VisionLanguageModel, images: int) -> tuple[int, tuple[int, int, int]]:
    """Return the side of a tile in patches, and the number of images, tiles and patches."""
    config: Any = vlm.model.config.vision_config
    encoder: Any = vlm.vision_encoder
    side = config.image_size // config.patch_size
    return side, (images, int(config.max_num_tiles), int(encoder.num_patches))


def _tile_on_image(
    height: int, width: int, rows: int, columns: int, tile: int
) -> tuple[float, float]:
    """Return the height and width of a tile as fractions of an image that fits its canvas."""
    scale = min(
        min(max(height, tile), rows * tile) / height,
        min(max(width, tile), columns * tile) / width,
    )
    return tile / (height * scale), tile / (width * scale)


def groups_of_patches(
    vlm: VisionLanguageModel, sizes: Sequence[tuple[int, int]], layouts: Tensor
) -> NDArray[np.int8]:
    """Return the group of each patch that layers of cross-attention attend to: ``PATCHES``.

    The same as ``boxes_of_patches`` finds, without their boxes; −1 if the layout is unknown.

    Args:
        vlm: The model.
        sizes: Height and width of each image.
        layouts: Number of the layout of each image's tiles, from 1.
    """
    image, padding, first = map(PATCHES.index, ("image", "padding", "tile"))
    config: Any = vlm.model.config.vision_config
    side, shape = _patches(vlm, len(sizes))
    if shape[2] != side * side + 1:
        return np.full(math.prod(shape), -1, np.int8)
    groups = np.full(shape, padding, np.int8)
    groups[:, :, 0] = first
    for own, (height, width), layout in zip(groups, sizes, layouts.tolist(), strict=False):
        rows, columns = config.supported_aspect_ratios[int(layout) - 1]
        down, across = _tile_on_image(height, width, rows, columns, config.image_size)
        tops = (np.arange(rows * side) * (down / side)).astype(np.float32).reshape(rows, side)
        lefts = (np.arange(columns * side) * (across / side)).astype(np.float32)
        on = (tops < 1)[:, None, :, None] & (lefts < 1).reshape(columns, side)[None, :, None, :]
        own[: rows * columns, 1:][on.reshape(rows * columns, -1)] = image
    return groups.ravel()
