"""What the plots say: their data, their words, and the edges of both."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plot_examples import (
    EXAMPLES,
    calibration_plot,
    category_plot,
    coverage_plot,
    detector_plot,
    example_svg,
    examples,
    histogram_plot,
    layer_line,
    layers_plot,
    roc_plot,
)
from sklearn.metrics import auc

from vlmscope import plots
from vlmscope.plots import (
    DARK_PALETTE,
    PALETTE,
    CoverageLine,
    DetectorPoint,
    Plot,
    Reference,
    RocLine,
    auroc_by_layer,
    csv_text,
    detector_quality,
    inline_svg,
    narrow_svg,
    risk_coverage_plot,
    risk_histogram,
    roc_curves,
)
from vlmscope.plots.canvas import cut, fit, spread, width
from vlmscope.plots.curves import MOST_POINTS
from vlmscope.plots.palette import (
    BASELINES,
    COMBINED,
    FAITHFUL,
    HALLUCINATED,
    LINE_STYLES,
    REPRESENTATIONS,
    SELECTED,
    line_style,
)
from vlmscope.positions import REPRESENTATIONS as GROUPS
from vlmscope.positions import VISION_ONLY


def luminance(colour: str) -> float:
    channels = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("palette", [PALETTE, DARK_PALETTE])
def test_every_colour_can_be_seen_and_texts_can_be_read(palette: dict[str, str]) -> None:
    assert palette.keys() == PALETTE.keys()
    assert len(set(palette.values())) == len(palette), "a page finds a name by its colour"
    paper = luminance(palette["paper"])
    for name in palette.keys() - {"paper", "grid"}:
        dark, light = sorted((luminance(palette[name]), paper))
        least = 4.5 if name in ("ink", "muted") else 3
        assert (light + 0.05) / (dark + 0.05) >= least, name


def test_lines_differ_without_colour() -> None:
    styles = [*REPRESENTATIONS.values(), SELECTED, COMBINED]
    assert len({(own.marker, own.dashes) for own in styles}) == len(styles)
    assert len({own.dashes for own in BASELINES.values()}) == len(BASELINES)


def test_one_colour_has_one_meaning() -> None:
    assert set(REPRESENTATIONS) == {VISION_ONLY, *GROUPS.values()}
    coloured = [*REPRESENTATIONS.values(), SELECTED, COMBINED, FAITHFUL, HALLUCINATED]
    colours = [own.colour for own in coloured]
    assert len(set(colours)) == len(colours)
    greys = {own.colour for own in BASELINES.values()} | {line_style("optimum").colour}
    assert not greys & set(colours)
    assert all(line_style(meaning) == own for meaning, own in LINE_STYLES.items())


def colour_of(written: str, meaning: str) -> bool:
    """Whether a plot's SVG has something in the colour of a meaning."""
    return f"--plot-{line_style(meaning).colour}," in written


def test_figures_agree_on_the_colours() -> None:
    x = np.linspace(0, 1, 20)
    layers = auroc_by_layer(
        [replace(layer_line("one"), meaning="query_token_representation")], [], 10
    )
    roc = roc_curves([RocLine("one", x, x, 0.5, meaning="selected"),
                      RocLine("two", x, x, 0.5, meaning="combined")])  # fmt: skip
    coverage = risk_coverage_plot(
        [CoverageLine("one", x, x, 0.5, "probe", meaning="selected")], 0.2
    )
    written = [inline_svg(plot) for plot in (layers, roc, coverage)]
    written += [example_svg(number) for number in (3, 4, 5)]
    layers_svg, roc_svg, coverage_svg, calibration, histogram, categories = written
    for svg in (roc_svg, coverage_svg, calibration):
        assert colour_of(svg, "selected")
        assert not colour_of(svg, "query_token_representation")
    assert colour_of(roc_svg, "combined")
    assert colour_of(layers_svg, "query_token_representation")
    assert not colour_of(layers_svg, "combined")
    for svg in (histogram, categories):
        assert f"--plot-{HALLUCINATED.colour}," in svg
        assert not colour_of(svg, "query_token_representation")
    for svg in (layers_svg, roc_svg, coverage_svg, calibration):
        for outcome in (FAITHFUL, HALLUCINATED):
            assert f"--plot-{outcome.colour}," not in svg


