"""Plots of the calibration of a risk, and of the risks by outcome."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from vlmscope.plots.canvas import (
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
    percent,
    round_ticks,
    sheet,
    title_axes,
    write_no_data,
)
from vlmscope.plots.palette import CHANCE, FAITHFUL, HALLUCINATED, PALETTE, SELECTED, LineStyle

_BINS = 20
_FAITHFUL, _HALLUCINATED = (replace(own, marker="") for own in (FAITHFUL, HALLUCINATED))


@drawing()
def reliability_plot(
    mean_risk: ArrayLike,
    rate: ArrayLike,
    count: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    ece: float,
) -> Plot:
    """Draw observed hallucination rates against predicted risks.

    All arrays have one element per bin, from the lowest risk to the highest.

    Args:
        mean_risk: Mean risk of the bin.
        rate: Share of its answers that are hallucinated.
        count: Answers in the bin.
        low: Lower end of the interval of ``rate``.
        high: Upper end.
        ece: Expected calibration error.
    """
    predicted, observed, below, above = (
        np.asarray(part, dtype=np.float64) for part in (mean_risk, rate, low, high)
    )
    counts = np.asarray(count, dtype=np.int64)
    end = _end(np.concatenate([predicted, observed, above]))
    figure = sheet(HALF, 3.6)
    box, foot = Box(0.52, 1.24, HALF - 0.15, 3.3), Box(0.52, 0.55, HALF - 0.15, 0.9)
    axes, answers = axes_in(figure, box), axes_in(figure, foot)
    _draw_bins(axes, predicted, observed, (below, above), end)
    _draw_counts(answers, predicted, counts, end)
    title_axes(figure, foot, "risk, mean of a bin", "answers")
    title_axes(figure, box, "", "hallucinated")
    if counts.size:
        _note(axes, f"calibration error {ece:.3f}")
    else:
        write_no_data(axes)
    return Plot(
        name="reliability",
        title="Calibration",
        caption=(
            "The points of a calibrated risk are on the dotted diagonal: of the answers with a "
            "risk of 0.3, three in ten are hallucinated. Bars are 95% intervals over the groups "
            "that folds keep together. Below: the number of answers in each bin."
        ),
        description=_describe_bins(predicted, observed, counts, ece),
        columns={
            "mean_risk": predicted.tolist(), "rate": observed.tolist(), "count": counts.tolist(),
            "low": below.tolist(), "high": above.tolist(),
        },
        figure=figure,
    )  # fmt: skip


def _draw_bins(
    axes: Axes,
    predicted: NDArray[np.float64],
    observed: NDArray[np.float64],
    interval: tuple[NDArray[np.float64], NDArray[np.float64]],
    end: float,
) -> None:
    """Draw the points of the bins, their intervals, and the diagonal, up to ``end``."""
    axes.set(xlim=(-0.01 * end, 1.01 * end), ylim=(-0.01 * end, 1.02 * end))
    axes.grid()
    axes.tick_params(labelbottom=False)
    line(axes, [0, end], [0, end], CHANCE)
    line(axes, predicted, observed, LineStyle(SELECTED.colour, width=0.7), zorder=3)
    axes.vlines(predicted, *interval, color=PALETTE[SELECTED.colour], linewidth=1.3)
    line(axes, predicted, observed, SELECTED, linestyle="none", zorder=4)


@drawing()
def risk_histogram(risk: ArrayLike, truth: ArrayLike, threshold: float | None) -> Plot:
    """Draw the distributions of the risks of hallucinated and of faithful answers.

    Each outcome is drawn as shares of its own answers: hallucinations are rare, and counts would
    hide them.

    Args:
        risk: Numbers from 0 to 1, one per answer.
        truth: Booleans, one per answer; true if it is hallucinated.
        threshold: Risk above which an answer is flagged; None for no mark.
    """
    risks, flags = np.asarray(risk, dtype=np.float64), np.asarray(truth, dtype=np.bool_)
    end = _end(np.append(risks, threshold or 0))
    edges = np.linspace(0, end, _BINS + 1)
    faithful, hallucinated = (np.histogram(risks[kept], edges)[0] for kept in (~flags, flags))
    rows = [
        LegendEntry(_FAITHFUL, "faithful", f"{faithful.sum():,}"),
        LegendEntry(_HALLUCINATED, "hallucinated", f"{hallucinated.sum():,}"),
    ]
    figure = sheet(HALF, 0.55 + 2.25 + legend_height(len(rows)))
    box = Box(0.52, 0.55, HALF - 0.15, 2.8)
    axes = axes_in(figure, box)
    axes.set(xlim=(-0.01 * end, 1.01 * end))
    _draw_outcomes(axes, edges, faithful, hallucinated)
    if threshold is not None:
        _draw_threshold(axes, threshold, end)
    if not risks.size:
        write_no_data(axes)
    legend(figure, box, rows, "answers")
    title_axes(figure, box, "risk", "share of the answers of each outcome")
    return Plot(
        name="risk_histogram",
        title="Risks of both outcomes",
        caption=(
            "Distributions of the risks of faithful answers (filled) and of hallucinated ones "
            "(dashed outline), each as shares of its own answers. Less overlap is better."
        ),
        description=_describe_risks(risks, flags, threshold),
        columns={
            "risk_from": edges[:-1].tolist(), "risk_to": edges[1:].tolist(),
            "faithful": faithful.tolist(), "hallucinated": hallucinated.tolist(),
        },
        figure=figure,
    )  # fmt: skip


def _draw_outcomes(
    axes: Axes,
    edges: NDArray[np.float64],
    faithful: NDArray[np.int64],
    hallucinated: NDArray[np.int64],
) -> None:
    """Draw the counts of both outcomes as shares of their own answers."""
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(round_ticks(5))
    axes.yaxis.set_major_formatter(percent)
    tallest = [
        _draw_steps(axes, edges, counts, line_style)
        for counts, line_style in ((faithful, _FAITHFUL), (hallucinated, _HALLUCINATED))
    ]
    axes.set_ylim(0, 1.1 * max(tallest))


def _end(values: NDArray[np.float64]) -> float:
    """Return the upper end of an axis of risks: the next tenth."""
    return float(min(max(np.ceil(values.max(initial=0) * 10 - 1e-9) / 10, 0.1), 1))


def _note(axes: Axes, text: str) -> None:
    """Write into the upper left corner, which a curve near the diagonal leaves free."""
    axes.text(
        0.02, 0.97, text, transform=axes.transAxes, va="top", fontsize=SMALL, color=PALETTE["ink"]
    )


def _draw_counts(axes: Axes, risk: ArrayLike, count: NDArray[np.int64], end: float) -> None:
    """Draw the number of answers in each bin."""
    most = int(count.max(initial=1))
    axes.set(xlim=(-0.01 * end, 1.01 * end), ylim=(0, 1.15 * most))
    axes.vlines(risk, 0, count, color=PALETTE["axis"], linewidth=2)
    axes.set_yticks([0, most], ["0", f"{most:,}"])


def _draw_steps(
    axes: Axes, edges: NDArray[np.float64], counts: NDArray[np.int64], line_style: LineStyle
) -> float:
    """Draw one outcome's shares as steps, filled if the line is solid; return the largest."""
    shares = counts / max(counts.sum(), 1)
    heights = np.concatenate([[0], np.repeat(shares, 2), [0]])
    positions = np.repeat(edges, 2)
    if not line_style.dashes:
        axes.fill_between(
            positions, heights, color=PALETTE[line_style.colour], alpha=0.22, linewidth=0
        )
    line(axes, positions, heights, line_style, zorder=3)
    return float(shares.max(initial=0.01))


