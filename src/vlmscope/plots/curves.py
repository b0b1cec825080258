"""Plots of the two trade-offs of a risk: ROC curves and risk-coverage curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from vlmscope.plots.canvas import (
    CONSTANT_RISK,
    HALF,
    SMALL,
    Box,
    LegendEntry,
    Plot,
    axes_in,
    drawing,
    legend,
    legend_height,
    line,
    number_or_constant,
    percent,
    round_ticks,
    sheet,
    title_axes,
    write_no_data,
)
from vlmscope.plots.palette import CHANCE, PALETTE, LineStyle, line_style

MOST_POINTS = 250
"""Maximum number of points of a curve: more are not visible, and would make a page large."""

Floats = NDArray[np.float64]

BAND = " The band is a 95% simultaneous band of the probe's curve, from a tenth answered on."
"""Added to the caption if there is a band."""

_FLAGGED = 0.05
"""Share of the faithful answers that may be flagged at the mark."""
_HIGH = 2.25  # inches, of the axes


@dataclass(frozen=True, slots=True, eq=False)
class RocLine:
    """The ROC curve of one risk; arrays have one element per threshold, from (0, 0) to (1, 1)."""

    title: str
    false_positive_rate: ArrayLike
    """Share of the faithful answers that are flagged."""
    recall: ArrayLike
    """Share of the hallucinated answers that are flagged."""
    auroc: float
    """NaN if the risk is constant: then no curve is drawn."""
    style: Literal["probe", "baseline"] = "probe"
    """What it is, for the description."""
    meaning: str = ""
    """Its name in ``palette.LINE_STYLES``."""


@dataclass(frozen=True, slots=True, eq=False)
class CoverageLine:
    """Hallucination rate against the share answered, safest first, of one risk."""

    title: str
    coverage: ArrayLike
    rate: ArrayLike
    aurc: float
    """Area under the risk-coverage curve; NaN where the risk is constant: then no curve is
    drawn."""
    style: Literal["probe", "baseline", "optimal"]
    """What it is, for the description and the data; ``optimal`` is what no risk can beat."""
    band: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None
    """Shares answered, and the ends of a band there that contains the complete curve in 95%."""
    meaning: str = ""
    """Its name in ``palette.LINE_STYLES``."""


@drawing()
def roc_curves(curves: Sequence[RocLine]) -> Plot:
    """Draw ROC curves, with a mark on each where at most 5% of the faithful are flagged.

    A curve of many points is thinned to ``MOST_POINTS``, evenly along its length.
    """
    styles = [line_style(row.meaning, index) for index, row in enumerate(curves)]
    thin = [(row, own, *_thin_roc(row)) for row, own in _drawn(curves, styles, "auroc")]
    entries = [
        LegendEntry(own, row.title, number_or_constant(row.auroc))
        for own, row in zip(styles, curves, strict=True)
    ]
    figure, axes, box = _keyed(entries, "AUROC")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    line(axes, [0, 1], [0, 1], CHANCE)
    axes.axvline(_FLAGGED, color=PALETTE["axis"], linewidth=0.7)
    axes.text(0.075, 0.015, "5% of the faithful", color=PALETTE["muted"], fontsize=SMALL)
    for row, own, false_positive_rate, recall in thin:
        line(axes, false_positive_rate, recall, own, marker="", zorder=3)
        index = _last_allowed(row)
        x, y = _floats(row.false_positive_rate)[[index]], _floats(row.recall)[[index]]
        line(axes, x, y, own, zorder=4, clip_on=False)
    title_axes(figure, box, "faithful answers flagged", "hallucinated answers flagged")
    columns: dict[str, list[Any]] = {"title": [], "false_alarms": [], "recall": []}
    for row, _, false_positive_rate, recall in thin:
        columns["title"] += [row.title] * len(recall)
        columns["false_alarms"] += false_positive_rate.tolist()
        columns["recall"] += recall.tolist()
    return Plot(
        name="roc_curves",
        title="ROC curves",
        caption=(
            "The share of hallucinated answers that are flagged, against the share of faithful "
            "answers that are flagged (false positive rate), at every threshold. A mark is the "
            "last point of a curve with a rate of at most 5%; the dotted diagonal is chance."
        ),
        description=_describe_roc(curves),
        columns=columns,
        figure=figure,
    )


@drawing()
def risk_coverage_plot(curves: Sequence[CoverageLine], prevalence: float) -> Plot:
    """Draw the hallucination rate that is left without the riskiest questions.

    A curve of many points is thinned to ``MOST_POINTS``, evenly over the share answered.

    Args:
        curves: One a risk.
        prevalence: Hallucination rate where every question is answered.
    """
    styles = [line_style(row.meaning, index) for index, row in enumerate(curves)]
    drawn = _drawn(curves, styles, "aurc")
    thin = [(row, *_thin_coverage(row)) for row, _ in drawn]
    titled = zip(styles, curves, strict=True)
    entries = [LegendEntry(own, row.title, number_or_constant(row.aurc)) for own, row in titled]
    figure, axes, box = _keyed(entries, "AURC, less is better")
    axes.set(xlim=(-0.01, 1.01), ylim=(0, _highest(thin, prevalence)))
    axes.axhline(prevalence, color=PALETTE["axis"], linewidth=0.7)
    label = f"all answered: {prevalence:.1%}"
    axes.annotate(
        label, (0, prevalence), (2, 3), textcoords="offset points", fontsize=SMALL,
        color=PALETTE["muted"],
    )  # fmt: skip
    for index, ((row, coverage, rate), (_, own)) in enumerate(zip(thin, drawn, strict=True)):
        start = 0.12 + 0.07 * index
        if row.band is not None:
            colour = PALETTE[own.colour]
            at, low, high = map(_floats, row.band)
            axes.fill_between(at, low, high, color=colour, alpha=0.16, linewidth=0)
        line(axes, coverage, rate, own, markevery=(start, 0.25), zorder=3)
    title_axes(figure, box, "questions answered, safest first", "hallucinated among those answered")
    return Plot(
        name="risk_coverage",
        title="Abstaining on the riskiest",
        caption=(
            "The hallucination rate if only the safest share of the questions is answered; at the "
            "right, all are answered. A lower curve means a better risk; AURC is the area under "
            "it." + BAND * any(row.band is not None for row in curves)
        ),
        description=_describe_coverage(curves, thin, prevalence),
        columns=_coverage_columns(thin),
        figure=figure,
    )


def _coverage_columns(thin: Sequence[tuple[CoverageLine, Floats, Floats]]) -> dict[str, list[Any]]:
    """Return the drawn points and the ends of their bands."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("title", "style", "coverage", "rate", "rate_low", "rate_high")
    }
    for row, coverage, rate in thin:
        for name, ends in zip(("rate_low", "rate_high"), _band_at(row, coverage), strict=True):
            columns[name] += ends
        columns["title"] += [row.title] * len(rate)
        columns["style"] += [row.style] * len(rate)
        columns["coverage"] += coverage.tolist()
        columns["rate"] += rate.tolist()
    return columns


