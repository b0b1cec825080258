"""Plot of the quality of detectors against what they cost, or against when they are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmscope.plots.canvas import (
    LINE,
    NARROW,
    SMALL,
    TEXT,
    WIDE,
    Box,
    Plot,
    clean,
    drawing,
    fit,
    line,
    mark,
    mark_value,
    row_axes,
    sheet,
    width,
    write,
    write_no_data,
)
from vlmscope.plots.palette import CHANCE, PALETTE, LineStyle

GROUP_STYLES: Mapping[str, LineStyle] = MappingProxyType(
    {
        "no_model": LineStyle("muted", "s"),
        "answer": LineStyle("cyan", "o"),
        "attention": LineStyle("violet", "^"),
        "states": LineStyle("orange", "D"),
        "lens": LineStyle("olive", "v"),
        "samples": LineStyle("pink", "P"),
        "asked": LineStyle("brown", "X"),
    }
)
"""The markers of the groups of detectors."""

_OTHER = LineStyle("slate", "p")
"""The marker of any other group."""

_BAND = 0.62
"""Height of a category, in inches."""

_NAMES, _BEST = 1.35, 2.1
"""Room for the categories' names and for the best detectors, in inches."""

_OFFSETS = (0.0, -0.18, 0.18, -0.09, 0.09, -0.27, 0.27)
"""Heights of successive points within a category, so that they do not cover each other."""


@dataclass(frozen=True, slots=True)
class DetectorPoint:
    """A detector."""

    title: str
    group: str
    category: str
    """One of the plot's categories: what it costs, or when it is known."""
    auroc: float
    """NaN if its risk is constant: then it is not drawn."""
    low: float
    high: float


@drawing()
def detector_quality(
    points: Sequence[DetectorPoint],
    categories: Sequence[str],
    *,
    name: str,
    title: str,
    baseline: float = float("nan"),
) -> Plot:
    """Draw the AUROC of detectors by category, with the best of each category named.

    Args:
        points: The detectors.
        categories: The categories, the cheapest or earliest first; empty ones are left out.
        name: Stem of its files.
        title: Title of the plot.
        baseline: AUROC of the best baseline that needs no model; NaN for none.
    """
    known = [point for point in points if point.auroc == point.auroc]
    shown = [each for each in categories if any(point.category == each for point in known)]
    legend_lines = len(_legend_lines(known, WIDE - 0.3))
    high = _BAND * max(len(shown), 1)
    figure = sheet(WIDE, high + 0.95 + LINE * legend_lines)
    box = Box(_NAMES + 0.15, 0.55, WIDE - _BEST - 0.15, 0.55 + high)
    _draw(figure, box, known, shown, baseline)
    for index, each in enumerate(shown):
        middle = box.top - _BAND * (index + 0.5)
        write(figure, box.left - 0.12, middle, fit(clean(each), _NAMES, TEXT), align="right")
        best, numbers = _best(known, each)
        write(figure, box.right + 0.12, middle + 0.09, fit(clean(best.title), _BEST, TEXT))
        write(figure, box.right + 0.12, middle - 0.09, numbers, size=SMALL, colour="muted")
    _write_legend(figure, 0.15, box.top + 0.38 + LINE * legend_lines, known, WIDE - 0.3)
    return Plot(
        name=name,
        title=title,
        caption=_caption(baseline),
        description=_describe(known, shown, baseline),
        columns={
            "detector": [point.title for point in points],
            "group": [point.group for point in points],
            "category": [point.category for point in points],
            "auroc": [point.auroc for point in points],
            "low": [point.low for point in points],
            "high": [point.high for point in points],
        },
        figure=figure,
        narrow=_narrow(known, shown, baseline),
    )


def _narrow(known: Sequence[DetectorPoint], shown: Sequence[str], baseline: float) -> Figure:
    """Draw the narrow version, with names and numbers above the points of each category."""
    lines = len(_legend_lines(known, NARROW - 0.3))
    band = _BAND + 2 * LINE + 0.05
    high = band * max(len(shown), 1)
    figure = sheet(NARROW, high + 0.95 + LINE * lines)
    box = Box(0.15, 0.55, NARROW - 0.15, 0.55 + high)
    room = box.right - box.left
    _draw(figure, box, known, shown, baseline, shift=(2 * LINE + 0.05) / 2 / band)
    for index, each in enumerate(shown):
        top = box.top - band * index
        best, numbers = _best(known, each)
        write(figure, box.left, top - 0.12, fit(clean(each), room, TEXT))
        left = room - width(numbers, SMALL) - 0.1
        write(figure, box.left, top - 0.12 - LINE, fit(clean(best.title), left, SMALL), size=SMALL)
        write(
            figure, box.right, top - 0.12 - LINE, numbers, size=SMALL, colour="muted", align="right"
        )
    _write_legend(figure, 0.15, box.top + 0.38 + LINE * lines, known, NARROW - 0.3)
    return figure


