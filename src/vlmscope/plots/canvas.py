"""A figure laid out in inches: its axes, texts, labels and legend, in one style.

A category may have any name, in any script. Text widths are those of matplotlib's DejaVu Sans,
which is wider than the fonts that browsers choose, so text that fits here also fits there.

All positions are fixed in advance. An automatic layout would depend on the installed fonts and on
how often a figure was drawn; this layout is the same every time, to the byte.

Lines are labelled directly, so that no legend is needed. If lines end at the same height, their
labels are moved by the smallest necessary distance, and a thin line connects each label with the
end of its line.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from vlmscope.locking import warnings_lock
from vlmscope.plots.palette import PALETTE, LineStyle

FONT = "DejaVu Sans"
"""Included in matplotlib, so that nothing has to be installed."""

LONGEST = 80
"""Maximum number of characters that are measured: longer texts never fit."""


@contextmanager
def without_glyph_warnings() -> Iterator[None]:
    """Suppress matplotlib's warnings about characters that its font lacks, drawn as a box."""
    with warnings_lock(), warnings.catch_warnings():
        for message in (r"Glyph .* missing from", r"Matplotlib currently does not support"):
            warnings.filterwarnings("ignore", message, UserWarning)
        yield


def clean(text: str) -> str:
    r"""Return a text in one line, without characters that XML or UTF-8 cannot represent.

    >>> clean("two\nlines and a \x00")
    'two lines and a �'
    """
    return "".join("�" if _unwritable(char) else char for char in " ".join(text.split()))


def _unwritable(char: str) -> bool:
    """Return whether a character is a control character, a surrogate, or not a character."""
    return unicodedata.category(char) in ("Cc", "Cs") or ord(char) & 0xFFFE == 0xFFFE


def cut(text: str, longest: int) -> str:
    """Return a text, its end replaced by an ellipsis if it has more characters than ``longest``.

    >>> cut("spatial relations", 8), cut("colour", 8)
    ('spatial…', 'colour')
    """
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def width(text: str, size: float) -> float:
    """Return the width of a text in inches, at a font size in points."""
    # DejaVu has no wide characters; a dash is as wide as the fonts that do make them.
    wide = "".join("—" if unicodedata.east_asian_width(c) in "WF" else c for c in text)
    with without_glyph_warnings():
        font = FontProperties(family=FONT, size=size)
        points, _, _ = text_to_path.get_text_width_height_descent(wide, font, False)
    return float(points) / 72


def fit(text: str, room: float, size: float) -> str:
    """Return a text, cut so that it is at most ``room`` inches wide."""
    text = cut(text, LONGEST)
    longest = len(text)
    while longest > 1 and width(shorter := cut(text, longest), size) > room:
        longest = len(shorter) - 1
    return cut(text, longest)


@dataclass(frozen=True, slots=True, eq=False)
class Plot:
    """A figure, ready for a page or for files."""

    name: str
    """Stem of its files, and of its ids in a page: letters, digits and underscores."""
    title: str
    """A short title; it is not drawn in the figure."""
    caption: str
    """How to read it, one or two sentences."""
    description: str
    """The text alternative, with numbers."""
    columns: Mapping[str, Sequence[Any]]
    """The plotted data, tidy: name → values, all equally long. None: does not apply."""
    figure: Figure
    """Drawn with matplotlib's objects, never through pyplot's global state."""
    narrow: Figure | None = None
    """The figure for a narrow screen, where the normal one would be too small to read."""


WIDE = 7.2
"""Inches: width of a plot over the full width of a page."""

HALF = 4.4
"""Inches: width of one of two plots side by side."""

NARROW = 3.5
"""Inches: width of a plot on a phone."""

CONSTANT_RISK = "constant risk"
"""Shown instead of NaN, the number of a constant risk."""

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
    """Use vlmscope's style, independent of the user's settings, which are restored."""
    with style.context(["default", _STYLE]), without_glyph_warnings():
        yield


