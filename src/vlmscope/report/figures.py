"""The report's figures, from the saved sweep and the categories: data in, plots out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlmscope.metrics import (
    Interval,
    coverage_band,
    rate,
    reliability,
    risk_coverage,
    roc,
    threshold_at,
    wilson,
)
from vlmscope.plots import (
    CategoryRate,
    CoverageLine,
    LayerLine,
    Plot,
    Reference,
    RocLine,
    auroc_by_layer,
    category_rates,
    csv_text,
    inline_svg,
    narrow_svg,
    reliability_plot,
    risk_coverage_plot,
    risk_histogram,
    roc_curves,
)
from vlmscope.probes.baselines import JOINT
from vlmscope.report.document import CategoryRow, Figure
from vlmscope.report.held_out import unseen
from vlmscope.sweeps import ProbeResult, SavedSweep
from vlmscope.sweeps.evaluation import QUESTION_ONLY
from vlmscope.sweeps.run import layer_title

NAMES = (
    "auroc_by_layer",
    "roc_curves",
    "risk_coverage",
    "reliability",
    "risk_histogram",
    "category_rates",
)
"""Stems of the files of all figures."""


def plots(
    sweep: SavedSweep | None, categories: Sequence[CategoryRow], num_layers: int
) -> Iterator[Plot]:
    """Yield the available plots, in reading order; none without labels."""
    if sweep is not None:
        yield _by_layer(sweep, num_layers)
        yield _roc(sweep)
        yield _coverage(sweep)
        yield _reliability(sweep)
        yield _histogram(sweep)
    rates = [
        CategoryRate(row.name, row.hallucinated + row.faithful, row.share, row.share_low,
                     row.share_high)
        for row in categories[:-1]  # the last is all of them
        if row.share is not None
        and row.share_low is not None and row.share_high is not None
    ]  # fmt: skip
    if rates:
        yield category_rates(rates)


def figure(plot: Plot) -> Figure:
    """Return a plot in the form used by the page."""
    return Figure(
        plot.name,
        plot.title,
        plot.caption,
        plot.description,
        inline_svg(plot),
        csv_text(plot),
        narrow_svg(plot),
    )


def _by_layer(sweep: SavedSweep, num_layers: int) -> Plot:
    """Draw the probe of every layer, and results without layers as horizontal lines."""
    lines: dict[tuple[str, str], list[tuple[int, float, float, float]]] = {}
    references = []
    for row in sweep.results:
        if row.kind == "probe" and row.estimator == "logistic" and row.representation:
            ends = _known(row, _band(row))
            title = layer_title(row.representation, None)
            if row.known == "after":
                title += " (after the answer)"
            if row.layer is None:
                meaning = row.representation
                references.append(Reference(title, *ends, "representation", meaning))
            else:
                key = title, row.representation
                lines.setdefault(key, []).append((row.layer, *ends))
    for name in dict.fromkeys((JOINT, sweep.summary["best_baseline"], QUESTION_ONLY)):
        row = sweep[name]
        ends = _known(row, (row.auroc_low, row.auroc_high))
        short = row.title.removesuffix(", together")
        references.append(Reference(short, *ends, "baseline", _meaning(name)))
    drawn = []
    for (title, meaning), points in lines.items():
        layers, auroc, low, high = zip(*sorted(points), strict=True)
        drawn.append(LayerLine(title, layers, auroc, low, high, meaning))
    return auroc_by_layer(drawn, references, num_layers, unseen(sweep))


def _known(row: ProbeResult, ends: tuple[float, float]) -> tuple[float, float, float]:
    """Return an AUROC and the ends of an interval, all NaN if the risk is constant."""
    return (math.nan,) * 3 if row.found_nothing else (row.auroc, *ends)


def _meaning(name: str) -> str:
    """Return the meaning of a line, which determines its style in every figure."""
    return name if name in ("selected", "combined", JOINT, QUESTION_ONLY) else "best"


def _band(row: ProbeResult) -> tuple[float, float]:
    """Return the simultaneous band over all layers, or else the layer's own interval."""
    if row.auroc_band_low is None or row.auroc_band_high is None:
        return row.auroc_low, row.auroc_high
    return row.auroc_band_low, row.auroc_band_high


def _compared(sweep: SavedSweep) -> tuple[str, ...]:
    """Return the names of the results that are compared in a figure."""
    wanted = ("selected", "combined", JOINT, sweep.summary["best_baseline"], QUESTION_ONLY)
    return tuple(dict.fromkeys(wanted))


def _style(row: ProbeResult) -> Literal["baseline", "probe"]:
    return "baseline" if row.kind == "baseline" else "probe"


def _found(row: ProbeResult, number: float) -> float:
    """Return a number of a result; NaN if the risk is constant."""
    return math.nan if row.found_nothing else number


def _roc(sweep: SavedSweep) -> Plot:
    lines = []
    for name in _compared(sweep):
        rows, row = sweep.stacked(name), sweep[name]
        curve = roc(rows.truth, rows.risks[name], rows.folds)
        ends = curve.false_positive_rate, curve.recall, _found(row, row.auroc)
        lines.append(RocLine(row.title, *ends, _style(row), _meaning(name)))
    return roc_curves(lines)


def _coverage(sweep: SavedSweep) -> Plot:
    lines = []
    for name in _compared(sweep):
        rows, row = sweep.stacked(name), sweep[name]
        curve = risk_coverage(rows.truth, rows.risks[name], rows.folds)
        ends = curve.coverage, curve.rate, _found(row, curve.aurc)
        band = None
        if name == "selected" and len(np.unique(rows.groups)) > 1:
            found = coverage_band(rows.truth, rows.risks[name], rows.groups, rows.folds)
            band = found.coverage, found.low, found.high
        lines.append(CoverageLine(row.title, *ends, _style(row), band, _meaning(name)))
    rows = sweep.stacked("selected")
    best = risk_coverage(rows.truth, rows.truth.astype(float), rows.folds)
    ends = best.coverage, best.rate, best.aurc
    lines.append(CoverageLine("the best possible", *ends, "optimal", None, "optimum"))
    return risk_coverage_plot(lines, float(sweep.truth.mean()))


def _reliability(sweep: SavedSweep) -> Plot:
    """Draw the risks of all splits, so that the calibration error equals the reported one.

    An answer counts once, whatever the number of splits: intervals are over groups, and those of
    an answer's copies are the same.
    """
    rows = sweep.stacked("selected")
    curve = reliability(rows.truth, rows.risks["selected"])
    count = np.maximum(np.rint(curve.count / sweep.repeats), 1).astype(np.int64)
    spans = [
        _interval(rows.truth[curve.bin_of == place], rows.groups[curve.bin_of == place])
        for place in range(len(curve.rate))
    ]
    low, high = np.array([(span.low, span.high) for span in spans]).reshape(-1, 2).T
    return reliability_plot(curve.mean_risk, curve.rate, count, low, high, curve.error)


def _interval(truth: NDArray[np.bool_], groups: NDArray[np.int64]) -> Interval:
    """Return the interval of the share of hallucinations; of a single group as of one answer."""
    if len(np.unique(groups)) > 1:
        return rate(truth, groups).interval
    low, high = wilson(np.array([truth.mean()]), np.array([1]))
    return Interval(float(low[0]), float(high[0]))


def _histogram(sweep: SavedSweep) -> Plot:
    truth, risk = sweep.truth, sweep.risk("selected")
    return risk_histogram(risk, truth, threshold_at(truth, risk))
