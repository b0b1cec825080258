"""Attention over images: in the document, on the cards, and without scripts."""

from __future__ import annotations

import base64
import io
import re
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from material import make_image
from report import document_examples as examples
from report.page_reading import OpenPage
from store_support import make_capture
from vlmscope import extract
from vlmscope.image_maps import image_maps
from vlmscope.model import VisionLanguageModel
from vlmscope.report import ReportSpec
from vlmscope.report.attention_maps import COLOUR, MOST_CELLS, card_maps
from vlmscope.report.build import gather
from vlmscope.report.document import Card, Document
from vlmscope.report.render import render
from vlmscope.report.write import with_images
from vlmscope.schema import Capture, CaptureSpec, Sample
from vlmscope.signals import ATTENTION_MAP, BOXES, RecordedSignals
from vlmscope.store import open_run

SIGNALS = RecordedSignals(
    ("entropy", ATTENTION_MAP), {f"{ATTENTION_MAP}/layer_{k}": 1 for k in (2, 5)}
)
FULL = examples.full(4)
RED, GREEN = examples.IMAGES["red.png"], examples.IMAGES["green.png"]


def mapped(index: int, values: Sequence[Sequence[float]], boxes: Sequence[object]) -> Capture:
    """Return a row with these attentions to its tokens, prompt and answer, at both layers."""
    array = np.array(values, np.float32)
    of = np.array(boxes, np.float32)
    arrays = {"attention_map/layer_2": array, "attention_map/layer_5": 2 * array, BOXES: of}
    count = int(of[:, 0].max()) + 1
    joined = "+".join(f"hash{i}" for i in range(count))
    return replace(make_capture(index), signals=arrays, image_sha256=joined)


HALVES = [[0, 0, 0, 1, 0.5], [0, 0, 0.5, 1, 1]]


def test_levels_are_shares_of_the_largest_cell() -> None:
    row = mapped(0, [[0.1, 0.02], [0.2, 0.0]], HALVES)
    found, summary = card_maps([row], SIGNALS, {"hash0"})
    [grid] = found[row.sample.id]
    assert (grid.rows, grid.columns, grid.image) == (1, 2, 0)
    np.testing.assert_allclose(grid.peaks, [[0.2, 0.4], [0.02, 0.04]], rtol=1e-6)
    np.testing.assert_allclose(grid.shares, [[0.3, 0.6], [0.02, 0.04]], rtol=1e-6)
    assert list(grid.levels) == [128, 255, 128, 255, 255, 0, 255, 0]
    assert (summary.layers, summary.of) == ((2, 5), ("last prompt token", "answer"))
    assert not summary.note


def test_an_answer_without_a_token_has_no_map() -> None:
    row = mapped(0, [[0.1, np.nan], [0.3, np.nan]], HALVES)
    [grid] = card_maps([row], SIGNALS, ())[0][row.sample.id]
    assert grid.peaks[1] == grid.shares[1] == (None, None)
    assert grid.image is None


def test_maps_of_several_images_know_which_are_shown() -> None:
    row = mapped(0, [[0.1, 0.1]] * 3, [[i, 0, 0, 1, 1] for i in range(3)])
    grids = card_maps([row], SIGNALS, {"hash0", "hash2"})[0][row.sample.id]
    assert [grid.image for grid in grids] == [0, None, 1]


def test_a_fine_grid_is_drawn_in_fewer_cells() -> None:
    many = 4 * MOST_CELLS
    boxes = [[0, 0, i / many, 1, (i + 1) / many] for i in range(many)]
    row = mapped(0, [[0.5 / many, 0.1 / many]] * many, boxes)
    [grid] = card_maps([row], SIGNALS, ())[0][row.sample.id]
    assert (grid.rows, grid.columns) == (1, MOST_CELLS)
    assert grid.shares[0][0] == pytest.approx(0.5)
    assert grid.peaks[0][0] == pytest.approx(0.5 / MOST_CELLS)


