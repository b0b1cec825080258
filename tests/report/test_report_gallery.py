"""The gallery in a real browser: filters, orders, pages, the dialog, and views that are linked.

The fixture that opens pages fails a test on any message of the console and on any request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from report import document_examples as examples
from report.page_reading import (
    OpenPage,
    colour,
    field,
    has_address,
    ids,
    outcome,
    shows_count,
    shows_ids,
)
from vlmscope.report.document import Card

FULL = examples.full()


def first(cards: Iterable[Card]) -> list[str]:
    """Return the ids of what would be the first page."""
    return [card.id for card in cards][:48]


@pytest.mark.exhaustive
def test_the_gallery_opens_in_the_order_of_the_run(open_page: OpenPage) -> None:
    page = open_page(FULL)
    shows_count(page, "120 of 120")
    shows_ids(page, first(FULL.cards))
    third = page.locator(".card").nth(2)
    expect(third).to_contain_text("hallucinated")
    expect(third.locator(".mark use")).to_have_attribute("href", "#mark-hallucinated")
    expect(third.locator(".risk-number")).to_have_text(f"{FULL.cards[2].risk:.2f}")
    expect(third.locator("img")).to_have_attribute("src", examples.IMAGES["green.png"])
    expect(page.locator(".card").nth(3).locator(".risk")).to_be_hidden()  # unscorable


@pytest.mark.exhaustive
def test_search_reads_question_answer_truth_and_id(open_page: OpenPage) -> None:
    cards = (*FULL.cards, examples.card(500, truth="Certainly not", question="?", answer="!"))
    searches: dict[str, Callable[[Card], bool]] = {
        "KETTLE": lambda card: "kettle" in card.question,
        "tree  there": lambda card: "tree" in card.question,
        "q17": lambda card: card.id == "q17",
        "yes, there": lambda card: card.id != "q500",
        "image 44?": lambda card: card.id == "q44",
        "certainly": lambda card: card.id == "q500",
    }
    page = open_page(replace(FULL, cards=cards, rows=len(cards)))
    for words, fits in searches.items():
        field(page, "q").fill(words)
        expected = [card for card in cards if fits(card)]
        shows_count(page, f"{len(expected)} of 121")
        shows_ids(page, first(expected))


@pytest.mark.exhaustive
def test_filters_work_alone_and_together(open_page: OpenPage) -> None:
    page = open_page(FULL)
    field(page, "min").fill("0.4")
    risky = [card for card in FULL.cards if card.risk is not None and card.risk >= 0.4]
    shows_ids(page, first(risky))
    field(page, "max").fill("0.8")
    between = [card for card in risky if card.risk is not None and card.risk <= 0.8]
    shows_ids(page, first(between))
    outcome(page, "faithful").uncheck()
    hallucinated = [card for card in between if card.outcome == "hallucinated"]
    shows_ids(page, first(hallucinated))
    outcome(page, "faithful").check()
    field(page, "category").select_option("count")
    counts = [card for card in between if card.category == "count"]
    shows_ids(page, first(counts))
    field(page, "q").fill("cup")
    shows_ids(page, [card.id for card in counts if "cup" in card.question])
    has_address(page, "?q=cup&category=count&min=0.4&max=0.8")
    page.locator(".reset").click()
    shows_count(page, "120 of 120")
    has_address(page, "")


def surprise(card: Card) -> float:
    if card.risk is None:
        return -1
    return 1 - card.risk if card.outcome == "hallucinated" else card.risk


@pytest.mark.exhaustive
def test_cards_are_sorted(open_page: OpenPage) -> None:
    cards = tuple(reversed(FULL.cards))
    orders: dict[str, Callable[[Card], float | str]] = {
        "surprising": lambda card: -surprise(card),
        "riskiest": lambda card: 1 if card.risk is None else -card.risk,
        "safest": lambda card: 2 if card.risk is None else card.risk,
        "id": lambda card: int(card.id[1:]),
        "category": lambda card: str(card.category),
        "run": lambda _: 0,
    }
    page = open_page(replace(FULL, cards=cards))
    for order, key in orders.items():
        field(page, "sort").select_option(order)
        shows_ids(page, first(sorted(cards, key=key)))  # type: ignore[arg-type]


@pytest.mark.exhaustive
def test_pages_are_turned(open_page: OpenPage) -> None:
    page = open_page(FULL)
    above, below = page.locator(".pager").all()
    expect(above.get_by_text("previous")).to_have_attribute("aria-disabled", "true")
    above.get_by_text("next").click()
    shows_ids(page, [card.id for card in FULL.cards[48:96]])
    below.get_by_text("next").click()
    shows_ids(page, [card.id for card in FULL.cards[96:]])
    expect(below).to_contain_text("page 3 of 3")
    expect(page.locator("#gallery-count")).to_be_focused()  # the reader is taken to the top
    above.get_by_label("First page").click()
    above.get_by_label("Last page").click()
    has_address(page, "?page=3")
    field(page, "q").fill("q1")  # another choice starts on its first page
    expect(page.locator(".card-id").first).to_have_text("q1")


@pytest.mark.exhaustive
def test_two_thousand_cards_keep_the_page_small(open_page: OpenPage) -> None:
    page = open_page(examples.full(2000))
    shows_count(page, "2,000 of 2,000")
    expect(page.locator(".card-id")).to_have_count(48)
    field(page, "q").fill("q1999")
    shows_ids(page, ["q1999"])


@pytest.mark.exhaustive
def test_an_empty_result_offers_the_way_back(open_page: OpenPage) -> None:
    page = open_page(FULL)
    field(page, "q").fill("no such thing")
    expect(page.get_by_text("No card matches these filters.")).to_be_visible()
    shows_ids(page, [])
    page.get_by_role("button", name="Reset the filters").click()
    shows_count(page, "120 of 120")
    expect(page.get_by_text("No card matches these filters.")).to_be_hidden()
    expect(field(page, "q")).to_be_focused()


def test_a_card_opens_and_closes_by_keyboard(open_page: OpenPage) -> None:
    page = open_page(FULL)
    field(page, "category").select_option("existence")
    chosen = [card for card in FULL.cards if card.category == "existence"]
    opener = page.locator(".card-open").nth(1)
    opener.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"2 of {len(chosen)}")
    expect(dialog.get_by_role("heading", level=2)).to_have_text(chosen[1].question)
    has_address(page, f"?category=existence&card={chosen[1].id}")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(opener).to_be_focused()
    has_address(page, "?category=existence")
    page.keyboard.press("Enter")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")  # the first is the end of the way
    expect(dialog).to_contain_text(f"1 of {len(chosen)}")
    expect(dialog.get_by_text("previous")).to_have_attribute("aria-disabled", "true")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("heading", level=2)).to_have_text(chosen[2].question)
    page.keyboard.press("Escape")
    expect(page.locator(".card-open").nth(2)).to_be_focused()


@pytest.mark.exhaustive
def test_a_dialog_that_walked_to_the_next_page_returns_to_it(open_page: OpenPage) -> None:
    page = open_page(FULL)
    page.locator(".card").nth(47).click()
    page.get_by_role("dialog").get_by_text("next").click()
    page.get_by_role("dialog").get_by_text("close").click()
    expect(page.locator(".card-id").first).to_have_text("q48")
    expect(page.locator(".card-open").first).to_be_focused()


@pytest.mark.exhaustive
def test_the_dialog_shows_everything_of_a_card(open_page: OpenPage) -> None:
    page = open_page(FULL, "#?card=q2")
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("img")).to_have_attribute("src", examples.IMAGES["green.png"])
    shown = " ".join(dialog.inner_text().split())
    for text in ("hallucinated", 'evidence says yes, truth no: "yes"', "scorer yesno",
                 "category existence", "id q2", "ended by stop", "last image token position 5",
                 "last prompt token position 17", "prompt 18 tokens"):  # fmt: skip
        assert text in shown
    tokens = dialog.locator(".answer-token")
    assert tokens.all_text_contents() == ["Yes", ",", "␣tree", ".↵"]
    expect(tokens.nth(2)).to_have_attribute("title", "log-probability −2.300, entropy 2.600 nats")
    assert colour(page, ".answer-token:nth-of-type(3)") != colour(page, ".answer-token")
    dialog.get_by_text("As a table").click()
    rows = dialog.locator("[data-slot=answer-rows] tr")
    assert rows.nth(2).inner_text().split() == ["20", "␣tree", "−2.300", "0.100", "2.600"]
    likeliest = dialog.locator("[data-slot=first-rows] tr").first
    assert likeliest.inner_text().split() == ["Yes", "0.888"]


@pytest.mark.exhaustive
def test_the_shades_of_tokens_have_a_legend(open_page: OpenPage) -> None:
    """In the same colours: of a token with the entropy of a shade."""
    tokens = tuple((str(nats), -0.1, nats) for nats in (0.0, 0.5, 1.0, 2.0, 4.0))
    card = examples.card(0, answer_tokens=tokens)
    page = open_page(replace(FULL, cards=(card,)), "#?card=q0")
    colours = "all => all.map(e => getComputedStyle(e).backgroundColor)"
    shown = page.locator(".dialog .shade")
    assert shown.all_text_contents() == ["0", "0.5", "1", "2", "4"]
    legend = shown.evaluate_all(colours)
    assert legend == page.locator(".answer-token").evaluate_all(colours)
    assert len(set(legend)) == 5


@pytest.mark.exhaustive
def test_the_logit_lens_is_a_table_for_each_position(open_page: OpenPage) -> None:
    page = open_page(replace(FULL, cards=(*FULL.cards[:3], replace(FULL.cards[3], lens={}))))
    page.locator(".card-open").nth(1).click()
    dialog = page.get_by_role("dialog")
    choice = dialog.get_by_label("Position")
    rows = dialog.locator("[data-slot=lens-rows] tr")
    assert choice.locator("option").all_text_contents() == ["last image token", "last prompt token"]
    expect(choice).to_have_value("last prompt token")
    assert rows.nth(1).inner_text().split() == ["20", "Yes", "0.89", "No", "0.11", "cup", "0.00"]
    choice.focus()
    page.keyboard.press("ArrowUp")  # of the field, not of the dialog
    expect(choice).to_have_value("last image token")
    expect(dialog).to_contain_text("2 of 4")
    assert rows.nth(0).inner_text().split()[:5] == ["0", "␣the", "0.21", "↵", "0.10"]
    first, third = (colour(page, f".lens-pair:nth-of-type({i}) bdi") for i in (1, 3))
    assert first != third
    dialog.get_by_text("next").click()
    expect(choice).to_have_value("last image token")
    expect(rows.nth(1)).to_contain_text("tree")
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_text("Logit lens")).to_be_hidden()
    page.keyboard.press("ArrowLeft")
    expect(dialog.get_by_text("Logit lens")).to_be_visible()


@pytest.mark.exhaustive
def test_a_view_can_be_linked(open_page: OpenPage) -> None:
    page = open_page(FULL)
    field(page, "sort").select_option("riskiest")
    outcome(page, "unscorable").uncheck()
    page.locator(".pager").first.get_by_text("next").click()
    has_address(page, "?outcomes=hallucinated%2Cfaithful&sort=riskiest&page=2")
    seen = ids(page)
    page.reload()
    shows_ids(page, seen)
    expect(field(page, "sort")).to_have_value("riskiest")
    expect(outcome(page, "unscorable")).not_to_be_checked()
    page.evaluate("location.hash = '#?card=q5'")
    expect(page.get_by_role("dialog")).to_contain_text("6 of 120")


@pytest.mark.exhaustive
def test_nonsense_in_the_address_is_ignored(open_page: OpenPage) -> None:
    page = open_page(
        FULL, "#?sort=constructor&min=x&page=-3&category=none&theme=toString&card=q&outcomes=x&y=1"
    )
    shows_count(page, "0 of 120")  # no outcome is chosen, for x is none
    page.get_by_role("button", name="Reset the filters").click()
    shows_ids(page, first(FULL.cards))
    has_address(page, "")


@pytest.mark.exhaustive
def test_a_run_without_labels_has_only_the_filters_that_make_sense(open_page: OpenPage) -> None:
    page = open_page(examples.bare(FULL))
    assert page.locator("[name=outcome], [name=min], .risk:visible, .badge:visible").count() == 0
    orders = page.locator("[name=sort] option").all_text_contents()
    assert orders == ["order of the run", "id", "category"]


@pytest.mark.exhaustive
def test_a_run_without_answers_shows_its_questions(open_page: OpenPage) -> None:
    page = open_page(examples.prefill(FULL))
    assert page.locator(".card-image:visible, [name=category]").count() == 0
    page.locator(".card").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("none: the run stopped after the prefill")
    expect(dialog.get_by_text("The answer, token by token")).to_be_hidden()
    expect(dialog.get_by_text("Likeliest first tokens", exact=True)).to_be_visible()
