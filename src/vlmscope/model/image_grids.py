"""Which part of an image each image token covers, for the families whose layout is known.

The processor decides it: one grid, a grid whose size depends on the image, or tiles besides the
whole image. A box is a part of the image as the encoder sees it, which a processor may have
cropped, as fractions of its height and width: top, left, bottom, right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vlmscope.model.vlm import VisionLanguageModel

if TYPE_CHECKING:
    Boxes = NDArray[np.float32]

UNKNOWN = -1.0
"""Value in a box of a token that covers no part of an image, or an unknown one."""

SIZES = ("image_grid_thw", "image_sizes")
"""Inputs with the sizes of the images."""

TILES = "aspect_ratio_ids"
"""Input with the number of the layout of each image's tiles."""

WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The box of a complete image."""


def grid(rows: int, columns: int, box: Sequence[float] = WHOLE) -> Boxes:
    """Return the boxes of a grid's cells, row by row, within a box.

    >>> grid(1, 2).tolist()
    [[0.0, 0.0, 1.0, 0.5], [0.0, 0.5, 1.0, 1.0]]
    """
    top, left, bottom, right = box
    ys = np.linspace(top, bottom, rows + 1)
    xs = np.linspace(left, right, columns + 1)
    cells = [[a, c, b, d] for a, b in pairwise(ys) for c, d in pairwise(xs)]
    return np.array(cells, np.float32).reshape(-1, 4)


def boxes_of_row(
    vlm: VisionLanguageModel,
    ids: NDArray[Any],
    mask: NDArray[Any],
    images: int,
    sizes: Mapping[str, Tensor],
) -> NDArray[np.float32]:
    """Return image number and box of each image token of a prompt, ``[tokens, 5]``.

    Args:
        vlm: The model.
        ids: Token ids of the prompt.
        mask: 1 where a token is real.
        images: Number of images.
        sizes: What the processor returns of the sizes of the images, by name.
    """
    is_image = mask.astype(bool) & (ids == vlm.image_token_id)
    count = int(is_image.sum())
    found: list[Boxes] | None = None
    layout = _LAYOUTS.get(vlm.family.model_type)
    if layout is not None and images and not vlm.family.vision_type:
        found = layout(_Row(sizes, ids, is_image, images, vlm))
    boxes = np.full((count, 5), UNKNOWN, np.float32)
    if found is None or len(found) != images or sum(map(len, found)) != count:
        return boxes
    boxes[:, 1:] = np.concatenate(found)
    numbers = np.repeat(np.arange(len(found)), [len(each) for each in found])
    boxes[:, 0] = np.where(boxes[:, 1] >= 0, numbers, UNKNOWN)
    return boxes


def boxes_of_patches(
    vlm: VisionLanguageModel,
    count: int,
    sizes: Sequence[tuple[int, int]],
    layouts: Tensor | None,
) -> NDArray[np.float32]:
    """Return image number and box of each patch that layers of cross-attention attend to.

    An image is fitted into the top left of a canvas of tiles (Llama-3.2-Vision), whose last patches
    may extend beyond the image. The first patch of a tile is no part of the image.

    Args:
        vlm: The model.
        count: Number of patches.
        sizes: Height and width of each image.
        layouts: Number of the layout of each image's tiles, from 1.
    """
    boxes = np.full((count, 5), UNKNOWN, np.float32)
    config: Any = vlm.model.config.vision_config
    encoder: Any = vlm.vision_encoder
    side = config.image_size // config.patch_size
    shape = len(sizes), int(config.max_num_tiles), int(encoder.num_patches)
    if layouts is None or math.prod(shape) != count or shape[2] != side * side + 1:
        return boxes
    patches = boxes.reshape(*shape, 5)
    for number, ((height, width), layout) in enumerate(zip(sizes, layouts.tolist(), strict=False)):
        rows, columns = config.supported_aspect_ratios[int(layout) - 1]
        tile = config.image_size
        scale = min(
            min(max(height, tile), rows * tile) / height,
            min(max(width, tile), columns * tile) / width,
        )
        down, across = tile / (height * scale), tile / (width * scale)
        for i in range(rows * columns):
            top, left = i // columns * down, i % columns * across
            cells = grid(side, side, (top, left, top + down, left + across))
            cells[(cells[:, :2] >= 1).any(axis=1)] = UNKNOWN
            patches[number, i, 1:, 1:] = cells
            patches[number, i, 1:, 0] = np.where(cells[:, 0] >= 0, number, UNKNOWN)
    return boxes


class _Row:
    """What a layout is computed from."""

    def __init__(
        self,
        inputs: Mapping[str, Tensor],
        ids: NDArray[Any],
        is_image: NDArray[np.bool_],
        images: int,
        vlm: VisionLanguageModel,
    ) -> None:
        self.inputs = inputs
        self.ids = ids
        self.is_image = is_image
        self.images = images
        self.config: Any = vlm.model.config
        self.tokenizer: Any = vlm.processor.tokenizer

    def runs(self) -> list[tuple[int, int]]:
        """Return the first of each run of adjacent image tokens, and the end of it."""
        padded = np.concatenate([[False], self.is_image, [False]])
        edges = np.flatnonzero(padded[1:] != padded[:-1]).reshape(-1, 2)
        return [(int(first), int(end)) for first, end in edges]


Layout = Callable[[_Row], "list[Boxes] | None"]
"""Returns the boxes of each image's tokens, in the order of the tokens; None if unknown."""