def _draw_threshold(axes: Axes, threshold: float, end: float) -> None:
    """Mark the threshold, with its label on the side with more space."""
    axes.axvline(threshold, color=PALETTE["ink"], linewidth=1)
    left = threshold < 0.6 * end
    axes.annotate(
        f"flagged above {threshold:.2f}", (threshold, 0.99), (4 if left else -4, 0),
        xycoords=axes.get_xaxis_transform(), textcoords="offset points", va="top",
        ha="left" if left else "right", fontsize=SMALL, color=PALETTE["ink"],
    )  # fmt: skip


def _describe_bins(
    predicted: NDArray[np.float64],
    observed: NDArray[np.float64],
    counts: NDArray[np.int64],
    ece: float,
) -> str:
    """Return a description of the reliability curve."""
    text = f"Observed hallucination rate by risk; expected calibration error {ece:.3f}."
    for index, word in ((0, "lowest"), (-1, "highest")):
        if counts.size:
            text += (
                f" In the bin of {word} risk, {predicted[index]:.1%} were predicted and "
                f"{observed[index]:.1%} of {counts[index]:,} answers are hallucinated."
            )
    return text


def _describe_risks(
    risks: NDArray[np.float64], flags: NDArray[np.bool_], threshold: float | None
) -> str:
    """Return a description of the histogram."""
    text = "Risks by outcome."
    for word, kept in (("faithful", ~flags), ("hallucinated", flags)):
        of = risks[kept]
        text += f" {of.size:,} {word}"
        if of.size:
            low, middle, high = np.quantile(of, [0.25, 0.5, 0.75])
            text += f": median {middle:.2f}, middle half {low:.2f} to {high:.2f}"
            if threshold is not None:
                text += f", {(of > threshold).mean():.1%} above the threshold of {threshold:.2f}"
        text += "."
    return text
