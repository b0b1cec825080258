"""Names beside the lines they belong to, so that nobody has to look up a colour in a legend.

Lines may end at the same height. Their labels are moved apart, no further than they have to be,
and a thin line leads from each to where its own ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vlmscope.plots.canvas import LINE, TEXT, Box, mark, sample, write
from vlmscope.plots.palette import Look
from vlmscope.plots.words import clean, fit, width

_LEADER = 0.3
"""Inches between the axes and the labels."""

_MOST = 3.1
"""Inches: longer titles are cut."""


@dataclass(frozen=True, slots=True)
class Label:
    """A text beside the axes."""

    height: float
    """Where its line ends, in the axes' own numbers."""
    title: str
    """Cut where it is too long."""
    number: str
    """Behind the title; never cut."""
    look: Look


def room_for_labels(labels: Sequence[Label]) -> float:
    """Return the width in inches that these labels need at the right of the axes."""
    longest = max(width(_whole(label), TEXT) for label in labels)
    return _LEADER + min(longest, _MOST) + 0.08


def write_labels(figure: Figure, axes: Axes, box: Box, labels: Sequence[Label]) -> None:
    """Write each label at the right of the axes, as near to its height as the others let it."""
    bottom, top = axes.get_ylim()
    scale = (box.top - box.bottom) / (top - bottom)
    heights = [box.bottom + (label.height - bottom) * scale for label in labels]
    places = apart(np.array(heights), LINE, box.bottom, box.top)
    start = box.right + _LEADER
    for label, height, place in zip(labels, heights, places, strict=True):
        leader = Look(label.look.colour, width=0.7)
        sample(figure, [box.right, start - 0.1], [height, place], leader)
        mark(figure, start - 0.1, place, label.look)
        write(figure, start, place, _whole(label))


def apart(wanted: NDArray[np.float64], gap: float, low: float, high: float) -> NDArray[np.float64]:
    """Return the places nearest to those wanted that are ``gap`` apart and within the ends.

    Less the room of those below it, a place only has to be no lower than the one before: the
    nearest such places are the means of the blocks that are out of order (pool adjacent
    violators). Where there is no room for all, they go beyond the upper end.

    >>> apart(np.array([5.0, 1.0, 5.0]), 2, 0, 10).tolist()
    [4.0, 1.0, 6.0]
    """
    order = np.argsort(wanted, kind="stable")
    room = gap * np.arange(wanted.size)
    blocks: list[tuple[float, int]] = []
    for value in wanted[order] - room:
        mean, size = float(value), 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    means = np.repeat([mean for mean, _ in blocks], [size for _, size in blocks])
    found = np.empty_like(wanted)
    found[order] = np.clip(means, low, max(low, high - room[-1])) + room
    return found


def _whole(label: Label) -> str:
    """Return title and number, in the room there is."""
    room = _MOST - width(f": {label.number}", TEXT)
    return f"{fit(clean(label.title), room, TEXT)}: {label.number}"