def test_the_maps_of_a_page_are_bounded_and_it_says_so() -> None:
    rows = [mapped(i, [[0.1, 0.1], [0.2, 0.2]], HALVES) for i in range(4)]
    found, summary = card_maps(rows, SIGNALS, (), limit=2 * 8 + 7)
    assert list(found) == [row.sample.id for row in rows[:2]]
    assert "Only the first 2 cards" in summary.note
    found, summary = card_maps(rows, SIGNALS, (), limit=7)
    assert found == {}
    assert "maps of one question are too large" in summary.note
    found, summary = card_maps(rows, SIGNALS, (), limit=4 * 8)
    assert len(found) == 4
    assert not summary.note


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ([[-1] * 5, [-1] * 5], "it is not known which part of the image"),
        ([[0, 0, 0, 1, 0.5], [0, 0, 0.5, 1, 0.5]], "not the parts of images"),
        ([[0, 0, 0, 1, 0.5], [2e9, 0, 0.5, 1, 1]], "more images than it has"),
        ([[0, 0, 0, 1, 0.5], [0.5, 0, 0.5, 1, 1]], "not the parts of images"),
        ([[0, 0, 0, 1, 0.5], [0, np.nan, 0.5, 1, 1]], "not the parts of images"),
        ([[0, 0, 0], [0, 0, 0.5]], "not the parts of images"),
        ([[0, 0, 0, 1, 0.5, 1, 1]] * 2, "not the parts of images"),
        ([[], []], "not the parts of images"),
    ],
)
def test_maps_that_cannot_be_laid_out_are_left_out(boxes: list[list[float]], reason: str) -> None:
    row = replace(mapped(0, [[0.1, 0.1]] * 2, HALVES))
    row = replace(row, signals={**row.signals, BOXES: np.array(boxes, np.float32)})
    found, summary = card_maps([row], SIGNALS, ())
    assert found == {}
    assert summary.layers == ()
    assert reason in summary.note


def test_maps_of_more_images_than_the_row_has_are_left_out() -> None:
    row = replace(mapped(0, [[0.1, 0.1]] * 2, [[i, 0, 0, 1, 1] for i in (0, 1)]), image_sha256="a")
    found, summary = card_maps([row], SIGNALS, ())
    assert found == {}
    assert "more images than it has" in summary.note


@pytest.mark.parametrize("value", [-0.1, 1.5, 3e38, np.inf])
def test_maps_that_are_not_shares_of_attention_are_left_out(value: float) -> None:
    found, summary = card_maps([mapped(0, [[0.1, 0.1], [0.2, value / 2]], HALVES)], SIGNALS, ())
    assert found == {}
    assert "not shares of attention" in summary.note


def test_maps_of_a_question_without_those_of_the_answer_beside_others_are_left_out() -> None:
    rows = [mapped(0, [[0.1], [0.2]], HALVES), mapped(1, [[0.1, 0.1], [0.2, 0.2]], HALVES)]
    found, summary = card_maps(rows, SIGNALS, ())
    assert found == {}
    assert "other tokens than the maps of other questions" in summary.note


def test_many_images_in_the_boxes_ask_for_no_memory() -> None:
    """The number of images is compared with that of the row before there is a map of each."""
    boxes = [[i, 0, 0, 1 / MOST_CELLS, 1 / MOST_CELLS] for i in range(2000)]
    row = replace(mapped(0, [[0.1, 0.1]] * 2000, boxes), image_sha256="a")
    tracemalloc.start()
    try:
        found, summary = card_maps([row], SIGNALS, ())
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()
    assert found == {}
    assert "more images than it has" in summary.note


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (2, 0), None])
def test_maps_of_other_tokens_than_the_boxes_are_left_out(shape: tuple[int, int] | None) -> None:
    row = mapped(0, [[0.1, 0.1]] * 2, HALVES)
    arrays = {name: each for name, each in row.signals.items() if not name.endswith("layer_5")}
    if shape is not None:
        arrays["attention_map/layer_5"] = np.full(shape, 0.1, np.float32)
    found, summary = card_maps([replace(row, signals=arrays)], SIGNALS, ())
    assert found == {}
    assert "different tokens" in summary.note