def _band_at(row: CoverageLine, coverage: Floats) -> tuple[list[float | None], list[float | None]]:
    """Return the ends of a band at some shares answered; None where there is no band."""
    nothing: list[float | None] = [None] * len(coverage)
    if row.band is None:
        return nothing, list(nothing)
    at, *ends = map(_floats, row.band)
    inside = coverage >= at[0]
    low, high = (np.interp(coverage, at, end).tolist() for end in ends)
    low, high = ([v if i else None for v, i in zip(e, inside, strict=True)] for e in (low, high))
    return low, high


def _keyed(rows: Sequence[LegendEntry], heading: str) -> tuple[Figure, Axes, Box]:
    """Return a figure of half width with a legend above its axes; without rows, one with a note."""
    figure = sheet(HALF, 0.55 + _HIGH + legend_height(max(len(rows), 2)))
    box = Box(0.52, 0.55, HALF - 0.15, 0.55 + _HIGH)
    axes = axes_in(figure, box)
    axes.grid()
    axes.yaxis.set_major_locator(round_ticks(5))
    axes.xaxis.set_major_formatter(percent)
    axes.yaxis.set_major_formatter(percent)
    if rows:
        legend(figure, box, rows, heading)
    else:
        write_no_data(axes)
    return figure, axes, box