NAN = float("nan")


def test_what_finds_nothing_has_no_number_and_no_curve() -> None:
    x = np.linspace(0, 1, 20)
    auroc = np.array([NAN, 0.6, 0.7, 0.8, 0.84])
    lost = replace(layer_line("some"), auroc=auroc, low=auroc - 0.1, high=auroc + 0.1)
    none = replace(layer_line("none"), auroc=[NAN] * 5, low=[NAN] * 5, high=[NAN] * 5)
    layers = auroc_by_layer([lost, none], [Reference("words", NAN, 0.3, 0.4)], 10)
    assert "some: constant risk at layer 0." in layers.description
    assert "none: constant risk. words (baseline): constant risk." in layers.description
    assert "A layer whose probe has a constant risk has no point." in layers.caption
    assert "constant risk" not in layers_plot().caption
    assert csv_text(layers).splitlines()[1] == "some,representation,0,,,"
    roc = roc_curves([RocLine("one", x, x, NAN), RocLine("two", x, x, 0.7)])
    coverage = risk_coverage_plot(
        [CoverageLine("one", x, x, NAN, "probe"), CoverageLine("two", x, x, 0.7, "probe")], 0.2
    )
    for plot in (roc, coverage):
        assert "one (probe): constant risk." in plot.description
        assert set(plot.columns["title"]) == {"two"}
    for plot in (layers, roc, coverage):
        for figure in (plot.figure, plot.narrow):
            texts = [] if figure is None else [text.get_text() for text in figure.texts]
            assert figure is None or any("constant risk" in text for text in texts)
            assert not any("nan" in text for text in texts)
    assert "nan" not in inline_svg(layers) + inline_svg(roc) + inline_svg(coverage)


@pytest.mark.first(1)
@pytest.mark.parametrize(
    "draw",
    [layers_plot, lambda: category_plot([f"category {i}" for i in range(45)]), detector_plot],
)
def test_a_wide_figure_has_a_narrow_one_with_all_its_texts(draw: Callable[[], Plot]) -> None:
    plot = draw()
    narrow = narrow_svg(plot)
    assert plot.narrow is not None
    assert plot.narrow.get_figwidth() < plot.figure.get_figwidth() / 2
    said = " ".join(text.get_text() for text in plot.narrow.texts)
    for text in (text.get_text() for text in plot.figure.texts):
        for part in text.split(": "):
            assert part in said, text
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (inline_svg(plot), narrow)]
    assert not ids[0] & ids[1], "both are in one page"
    assert narrow_svg(roc_plot()) == ""


def test_the_front_is_sorted_and_complete() -> None:
    constants = [name for name in plots.__all__ if name.isupper()]
    others = [name for name in plots.__all__ if not name.isupper()]
    assert plots.__all__ == sorted(constants) + sorted(others)
    assert all(hasattr(plots, name) for name in plots.__all__)


@pytest.mark.parametrize("number", range(EXAMPLES))
def test_every_plot_has_words_and_tidy_data(number: int) -> None:
    plot = examples()[number]
    assert plot.name.isidentifier()
    assert plot.title
    assert plot.caption.endswith(".")
    assert plot.description.endswith(".")
    assert len({len(values) for values in plot.columns.values()}) == 1
    assert example_svg(number).startswith("<svg ")
    assert csv_text(plot).startswith(",".join(plot.columns))


def test_the_data_of_the_layers() -> None:
    plot = layers_plot()
    assert plot.columns["kind"] == ["representation"] * 11 + ["baseline"] * 2
    assert plot.columns["layer"] == [0, 2, 5, 7, 9] * 2 + [None] * 3
    assert plot.columns["auroc"][4] == pytest.approx(0.84)
    assert plot.columns["low"][-1] is None
    assert "last prompt token, 5 layers recorded: best at layer 9, 0.840 (0.820 to 0.860)" in (
        plot.description
    )
    assert "the question's category (baseline): 0.778 (0.750 to 0.800)." in plot.description


def test_many_lines_make_a_higher_plot() -> None:
    few, many = layers_plot(), auroc_by_layer([layer_line(str(i)) for i in range(30)], [], 10)
    assert few.figure.get_figheight() == 4
    assert many.figure.get_figheight() > 5.5


