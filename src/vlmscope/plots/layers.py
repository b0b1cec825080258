"""AUROC by layer: where in the model the answer's fate is known, and what is known without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from vlmscope.plots.canvas import (
    LINE,
    WIDE,
    Box,
    Label,
    Plot,
    axes_in,
    drawing,
    line,
    room_for_labels,
    round_ticks,
    say_nothing,
    sheet,
    title_axes,
    write_labels,
)
from vlmscope.plots.palette import CHANCE, PALETTE, Look, baseline, series

_MOST_MARKERS = 16


@dataclass(frozen=True, slots=True, eq=False)
class LayerLine:
    """One representation over its layers. All arrays have one element a layer."""

    title: str
    layers: ArrayLike
    """Decoder layers, integers from 0, ascending."""
    auroc: ArrayLike
    low: ArrayLike
    """Lower end of the interval."""
    high: ArrayLike
    """Upper end."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What has no layers: a baseline, or the vision encoder's output."""

    title: str
    auroc: float
    low: float | None = None
    high: float | None = None
    kind: Literal["representation", "baseline"] = "baseline"


@drawing()
def auroc_by_layer(
    lines: Sequence[LayerLine],
    references: Sequence[Reference],
    num_layers: int,
    unseen: str = "about images",
) -> Plot:
    """Draw the AUROC of each representation over the layers, beside what has no layers.

    Args:
        lines: One a representation.
        references: Drawn as horizontal lines; those of kind ``representation`` with their interval.
        num_layers: Decoder layers of the model, recorded or not: the width of the plot.
        unseen: What the answers are about that no probe has seen, for the caption.
    """
    looks = _looks(lines, references)
    rows: list[LayerLine | Reference] = [*lines, *references]
    labels = [Label(0.5, "chance", "0.500", CHANCE), *map(_label, rows, looks)]
    high = max(4.0, 0.85 + LINE * len(labels))
    figure = sheet(WIDE, high)
    box = Box(0.55, 0.55, WIDE - room_for_labels(labels), high - 0.3)
    axes = axes_in(figure, box)
    axes.set(xlim=_span(num_layers), ylim=_limits(lines, references))
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(round_ticks(8))
    axes.grid(axis="y")
    line(axes, [0, 1], [0.5, 0.5], CHANCE, transform=axes.get_yaxis_transform())
    for reference, look in zip(references, looks[len(lines) :], strict=True):
        _draw_reference(axes, reference, look)
    for row, look in zip(lines, looks, strict=False):
        _draw_line(axes, row, look)
    if not rows:
        say_nothing(axes)
    write_labels(figure, axes, box, labels)
    title_axes(figure, box, f"decoder layer, 0 to {max(num_layers - 1, 0)}", "AUROC")
    return Plot(
        name="auroc_by_layer",
        title="AUROC by layer",
        caption=(
            f"How well a probe of each layer tells hallucinated from faithful answers {unseen} "
            "it has not seen; bands hold all layers at once in 95 of 100 samples. The grey dashed "
            "lines need no hidden state: a probe is of use where it is above them."
        ),
        description=_describe(lines, references),
        columns=_columns(lines, references),
        figure=figure,
    )


def _span(num_layers: int) -> tuple[float, float]:
    """Return the ends of the horizontal axis, with some air."""
    last = max(num_layers - 1, 0)
    air = max(0.02 * last, 0.15)
    return -air, last + air


def _limits(lines: Sequence[LayerLine], references: Sequence[Reference]) -> tuple[float, float]:
    """Return the ends of the upright axis: everything drawn, and chance."""
    parts: list[Any] = [[0.5]]
    for row in lines:
        parts += [row.auroc, row.low, row.high]
    for reference in references:
        ends = [reference.low, reference.high] if reference.kind == "representation" else []
        parts += [[value for value in [reference.auroc, *ends] if value is not None]]
    values = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    air = max(0.06 * (high - low), 0.05 - (high - low) / 2)
    return max(low - air, 0), min(high + air, 1.005)


