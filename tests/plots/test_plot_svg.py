"""A plot in a page: whole, deterministic, harmless, and in the page's colours."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pytest
from plot_examples import (
    EXAMPLES,
    HOSTILE,
    HOSTILE_EXAMPLES,
    category_plot,
    coverage_plot,
    every_plot,
    example_svg,
    examples,
    layer_line,
    layers_plot,
)

from vlmscope.plots import PALETTE, Plot, auroc_by_layer, inline_svg, plot_files
from vlmscope.plots.canvas import clean, width

SVG = "{http://www.w3.org/2000/svg}"
COLOUR = re.compile(r"var\(--plot-([a-z]+), (#[0-9a-f]{6})\)")
STYLED = [f"{SVG}{tag}" for tag in ("path", "use", "text")]

FIRST = {*range(8), 11, *range(EXAMPLES - 8, EXAMPLES, 3)}
"""One of every plot, with hostile names and with the least data: enough for ``make test``."""

each_plot = pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, marks=() if number in FIRST else pytest.mark.exhaustive)
        for number in range(EXAMPLES)
    ],
)


def hostile_svgs() -> list[str]:
    return [example_svg(number) for number in HOSTILE_EXAMPLES]


def parsed(written: str) -> ET.Element:
    return ET.fromstring(written)  # noqa: S314


def style_of(element: ET.Element) -> dict[str, str]:
    parts = element.get("style", "").split(";")
    return dict(part.split(":", 1) for part in parts if part)


def texts(written: str) -> list[str]:
    return [element.text or "" for element in parsed(written).iter(f"{SVG}text")]


@each_plot
def test_it_is_an_element_with_a_name_and_a_description(number: int) -> None:
    plot, written = examples()[number], example_svg(number)
    assert written.startswith('<svg xmlns="http://www.w3.org/2000/svg" ')
    root = parsed(written)
    assert (root.get("role"), root.get("width"), root.get("height")) == ("img", "100%", None)
    named = {element.get("id"): element for element in root if element.get("id")}
    title, description = (named[name] for name in root.get("aria-labelledby", "").split())
    assert (title.tag, title.text) == (f"{SVG}title", plot.title)
    assert (description.tag, description.text) == (f"{SVG}desc", clean(plot.description))
    left, top, wide, high = map(float, root.get("viewBox", "").split())
    assert (left, top) == (0, 0)
    assert wide == pytest.approx(plot.figure.get_figwidth() * 72)
    assert high == pytest.approx(plot.figure.get_figheight() * 72, abs=0.01)


@each_plot
def test_it_brings_nothing_that_reaches_the_page(number: int) -> None:
    known = {"svg", "title", "desc", "defs", "clipPath", "rect", "path", "use", "g", "text"}
    for element in parsed(example_svg(number)).iter():
        assert element.tag.removeprefix(SVG) in known
        assert not any(name.startswith("on") for name in element.attrib)
        assert element.get("href", "#").startswith("#")
        assert "font-family" not in element.get("style", ""), "text is in the page's font"


@each_plot
def test_every_colour_is_the_page_s_by_name(number: int) -> None:
    written = example_svg(number)
    for name, colour in COLOUR.findall(written):
        assert PALETTE[name] == colour
    root = parsed(written)
    clips = {path for clip in root.iter(f"{SVG}clipPath") for path in clip}
    shared = {path for defs in root.iter(f"{SVG}defs") for path in defs}
    for element in root.iter():
        style = style_of(element)
        for name in ("fill", "stroke"):
            value = style.get(name, "none")
            assert value == "none" or COLOUR.fullmatch(value), value
            assert name not in element.attrib
        # What has no fill of its own would be black on any page.
        if element.tag in STYLED and element not in clips | shared:
            assert "fill" in style


def test_ids_are_unique_in_a_page_and_refer_within_their_plot() -> None:
    seen: set[str] = set()
    for number, plot in enumerate(every_plot()):
        written = example_svg(number)
        ids = re.findall(r' id="([^"]+)"', written)
        assert len(ids) == len(set(ids))
        assert not seen & set(ids)
        assert all(name.startswith(f"{plot.name}-") for name in ids)
        used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', written)
        assert {a or b for a, b in used} <= set(ids)
        seen |= set(ids)


def test_the_same_data_give_the_same_bytes() -> None:
    for number, other in enumerate(every_plot()[:4]):
        if other.name == "auroc_by_layer":
            plot_files(other)  # draws pixels, which takes a third of a second
        assert inline_svg(other) == example_svg(number)
    assert inline_svg(examples()[0]) == example_svg(0)


def test_the_user_s_settings_change_nothing_and_stay() -> None:
    ours = example_svg(0)
    theirs = {"font.size": 30.0, "svg.fonttype": "path", "axes.grid": True, "lines.linewidth": 9.0}
    with mpl.rc_context(theirs):
        before = dict(mpl.rcParams)
        assert inline_svg(layers_plot()) == ours
        assert dict(mpl.rcParams) == before


def test_names_are_shown_as_they_are() -> None:
    *lines, categories = map(texts, hostile_svgs())
    for shown in lines:
        for name in HOSTILE[:5]:
            assert any(clean(name)[:12] in text for text in shown)
    for name in filter(None, HOSTILE):
        assert clean(name) in categories


def test_a_name_cannot_leave_its_text() -> None:
    for written in hostile_svgs():
        assert "<script" not in written
        assert written.count("</svg>") == 1
        written.encode()
        assert not re.search(r"[\x00-\x08\x0b-\x1f]", written)


def test_a_long_name_is_cut_in_the_plot_and_whole_in_the_data() -> None:
    name = "relations between two objects of the same colour and size"
    plot = category_plot([name, "counting"])
    assert f"{name[:39].rstrip()}…" in texts(inline_svg(plot))
    assert name in plot.columns["name"]


@each_plot
def test_texts_have_a_readable_size_and_stay_inside(number: int) -> None:
    root = parsed(example_svg(number))
    _, _, wide, high = map(float, root.get("viewBox", "").split())
    pixels = float(style_of(root)["max-width"].removesuffix("px")) / wide
    for element in root.iter(f"{SVG}text"):
        style = style_of(element)
        size = float(style["font-size"].removesuffix("px"))
        assert 11 <= size * pixels <= 13
        assert size < float(element.get("y", "")) < high
        anchor = {"start": 0, "middle": 0.5, "end": 1}[style["text-anchor"]]
        long = width(element.text or "", size) * 72
        start = float(element.get("x", "")) - anchor * long
        assert start >= -0.5
        assert start + long <= wide + 0.5


@pytest.mark.first(1)
@pytest.mark.parametrize(
    "draw", [lambda: layers_plot(HOSTILE * 3), lambda: category_plot(HOSTILE * 4)]
)
def test_rows_of_text_do_not_touch(draw: Callable[[], Plot]) -> None:
    plot = draw()
    columns: dict[str, list[float]] = {}
    for element in parsed(inline_svg(plot)).iter(f"{SVG}text"):
        columns.setdefault(element.get("x", ""), []).append(float(element.get("y", "")))
    longest = sorted(max(columns.values(), key=len))
    assert len(longest) >= 28
    assert min(b - a for a, b in pairwise(longest)) > 12


def test_plots_of_usual_sizes_are_small() -> None:
    lines = [layer_line(f"representation {place}", range(40)) for place in range(6)]
    names = [f"category {place}" for place in range(40)]
    for plot in [auroc_by_layer(lines, [], 40), coverage_plot(), category_plot(names)]:
        assert len(inline_svg(plot)) < 60_000