def _thin_roc(row: RocLine) -> tuple[Floats, Floats]:
    """Return the curve at points evenly far from each other, its ends and its mark among them."""
    false_positive_rate, recall = _floats(row.false_positive_rate), _floats(row.recall)
    if recall.size > MOST_POINTS:
        steps = np.abs(np.diff(false_positive_rate)) + np.abs(np.diff(recall))
        length = np.concatenate([[0], np.cumsum(steps)])
        evenly = np.searchsorted(length, np.linspace(0, length[-1], MOST_POINTS - 1))
        kept = np.unique(np.append(evenly, _last_allowed(row)))
        false_positive_rate, recall = false_positive_rate[kept], recall[kept]
    return false_positive_rate, recall


def _last_allowed(row: RocLine) -> int:
    """Return the index of the last point with at most 5% of the faithful answers flagged."""
    return int(np.searchsorted(_floats(row.false_positive_rate), _FLAGGED, side="right")) - 1


def _thin_coverage(row: CoverageLine) -> tuple[Floats, Floats]:
    """Return the curve at evenly many answers from each other, its ends among them."""
    coverage, rate = _floats(row.coverage), _floats(row.rate)
    if rate.size > MOST_POINTS:
        at = np.linspace(0, rate.size - 1, MOST_POINTS).round().astype(np.int64)
        coverage, rate = coverage[at], rate[at]
    return coverage, rate


_Curve = TypeVar("_Curve", RocLine, CoverageLine)


def _drawn(
    curves: Sequence[_Curve], styles: Sequence[LineStyle], number: Literal["auroc", "aurc"]
) -> list[tuple[_Curve, LineStyle]]:
    """Return the curves that found something, with their looks."""
    both = zip(curves, styles, strict=True)
    return [(row, own) for row, own in both if not np.isnan(getattr(row, number))]


def _highest(thin: Sequence[tuple[Any, ...]], prevalence: float) -> float:
    """Return the upper end: of the very first answers the rate jumps, and may leave the plot."""
    settled = [float(rate[coverage >= 0.05].max(initial=0)) for _, coverage, rate in thin]
    return min(1.02, 1.1 * max([prevalence, 0.02, *settled]) + 0.01)


def _describe_roc(curves: Sequence[RocLine]) -> str:
    """Return a description with the share of hallucinated answers that each risk flags."""
    parts = ["Hallucinated answers flagged, against faithful answers flagged."]
    for row in curves:
        if np.isnan(row.auroc):
            parts.append(f"{row.title} ({row.style}): {CONSTANT_RISK}.")
            continue
        found = _floats(row.recall)[_last_allowed(row)]
        parts.append(
            f"{row.title} ({row.style}): AUROC {row.auroc:.3f}, flags {found:.1%} where no more "
            "than 5% of the faithful are flagged."
        )
    return " ".join(parts)


def _describe_coverage(
    curves: Sequence[CoverageLine], thin: Sequence[tuple[Any, ...]], prevalence: float
) -> str:
    """Return a description of the effect of abstaining."""
    parts = [f"Hallucination rate by share answered; {prevalence:.1%} where all are answered."]
    for row, coverage, rate in thin:
        if len(rate):
            at_half, at_most = (np.interp(share, coverage, rate) for share in (0.5, 0.9))
            parts.append(
                f"{row.title} ({row.style}): {at_most:.1%} at 90% answered, {at_half:.1%} at 50%, "
                f"AURC {row.aurc:.3f}."
            )
    nothing = [row for row in curves if np.isnan(row.aurc)]
    parts += [f"{row.title} ({row.style}): {CONSTANT_RISK}." for row in nothing]
    return " ".join(parts)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)
