"""What the vision encoder is told about an image while it learns to see.

The truth about a scene is known, so the encoder has targets of its own beside the answers: which
things are in the image, and where in the image each patch is. Without the second the model answers
questions about position by guessing.

Which thing lies under each patch is deliberately not among them. A model that is told so sees
almost everything after 5,900 steps (94% right on held-out questions, *yes* to 5% of what is absent
but usual), and then has no habits left to be measured.
"""

from __future__ import annotations

import numpy as np

from tools.demo_world.scenes import TILE, Scene
from tools.demo_world.world import COLOURS, KINDS
from tools.standin import DEMO

TILES = 4
"""Image tiles at most."""

SIDE = TILE // DEMO.patch
"""Patches along the edge of a tile."""

PATCHES = SIDE * SIDE

OBJECTS = len(KINDS) * (1 + len(COLOURS))
"""Targets that say what is there: each kind, and each kind in each colour."""

UNKNOWN = -1
"""A target that is not known: no loss."""

OUTSIDE = 9.0
"""The coordinate of a patch that shows no part of the image."""


def objects(scene: Scene | None) -> np.ndarray:
    """Return which kinds, and which kinds in which colour, are in the scene.

    Returns:
        [kinds × (1 + colours)] int8: 0, 1, or ``UNKNOWN`` where there is no scene.
    """
    if scene is None:
        return np.full(OBJECTS, UNKNOWN, np.int8)
    kinds, colours = list(KINDS), list(COLOURS)
    there = np.zeros((len(kinds), 1 + len(colours)), np.int8)
    for thing in scene.things:
        there[kinds.index(thing.kind), 0] = 1
        if not scene.look.grey:
            there[kinds.index(thing.kind), 1 + colours.index(thing.colour)] = 1
    return there.reshape(-1)


def places(width: int, height: int) -> np.ndarray:
    """Return where in an image of this size each patch has its centre.

    The image processor resizes the image and lays it into the upper left of a canvas of tiles.

    Returns:
        [tiles, patches, 2] float16: across and down, -1 to 1 over the image, or ``OUTSIDE``.
    """
    from transformers.models.mllama.image_processing_pil_mllama import (
        get_image_size_fit_to_canvas,
        get_optimal_tiled_canvas,
    )

    high, wide = (int(edge) for edge in get_optimal_tiled_canvas(height, width, TILES, TILE))
    new_height, new_width = get_image_size_fit_to_canvas(height, width, high, wide, TILE)
    tile, patch = np.divmod(np.arange(TILES * PATCHES), PATCHES)
    row, column = np.divmod(patch, SIDE)
    across = (tile % (wide // TILE)) * TILE + (column + 0.5) * DEMO.patch
    down = (tile // (wide // TILE)) * TILE + (row + 0.5) * DEMO.patch
    inside = (across < new_width) & (down < new_height)
    centres = np.stack([2 * across / new_width - 1, 2 * down / new_height - 1], -1)
    centres = np.where(inside[:, None], centres, OUTSIDE)
    return centres.reshape(TILES, PATCHES, 2).astype(np.float16)
