"""Plot of the AUROC by layer, compared with baselines that need no hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from vlmscope.plots.canvas import (
    CONSTANT_RISK,
    LINE,
    NARROW,
    WIDE,
    Box,
    Label,
    LegendEntry,
    Plot,
    axes_in,
    drawing,
    labels_width,
    legend,
    legend_height,
    line,
    number_or_constant,
    round_ticks,
    sheet,
    title_axes,
    write_labels,
    write_no_data,
)
from vlmscope.plots.palette import CHANCE, PALETTE, LineStyle, line_style

_MOST_MARKERS = 16


@dataclass(frozen=True, slots=True, eq=False)
class LayerLine:
    """One representation over its layers. All arrays have one element per layer.

    The AUROC of a probe with a constant risk is NaN, and has no point.
    """

    title: str
    layers: ArrayLike
    """Decoder layers, integers from 0, ascending."""
    auroc: ArrayLike
    low: ArrayLike
    """Lower end of the interval."""
    high: ArrayLike
    """Upper end."""
    meaning: str = ""
    """Its name in ``palette.LINE_STYLES``."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A result without layers: a baseline, or the vision encoder's output."""

    title: str
    auroc: float
    """NaN if its risk is constant."""
    low: float | None = None
    high: float | None = None
    kind: Literal["representation", "baseline"] = "baseline"
    meaning: str = ""
    """Its name in ``palette.LINE_STYLES``."""


@drawing()
def auroc_by_layer(
    lines: Sequence[LayerLine],
    references: Sequence[Reference],
    num_layers: int,
    unseen: str = "about images",
) -> Plot:
    """Draw the AUROC of each representation over the layers, and results without layers.

    Args:
        lines: One per representation.
        references: Drawn as horizontal lines; those of kind ``representation`` with their interval.
        num_layers: Number of decoder layers of the model: the width of the plot.
        unseen: The description of held-out answers, for the caption.
    """
    rows: list[LayerLine | Reference] = [*lines, *references]
    styles = [line_style(row.meaning, index) for index, row in enumerate(rows)]
    labels = [Label(0.5, "chance", "0.500", CHANCE), *map(_label, rows, styles)]
    high = max(4.0, 0.85 + LINE * len(labels))
    figure = sheet(WIDE, high)
    box = Box(0.55, 0.55, WIDE - labels_width(labels), high - 0.3)
    axes = _draw(figure, box, rows, styles, num_layers)
    write_labels(figure, axes, box, labels)
    return Plot(
        name="auroc_by_layer",
        title="AUROC by layer",
        caption=(
            f"How well a probe of each layer distinguishes hallucinated from faithful answers "
            f"{unseen} it has not seen; bands are 95% simultaneous bands over all layers. The grey "
            "dashed lines need no hidden states: a probe is useful if it is above them."
            + " A layer whose probe has a constant risk has no point."
            * any(np.isnan(_arrays(row)[1]).any() for row in lines)
        ),
        description=_describe(lines, references),
        columns=_columns(lines, references),
        figure=figure,
        narrow=_narrow(rows, styles, labels, num_layers),
    )


def _narrow(
    rows: Sequence[LayerLine | Reference],
    styles: Sequence[LineStyle],
    labels: Sequence[Label],
    num_layers: int,
) -> Figure:
    """Draw the narrow version, with a legend above the axes."""
    entries = [
        LegendEntry(label.line_style, label.title, label.number)
        for label in (*labels[1:], labels[0])
    ]
    figure = sheet(NARROW, 0.55 + 2.6 + legend_height(len(entries)))
    box = Box(0.5, 0.55, NARROW - 0.1, 0.55 + 2.6)
    _draw(figure, box, rows, styles, num_layers)
    legend(figure, box, entries)
    return figure


