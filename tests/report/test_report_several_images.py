"""Questions about several images and about none, in the gallery of a real browser."""

from __future__ import annotations

from dataclasses import replace

import pytest
from playwright.sync_api import expect

from report import document_examples as examples
from report.page_reading import OpenPage
from vlmscope.report.document import Document

RED, GREEN = examples.IMAGES["red.png"], examples.IMAGES["green.png"]


def document() -> Document:
    """Cards of two images, of two with one at hand, of none, and of one that is not at hand."""
    both = ("red.png", "green.png")
    cards = (
        examples.card(0, images=both, num_images=2, image_id="red.png, green.png"),
        examples.card(1, images=both[:1], num_images=2, image_id="red.png, gone.png"),
        examples.card(2, images=(), num_images=0, image_id=""),
        examples.card(3, images=(), num_images=1, image_id="gone.png"),
    )
    return replace(examples.full(), cards=cards, rows=len(cards))


@pytest.mark.exhaustive
def test_all_images_of_a_question_stand_side_by_side(open_page: OpenPage) -> None:
    page = open_page(document(), viewport={"width": 1280, "height": 900})
    images = page.locator(".card").nth(0).locator("img")
    assert [image.get_attribute("src") for image in images.all()] == [RED, GREEN]
    expect(images.nth(1)).to_have_attribute("alt", "image 2 of 2, red.png, green.png")
    left, right = (image.bounding_box() for image in images.all())
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]
    assert left["width"] == right["width"] > 80


@pytest.mark.exhaustive
def test_what_is_not_shown_is_said(open_page: OpenPage) -> None:
    page = open_page(document())
    said = page.locator(".card .no-image")
    expect(said.nth(0)).to_be_hidden()
    expect(said.nth(1)).to_have_text("1 of 2 images available")
    expect(said.nth(2)).to_have_text("no image")
    expect(said.nth(3)).to_have_text("image not available")
    assert page.locator(".card").nth(1).locator("img").count() == 1
    assert page.locator(".card").nth(2).locator("img").count() == 0


@pytest.mark.exhaustive
def test_the_dialog_shows_them_too(open_page: OpenPage) -> None:
    page = open_page(document(), "#?card=q0")
    dialog = page.get_by_role("dialog")
    assert [i.get_attribute("src") for i in dialog.locator("img").all()] == [RED, GREEN]
    expect(dialog.locator("[data-slot=facts]")).to_contain_text("red.png, green.png")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(dialog.locator("img")).to_have_count(0)
    expect(dialog.locator(".no-image")).to_have_text("no image")