@given(st.lists(st.floats(-5, 15), min_size=1, max_size=12), st.floats(0.1, 1))
def test_labels_keep_their_distance_and_their_order(wanted: list[float], gap: float) -> None:
    heights = np.array(wanted)
    places = spread(heights, gap, 0, 12)
    order = np.argsort(heights, kind="stable")
    steps = np.diff(places[order])
    assert (steps >= gap - 1e-9).all()
    assert places.min() >= 0
    assert places.max() <= 12 + 1e-9
    free = np.diff(heights[order])
    if (free >= gap).all() and heights.min() >= 0 and heights.max() <= 12:
        assert places == pytest.approx(heights)


def test_labels_move_no_further_than_they_have_to() -> None:
    assert spread(np.array([3.0, 3.0, 3.0, 9.0]), 1, 0, 10) == pytest.approx([2, 3, 4, 9])
    assert spread(np.array([0.0, 0.0, 10.0]), 1, 0, 10) == pytest.approx([0, 1, 10])


def test_the_data_of_the_curves() -> None:
    plot = roc_plot()
    assert plot.columns["title"] == ["best layer"] * 60 + ["category"] * 60
    assert plot.columns["recall"][59] == 1
    at = 2 / 59  # the last of the 60 points with at most 5%
    assert f"best layer (probe): AUROC 0.800, flags {at**0.3:.1%} where no more" in plot.description


def test_a_long_roc_curve_keeps_its_ends_its_mark_and_its_shape() -> None:
    steps = np.random.default_rng(0).random(20001) < 0.5
    x = np.append(0, np.cumsum(steps)) / steps.sum()
    y = np.append(0, np.cumsum(~steps)) / (~steps).sum()
    columns = roc_curves([RocLine("long", x, y, 0.5)]).columns
    thin_x, thin_y = np.array(columns["false_alarms"]), np.array(columns["recall"])
    assert len(thin_x) <= MOST_POINTS
    assert (thin_x[0], thin_y[0], thin_x[-1], thin_y[-1]) == (0, 0, 1, 1)
    assert thin_x[thin_x <= 0.05].max() == x[x <= 0.05].max()
    assert auc(thin_x, thin_y) == pytest.approx(auc(x, y), abs=1e-3)


def test_a_long_coverage_curve_keeps_its_ends() -> None:
    plot = coverage_plot()
    probe = np.array(plot.columns["style"]) == "probe"
    assert probe.sum() == MOST_POINTS
    assert np.array(plot.columns["coverage"])[probe][[0, -1]] == pytest.approx([1 / 2000, 1])
    assert set(plot.columns["style"]) == {"probe", "baseline", "optimal"}
    assert "best layer (probe): 16.2% at 90% answered, 5.0% at 50%, AURC 0.067." in plot.description


def test_the_first_answers_do_not_squeeze_the_rest() -> None:
    x = np.arange(1, 1001) / 1000
    rate = np.where(x < 0.02, 1.0, 0.1)
    plot = risk_coverage_plot([CoverageLine("jumpy", x, rate, 0.1, "probe")], 0.1)
    assert plot.figure.axes[0].get_ylim()[1] < 0.2


def test_a_band_is_drawn_and_kept_and_said_where_there_is_one() -> None:
    x = np.linspace(0.05, 1, 20)
    at = np.linspace(0.1, 1, 10)
    banded = CoverageLine("best", x, 0.2 * x, 0.1, "probe", (at, 0.1 * at, 0.3 * at))
    plain = CoverageLine("category", x, 0.3 * x, 0.15, "baseline")
    plot = risk_coverage_plot([banded, plain], 0.2)
    assert plot.columns["rate_low"][0] is None, "the band begins at a tenth answered"
    assert plot.columns["rate_low"][1:20] == pytest.approx(0.1 * x[1:])
    assert plot.columns["rate_high"][19] == pytest.approx(0.3)
    assert plot.columns["rate_low"][20:] == [None] * 20
    assert "95% simultaneous band" in plot.caption
    assert len(plot.figure.axes[0].collections) == 1
    without = risk_coverage_plot([plain], 0.2)
    assert "band" not in without.caption
    assert not without.figure.axes[0].collections