@dataclass(frozen=True, slots=True)
class Box:
    """The position of axes in a figure, in inches from its lower left corner."""

    left: float
    bottom: float
    right: float
    top: float


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """An entry of a legend: the style of a line, its title, and its number."""

    line_style: LineStyle
    title: str
    number: str = ""


def sheet(wide: float, high: float) -> Figure:
    """Return an empty figure of this size in inches."""
    figure = Figure(figsize=(wide, high))
    FigureCanvasAgg(figure)
    return figure


def axes_in(figure: Figure, box: Box) -> Axes:
    """Return new axes at this position."""
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
    """Write one line at a position in inches; ``y`` is the middle of its small letters."""
    # Relative to the baseline, because matplotlib's own middle depends on the letters.
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
    """Label the axes: the horizontal one below its ticks, the vertical one above the axes."""
    centre = (box.left + box.right) / 2
    write(figure, centre, box.bottom - 0.39, below, size=SMALL, colour="muted", align="center")
    write(figure, box.left - 0.4, box.top + 0.15, above, size=SMALL, colour="muted")


def line(axes: Axes, x: ArrayLike, y: ArrayLike, line_style: LineStyle, **options: Any) -> None:
    """Draw a line in its style; options override it."""
    axes.plot(x, y, **{**_of(line_style), **options})


def sample(figure: Figure, x: Sequence[float], y: Sequence[float], line_style: LineStyle) -> None:
    """Draw a line in its style at positions in inches, anywhere on the figure."""
    middle = Line2D(x, y, transform=figure.dpi_scale_trans, **(_of(line_style) | {"marker": ""}))
    figure.add_artist(middle)


def mark(figure: Figure, x: float, y: float, line_style: LineStyle) -> None:
    """Draw a marker of a style, if it has one, at a position in inches."""
    if line_style.marker:
        figure.add_artist(Line2D([x], [y], transform=figure.dpi_scale_trans, **_of(line_style)))


def legend(figure: Figure, box: Box, rows: Sequence[LegendEntry], heading: str = "") -> None:
    """Write a legend above the axes, one entry per line, the numbers in a column at the right."""
    top = box.top + 0.4 + LINE * len(rows)
    if heading:
        write(figure, box.right, top, heading, size=SMALL, colour="muted", align="right")
    start = box.left - 0.4
    for index, row in enumerate(rows, 1):
        y = top - LINE * index
        sample(figure, [start, start + 0.34], [y, y], row.line_style)
        mark(figure, start + 0.17, y, row.line_style)
        room = box.right - start - 0.42 - width(row.number, TEXT) - 0.1
        write(figure, start + 0.42, y, fit(clean(row.title), room, TEXT))
        write(figure, box.right, y, row.number, align="right")


def legend_height(rows: int) -> float:
    """Return the height in inches that a legend and the title of the axes need above them."""
    return 0.49 + LINE * rows


def number_or_constant(value: float, form: str = ".3f") -> str:
    """Return a number as text, or ``CONSTANT_RISK`` for the NaN of a constant risk.

    >>> number_or_constant(0.5), number_or_constant(float("nan"))
    ('0.500', 'constant risk')
    """
    return CONSTANT_RISK if np.isnan(value) else f"{value:{form}}"


def percent(share: float, _: object = None) -> str:
    """Return a tick of a share, with the digits it needs.

    >>> percent(0.2), percent(0.025)
    ('20%', '2.5%')
    """
    return f"{round(100 * share, 6) + 0.0:g}%"


def round_ticks(most: int) -> MaxNLocator:
    """Return a locator of at most this many steps between ticks, at round numbers."""
    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])