def test_a_tiny_part_asks_for_no_memory() -> None:
    boxes = [[0, 0, 0, 1, 1], [0, 0, 0, 1e-38, 1e-38]]
    row = mapped(0, [[0.1, 0.1]] * 2, boxes)
    [grid] = card_maps([row], SIGNALS, ())[0][row.sample.id]
    assert (grid.rows, grid.columns) == (MOST_CELLS, MOST_CELLS)


def test_many_tokens_take_little_memory_and_keep_their_sum() -> None:
    count = 20_000
    boxes = np.tile(np.array([[0, 0, 0, 1 / MOST_CELLS, 1]], np.float32), (count, 1))
    values = np.random.default_rng(0).random(count)
    tracemalloc.start()
    try:
        [found] = image_maps(values, boxes, MOST_CELLS)
        assert tracemalloc.get_traced_memory()[1] < 12e6
    finally:
        tracemalloc.stop()
    assert found.shape == (MOST_CELLS, 1)
    assert found[0, 0] == pytest.approx(values.sum())
    assert not found[1:].any()


@pytest.fixture(scope="module")
def document(vlm: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Document:
    """Of a run of four rows: one image, two images, none, and one whose file is gone."""
    folder = tmp_path_factory.mktemp("maps")
    names = [str(folder / f"{i}.png") for i in range(3)]
    for i, name in enumerate(names):
        make_image("one", i).resize((300, 150 + 50 * i)).save(name)
    rows = [
        Sample("one", names[0], "What is it?"),
        Sample("two", (names[1], names[0]), "Which one?"),
        Sample("none", None, "Why?"),
        Sample("gone", names[2], "What is it?"),
    ]
    spec = CaptureSpec(layers="all", max_new_tokens=3, signals=ATTENTION_MAP)
    table = folder / "t.jsonl"
    lines = [
        {"id": row.id, "image": [str(i) for i in row.images], "question": row.question}
        for row in rows
    ]
    table.write_text("".join(f"{line}\n".replace("'", '"') for line in lines))
    run = extract(table, vlm, folder / "run", spec=spec, text_only=True, allow_absolute_paths=True)
    Path(names[2]).unlink()
    read = open_run(run.path)
    found = with_images(gather(read, ReportSpec(allow_absolute_paths=True), lambda _: None))
    for id_ in ("one", "two"):
        check(next(card for card in found.cards if card.id == id_), read[id_], found)
    return found


def check(card: Card, row: Capture, document: Document) -> None:
    """Assert that a card has what ``attention_map`` returns."""
    for at, layer in enumerate(document.attention.layers):
        for column, of in enumerate(("prompt", "answer")):
            maps = row.attention_map(layer, of)  # type: ignore[arg-type]
            for each, grid in zip(
                maps if isinstance(maps, list) else [maps], card.attention, strict=True
            ):
                layers = len(document.attention.layers)
                levels = np.frombuffer(grid.levels, np.uint8).reshape(2, layers, *each.shape)
                np.testing.assert_allclose(
                    levels[column, at] / 255 * grid.peaks[column][at], each,
                    atol=each.max() / 500,
                )  # fmt: skip


@pytest.mark.exhaustive
def test_a_run_s_maps_are_those_of_its_rows(document: Document) -> None:
    cards = {card.id: card for card in document.cards}
    assert [len(cards[id_].attention) for id_ in ("one", "two", "none", "gone")] == [1, 2, 0, 1]
    assert [grid.image for grid in cards["two"].attention] == [0, 1]
    assert cards["gone"].attention[0].image is None
    assert document.attention.view is not None
    assert document.attention.view.id == "one"


@pytest.mark.exhaustive
def test_the_view_of_a_run_has_its_first_and_last_layer(document: Document) -> None:
    assert document.attention.view is not None
    maps, layers = document.attention.view.maps, document.attention.layers
    ends = [layers[0], layers[-1]]
    assert [each.layer for each in maps] == 2 * ends
    assert [each.of for each in maps] == ["last prompt token"] * 2 + ["answer"] * 2
    [grid] = document.cards[0].attention
    overlay = Image.open(io.BytesIO(base64.b64decode(maps[0].overlay.partition(",")[2])))
    pixels = np.array(overlay)
    assert pixels.shape == (grid.rows, grid.columns, 4)
    assert (pixels[..., :3] == COLOUR).all()
    assert pixels[..., 3].tobytes() == grid.levels[: grid.rows * grid.columns]


def test_a_page_without_maps_has_nothing_of_them() -> None:
    page = render(examples.prefill(examples.full(3)))
    assert 'id="attention"' not in page
    assert 'data-slot="map-part"' not in page
    assert '"attention":' not in page.partition('id="report-data">')[2].partition("<script>")[0]


def expect_levels(page: Page, levels: list[int], number: int = 0) -> None:
    """Wait until the middles of the thirds of a map that is drawn have these levels."""
    script = """([number, levels]) => {
      const shown = document.querySelectorAll(".dialog canvas")[number];
      const copy = new OffscreenCanvas(shown.width, 1).getContext("2d");
      copy.drawImage(shown, 0, -(shown.height >> 1));
      const { data } = copy.getImageData(0, 0, shown.width, 1);
      const at = (i) => 4 * Math.floor(((2 * i + 1) * shown.width) / 6) + 3;
      return levels.every((level, i) => data[at(i)] === level);
    }"""
    page.wait_for_function(script, arg=[number, levels])


@pytest.mark.exhaustive
def test_a_slider_and_a_switch_choose_the_map(open_page: OpenPage) -> None:
    page = open_page(FULL, "#?card=q2")
    dialog = page.get_by_role("dialog")
    slider, note = dialog.get_by_label("Layer"), dialog.locator("[data-slot=map-note]")
    expect(slider).to_have_attribute("aria-valuetext", "layer 20")
    expect(note).to_have_text("On the image 0.600 of the attention, on its brightest cell 0.5000.")
    expect_levels(page, [0, 51, 255])
    slider.focus()
    page.keyboard.press("ArrowLeft")  # of the slider, not of the dialog
    expect(dialog).to_contain_text("3 of 4")
    expect(dialog.locator("[data-slot=map-number]")).to_have_text("0")
    expect(note).to_contain_text("0.2500")
    expect_levels(page, [255, 51, 0])
    dialog.get_by_label("answer", exact=True).check()
    expect(note).to_contain_text("0.1250")
    expect_levels(page, [0, 255, 153])
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(note).to_have_text("The answer has no token.")
    expect(dialog.locator("canvas")).to_be_hidden()
    dialog.get_by_label("none").check()
    expect(note).to_be_empty()
    expect(dialog.locator("img")).to_have_css("filter", "none")
    dialog.get_by_label("last prompt token", exact=True).check()
    expect(dialog.locator("img")).to_have_css("filter", re.compile("grayscale"))


@pytest.mark.exhaustive
def test_the_choice_is_kept_from_card_to_card(open_page: OpenPage) -> None:
    cards = (*FULL.cards[:2], replace(FULL.cards[2], attention=()))
    page = open_page(replace(FULL, cards=cards), "#?card=q0")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("answer", exact=True).check()
    dialog.get_by_label("Layer").fill("0")
    dialog.get_by_text("next").click()
    expect(dialog.locator("[data-slot=map-note]")).to_contain_text("0.1250")
    expect(dialog.locator("canvas")).to_have_count(1)
    dialog.get_by_text("next").click()
    expect(dialog.locator("[data-slot=map-part]")).to_be_hidden()
    expect(dialog.locator("canvas")).to_have_count(0)


@pytest.mark.first(1)
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_a_map_lies_exactly_over_its_image(open_page: OpenPage, size: tuple[int, int]) -> None:
    """Also of an image that is fitted into its box, and of one that is not available."""
    tall = examples.make_image((9, 90, 200), (20, 200))
    grids = (examples.GRID, replace(examples.GRID, image=1), replace(examples.GRID, image=None))
    card = examples.card(
        0, images=("tall", "red.png"), num_images=3, image_id="a, b, c", attention=grids
    )
    found = replace(FULL, cards=(card,), images={"tall": tall, "red.png": RED})
    page = open_page(found, "#?card=q0", viewport={"width": size[0], "height": size[1]})
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("canvas")).to_have_count(3)
    expect(dialog.locator("[data-slot=map-note]")).to_contain_text("On image 3 0.600")
    for number in range(3):
        expect_levels(page, [0, 51, 255], number)
    for number in (0, 1):
        own = dialog.locator(".map-image").nth(number)
        over, under = (own.locator(name).bounding_box() for name in ("canvas", "img"))
        assert over == under
        ratios = "e => (e.naturalWidth || e.width) / (e.naturalHeight || e.height)"
        over, under = (own.locator(name).evaluate(ratios) for name in ("canvas", "img"))
        assert over == pytest.approx(under)
        fitted = [own.locator(n).evaluate("e => getComputedStyle(e).objectFit")
                  for n in ("canvas", "img")]  # fmt: skip
        assert fitted == ["contain", "contain"]
    alone = dialog.locator(".map-image").nth(2).locator("canvas").bounding_box()
    assert alone is not None
    assert alone["width"] > 40
    assert dialog.locator(".dialog-body").evaluate("e => e.scrollWidth - e.clientWidth") <= 0


