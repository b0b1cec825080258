"""A figure laid out in inches: its axes, its texts and its key, in our style.

Everything has its place from the start. An automatic layout would depend on the fonts at hand and
on how often a figure was drawn; ours is the same every time, to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from vlmscope.plots.palette import PALETTE, Look
from vlmscope.plots.words import FONT, clean, fit, quiet_glyphs, width

WIDE = 7.2
"""Inches: a plot over the whole width of a page."""

HALF = 4.4
"""Inches: two of them beside each other."""

TEXT = 9.0
"""Font size in points: 12 pixels where a wide plot is 700 pixels wide."""

SMALL = 8.2
"""Font size of ticks and axis titles."""

LINE = 0.175
"""Height of a line of text, in inches."""

_STYLE: dict[str, Any] = {
    "font.family": [FONT],
    "font.size": TEXT,
    # A dollar sign in a category is a dollar sign.
    "text.parse_math": False,
    "axes.edgecolor": PALETTE["axis"],
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": PALETTE["grid"],
    "grid.linewidth": 0.8,
    "text.color": PALETTE["ink"],
    "xtick.color": PALETTE["axis"],
    "xtick.labelcolor": PALETTE["muted"],
    "xtick.labelsize": SMALL,
    "ytick.color": PALETTE["axis"],
    "ytick.labelcolor": PALETTE["muted"],
    "ytick.labelsize": SMALL,
    "figure.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "vlmscope",
}


@contextmanager
def drawing() -> Iterator[None]:
    """Make and draw figures in our style: nothing of the user's own settings, and none left."""
    with style.context(["default", _STYLE]), quiet_glyphs():
        yield


@dataclass(frozen=True, slots=True)
class Box:
    """Where axes stand in a figure, in inches from its lower left corner."""

    left: float
    bottom: float
    right: float
    top: float


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A row of a key: the look of a line, what it is, and its number."""

    look: Look
    title: str
    number: str = ""


def sheet(wide: float, high: float) -> Figure:
    """Return an empty figure of this size in inches."""
    figure = Figure(figsize=(wide, high))
    FigureCanvasAgg(figure)
    return figure


def axes_in(figure: Figure, box: Box) -> Axes:
    """Return new axes at this place."""
    wide, high = figure.get_size_inches()
    rect = (box.left / wide, box.bottom / high)
    size = ((box.right - box.left) / wide, (box.top - box.bottom) / high)
    return figure.add_axes((*rect, *size))


def write(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    *,
    size: float = TEXT,
    colour: str = "ink",
    align: Literal["left", "center", "right"] = "left",
) -> None:
    """Write one line at a place in inches; ``y`` is the middle of its small letters."""
    # From the baseline: matplotlib's own middle depends on the letters, and rows would dance.
    baseline = y - 0.27 * size / 72
    figure.text(
        x,
        baseline,
        clean(text),
        transform=figure.dpi_scale_trans,
        fontsize=size,
        color=PALETTE[colour],
        ha=align,
        va="baseline",
    )


def title_axes(figure: Figure, box: Box, below: str, above: str = "") -> None:
    """Name the axes: the horizontal one below its ticks, the upright one above, to be read."""
    centre = (box.left + box.right) / 2
    write(figure, centre, box.bottom - 0.39, below, size=SMALL, colour="muted", align="center")
    write(figure, box.left - 0.4, box.top + 0.15, above, size=SMALL, colour="muted")


def line(axes: Axes, x: ArrayLike, y: ArrayLike, look: Look, **options: Any) -> None:
    """Draw a line in its look, with markers where the options do not say otherwise."""
    axes.plot(x, y, **{**_of(look), **options})


def sample(figure: Figure, x: Sequence[float], y: Sequence[float], look: Look) -> None:
    """Draw a line in its look at places in inches, anywhere on the figure."""
    middle = Line2D(x, y, transform=figure.dpi_scale_trans, **(_of(look) | {"marker": ""}))
    figure.add_artist(middle)


def mark(figure: Figure, x: float, y: float, look: Look) -> None:
    """Draw a look's marker, if it has one, at a place in inches."""
    if look.marker:
        figure.add_artist(Line2D([x], [y], transform=figure.dpi_scale_trans, **_of(look)))


def key(figure: Figure, box: Box, rows: Sequence[KeyRow], heading: str = "") -> None:
    """Write what each line is above the axes, a row each, the numbers in a column at the right."""
    top = box.top + 0.4 + LINE * len(rows)
    if heading:
        write(figure, box.right, top, heading, size=SMALL, colour="muted", align="right")
    start = box.left - 0.4
    for place, row in enumerate(rows, 1):
        y = top - LINE * place
        sample(figure, [start, start + 0.34], [y, y], row.look)
        mark(figure, start + 0.17, y, row.look)
        room = box.right - start - 0.42 - width(row.number, TEXT) - 0.1
        write(figure, start + 0.42, y, fit(clean(row.title), room, TEXT))
        write(figure, box.right, y, row.number, align="right")


def room_for_key(rows: int) -> float:
    """Return the height in inches that a key and the title of the axes need above them."""
    return 0.49 + LINE * rows


def percent(share: float, _: object = None) -> str:
    """Return a tick of a share, with the digits it needs.

    >>> percent(0.2), percent(0.025)
    ('20%', '2.5%')
    """
    return f"{round(100 * share, 6) + 0.0:g}%"


def round_ticks(most: int) -> MaxNLocator:
    """Return a locator of at most this many steps between ticks, at numbers easy to add up."""
    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])


def say_nothing(axes: Axes) -> None:
    """Say that there is no data, where the data would be."""
    axes.text(0.5, 0.7, "no data", transform=axes.transAxes, ha="center", color=PALETTE["muted"])


def _of(look: Look) -> dict[str, Any]:
    """Return a look as matplotlib's options of a line."""
    return {
        "color": PALETTE[look.colour],
        "linestyle": (0, look.dashes) if look.dashes else "-",
        "linewidth": look.width,
        "marker": look.marker,
        "markersize": 5.2,
        "markeredgecolor": PALETTE["paper"],
        "markeredgewidth": 0.7,
        "solid_capstyle": "round",
    }
