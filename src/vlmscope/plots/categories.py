"""Plot of the hallucination rate by category of questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    cut,
    drawing,
    fit,
    line,
    mark_value,
    percent,
    row_axes,
    sheet,
    width,
    write,
    write_no_data,
)
from vlmscope.plots.palette import HALLUCINATED, PALETTE

MOST_CATEGORIES = 40
"""Maximum number of categories drawn; the data has all of them."""

_LONGEST_NAME = 40
_NAME_ROOM = 2.9  # inches
_ROW = LINE + 0.03  # inches
_NUMBER_ROOM = 1.25  # inches
_NARROW_ROW = 2 * LINE + 0.06  # inches


@dataclass(frozen=True, slots=True)
class CategoryRate:
    """The answers of one category that are hallucinated or faithful."""

    name: str
    rows: int
    """Answers."""
    share: float
    """Hallucinated among them, from 0 to 1."""
    low: float
    """Lower end of the interval of ``share``."""
    high: float
    """Upper end."""


@drawing()
def category_rates(rows: Sequence[CategoryRate]) -> Plot:
    """Draw the hallucination rate of each category, highest first, and the overall rate.

    If there are more than ``MOST_CATEGORIES``, those with the most answers are drawn.
    """
    ranked = sorted(rows, key=lambda row: (-row.share, -row.rows, row.name))
    most = sorted(ranked, key=lambda row: -row.rows)[:MOST_CATEGORIES]
    drawn = [row for row in ranked if row in most]
    names = [fit(cut(clean(row.name), _LONGEST_NAME), _NAME_ROOM, TEXT) for row in drawn]
    total = sum(row.rows for row in rows)
    overall = sum(row.share * row.rows for row in rows) / max(total, 1)
    left = 0.3 + max((width(name, TEXT) for name in names), default=0.5)
    high = _ROW * max(len(drawn), 3)
    figure = sheet(WIDE, max(high + 0.98, 2.0))
    box = Box(left, 0.55, WIDE - _NUMBER_ROOM, 0.55 + high)
    _draw(figure, box, drawn, overall)
    _write_rows(figure, box, drawn, names)
    return Plot(
        name="category_rates",
        title="Hallucination rate by category",
        caption=_caption(len(drawn), len(rows)),
        description=_describe(ranked, overall, total),
        columns={
            "name": [row.name for row in ranked], "rows": [row.rows for row in ranked],
            "share": [row.share for row in ranked], "low": [row.low for row in ranked],
            "high": [row.high for row in ranked],
        },
        figure=figure,
        narrow=_narrow(drawn, overall),
    )  # fmt: skip


def _narrow(drawn: Sequence[CategoryRate], overall: float) -> Figure:
    """Draw the narrow version, with names and numbers above each interval."""
    high = _NARROW_ROW * max(len(drawn), 2)
    figure = sheet(NARROW, high + 0.85)
    box = Box(0.15, 0.55, NARROW - 0.15, 0.55 + high)
    _draw(figure, box, drawn, overall, shift=0.16)
    for index, row in enumerate(drawn):
        y = box.top - _NARROW_ROW * (index + 0.3)
        number = _numbers(row)
        room = box.right - box.left - width(number, SMALL) - 0.1
        write(figure, box.left, y, fit(cut(clean(row.name), _LONGEST_NAME), room, TEXT))
        write(figure, box.right, y, number, size=SMALL, colour="muted", align="right")
    return figure


def _draw(
    figure: Figure, box: Box, drawn: Sequence[CategoryRate], overall: float, *, shift: float = 0.0
) -> None:
    """Draw a point and its interval for each category, the first at the top.

    Args:
        figure: The figure.
        box: Position of the axes.
        drawn: The categories.
        overall: The overall rate, drawn as a line.
        shift: Offset of a point below the middle of its row, in rows.
    """
    end = min(1.0, 1.05 * max([row.high for row in drawn], default=1.0) or 1.0)
    rows = max(len(drawn), 2 if shift else 3)
    axes = row_axes(figure, box, rows, (-0.01 * end, 1.01 * end), 2, "hallucinated")
    axes.xaxis.set_major_formatter(percent)
    _draw_rates(axes, drawn, shift)
    if not drawn:
        write_no_data(axes)
        return
    mark_value(figure, box, axes, overall, f"all: {overall:.1%}")


def _draw_rates(axes: Axes, drawn: Sequence[CategoryRate], shift: float) -> None:
    """Draw the points and their intervals."""
    positions = [index + shift for index in range(len(drawn))]
    lows, highs = [row.low for row in drawn], [row.high for row in drawn]
    colour = PALETTE[HALLUCINATED.colour]
    axes.hlines(positions, lows, highs, color=colour, alpha=0.55, linewidth=2)
    line(axes, [row.share for row in drawn], positions, HALLUCINATED, linestyle="none")


def _write_rows(
    figure: Figure, box: Box, drawn: Sequence[CategoryRate], names: Sequence[str]
) -> None:
    """Write each category's name at the left of its row and its numbers at the right."""
    for index, (row, name) in enumerate(zip(drawn, names, strict=True)):
        y = box.top - _ROW * (index + 0.5)
        write(figure, box.left - 0.1, y, name, align="right")
        write(figure, box.right + 0.1, y, _numbers(row), size=SMALL, colour="muted")


def _numbers(row: CategoryRate) -> str:
    return f"{row.share:.1%} of {row.rows:,}"


def _caption(drawn: int, rows: int) -> str:
    """Return the caption, with a note on categories that are left out."""
    text = (
        "Share of the answers that are hallucinated, by category, with 95% intervals over images. "
        "The dashed line is the overall share."
    )
    left_out = f" The {drawn} largest of {rows} categories are drawn; the data has all."
    return text + (left_out if drawn < rows else "")


def _describe(ranked: Sequence[CategoryRate], overall: float, total: int) -> str:
    """Return a description of the plot: all categories if there are few, else both ends."""
    parts = [
        f"{row.name}: {row.share:.1%} of {row.rows:,} ({row.low:.1%} to {row.high:.1%})"
        for row in ranked
    ]
    if len(parts) > 12:
        parts = [*parts[:6], f"{len(parts) - 9} categories between", *parts[-3:]]
    listed = f" By category, most first: {'; '.join(parts)}." if parts else ""
    return f"{overall:.1%} of {total:,} answers are hallucinated.{listed}"