@pytest.mark.exhaustive
def test_a_page_without_images_has_maps_alone(open_page: OpenPage) -> None:
    cards = tuple(
        replace(card, images=(), attention=(replace(examples.GRID, image=None),))
        for card in FULL.cards[:2]
    )
    page = open_page(replace(FULL, cards=cards, images={}), "#?card=q0")
    expect(page.get_by_role("dialog").locator("canvas")).to_be_visible()
    assert page.locator("#attention img:not(.overlay)").count() == 0
    expect(page.locator("#attention .overlay").first).to_be_visible()


@pytest.mark.exhaustive
def test_without_scripts_and_on_paper_two_layers_are_shown(open_page: OpenPage) -> None:
    page = open_page(FULL, java_script_enabled=False)
    section = page.locator("#attention")
    expect(section).to_contain_text("answer, layer 20: on the image 0.200")
    expect(section.locator("img[src]")).to_have_count(4)
    page.emulate_media(media="print")
    boxes = [section.locator(".map-image").first.locator(n).bounding_box() for n in
             ("img:not(.overlay)", ".overlay")]  # fmt: skip
    assert boxes[0] is not None
    assert boxes[0] == boxes[1]
    page.close()


@pytest.mark.exhaustive
def test_one_layer_needs_no_slider(open_page: OpenPage) -> None:
    one = replace(examples.GRID, peaks=((0.25,),), shares=((0.3,),), levels=bytes([255, 51, 0]))
    summary = replace(FULL.attention, layers=(7,), of=("last prompt token",))
    cards = (examples.card(0, attention=(one,)),)
    page = open_page(replace(FULL, cards=cards, attention=summary), "#?card=q0")
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("[type=range]")).to_be_hidden()
    expect(dialog.locator("[data-slot=map-number]")).to_have_text("7")
    expect(dialog.get_by_label("answer", exact=True)).to_have_count(0)
    expect_levels(page, [255, 51, 0])