def _one_square(row: _Row) -> list[Boxes] | None:
    """Return square grids: each image has the same number of tokens."""
    counts = {end - first for first, end in row.runs()}
    side = math.isqrt(max(counts))
    known = len(row.runs()) == row.images and counts == {side * side}
    return [grid(side, side)] * row.images if known else None


def _grids(row: _Row) -> list[Boxes] | None:
    """Return the grids that the processor gives, whose cells are merged."""
    sizes = row.inputs.get("image_grid_thw")
    if sizes is None:
        return None
    merge = int(row.config.vision_config.spatial_merge_size)
    return [grid(int(h) // merge, int(w) // merge) for _, h, w in sizes.tolist()]


_TILE = re.compile(r"<row_(\d+)_col_(\d+)>")


def _named_tiles(row: _Row) -> list[Boxes] | None:
    """Return tiles whose names are in the prompt, each image's followed by the whole image."""
    names = [row.tokenizer.decode([int(row.ids[first - 1])]).strip() for first, _ in row.runs()]
    sides = {math.isqrt(end - first) for first, end in row.runs()}
    if len(sides) != 1 or any(end - first != max(sides) ** 2 for first, end in row.runs()):
        return None
    side, found = max(sides), []
    tiles: list[tuple[int, int]] = []
    for name in names:
        if tile := _TILE.fullmatch(name):
            tiles.append((int(tile[1]) - 1, int(tile[2]) - 1))
            continue
        rows, columns = (max(each) + 1 for each in zip(*tiles, strict=True)) if tiles else (1, 1)
        parts = [
            grid(side, side, (i / rows, j / columns, (i + 1) / rows, (j + 1) / columns))
            for i, j in tiles
        ]
        found.append(np.concatenate([*parts, grid(side, side)]))
        tiles = []
    return None if tiles else found


def _anyres(row: _Row) -> list[Boxes] | None:
    """Return LLaVA-NeXT's grids: the whole image, and its tiles without padding, row by row.

    A token for the end of the line follows each row of the tiles.
    """
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    sizes, vision = row.inputs.get("image_sizes"), row.config.vision_config
    if sizes is None:
        return None
    side = vision.image_size // vision.patch_size
    found = []
    for height, width in sizes.tolist():
        tiles = get_anyres_image_grid_shape(
            (height, width), row.config.image_grid_pinpoints, vision.image_size
        )
        rows, columns = _unpadded(tiles[0] * side, tiles[1] * side, height, width)
        cells = grid(rows, columns).reshape(rows, columns, 4)
        lines = np.full((rows, 1, 4), UNKNOWN, np.float32)
        fine = np.concatenate([cells, lines], axis=1).reshape(-1, 4)
        found.append(np.concatenate([grid(side, side), fine]))
    return found


def _unpadded(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Return the grid that is left of one if the padding of an image of this size is cut off."""
    if width / height > columns / rows:
        padding = (rows - int(round(height * (columns / width), 7))) // 2
        return rows - 2 * padding, columns
    padding = (columns - int(round(width * (rows / height), 7))) // 2
    return rows, columns - 2 * padding


_LAYOUTS: Mapping[str, Layout] = {
    **dict.fromkeys(("llava", "gemma3", "paligemma", "janus", "got_ocr2"), _one_square),
    **dict.fromkeys(
        (
            "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe",
            "glm4v", "glm4v_moe", "glm46v",
        ),
        _grids,
    ),
    **dict.fromkeys(("idefics3", "smolvlm"), _named_tiles),
    "llava_next": _anyres,
}  # fmt: skip
"""Family → the layout of its image tokens."""
