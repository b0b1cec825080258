"""The page as text: what is said, how numbers look, and that nothing foreign becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from report import document_examples as examples
from vlmscope.plots import DARK_PALETTE, PALETTE
from vlmscope.report.figures import plots
from vlmscope.report.render import render


class Outline(HTMLParser):
    """What an HTML parser finds: elements with their attributes, the text of each kind."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, list[str]] = {}
        self.open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open = tag
        self.inside.setdefault(tag, []).append("")

    def handle_data(self, data: str) -> None:
        if self.open in ("script", "style"):
            self.inside[self.open][-1] += data
        else:
            self.texts.append(data)

    def handle_endtag(self, _tag: str) -> None:
        self.open = ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def full() -> Outline:
    return Outline(render(examples.full()))


@pytest.fixture(scope="module")
def hostile() -> Outline:
    return Outline(render(examples.hostile()))


def policy(outline: Outline) -> dict[str, str]:
    [meta] = [m for m in outline.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    return dict(re.findall(r"([a-z-]+) ([^;]+)", str(meta["content"])))


def test_the_policy_allows_the_one_script_and_no_request(full: Outline) -> None:
    data, script = full.inside["script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy(full) == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert full.all("script") == [{"type": "application/json", "id": "report-data"}, {}]
    assert json.loads(data).keys() == {"attention", "cards", "images", "lens"}


def test_the_policy_comes_before_everything_that_it_governs(full: Outline) -> None:
    names = [name for name, _ in full.elements]
    assert names[:4] == ["html", "head", "meta", "meta"]
    assert full.elements[2] == ("meta", {"charset": "utf-8"})
    assert "http-equiv" in full.elements[3][1]


@pytest.mark.parametrize("name", ["full", "hostile"])
def test_no_address_leads_out_of_the_page(name: str, request: pytest.FixtureRequest) -> None:
    outline: Outline = request.getfixturevalue(name)
    for _, attributes in outline.elements:
        for attribute in ("src", "href", "action", "srcset", "poster"):
            value = attributes.get(attribute)
            assert value is None or value.startswith(("#", "data:")), value
        assert not [attribute for attribute in attributes if attribute.startswith("on")]
    style = "".join(outline.inside["style"])
    assert "url(" not in style
    assert "@import" not in style


def test_scripts_write_no_markup(full: Outline) -> None:
    script = full.inside["script"][1]
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval"):
        assert forbidden not in script
    assert script.startswith('"use strict";')
    # A limit, so that the scripts stay small; 50 lines more since maps are drawn over images.
    assert len(script.splitlines()) <= 560


def test_hostile_texts_add_no_element(hostile: Outline) -> None:
    tame = replace(
        examples.hostile(),
        title="t",
        missing=(*map(str, range(len(examples.HOSTILE))), "`b`"),
        figures=(examples.figure("roc_curves", "t"),),
    )
    expected = [name for name, _ in Outline(render(tame)).elements]
    assert [name for name, _ in hostile.elements] == expected
    assert "window.hacked" in hostile.text


def test_hostile_texts_are_written_as_they_are(hostile: Outline) -> None:
    for text in examples.HOSTILE[:3]:
        assert text in hostile.text
    assert "{{ 7 * 7 }} {% raw %} ${7*7} \\u003cscript>" in hostile.text
    [described] = [d for d in hostile.all("div") if d.get("role") == "img"]
    assert examples.HOSTILE[2] in str(described["aria-label"])


def test_data_survive_the_way_into_the_page(hostile: Outline) -> None:
    text = hostile.inside["script"][0]
    assert not set("<>&\u2028\u2029") & set(text)
    data = json.loads(text)
    *_, last = examples.HOSTILE
    cards = data["cards"]
    assert [card["question"] for card in cards] == [
        *examples.HOSTILE[:-1], last.replace("\ud800", "?"), "x" * 5000,
    ]  # fmt: skip
    assert cards[0]["answer_tokens"][0][1] is None  # an infinite number is none that JSON knows
    assert cards[3]["answer_tokens"][1] == ["⟨U+202E⟩", -1.0, None]


def test_the_page_can_be_written_as_utf_8() -> None:
    assert render(examples.hostile()).encode("utf-8")


def test_the_same_document_gives_the_same_page() -> None:
    assert render(examples.full()) == render(examples.full())


def test_an_image_is_stored_once(full: Outline) -> None:
    document = examples.full()
    assert len(document.cards) > len(document.images)
    for source in examples.IMAGES.values():
        assert full.inside["script"][0].count(source) == 1


def test_sections_come_in_the_order_of_reading(full: Outline) -> None:
    sections = [s["id"] for s in full.all("section") if "id" in s]
    assert sections == [
        "figures", "results", "detectors", "categories", "columns", "gallery", "attention",
        "tokens", "labels", "failures", "provenance",
    ]  # fmt: skip
    links = [a["href"] for a in full.all("a") if a.get("href", "").startswith("#")]
    assert links == ["#main", "#findings", *(f"#{name}" for name in sections)]


def test_a_run_without_categories_is_not_shown_by_category(full: Outline) -> None:
    """Its only row, of all answers, has the interval of the share."""
    document = examples.full()
    page = render(replace(document, categories=document.categories[-1:]))
    assert "By category" in full.text
    assert "By category" not in Outline(page).text
    assert '<h2 id="categories-title">Outcomes</h2>' in page
    assert '<a href="#categories">Outcomes</a>' in page


def test_what_is_missing_names_its_command(full: Outline) -> None:
    assert "<code>vlmscope extract &lt;table&gt;</code> makes one." in render(examples.full())


def test_figures_come_with_their_words_and_data(full: Outline) -> None:
    figures = [f for f in full.all("figure") if f.get("class") != "attention-map"]
    assert [f.get("id") for f in figures] == [
        "auroc_by_layer",
        "roc_curves",
        "reliability",
        "detectors_by_cost",
    ]
    assert [f["class"] for f in figures][:2] == ["figure figure-wide", "figure"]
    described = [d["aria-label"] for d in full.all("div") if d.get("role") == "img"]
    assert described.count("AUROC by layer rises.") == 2, "a narrow one too"
    assert described.count("ROC curves rises.") == 1
    assert described[0] == "AUROC by layer rises."
    links = [a for a in full.all("a") if "download" in a]
    assert links[1]["download"] == "roc_curves.csv"
    assert links[1]["href"] == "data:text/csv;charset=utf-8,x%2Cy%0A1%2C0.5%0A"
    style = "".join(full.inside["style"])
    for name in PALETTE:
        assert f"--plot-{name}:{PALETTE[name]}" in full.inside["style"][0]
        assert f"--plot-{name}:{DARK_PALETTE[name]}" in full.inside["style"][1]
    assert style.count("--plot-blue:") == 2


def test_details_are_told_below_the_main_sentences(full: Outline) -> None:
    [details] = [each for each in full.all("details") if each.get("class") == "details"]
    assert "open" not in details
    text = full.text
    assert text.index("2 answers could not be scored.") < text.index("The question's words reach")
    assert 'class="details"' not in render(examples.bare(examples.full(3)))


def test_results_are_read_from_the_finding_down(full: Outline) -> None:
    heads = [
        h["data-value"] for h in full.all("th") if h.get("scope") == "row" and "data-value" in h
    ]
    assert heads[:6] == [
        "the selected", "the combined", "the layer 0", "the layer 9", "the category",
        "the answer length",
    ]  # fmt: skip
    assert "the answer length † (known only after the answer)" in full.text
    assert "the category best baseline" in full.text


def test_detectors_are_compared_with_what_needs_no_model(full: Outline) -> None:
    text = " ".join(full.text.split())
    assert "on the same 1,998 answers and folds" in text
    for shown in (
        "Best detector: entropy, AUROC 0.850.", "entropy Somebody et al. 2024",
        "0.850 0.800–0.900", "(significant) +0.050 to +0.150",
        "category best without the model", "reversed Somebody et al. 2024 worse than chance",
        "samples: the run has no signals/samples/texts",
        "runs/other the same model, 400 answers", "entropy 0.850 0.660", "constant – –",
    ):  # fmt: skip
        assert shown in text, shown
    assert text.count("(significant)") == 1
    rows = {h["data-value"]: h for h in full.all("th") if h.get("scope") == "row"
            and "data-value" in h}  # fmt: skip
    assert {"entropy", "reversed", "constant"} <= rows.keys()
    assert not re.search(r"\b(nan|None)\b", text)
    assert "Detectors" not in Outline(render(examples.bare(examples.full()))).text


def test_numbers_have_the_digits_they_deserve(full: Outline) -> None:
    assert "0.841 0.821–0.861" in full.text
    assert "+0.063 +0.043 to +0.083" in full.text
    assert "−0.103" in full.text
    assert "54.4% 44.2–64.3%" in full.text
    assert "1,246" in full.text
    assert "1,141" in full.text


def test_what_is_not_known_is_no_number() -> None:
    row = replace(examples.RESULTS[0], auprc=math.nan)
    outline = Outline(render(replace(examples.full(), results=(row,))))
    values = [cell.get("data-value") for cell in outline.all("td")]
    assert "nan" not in values
    assert not re.search(r"\b(nan|None)\b", outline.text)


def test_the_prompt_is_shown_with_its_boundaries(full: Outline) -> None:
    assert "position 2–1600 <|image|> × 1,599 id 896" in full.text
    assert "position 1601 <|image|> id 896 vision_token_boundary" in full.text
    assert "position 1604 ↵↵ id 566 query_token_boundary" in full.text
    assert "␣there" in full.text


def test_labels_failures_and_provenance_are_told(full: Outline) -> None:
    assert "the ground truth needs a judge 2" in full.text
    assert "q9999 image questions.csv line 9: image not found 2" in full.text
    assert "1 row could not be captured." in full.text
    assert "weights " + "f05ae6041e7b0d6c" * 4 in full.text


@pytest.mark.parametrize(
    ("document", "sections"),
    [
        (
            examples.bare(examples.full(3)),
            ["gallery", "attention", "tokens", "failures", "provenance"],
        ),
        (examples.prefill(examples.full(3)), ["gallery", "tokens", "failures", "provenance"]),
        (examples.empty(), ["gallery", "failures"]),
    ],
    ids=["bare", "prefill", "empty"],
)
def test_a_poor_document_leaves_out_what_it_lacks(document: object, sections: list[str]) -> None:
    outline = Outline(render(document))  # type: ignore[arg-type]
    assert [s["id"] for s in outline.all("section") if "id" in s] == sections
    links = [str(a["href"]) for a in outline.all("a") if str(a.get("href")).startswith("#")]
    assert links == ["#main", "#findings", *(f"#{name}" for name in sections)]


def test_a_gallery_without_cards_says_why() -> None:
    outline = Outline(render(examples.empty()))
    assert "no row of this run has been captured" in outline.text
    assert not outline.all("dialog")


def test_a_gallery_of_a_draw_says_of_how_many() -> None:
    text = Outline(render(replace(examples.full(), rows=54321))).text
    assert "A random sample of 120 of the run's 54,321 rows." in text


def test_tables_can_be_read_by_ear(full: Outline) -> None:
    assert len(full.all("caption")) == len(full.all("table"))
    assert all(head.get("scope") for head in full.all("th"))
    assert re.search(r'<html lang="en">', render(examples.empty()))


def test_other_columns_say_that_their_intervals_are_of_many_looks(full: Outline) -> None:
    assert "not corrected for multiple comparisons" in full.text
    for shown in ("source", "AMBER", "0.790 0.740–0.830", "0.720–0.850", "31.0%", "–"):
        assert shown in " ".join(full.text.split()), shown
    assert "By other columns" not in Outline(render(examples.bare(examples.full()))).text


def test_categories_that_differ_in_case_are_two() -> None:
    cards = [examples.card(0, category="Colour"), examples.card(1, category="colour")]
    page = Outline(render(replace(examples.full(2), cards=tuple(cards))))
    values = [option.get("value") for option in page.all("option")]
    assert {"Colour", "colour"} <= set(values)


def test_a_category_may_be_called_all() -> None:
    row = examples.full(2).categories[-1]
    named = replace(row, rows=3, share=0.5, share_low=0.1, share_high=0.9)
    (plot,) = plots(None, (replace(named, name="all"), replace(named, name="all")), 4)
    assert plot.columns["name"] == ["all"]
