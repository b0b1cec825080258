"""One of every plot, from numbers that look like those of a run."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from vlmscope.plots import (
    CategoryRate,
    CoverageLine,
    DetectorPoint,
    LayerLine,
    Plot,
    Reference,
    RocLine,
    auroc_by_layer,
    category_rates,
    detector_quality,
    inline_svg,
    reliability_plot,
    risk_coverage_plot,
    risk_histogram,
    roc_curves,
)

HOSTILE = (
    "</text></svg><script>alert(1)</script>",
    "a \"quoted\" & 'single' <b>",
    r"$\frac{broken$ x_1^2 $$",
    "色と形 の問題 🦜👩‍👩‍👧",
    "bell\x07 null\x00 half \ud83d end\ufffe",
    "two\nlines\tand a tab",
    "=HYPERLINK(1)",
    "",
)


def layer_line(
    title: str, layers: Sequence[int] = (0, 2, 5, 7, 9), best: float = 0.84
) -> LayerLine:
    auroc = np.linspace(0.55, best, len(layers))
    return LayerLine(title, layers, auroc, auroc - 0.02, auroc + 0.02)


def layers_plot(titles: Sequence[str] = ("last prompt token", "last image token")) -> Plot:
    lines = [layer_line(title, best=0.84 - 0.01 * place) for place, title in enumerate(titles)]
    references = [
        Reference("vision only", 0.57, 0.54, 0.6, "representation"),
        Reference("the question's category", 0.778, 0.75, 0.8),
        Reference("the question's words", 0.775),
    ]
    return auroc_by_layer(lines, references, 10)


def roc_plot(titles: Sequence[str] = ("best layer", "category"), points: int = 60) -> Plot:
    x = np.linspace(0, 1, points)
    return roc_curves(
        [RocLine(title, x, x ** (0.3 + 0.1 * i), 0.8 - 0.05 * i) for i, title in enumerate(titles)]
    )


def coverage_plot(titles: Sequence[str] = ("best layer",), points: int = 2000) -> Plot:
    x = np.arange(1, points + 1) / points
    probes = [CoverageLine(title, x, 0.2 * x**2, 0.067, "probe") for title in titles]
    others = [
        CoverageLine("the question's category", x, 0.2 * x, 0.1, "baseline"),
        CoverageLine("the best possible", x, np.maximum(x - 0.8, 0) / x, 0.02, "optimal"),
    ]
    return risk_coverage_plot([*probes, *others], 0.2)


def calibration_plot(bins: int = 15) -> Plot:
    risk = np.linspace(0.01, 0.72, bins)
    rate = np.clip(risk + 0.02, 0, 1)
    ends = np.maximum(rate - 0.08, 0), np.minimum(rate + 0.08, 1)
    return reliability_plot(risk, rate, np.full(bins, 133), *ends, 0.02)


def histogram_plot(threshold: float | None = 0.48) -> Plot:
    generator = np.random.default_rng(0)
    truth = generator.random(2000) < 0.2
    risk = np.clip(generator.beta(1, 5, 2000) + 0.3 * truth, 0, 1)
    return risk_histogram(risk, truth, threshold)


def category_plot(names: Sequence[str] = ("colour", "counting", "existence")) -> Plot:
    shares = [((7 * place) % 40) / 50 for place in range(len(names))]
    return category_rates(
        [
            CategoryRate(name, 100 + place, share, max(share - 0.07, 0), share + 0.07)
            for place, (name, share) in enumerate(zip(names, shares, strict=True))
        ]
    )


def detector_plot(
    titles: Sequence[str] = ("entropy", "probe of the last prompt token", "samples"),
    groups: Sequence[str] = ("answer", "states", "samples"),
) -> Plot:
    """Three costs, of which nothing has the last."""
    points = [
        DetectorPoint(title, groups[place % len(groups)], ("none", "a pass")[place % 2],
                      0.5 + (7 * place % 40) / 100, 0.45 + (7 * place % 40) / 100, 0.95)
        for place, title in enumerate(titles)
    ]  # fmt: skip
    return detector_quality(
        points, ("none", "a pass", "k answers"), name="detectors_by_cost",
        title="Quality of detectors against their cost", baseline=0.7,
    )  # fmt: skip


def every_plot() -> list[Plot]:
    return [
        layers_plot(), roc_plot(), coverage_plot(), calibration_plot(), histogram_plot(),
        category_plot(), detector_plot(),
    ]  # fmt: skip


def hostile_plots() -> list[Plot]:
    return [
        layers_plot(HOSTILE), roc_plot(HOSTILE), coverage_plot(HOSTILE),
        detector_plot(HOSTILE, HOSTILE), category_plot(HOSTILE),
    ]  # fmt: skip


def empty_plots() -> list[Plot]:
    return [
        auroc_by_layer([], [], 0), roc_curves([]), risk_coverage_plot([], 0.2),
        reliability_plot([], [], [], [], [], 0), risk_histogram([], np.array([], bool), None),
        category_rates([]), detector_quality([], [], name="none", title="None"),
    ]  # fmt: skip


def smallest_plots() -> list[Plot]:
    nan = float("nan")
    return [
        auroc_by_layer([LayerLine("one", [0], [0.7], [0.6], [0.8])], [], 1),
        auroc_by_layer([LayerLine("no", [0, 1], [nan] * 2, [nan] * 2, [nan] * 2)],
                       [Reference("none", nan)], 2),
        roc_curves([RocLine("one", [0, 1], [0, 1], 0.5)]),
        risk_coverage_plot([CoverageLine("one", [1.0], [0.0], 0, "probe")], 0),
        reliability_plot([0.0], [0.0], [1], [0.0], [0.0], 0),
        risk_histogram([0.5], [True], 0.5),
        category_rates([CategoryRate("one", 1, 0, 0, 0)]),
        detector_quality([DetectorPoint("one", "answer", "a", nan, nan, nan)], ["a"],
                         name="one", title="One"),
    ]  # fmt: skip


EXAMPLES = 27
"""Number of examples: drawing them takes seconds, which collecting the tests shall not."""
HOSTILE_EXAMPLES = range(7, 12)
"""Which of them have hostile names."""


@functools.cache
def examples() -> tuple[Plot, ...]:
    """Return one of every plot, and the hostile, the empty and the smallest ones, drawn once."""
    found = (*every_plot(), *hostile_plots(), *empty_plots(), *smallest_plots())
    assert len(found) == EXAMPLES
    return found


@functools.cache
def example_svg(number: int) -> str:
    """Return the SVG element of an example, written once."""
    return inline_svg(examples()[number])
