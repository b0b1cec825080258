"""Which part of an image each image token covers, by family: what its processor does with images.

One grid, a grid whose size depends on the image, lines, or tiles besides the whole image. A layout
is computed from the prompt's tokens, the sizes that the processor returns, and its settings. Where
they do not fit together, for example because other settings were passed to the processor, there is
none. Resamplers, whose tokens each see the whole image (Idefics2, Aria), have no layout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    Boxes = NDArray[np.float32]

UNKNOWN = -1.0
"""Value in a box of a token that covers no part of an image, or an unknown one."""

Box = tuple[float, float, float, float]
"""Top, left, bottom and right, as fractions of an image's height and width."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
"""The box of a complete image."""


def grid(rows: int, columns: int, box: Sequence[float] = WHOLE) -> Boxes:
    """Return the boxes of a grid's cells, row by row, within a box.

    >>> grid(1, 2).tolist()
    [[0.0, 0.0, 1.0, 0.5], [0.0, 0.5, 1.0, 1.0]]
    """
    top, left, bottom, right = box
    ys = np.linspace(top, bottom, rows + 1)[:, None]
    xs = np.linspace(left, right, columns + 1)
    edges = np.broadcast_arrays(ys[:-1], xs[:-1], ys[1:], xs[1:])
    return np.stack(edges, axis=-1).astype(np.float32).reshape(-1, 4)