def _draw(
    figure: Figure,
    box: Box,
    rows: Sequence[LayerLine | Reference],
    styles: Sequence[LineStyle],
    num_layers: int,
) -> Axes:
    """Draw lines and references into new axes."""
    axes = axes_in(figure, box)
    axes.set(xlim=_span(num_layers), ylim=_limits(rows))
    steps = min(10, int(2.5 * (box.right - box.left)))
    axes.xaxis.set_major_locator(MaxNLocator(steps, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(round_ticks(8))
    axes.grid(axis="y")
    line(axes, [0, 1], [0.5, 0.5], CHANCE, transform=axes.get_yaxis_transform())
    for row, own in zip(rows, styles, strict=True):
        if isinstance(row, Reference):
            _draw_reference(axes, row, own)
    for row, own in zip(rows, styles, strict=True):
        if isinstance(row, LayerLine):
            _draw_line(axes, row, own)
    if not rows:
        write_no_data(axes)
    title_axes(figure, box, f"decoder layer, 0 to {max(num_layers - 1, 0)}", "AUROC")
    return axes


def _span(num_layers: int) -> tuple[float, float]:
    """Return the ends of the horizontal axis, with a margin."""
    last = max(num_layers - 1, 0)
    margin = max(0.02 * last, 0.15)
    return -margin, last + margin


def _limits(rows: Sequence[LayerLine | Reference]) -> tuple[float, float]:
    """Return the ends of the vertical axis: everything drawn, and chance."""
    parts: list[Any] = [[0.5]]
    for row in rows:
        ends = isinstance(row, LayerLine) or row.kind == "representation"
        parts.append(np.atleast_1d(np.asarray(row.auroc, np.float64)))
        parts += [np.atleast_1d(np.asarray(end, np.float64))
                  for end in (row.low, row.high) if ends and end is not None]  # fmt: skip
    values = np.concatenate(parts)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = max(0.06 * (high - low), 0.05 - (high - low) / 2)
    return max(low - margin, 0), min(high + margin, 1.005)


def _label(row: LayerLine | Reference, own: LineStyle) -> Label:
    """Return the label of a line."""
    auroc = np.array([row.auroc]) if isinstance(row, Reference) else _arrays(row)[1]
    found = auroc[np.isfinite(auroc)]
    if not found.size:
        return Label(0.5, row.title, CONSTANT_RISK, own)
    best = "" if isinstance(row, Reference) else "best "
    return Label(float(found[-1]), row.title, f"{best}{found.max():.3f}", own)


def _draw_reference(axes: Axes, row: Reference, own: LineStyle) -> None:
    """Draw a horizontal line, and the interval of a representation."""
    if np.isnan(row.auroc):
        return
    if row.kind == "representation" and row.low is not None and row.high is not None:
        axes.axhspan(row.low, row.high, color=PALETTE[own.colour], alpha=0.12, linewidth=0)
    across = axes.get_yaxis_transform()
    line(axes, [0, 1], [row.auroc, row.auroc], own, transform=across, marker="")


def _draw_line(axes: Axes, row: LayerLine, own: LineStyle) -> None:
    """Draw a representation and its intervals."""
    layers, auroc, low, high = _arrays(row)
    colour = PALETTE[own.colour]
    if layers.size == 1:
        axes.vlines(layers, low, high, color=colour, alpha=0.45, linewidth=2)
    else:
        axes.fill_between(layers, low, high, color=colour, alpha=0.16, linewidth=0)
    every = -(-layers.size // _MOST_MARKERS) or None
    line(axes, layers, auroc, own, markevery=every, zorder=3)
    found = np.flatnonzero(np.isfinite(auroc))
    if found.size:
        # From the line's end to the edge of the axes, where its label starts.
        end, edge = found[-1], axes.get_xlim()[1]
        line(axes, [layers[end], edge], [auroc[end]] * 2, LineStyle(own.colour, width=0.7))


def _arrays(row: LayerLine) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return layers, AUROC and the ends of its interval."""
    auroc, low, high = (np.asarray(part, np.float64) for part in (row.auroc, row.low, row.high))
    return np.asarray(row.layers, dtype=np.int64), auroc, low, high


def _describe(lines: Sequence[LayerLine], references: Sequence[Reference]) -> str:
    """Return a description of the plot."""
    parts = []
    for row in lines:
        layers, auroc, low, high = _arrays(row)
        if np.isfinite(auroc).any():
            best = int(np.nanargmax(auroc))
            parts.append(
                f"{row.title}, {layers.size} layers recorded: best at layer {layers[best]}, "
                f"{auroc[best]:.3f} ({low[best]:.3f} to {high[best]:.3f})."
            )
            if nothing := ", ".join(map(str, layers[np.isnan(auroc)])):
                parts.append(f"{row.title}: constant risk at layer {nothing}.")
        else:
            parts.append(f"{row.title}: {CONSTANT_RISK}.")
    for ref in references:
        has_ends = ref.low is not None and ref.high is not None and not np.isnan(ref.auroc)
        ends = f" ({ref.low:.3f} to {ref.high:.3f})" if has_ends else ""
        parts.append(f"{ref.title} ({ref.kind}): {number_or_constant(ref.auroc)}{ends}.")
    return " ".join(["AUROC by decoder layer; chance is 0.5.", *parts])


def _columns(lines: Sequence[LayerLine], references: Sequence[Reference]) -> dict[str, list[Any]]:
    """Return the data: a row for each layer of each line, and for each reference."""
    rows: list[tuple[Any, ...]] = []
    for row in lines:
        layers = zip(*(part.tolist() for part in _arrays(row)), strict=True)
        rows += [(row.title, "representation", *cells) for cells in layers]
    rows += [(ref.title, ref.kind, None, ref.auroc, ref.low, ref.high) for ref in references]
    names = ("title", "kind", "layer", "auroc", "low", "high")
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}