def _looks(lines: Sequence[LayerLine], references: Sequence[Reference]) -> list[Look]:
    """Return a look for each line and each reference; representations share one series."""
    kinds = ["representation" for _ in lines] + [reference.kind for reference in references]
    counts = {"representation": count(), "baseline": count()}
    return [(baseline if kind == "baseline" else series)(next(counts[kind])) for kind in kinds]


def _label(row: LayerLine | Reference, look: Look) -> Label:
    """Return what is written beside a line's end."""
    auroc = np.array([row.auroc]) if isinstance(row, Reference) else _arrays(row)[1]
    known = auroc[np.isfinite(auroc)]
    if not known.size:
        return Label(0.5, row.title, "none", look)
    best = "" if isinstance(row, Reference) else "best "
    return Label(float(known[-1]), row.title, f"{best}{known.max():.3f}", look)


def _draw_reference(axes: Axes, row: Reference, look: Look) -> None:
    """Draw a horizontal line, and the interval of a representation."""
    if row.kind == "representation" and row.low is not None and row.high is not None:
        axes.axhspan(row.low, row.high, color=PALETTE[look.colour], alpha=0.12, linewidth=0)
    across = axes.get_yaxis_transform()
    line(axes, [0, 1], [row.auroc, row.auroc], look, transform=across, marker="")


def _draw_line(axes: Axes, row: LayerLine, look: Look) -> None:
    """Draw a representation and its intervals."""
    layers, auroc, low, high = _arrays(row)
    colour = PALETTE[look.colour]
    if layers.size == 1:
        axes.vlines(layers, low, high, color=colour, alpha=0.45, linewidth=2)
    else:
        axes.fill_between(layers, low, high, color=colour, alpha=0.16, linewidth=0)
    every = -(-layers.size // _MOST_MARKERS) or None
    line(axes, layers, auroc, look, markevery=every, zorder=3)
    known = np.flatnonzero(np.isfinite(auroc))
    if known.size:
        # From the line's end to the edge of the axes, where its label starts.
        end, edge = known[-1], axes.get_xlim()[1]
        line(axes, [layers[end], edge], [auroc[end]] * 2, Look(look.colour, width=0.7))


def _arrays(row: LayerLine) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return layers, AUROC and the ends of its interval."""
    auroc, low, high = (np.asarray(part, np.float64) for part in (row.auroc, row.low, row.high))
    return np.asarray(row.layers, dtype=np.int64), auroc, low, high


def _describe(lines: Sequence[LayerLine], references: Sequence[Reference]) -> str:
    """Say what the plot shows."""
    said = []
    for row in lines:
        layers, auroc, low, high = _arrays(row)
        if np.isfinite(auroc).any():
            best = int(np.nanargmax(auroc))
            said.append(
                f"{row.title}, {layers.size} layers recorded: best at layer {layers[best]}, "
                f"{auroc[best]:.3f} ({low[best]:.3f} to {high[best]:.3f})."
            )
        else:
            said.append(f"{row.title}: no AUROC.")
    for ref in references:
        known = ref.low is not None and ref.high is not None
        ends = f" ({ref.low:.3f} to {ref.high:.3f})" if known else ""
        said.append(f"{ref.title} ({ref.kind}): {ref.auroc:.3f}{ends}.")
    return " ".join(["AUROC by decoder layer; chance is 0.5.", *said])


def _columns(lines: Sequence[LayerLine], references: Sequence[Reference]) -> dict[str, list[Any]]:
    """Return the data: a row for each layer of each line, and for each reference."""
    rows: list[tuple[Any, ...]] = []
    for row in lines:
        layers = zip(*(part.tolist() for part in _arrays(row)), strict=True)
        rows += [(row.title, "representation", *cells) for cells in layers]
    rows += [(ref.title, ref.kind, None, ref.auroc, ref.low, ref.high) for ref in references]
    names = ("title", "kind", "layer", "auroc", "low", "high")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}