def nowhere(count: int) -> Boxes:
    """Return the boxes of tokens that cover no part of an image."""
    return np.full((count, 4), UNKNOWN, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class ShownImages:
    """What a layout is computed from."""

    inputs: Mapping[str, Tensor]
    """What the processor returns of the sizes of the images, by name: ``[images, …]``."""
    ids: NDArray[Any]
    """Token ids of the prompt."""
    is_image: NDArray[np.bool_]
    """Whether each is an image token."""
    sizes: Sequence[tuple[int, int]]
    """Height and width of each image, in the order in which the prompt shows them."""
    config: Any
    """The model's configuration."""
    processor: Any
    """The processor."""

    @property
    def images(self) -> Any:
        """The processor of images."""
        return self.processor.image_processor

    def runs(self) -> list[tuple[int, int]]:
        """Return the first of each run of adjacent image tokens, and the end of it."""
        padded = np.concatenate([[False], self.is_image, [False]])
        edges = np.flatnonzero(padded[1:] != padded[:-1]).reshape(-1, 2)
        return [(int(first), int(end)) for first, end in edges]

    def text(self, position: int) -> str:
        """Return the decoded token at a position; empty beyond the prompt."""
        if not 0 <= position < len(self.ids):
            return ""
        return str(self.processor.tokenizer.decode([int(self.ids[position])])).strip()


Layout = Callable[[ShownImages], "list[Boxes] | None"]
"""Returns the boxes of each image's tokens, in the order of the tokens; None if unknown."""


def _one_square(shown: ShownImages) -> list[Boxes] | None:
    """Return square grids: each image has the same number of tokens."""
    counts = {end - first for first, end in shown.runs()}
    side = math.isqrt(max(counts))
    if len(shown.runs()) != len(shown.sizes) or counts != {side * side}:
        return None
    seen = [_seen_part(shown.images, *size) for size in shown.sizes]
    return [grid(side, side, box) for box in seen]


def _seen_part(images: Any, height: int, width: int) -> Box:
    """Return the part of an image that a processor passes on, which is larger if it pads.

    Args:
        images: The image processor.
        height: Height of the image in pixels.
        width: Its width.
    """
    pads = bool(getattr(images, "do_pad", False)) and hasattr(images, "pad_to_square")
    if pads and hasattr(images, "min_size"):  # the longest side is resized, and then padded
        longest = int(_size(getattr(images, "high_res_size", None) or images.size, "height") or 0)
        by = longest / max(height, width)
        height, width = (max(round(side * by), images.min_size) for side in (height, width))
    part, side = WHOLE, max(height, width)
    if pads:
        part = _cut(height, width, side, side)
        height, width = side, side
    if getattr(images, "do_center_crop", False) and images.crop_size:
        if images.do_resize and (short := _size(images.size, "shortest_edge")):
            least = min(height, width)
            height, width = (int(int(short) * side / least) for side in (height, width))
        elif images.do_resize:
            height, width = (int(_size(images.size, name) or 0) for name in ("height", "width"))
        crop = [int(_size(images.crop_size, name) or 0) for name in ("height", "width")]
        part = _within(part, _cut(height, width, *crop))
    return part


def _size(sizes: Any, name: str) -> int | None:
    """Return a size by name, from a dictionary or an object."""
    found = sizes.get(name) if isinstance(sizes, Mapping) else getattr(sizes, name, None)
    return None if found is None else int(found)


def _cut(height: int, width: int, tall: int, wide: int) -> Box:
    """Return the part of an image that a centred window of another size has."""
    top, left = (height - tall) // 2, (width - wide) // 2
    return top / height, left / width, (top + tall) / height, (left + wide) / width


def _within(outer: Box, inner: Box) -> Box:
    """Return the box of a part of a part."""
    top, left, bottom, right = outer
    tall, wide = bottom - top, right - left
    return (
        top + inner[0] * tall, left + inner[1] * wide,
        top + inner[2] * tall, left + inner[3] * wide,
    )  # fmt: skip


def _grids(shown: ShownImages) -> list[Boxes] | None:
    """Return the grids that the processor gives, whose cells are merged."""
    sizes = shown.inputs.get("image_grid_thw")
    if sizes is None:
        return None
    merge = getattr(shown.config.vision_config, "spatial_merge_size", None)
    merge = int(merge or shown.images.merge_size)
    return [grid(int(h) // merge, int(w) // merge) for _, h, w in sizes.tolist()]


def _padded_grids(shown: ShownImages) -> list[Boxes] | None:
    """Return Kimi K2.5's grids: a processor pads an image below and right to whole cells."""
    images, sizes = shown.images, shown.inputs.get("image_grid_thw")
    if sizes is None or not images.do_resize:
        return None
    resize = import_module(type(images).__module__).navit_resize
    merge, patch = int(images.merge_size), int(images.patch_size)
    most = int(images.max_patches), int(_size(images.size, "max_height") or 0)
    found = []
    for size, (_, rows, columns) in zip(shown.sizes, sizes.tolist(), strict=True):
        (tall, wide), _ = resize(*size, patch, merge, *most)
        box = 0.0, 0.0, rows * patch / tall, columns * patch / wide
        found.append(grid(int(rows) // merge, int(columns) // merge, box))
    return found


def _framed_grids(shown: ShownImages) -> list[Boxes] | None:
    """Return Hunyuan-VL's grids: a token ends each row, and one begins and one ends an image."""
    found = _grids(shown)
    sizes = shown.inputs.get("image_grid_thw")
    if found is None or sizes is None or not shown.processor.cat_extra_token:
        return None
    merge = int(shown.images.merge_size)
    framed = []
    for cells, (_, _, wide) in zip(found, sizes.tolist(), strict=True):
        lines = _with_ends(cells, int(wide) // merge)
        framed.append(np.concatenate([nowhere(1), lines, nowhere(1)]))
    return framed


def _with_ends(cells: Boxes, columns: int) -> Boxes:
    """Return a grid with a token for the end of each line."""
    rows = len(cells) // columns
    lines = cells.reshape(rows, columns, 4)
    return np.concatenate([lines, nowhere(rows).reshape(rows, 1, 4)], axis=1).reshape(-1, 4)


def _resized(shown: ShownImages) -> list[Boxes] | None:
    """Return Gemma 4's grids: the processor resizes to whole cells of pooled patches."""
    images = shown.images
    module = import_module(type(images).__module__)
    pool, side = int(images.pooling_kernel_size), int(images.patch_size)
    if not images.do_resize:
        return None
    found = []
    for height, width in shown.sizes:
        tall, wide = module.get_aspect_ratio_preserving_size(
            height, width, side, int(images.max_soft_tokens) * pool**2, pool
        )
        found.append(grid(tall // (side * pool), wide // (side * pool)))
    return found


def _lines(shown: ShownImages) -> list[Boxes] | None:
    """Return Pixtral's grids: a token that is no image token ends each line, another the image."""
    ends = {
        str(shown.processor.image_break_token): False,
        str(shown.processor.image_end_token): True,
    }
    found: list[Boxes] = []
    lines: list[int] = []
    for first, end in shown.runs():
        lines.append(end - first)
        if (last := ends.get(shown.text(end))) is None:
            return None
        if last:
            if len(set(lines)) != 1:
                return None
            found.append(grid(len(lines), lines[0]))
            lines = []
    return None if lines else found


_TILE = re.compile(r"<\|?(?:img_)?row_(\d+)_col_(\d+)\|?>")


def _named_tiles(shown: ShownImages) -> list[Boxes] | None:
    """Return tiles whose names are in the prompt, each image's followed by the whole image."""
    found: list[Boxes] = []
    tiles: dict[tuple[int, int], int] = {}
    for first, end in shown.runs():
        if name := _TILE.fullmatch(shown.text(first - 1)):
            tiles[int(name[1]) - 1, int(name[2]) - 1] = math.isqrt(end - first)
            continue
        if len(found) == len(shown.sizes):
            return None
        whole = grid(*_whole_image(shown, len(found), end - first))
        rows, columns = (max(each) + 1 for each in zip(*tiles, strict=True)) if tiles else (1, 1)
        parts = [grid(side, side, _tile(*at, rows, columns)) for at, side in tiles.items()]
        found.append(np.concatenate([*parts, whole]))
        tiles = {}
    return None if tiles else found


def _whole_image(shown: ShownImages, number: int, tokens: int) -> tuple[int, int]:
    """Return rows and columns of the tokens of a whole image besides its tiles."""
    if shown.config.model_type != "lfm2_vl":
        return math.isqrt(tokens), math.isqrt(tokens)
    images = shown.images
    names = "downsample_factor", "min_image_tokens", "max_image_tokens", "encoder_patch_size"
    wide, tall = images.smart_resize(*shown.sizes[number], *(getattr(images, n) for n in names))
    cell = int(images.encoder_patch_size) * int(images.downsample_factor)
    return tall // cell, wide // cell


def _side(runs: Sequence[tuple[int, int]]) -> int | None:
    """Return the side of square tiles that are runs of tokens; None if they are not all equal."""
    counts = {end - first for first, end in runs}
    side = math.isqrt(max(counts))
    return side if counts == {side * side} else None


def _tile(row: int, column: int, rows: int, columns: int) -> Box:
    """Return the box of one of equal tiles."""
    return row / rows, column / columns, (row + 1) / rows, (column + 1) / columns


def _tiles(rows: int, columns: int, side: int, box: Box = WHOLE) -> Boxes:
    """Return the boxes of the cells of square tiles, one tile after the other, within a box."""
    tiles = [_tile(i, j, rows, columns) for i in range(rows) for j in range(columns)]
    return np.concatenate([grid(side, side, _within(box, tile)) for tile in tiles])


def _canvas(shown: ShownImages) -> list[Boxes] | None:
    """Return the tiles of the canvas that fits an image best, followed by the whole image.

    The processor chooses it by the image's size (InternVL, Aya Vision, Command A Vision).
    """
    images = shown.images
    choose = import_module(type(images).__module__).get_optimal_tiled_canvas
    tile = tuple(int(_size(images.size, name) or 0) for name in ("height", "width"))
    limits = int(images.min_patches), int(images.max_patches)
    canvases = [choose(size, tile, *limits) for size in shown.sizes]
    counts = [wide * tall + (wide * tall > 1) for wide, tall in canvases]
    each, rest = divmod(int(shown.is_image.sum()), sum(counts))
    side = math.isqrt(each)
    if rest or side * side != each or each != _tokens_of_tile(shown):
        return None
    return [
        np.concatenate([_tiles(tall, wide, side), *([grid(side, side)] if wide * tall > 1 else [])])
        for wide, tall in canvases
    ]


def _tokens_of_tile(shown: ShownImages) -> int:
    """Return the number of tokens of a tile, by the settings of the processor."""
    processor = shown.processor
    if hasattr(processor, "image_seq_length"):
        return int(processor.image_seq_length)
    if hasattr(processor, "img_size"):
        return (int(processor.img_size) // int(processor.patch_size)) ** 2
    return int(processor.patch_size) ** 2


def _separated_tiles(shown: ShownImages) -> list[Boxes] | None:
    """Return Ovis2's grids: the whole image, then tiles with a token between rows."""
    side, counts = _side(shown.runs()), _counted(shown, "<IMG_START>", "<IMG_END>", "<IMG_ROW>")
    if side is None or counts is None:
        return None
    found = []
    for tiles, lines in counts:
        parts = [grid(side, side)]
        if tiles > 1:
            parts.append(_tiles(lines + 1, (tiles - 1) // (lines + 1), side))
        found.append(np.concatenate(parts))
    return found


def _padded_tiles(shown: ShownImages) -> list[Boxes] | None:
    """Return Llama 4's grids: tiles of a canvas that is padded below and right, the whole image."""
    names = "<|image_start|>", "<|image_end|>", "<|tile_y_separator|>"
    side, counts, images = _side(shown.runs()), _counted(shown, *names), shown.images
    if side is None or counts is None or len(counts) != len(shown.sizes):
        return None
    fit = import_module(type(images).__module__).get_max_res_without_distortion
    tile = int(_size(images.size, "height") or 0)
    found = []
    for (tiles, lines), size in zip(counts, shown.sizes, strict=True):
        rows = max(1, lines)
        canvas = rows * tile, max(1, (tiles - 1) // rows) * tile
        room = canvas
        if not images.resize_to_max_canvas:
            room = min(max(size[0], tile), canvas[0]), min(max(size[1], tile), canvas[1])
        tall, wide = fit(size, room)
        box = 0.0, 0.0, canvas[0] / max(tall, 1), canvas[1] / max(wide, 1)
        parts = [_tiles(canvas[0] // tile, canvas[1] // tile, side, box)]
        found.append(np.concatenate([*parts, *([grid(side, side)] if tiles > 1 else [])]))
    return found


def _counted(shown: ShownImages, start: str, end: str, line: str) -> list[tuple[int, int]] | None:
    """Return the number of runs of each image, and of tokens that separate its rows.

    Args:
        shown: The images.
        start: The token before the first run of an image.
        end: The token after the last.
        line: The token after the last run of a row.
    """
    found, tiles, lines = [], 0, 0
    for first, last in shown.runs():
        if shown.text(first - 1) == start:
            tiles, lines = 0, 0
        tiles, lines = tiles + 1, lines + (shown.text(last) == line)
        if shown.text(last) == end:
            found.append((tiles, lines))
    return found


def _slices(shown: ShownImages) -> list[Boxes] | None:
    """Return MiniCPM-V's grids: the whole image, and its slices row by row."""
    images = shown.images
    if not images.do_resize:
        return None
    settings = int(images.scale_resolution), int(images.patch_size)
    merge = int(images.patch_size) * (2 if images.downsample_mode == "4x" else 4)
    mode = {"downsample_mode": images.downsample_mode}
    found = []
    for size in shown.sizes:
        best = None
        if images.slice_mode:
            best = images.get_sliced_grid(size, int(images.max_slice_nums), settings[0])
        tall, wide = images.find_best_resize(size, *settings, allow_upscale=best is None, **mode)
        parts = [grid(tall // merge, wide // merge)]
        if best is not None:
            tall, wide = images.get_refine_size(size, best, *settings, allow_upscale=True, **mode)
            cells = tall // best[0] // merge, wide // best[1] // merge
            boxes = [_tile(i, j, *best) for i in range(best[0]) for j in range(best[1])]
            parts += [grid(*cells, box) for box in boxes]
        found.append(np.concatenate(parts))
    return found


def _anyres(shown: ShownImages) -> list[Boxes] | None:
    """Return LLaVA-NeXT's grids: the whole image, and its tiles without padding, row by row.

    A token for the end of the line follows each row of the tiles. LLaVA-OneVision reduces large
    grids, and pads each of several images to a square; Granite 4 Vision reduces each tile.
    """
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    sizes, config = shown.inputs.get("image_sizes"), shown.config
    if sizes is None:
        return None
    vision, padded = config.vision_config, config.model_type == "llava_onevision"
    side = vision.image_size // vision.patch_size
    if config.model_type == "granite4_vision":
        side = int(side * Fraction(config.downsample_rate))
    found = []
    for height, width in sizes.tolist():
        if padded and len(sizes) > 1:
            square = max(height, width)
            whole = grid(side, side, _cut(height, width, square, square))
            found.append(np.concatenate([whole, nowhere(1)]))
            continue
        tiles = get_anyres_image_grid_shape(
            (height, width), config.image_grid_pinpoints, vision.image_size
        )
        canvas = tiles[0] * side, tiles[1] * side
        rows, columns = _unpadded(*canvas, height, width)
        part = _on_canvas((rows, columns), canvas, height, width)
        if padded:
            rows, columns = _reduced(rows, columns, side, config.vision_aspect_ratio)
        fine = _with_ends(grid(rows, columns, part), columns)
        found.append(np.concatenate([grid(side, side), fine]))
    return found


def _unpadded(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Return the grid that is left of one if the padding of an image of this size is cut off."""
    if width / height > columns / rows:
        padding = (rows - int(round(height * (columns / width), 7))) // 2
        return rows - 2 * padding, columns
    padding = (columns - int(round(width * (rows / height), 7))) // 2
    return rows, columns - 2 * padding


def _on_canvas(cells: tuple[int, int], canvas: tuple[int, int], height: int, width: int) -> Box:
    """Return the part of an image that the middle of a canvas covers, on which it is centred.

    Args:
        cells: Rows and columns of the middle.
        canvas: Rows and columns of the canvas.
        height: Height of the image, which is fitted into the canvas.
        width: Its width.
    """
    scale = min(canvas[0] / height, canvas[1] / width)
    tall, wide = (part / (side * scale) for part, side in zip(cells, (height, width), strict=True))
    return (1 - tall) / 2, (1 - wide) / 2, (1 + tall) / 2, (1 + wide) / 2


def _reduced(rows: int, columns: int, side: int, ratio: str) -> tuple[int, int]:
    """Return the size of a grid of which ``anyres_max_9`` allows that many tiles."""
    by = math.sqrt(rows * columns / (int(ratio.removeprefix("anyres_max_")) * side**2))
    return (int(rows // by), int(columns // by)) if by > 1.1 else (rows, columns)


LAYOUTS: Mapping[str, Layout] = {
    **dict.fromkeys(
        (
            "llava", "gemma3", "paligemma", "janus", "got_ocr2", "deepseek_vl",
            "deepseek_vl_hybrid",
        ),
        _one_square,
    ),
    **dict.fromkeys(
        (
            "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe",
            "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "glm4v", "glm4v_moe", "glm46v",
            "exaone4_5", "video_llama_3", "ernie4_5_vl_moe",
        ),
        _grids,
    ),
    **dict.fromkeys(("idefics3", "smolvlm", "lfm2_vl"), _named_tiles),
    **dict.fromkeys(("internvl", "aya_vision", "cohere2_vision"), _canvas),
    **dict.fromkeys(("llava/pixtral", "mistral3"), _lines),
    **dict.fromkeys(("minicpmv4_6", "minicpmv4_7"), _slices),
    **dict.fromkeys(("llava_next", "llava_onevision", "granite4_vision"), _anyres),
    "ovis2": _separated_tiles,
    "llama4": _padded_tiles,
    "kimi_k25": _padded_grids,
    "hunyuan_vl": _framed_grids,
    "gemma4": _resized,
}  # fmt: skip
"""Family, with its vision type if it has one → the layout of its image tokens."""
