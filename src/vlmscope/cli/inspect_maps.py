"""The attention over an image in a terminal: ``vlmscope inspect --signals attention_map``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.text import Text

from vlmscope.cli.output import show
from vlmscope.errors import InputError
from vlmscope.image_maps import image_maps
from vlmscope.schema import Capture
from vlmscope.shown import plain
from vlmscope.signals import BOXES, RecordedSignals, token_states_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHADES = " ░▒▓█"
"""From no attention to that of the largest cell."""

_MOST_CELLS = 24
"""Maximum number of cells along a side of a drawing; of a finer grid, several cells are added."""


@dataclass(frozen=True, slots=True)
class MapLine:
    """The attention to one image at a layer, in numbers."""

    layer: int
    of: str
    """``prompt`` for the last prompt token, or ``answer``."""
    image: int
    """Number of the image, from 1."""
    rows: int
    columns: int
    share: float
    """The attention to the image."""
    largest: float
    """That to the largest cell."""


def read_maps(capture: Capture, signals: RecordedSignals) -> list[MapLine]:
    """Return the attention to each image at each layer; empty if it cannot be laid out."""
    return [line for line, _ in _maps(capture, signals)]


def show_maps(capture: Capture, signals: RecordedSignals) -> None:
    """Draw the attention to each image at the first and the last layer that have it."""
    ends = {*signals.map_layers[:1], *signals.map_layers[-1:]}
    for line, values in _maps(capture, signals, _MOST_CELLS):
        if line.layer not in ends:
            continue
        token = "last prompt token" if line.of == "prompt" else "answer"
        numbers = f"{plain(line.share, 3)}, largest cell {plain(line.largest, 4)}"
        show(Text(f"Attention to image {line.image}, {token}, layer {line.layer}: {numbers}"))
        levels = values * ((len(SHADES) - 1) / line.largest if line.largest > 0 else 0)
        for row in levels.round().astype(int).tolist():
            show(Text("  |" + "".join(2 * SHADES[level] for level in row) + "|"))


def _maps(
    capture: Capture, signals: RecordedSignals, most: int | None = None
) -> Iterator[tuple[MapLine, NDArray[Any]]]:
    """Yield each map in numbers, and its cells; nothing for an answer without a token."""
    if BOXES not in capture.signals:
        return
    for layer in signals.map_layers:
        both = capture.signals[token_states_name("attention_map", layer)]
        for of, values in zip(("prompt", "answer"), both.T, strict=False):
            try:
                limits = () if most is None else (most,)
                found = image_maps(values, capture.signals[BOXES], *limits)
            except InputError:  # the layout is unknown: a note has said so
                return
            for number, cells in enumerate(found, start=1):
                (rows, columns), share = cells.shape, float(cells.sum())
                if share == share:
                    largest = float(cells.max())
                    yield MapLine(layer, of, number, rows, columns, share, largest), cells