def row_axes(
    figure: Figure, box: Box, rows: float, span: tuple[float, float], ticks: float, title: str
) -> Axes:
    """Return axes whose rows have a value each, the first at the top.

    Args:
        figure: The figure.
        box: Position of the axes.
        rows: Number of rows; row k is at height k.
        span: Smallest and largest value.
        ticks: Most steps between ticks, per inch.
        title: What the values are.
    """
    axes = axes_in(figure, box)
    axes.set(xlim=span, ylim=(rows - 0.5, -0.5), yticks=[])
    axes.xaxis.set_major_locator(round_ticks(int(ticks * (box.right - box.left))))
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    title_axes(figure, box, title)
    return axes


def mark_value(figure: Figure, box: Box, axes: Axes, value: float, text: str) -> None:
    """Draw a value as a dashed vertical line, and a text above it."""
    axes.axvline(value, color=PALETTE["muted"], linewidth=1, dashes=(4, 2), zorder=1)
    low, high = axes.get_xlim()
    half = width(text, SMALL) / 2 + 0.05
    at = box.left + (value - low) / (high - low) * (box.right - box.left)
    at = min(max(at, half), figure.get_size_inches()[0] - half)
    write(figure, at, box.top + 0.12, text, size=SMALL, align="center")


def write_no_data(axes: Axes) -> None:
    """Write "no data" into the axes."""
    axes.text(0.5, 0.7, "no data", transform=axes.transAxes, ha="center", color=PALETTE["muted"])


def _of(line_style: LineStyle) -> dict[str, Any]:
    """Return a style as matplotlib's options of a line."""
    return {
        "color": PALETTE[line_style.colour],
        "linestyle": (0, line_style.dashes) if line_style.dashes else "-",
        "linewidth": line_style.width,
        "marker": line_style.marker,
        "markersize": 5.2,
        "markeredgecolor": PALETTE["paper"],
        "markeredgewidth": 0.7,
        "solid_capstyle": "round",
    }


_LEADER = 0.3
"""Inches between the axes and the labels."""

_MOST = 3.1
"""Inches: longer titles are cut."""


@dataclass(frozen=True, slots=True)
class Label:
    """A label next to the axes."""

    height: float
    """The height of its line's end, in data coordinates."""

    title: str
    """The title; cut if it is too long."""

    number: str
    """The number after the title; never cut."""
    line_style: LineStyle


def labels_width(labels: Sequence[Label]) -> float:
    """Return the width in inches that these labels need at the right of the axes."""
    longest = max(width(_text_of(label), TEXT) for label in labels)
    return _LEADER + min(longest, _MOST) + 0.08


def write_labels(figure: Figure, axes: Axes, box: Box, labels: Sequence[Label]) -> None:
    """Write each label at the right of the axes, as near to its height as possible."""
    bottom, top = axes.get_ylim()
    scale = (box.top - box.bottom) / (top - bottom)
    heights = [box.bottom + (label.height - bottom) * scale for label in labels]
    positions = spread(np.array(heights), LINE, box.bottom, box.top)
    start = box.right + _LEADER
    for label, height, position in zip(labels, heights, positions, strict=True):
        leader = LineStyle(label.line_style.colour, width=0.7)
        sample(figure, [box.right, start - 0.1], [height, position], leader)
        mark(figure, start - 0.1, position, label.line_style)
        write(figure, start, position, _text_of(label))


def spread(wanted: NDArray[np.float64], gap: float, low: float, high: float) -> NDArray[np.float64]:
    """Return the positions nearest to ``wanted`` with a distance of ``gap`` and within the ends.

    After subtracting the space of the positions below, the positions only need to be in ascending
    order: the nearest such positions are the means of blocks that are out of order (pool adjacent
    violators). If there is not enough space, they extend beyond the upper end.

    >>> spread(np.array([5.0, 1.0, 5.0]), 2, 0, 10).tolist()
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


def _text_of(label: Label) -> str:
    """Return title and number, cut to the available width."""
    room = _MOST - width(f": {label.number}", TEXT)
    return f"{fit(clean(label.title), room, TEXT)}: {label.number}"