def test_the_data_of_the_bins() -> None:
    plot = calibration_plot()
    assert list(plot.columns) == ["mean_risk", "rate", "count", "low", "high"]
    assert plot.columns["count"] == [133] * 15
    assert "error 0.020" in plot.description
    assert plot.figure.axes[0].get_xlim()[1] < 0.95, "risks end at 0.72, their bars at 0.82"


def test_the_histogram_counts_every_answer_once() -> None:
    truth, risk = np.array([True, False, False, True]), np.array([1.0, 0.0, 0.5, 0.5])
    columns = risk_histogram(risk, truth, None).columns
    assert (sum(columns["hallucinated"]), sum(columns["faithful"])) == (2, 2)
    assert (columns["hallucinated"][-1], columns["faithful"][0]) == (1, 1)
    assert columns["risk_from"][1:] == columns["risk_to"][:-1]
    assert "threshold" not in risk_histogram(risk, truth, None).description
    assert "above the threshold of 0.48" in histogram_plot().description


def test_categories_are_ranked_and_all_of_them_kept_in_the_data() -> None:
    names = [f"category {place}" for place in range(55)]
    plot = category_plot(names)
    shares = plot.columns["share"]
    assert shares == sorted(shares, reverse=True)
    assert sorted(plot.columns["name"]) == sorted(names)
    assert "The 40 largest of 55 categories" in plot.caption
    assert "category 14:" not in inline_svg(plot).split("</desc>")[1]
    assert plot.figure.get_figheight() > category_plot(names[:10]).figure.get_figheight() > 2.5
    assert "of 55" not in category_plot(names[:40]).caption


def test_the_best_detector_of_each_cost_is_named() -> None:
    plot = detector_plot([f"detector {i}" for i in range(30)])
    assert "none: best of 15 is detector 28, AUROC 0.860 (0.810–0.950)." in plot.description
    assert "a pass: best of 15 is detector 17, AUROC 0.890" in plot.description
    assert "k answers" not in plot.description
    assert plot.columns["detector"] == [f"detector {i}" for i in range(30)]
    written = " ".join(text.get_text() for text in plot.figure.texts)
    assert "detector 28" in written
    assert "detector 27" not in written


def test_a_constant_detector_is_kept_in_the_data_alone() -> None:
    nan = float("nan")
    points = [DetectorPoint("good", "answer", "a", 0.8, 0.7, 0.9),
              DetectorPoint("constant", "answer", "a", nan, nan, nan)]  # fmt: skip
    plot = detector_quality(points, ["a"], name="x", title="X")
    assert plot.columns["detector"] == ["good", "constant"]
    assert "best of 1 is good" in plot.description
    assert "nan" not in inline_svg(plot)


def test_the_share_of_all_weighs_by_answers() -> None:
    plot = category_plot(["a", "b", "c"])  # 0 of 100, 0.14 of 101, 0.28 of 102
    expected = (0.14 * 101 + 0.28 * 102) / 303
    assert plot.description.startswith(f"{expected:.1%} of 303 answers")
    assert f"all: {expected:.1%}" in inline_svg(plot)


@pytest.mark.exhaustive
@given(st.text(max_size=100), st.integers(1, 40))
def test_a_cut_text_is_no_longer_than_allowed(text: str, longest: int) -> None:
    found = cut(text, longest)
    assert len(found) <= longest
    assert found == text or found.endswith("…")


@pytest.mark.parametrize("text", ["short", "a title that goes on and on", "色" * 60, "W" * 5000])
def test_a_text_is_cut_to_its_room(text: str) -> None:
    found = fit(text, 1.0, 9)
    assert width(found, 9) <= 1.0
    assert (found == text) == (width(text[:100], 9) <= 1.0)


def test_wide_characters_are_given_their_room() -> None:
    assert width("色" * 10, 9) == pytest.approx(10 * 9 / 72)


def test_no_figure_speaks_of_alarms() -> None:
    shown = {}
    for number, plot in enumerate(examples()[:6]):
        shown[plot.name] = example_svg(number)
        said = " ".join([plot.title, plot.caption, plot.description, shown[plot.name]])
        assert not re.search("alarm|, area ", said), plot.name
    assert "AURC, less is better" in shown["risk_coverage"]
    assert "faithful answers flagged" in shown["roc_curves"]
    assert "flagged above 0.48" in shown["risk_histogram"]