def _draw(
    figure: Figure,
    box: Box,
    known: Sequence[DetectorPoint],
    shown: Sequence[str],
    baseline: float,
    *,
    shift: float = 0.0,
) -> None:
    """Draw the points of each category, the first at the top.

    Args:
        figure: The figure.
        box: Position of the axes.
        known: The detectors with an AUROC.
        shown: The categories.
        baseline: AUROC drawn as a line; NaN for none.
        shift: Offset of the points below the middle of their category, in categories.
    """
    start = min([0.45, *(point.auroc - 0.03 for point in known)])
    axes = row_axes(figure, box, max(len(shown), 1), (start, 1.005), 2.2, "AUROC")
    if not shown:
        write_no_data(axes)
        return
    for edge in range(1, len(shown)):
        axes.axhline(edge - 0.5, color=PALETTE["grid"], linewidth=0.8)
    line(axes, [0.5, 0.5], [-0.5, len(shown) - 0.5], CHANCE)
    if baseline == baseline:
        mark_value(figure, box, axes, baseline, f"best without the model: {baseline:.3f}")
    for index, each in enumerate(shown):
        own = [point for point in known if point.category == each]
        _draw_category(axes, index + shift, own, 1 - 2 * shift)


def _draw_category(axes: Axes, middle: float, points: Sequence[DetectorPoint], room: float) -> None:
    """Draw the points of a category, and the interval of the best.

    Args:
        axes: The axes.
        middle: Height of the best.
        points: The detectors.
        room: Share of the category's height that is free for points.
    """
    ranked = sorted(points, key=lambda point: -point.auroc)
    best = ranked[0]
    colour = PALETTE[style_of(best.group).colour]
    axes.hlines(middle, best.low, best.high, color=colour, alpha=0.55, linewidth=2)
    for number, point in reversed(list(enumerate(ranked))):
        height = middle + room * _OFFSETS[number % len(_OFFSETS)]
        line(axes, [point.auroc], [height], style_of(point.group), linestyle="none", zorder=3)


def style_of(group: str) -> LineStyle:
    """Return the marker of a group.

    >>> style_of("states").marker, style_of("another").marker
    ('D', 'p')
    """
    return GROUP_STYLES.get(group, _OTHER)


def _best(known: Sequence[DetectorPoint], category: str) -> tuple[DetectorPoint, str]:
    """Return the best detector of a category, and its numbers as text."""
    own = [point for point in known if point.category == category]
    best = max(own, key=lambda point: point.auroc)
    return best, f"{best.auroc:.3f} ({best.low:.3f}–{best.high:.3f})"


def _legend_lines(known: Sequence[DetectorPoint], room: float) -> list[list[tuple[str, float]]]:
    """Return the groups of each line of the legend, with their positions in inches."""
    lines: list[list[tuple[str, float]]] = []
    x = 0.0
    for group in dict.fromkeys(point.group for point in known):
        wide = 0.17 + width(_shown(group), TEXT) + 0.2
        if not lines or x + wide > room:
            lines.append([])
            x = 0.0
        lines[-1].append((group, x))
        x += wide
    return lines


def _shown(group: str) -> str:
    return clean(group.replace("_", " "))


def _write_legend(
    figure: Figure, left: float, top: float, known: Sequence[DetectorPoint], room: float
) -> None:
    for index, entries in enumerate(_legend_lines(known, room)):
        y = top - LINE * (index + 0.5)
        for group, x in entries:
            mark(figure, left + x + 0.06, y, style_of(group))
            write(figure, left + x + 0.17, y, fit(_shown(group), room - 0.2, TEXT))


def _caption(baseline: float) -> str:
    text = (
        "AUROC of every detector. The best of each line is named, with its 95% interval over "
        "images; being the best of several, it is optimistic. The dotted line is chance"
    )
    if baseline == baseline:
        text += ", the dashed one the best baseline that needs no model"
    return f"{text}."


def _describe(known: Sequence[DetectorPoint], shown: Sequence[str], baseline: float) -> str:
    return " ".join(_sentences(known, shown, baseline)) or "No detector has an AUROC."


def _sentences(
    known: Sequence[DetectorPoint], shown: Sequence[str], baseline: float
) -> Iterator[str]:
    """Yield a sentence on each category, and one on the baseline."""
    for each in shown:
        count = sum(point.category == each for point in known)
        best, numbers = _best(known, each)
        yield f"{each}: best of {count} is {best.title}, AUROC {numbers}."
    if baseline == baseline:
        yield f"The best baseline that needs no model reaches {baseline:.3f}."
