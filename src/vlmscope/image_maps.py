"""Values of image tokens as an array that is aligned with the image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vlmscope.errors import InputError
from vlmscope.signals import ATTENTION_MAP, BOXES, token_states_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.floating]


def attention_maps(
    signals: Mapping[str, NDArray[Any]], where: str, layer: int, of: str
) -> list[NDArray[np.float32]]:
    """Return the recorded attention to each image of a row, aligned with it.

    Args:
        signals: The arrays of signals of the row.
        where: What the row is called in an error.
        layer: The decoder layer.
        of: ``prompt`` or ``answer``.

    Raises:
        InputError: It was not recorded, or the layout of the image tokens is unknown.
    """
    name = token_states_name(ATTENTION_MAP, layer)
    if name not in signals:
        known = [each for each in signals if each.startswith(f"{ATTENTION_MAP}/layer")]
        raise InputError(
            f"{where}: no {name}, there are {', '.join(known) or 'none'}; "
            f"--signals {ATTENTION_MAP} records it of questions about images"
        )
    kinds = ("prompt", "answer")[: signals[name].shape[1]]
    if of not in kinds:
        raise InputError(f"{where}: no attention of {of!r}, choose from {', '.join(kinds)}")
    boxes = signals.get(BOXES)
    if boxes is None:
        raise InputError(f"{where}: {name} without {BOXES}; restore the run from a copy")
    return image_maps(signals[name][:, kinds.index(of)], boxes)


MOST_CELLS = 1024
"""Maximum number of cells along a side of a map."""

BLOCK = 4096
"""Tokens that are divided among cells at once: each takes memory for a row and a column of them."""


def image_maps(values: Values, boxes: Values, most: int = MOST_CELLS) -> list[NDArray[np.float32]]:
    """Return the values of image tokens as one array ``[rows, columns]`` for each image.

    The cells of an array are those of the smallest tokens of the image; the value of a larger one,
    that of a token of a thumbnail for example, is divided among the cells that it covers, by area.
    So the sum of the arrays is that of the values of all tokens that cover a part of an image.

    Args:
        values: One value for each token.
        boxes: The part of an image that each covers, ``[tokens, 5]``: see ``signals.BOXES``.
        most: Maximum number of cells along a side; a cell may then have the sum of several tokens.

    Raises:
        InputError: It is not known of any token, or they are not the parts of images.

    >>> import numpy as np
    >>> boxes = np.array([[0, 0, 0, 1, 0.5], [0, 0, 0.5, 1, 1], [0, 0, 0, 1, 1]])
    >>> image_maps(np.array([1, 2, 4]), boxes)
    [array([[3., 4.]], dtype=float32)]
    """
    import numpy as np

    damaged = InputError(
        "attention_map/boxes: not the parts of images; restore the run from a copy"
    )
    if boxes.shape != (len(values), 5):
        raise damaged
    covers = boxes[:, 0] >= 0
    if not covers.any():
        raise InputError(
            "attention_map: it is not known which part of the image each image token of this "
            "family covers; use the values of the tokens, signals['attention_map/layer_k']"
        )
    numbers = np.unique(boxes[covers, 0])
    extents = boxes[covers, 3:] - boxes[covers, 1:3]
    if not (extents > 0).all() or numbers.tolist() != list(range(len(numbers))):
        raise damaged
    found = []
    for image in range(len(numbers)):
        own = np.flatnonzero(boxes[:, 0] == image)
        sizes = (boxes[own, 3:] - boxes[own, 1:3]).T
        cells = np.zeros([min(_cells(each), most) for each in sizes])
        for start in range(0, len(own), BLOCK):
            block = own[start : start + BLOCK]
            cells += _divided(values[block], boxes[block, 1:], cells.shape)
        found.append(cells.astype(np.float32))
    return found


def _divided(values: Values, boxes: Values, shape: tuple[int, ...]) -> Values:
    """Return the values of some tokens of an image, divided among cells by area."""
    import numpy as np

    top, left, bottom, right = boxes.astype(np.float64).T
    down = _overlaps(top, bottom, shape[0]) / (bottom - top)[:, None]
    across = _overlaps(left, right, shape[1]) / (right - left)[:, None]
    divided: Values = (values.astype(np.float64)[:, None] * down).T @ across
    return divided


def _cells(sizes: Values) -> int:
    """Return the number of cells along a side, given the sizes of tokens as fractions of it."""
    return max(1, math.floor(1 / float(sizes.min()) + 0.5))


def _overlaps(starts: Values, ends: Values, cells: int) -> Values:
    """Return the length of the overlap of each span with each cell, ``[spans, cells]``."""
    import numpy as np

    edges = np.linspace(0, 1, cells + 1)
    first = np.maximum(starts[:, None], edges[:-1])
    last = np.minimum(ends[:, None], edges[1:])
    lengths: Values = (last - first).clip(0)
    return lengths
