"""The page in a real browser: tables, colours, paper, small screens, hostile texts.

The fixture that opens pages fails a test on any message of the console and on any request.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from report import document_examples as examples
from report.page_reading import (
    OpenPage,
    colour,
    field,
    has_address,
    has_colour,
    ids,
    shows_count,
    shows_ids,
)
from vlmscope.plots import (
    DARK_PALETTE,
    PALETTE,
    CategoryRate,
    LayerLine,
    Reference,
    auroc_by_layer,
    category_rates,
)
from vlmscope.report.figures import figure
from vlmscope.report.render import WIDE

FULL = examples.full()
PHONE = {"viewport": {"width": 360, "height": 740}}


def overflow(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def test_tables_are_sorted_by_mouse_and_by_keyboard(open_page: OpenPage) -> None:
    page = open_page(FULL)
    rows = page.locator(".categories tbody th")
    as_given = ["relation", "count", "colour", "existence"]
    heading = page.locator(".categories th", has_text="Share").first
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "descending")
    expect(rows).to_have_text(as_given)
    page.keyboard.press("Enter")  # the heading keeps the focus
    expect(heading).to_have_attribute("aria-sort", "ascending")
    expect(rows).to_have_text(["colour", "count", "relation", "existence"])  # unknown last
    page.keyboard.press("Enter")
    expect(heading).not_to_have_attribute("aria-sort", re.compile(""))
    expect(rows).to_have_text(as_given)
    name = page.locator(".categories th", has_text="Category").first
    name.get_by_role("button").click()
    expect(name).to_have_attribute("aria-sort", "ascending")
    expect(rows).to_have_text(["colour", "count", "existence", "relation"])
    assert page.locator(".categories tfoot th").all_text_contents() == ["all"]
    expect(page.locator("[aria-sort]")).to_have_count(1)


def rgb(hex_: str) -> str:
    return f"rgb({', '.join(str(int(hex_[i : i + 2], 16)) for i in (1, 3, 5))})"


@pytest.mark.exhaustive
def test_colours_follow_the_system_and_the_reader(open_page: OpenPage) -> None:
    page = open_page(FULL, color_scheme="dark")
    has_colour(page, "body", "rgb(21, 25, 29)")
    has_colour(page, ".plot path", rgb(DARK_PALETTE["blue"]), "stroke")
    page.get_by_role("button", name="light").click()
    has_colour(page, "body", "rgb(250, 250, 248)")
    has_colour(page, ".plot path", rgb(PALETTE["blue"]), "stroke")
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="dark").click()
    has_colour(page, "body", "rgb(21, 25, 29)")
    has_address(page, "?theme=dark")
    page.reload()
    has_colour(page, "body", "rgb(21, 25, 29)")
    expect(page.get_by_role("button", name="dark")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="auto").click()
    has_colour(page, "body", "rgb(250, 250, 248)")
    has_address(page, "")


@pytest.mark.exhaustive
def test_paper_is_white_and_has_no_controls(open_page: OpenPage) -> None:
    page = open_page(FULL, "#?theme=dark&q=q1")
    shown = ids(page)
    page.emulate_media(media="print")
    has_colour(page, "body", "rgb(255, 255, 255)")
    for control in (".contents", ".filters", ".pager >> nth=0", ".reset", ".download >> nth=0"):
        expect(page.locator(control)).to_be_hidden()
    for part in (
        "h1",
        ".headline",
        "#auroc_by_layer",
        "#results .results",
        "#cards",
        ".tokens",
        "#labels",
    ):
        expect(page.locator(part)).to_be_visible()
    shows_ids(page, shown)
    has_colour(page, ".card", "avoid", "break-inside")
    assert len(colour(page, ".cards", "grid-template-columns").split()) == 3


@pytest.mark.first(1)
@pytest.mark.parametrize("name", ["full", "bare", "prefill", "empty", "hostile"])
def test_no_page_is_wider_than_a_small_screen(open_page: OpenPage, name: str) -> None:
    documents = {
        "full": FULL,
        "bare": examples.bare(examples.full(5)),
        "prefill": examples.prefill(examples.full(5)),
        "empty": examples.empty(),
        "hostile": examples.hostile(),
    }
    page = open_page(documents[name], **PHONE)
    assert overflow(page) <= 0
    if documents[name].cards:
        page.locator(".card").last.click()
        box = page.get_by_role("dialog").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        inside = "e => e.scrollWidth - e.clientWidth"
        assert page.locator(".dialog-body").evaluate(inside) <= 0


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("width", [360, 390, 640])
def test_a_small_screen_shows_figures_made_for_it(open_page: OpenPage, width: int) -> None:
    """Whole, in letters that can be read, instead of the wide ones."""
    auroc = np.linspace(0.55, 0.84, 5)
    line = LayerLine("query token", [0, 2, 5, 7, 9], auroc, auroc - 0.1, auroc + 0.1)
    known = Reference("everything known before the answer, together", 0.934)
    rates = [CategoryRate(f"existence-adversarial {i}", 43, i / 9, 0, 1) for i in range(9)]
    figures = (figure(auroc_by_layer([line], [known], 10)), figure(category_rates(rates)))
    page = open_page(replace(FULL, figures=figures), viewport={"width": width, "height": 800})
    for name in WIDE:
        expect(page.locator(f"#{name} .plot-wide")).to_be_hidden()
        svg = page.locator(f"#{name} .plot-narrow svg")
        expect(svg).to_be_visible()
        inside = """svg => {
          const whole = svg.getBoundingClientRect();
          return [...svg.querySelectorAll("text")].map(text => text.getBoundingClientRect())
            .filter(box => box.left < whole.left - 1 || box.right > whole.right + 1
                        || box.right > innerWidth).length }"""
        assert svg.evaluate(inside) == 0, "texts are cut"
        assert svg.evaluate("svg => svg.getBoundingClientRect().width") <= width
        smallest = """svg => Math.min(...[...svg.querySelectorAll("text")].map(
          text => parseFloat(getComputedStyle(text).fontSize)))
          * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width"""
        assert svg.evaluate(smallest) > 8.5
    boxes = page.locator("#figures .plot").all()
    assert all(box.evaluate("e => e.scrollWidth - e.clientWidth") <= 0 for box in boxes)


@pytest.mark.exhaustive
def test_a_large_screen_and_paper_show_the_wide_figures(open_page: OpenPage) -> None:
    page = open_page(FULL, viewport={"width": 641, "height": 800})
    expect(page.locator("#auroc_by_layer .plot-wide")).to_be_visible()
    expect(page.locator("#auroc_by_layer .plot-narrow")).to_be_hidden()
    page.set_viewport_size({"width": 390, "height": 800})
    expect(page.locator("#auroc_by_layer .plot-wide")).to_be_hidden()
    page.emulate_media(media="print")
    expect(page.locator("#auroc_by_layer .plot-wide")).to_be_visible()
    expect(page.locator("#auroc_by_layer .plot-narrow")).to_be_hidden()


@pytest.mark.exhaustive
def test_all_of_the_contents_can_be_seen_on_a_small_screen(open_page: OpenPage) -> None:
    page = open_page(FULL, **PHONE)
    links = page.locator(".contents a")
    assert links.count() >= 9
    for link in links.all():
        box = link.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
    expect(page.get_by_role("group", name="Colours")).to_be_visible()


@pytest.mark.exhaustive
def test_a_table_that_goes_on_says_so(open_page: OpenPage) -> None:
    hint = "e => getComputedStyle(e, '::after').content"
    page = open_page(FULL, viewport={"width": 390, "height": 800})
    caption = page.locator("#results-caption > span")
    expect(page.locator("#results .scroll")).to_have_class(re.compile(r"\bscrolls\b"))
    assert "Scroll sideways" in caption.evaluate(hint)
    page.set_viewport_size({"width": 1344, "height": 900})
    expect(page.locator("#results .scroll")).not_to_have_class(re.compile(r"\bscrolls\b"))
    assert "Scroll" not in caption.evaluate(hint)


@pytest.mark.exhaustive
def test_details_are_closed_on_the_screen_and_open_on_paper(open_page: OpenPage) -> None:
    page = open_page(FULL)
    detail = page.get_by_text("The numbers are of new images.")
    height = "e => e.getBoundingClientRect().height"
    assert not page.evaluate("document.querySelector('details').open")
    assert page.locator(".details").evaluate(height) < 60
    page.emulate_media(media="print")
    assert page.locator(".details").evaluate(height) > 60
    assert detail.evaluate("e => e.checkVisibility({contentVisibilityAuto: true})")
    page.emulate_media(media="screen")
    page.locator(".details summary").click()
    expect(detail).to_be_visible()


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("width", [1180, 1344])
def test_tables_show_all_their_columns(open_page: OpenPage, width: int) -> None:
    """At 1344 the contents stand beside the page, which is narrower then than at 1180."""
    page = open_page(FULL, viewport={"width": width, "height": 900})
    boxes = page.locator("section > .scroll")
    assert boxes.count() >= 2
    for box in boxes.all():
        assert box.evaluate("e => e.scrollWidth - e.clientWidth") <= 0
    for name in ("results", "categories"):
        assert (
            page.locator(f"#{name} .scroll:not(.scroll-tall)").evaluate(
                "e => e.offsetHeight - e.clientHeight || getComputedStyle(e).overflowY"
            )
            == "hidden"
        ), "a bar for a pixel of a drawing"


def test_hostile_texts_do_nothing_but_stand_there(open_page: OpenPage) -> None:
    document = examples.hostile()
    page = open_page(document)
    elements = page.evaluate(
        "document.querySelectorAll('script, iframe, object, img[onerror]').length"
    )
    assert elements == 2  # the data and the script
    questions = page.locator(".card-open").all_text_contents()
    assert questions[:3] == [card.question for card in document.cards[:3]]
    page.locator(".card").first.click()
    for card in document.cards:
        heading = page.get_by_role("dialog").get_by_role("heading", level=2)
        if "\ud800" not in card.question:
            assert heading.text_content() == card.question
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    field(page, "category").select_option(examples.HOSTILE[0])
    shows_count(page, "1 of 12")
    page.reload()
    shows_count(page, "1 of 12")
    assert page.locator("img[src]").count() == 0  # no image was an image
    assert page.evaluate("window.hacked") is None


@pytest.mark.exhaustive
def test_without_scripts_all_but_the_gallery_can_be_read(open_page: OpenPage) -> None:
    page = open_page(FULL, java_script_enabled=False)
    expect(page.locator("noscript p")).to_be_visible()
    expect(page.locator(".filters")).to_be_hidden()
    expect(page.get_by_role("group", name="Colours")).to_be_hidden()
    expect(page.locator("#results .results")).to_contain_text("best baseline")


@pytest.mark.exhaustive
def test_the_data_of_a_figure_can_be_saved(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(FULL)
    with page.expect_download() as saving:
        page.locator("#roc_curves .download").click()
    assert saving.value.suggested_filename == "roc_curves.csv"
    saving.value.save_as(tmp_path / "saved.csv")
    assert (tmp_path / "saved.csv").read_text() == "x,y\n1,0.5\n"


SHORTEN = """() => {
  const [gallery, tokens] = ["gallery", "tokens"].map((id) => document.getElementById(id));
  const box = gallery.getBoundingClientRect();
  const between = tokens.getBoundingClientRect().top - box.bottom;
  const height = 0.22 * innerHeight - box.top;
  gallery.style = `overflow: hidden; height: ${height}px; margin-bottom: ${-between}px`;
}"""
"""Makes the gallery as short as before its cards are there: the next section is where one reads."""


@pytest.mark.exhaustive
def test_the_contents_say_where_the_reader_is(open_page: OpenPage) -> None:
    page = open_page(FULL)
    page.get_by_role("link", name="Labels").click()
    current = page.locator(".contents a[aria-current]")
    expect(page.locator("#labels")).to_be_in_viewport()
    page.get_by_role("link", name="Gallery").click()
    expect(current).to_have_text("Gallery")
    page.evaluate(SHORTEN)
    page.wait_for_timeout(100)
    page.evaluate("() => { document.querySelector('#gallery').style = '' }")
    page.wait_for_timeout(100)
    expect(current).to_have_text("Gallery")
    page.keyboard.press("Shift+Tab")
    page.locator(".skip-link").focus()
    expect(page.locator(".skip-link")).to_be_in_viewport()
