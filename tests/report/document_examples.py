"""Documents to draw: a full one, poor ones, and one that wishes the page ill."""

from __future__ import annotations

import base64
import io
import math
import random
from dataclasses import replace
from typing import Any

from PIL import Image

from vlmscope.detectors.results import METRICS, DetectorResult, Unavailable
from vlmscope.report.document import (
    AttentionGrid,
    AttentionSummary,
    AttentionView,
    Card,
    CategoryRow,
    ColumnTable,
    ColumnValue,
    DetectorsSection,
    DetectorTransfer,
    Document,
    DrawnMap,
    FailureRow,
    Figure,
    LabelSummary,
    LensSummary,
    Number,
    PromptToken,
    TokenView,
)
from vlmscope.report.render import WIDE
from vlmscope.schema import Outcome
from vlmscope.sweeps import ProbeResult

CATEGORIES = ("colour", "count", "existence", "relation")
NOUNS = ("fork", "cup", "tree", "kettle", "dog", "lamp")
COLOURS = {"red.png": (200, 30, 30), "blue.png": (30, 30, 200), "green.png": (30, 160, 60)}

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'><!--<script>",
    "\"'`><svg onload=window.hacked=3> &amp; &lt;b&gt;",
    "\u202eright to left\u202d \u2066 isolate \x00\x07\x1b[31m \u2028\u2029",
    "long" * 400,
    "</SCRIPT ><script>window.hacked=5</script> </style><style>*{display:none}</style>",
    "\" onerror=\"window.hacked=6\" x=' onfocus='window.hacked=7' autofocus='",
    "javascript:window.hacked=8",
    "\u2067\u202egnp.exe\u2069\u200b\u200f <a href=javascript:window.hacked=9>name</a>",
    '=HYPERLINK("http://example.org")',
    "{{ 7 * 7 }} {% raw %} ${7*7} \\u003cscript> \U0001f9ff \ud800",
)
"""Texts that break pages."""


def make_image(colour: tuple[int, int, int], size: tuple[int, int] = (48, 36)) -> str:
    """Return an image of one colour as a ``data:`` address."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


IMAGES = {name: make_image(colour) for name, colour in COLOURS.items()}
OVERLAY = make_image((255, 176, 0), (3, 1))


GRID = AttentionGrid(
    image=0,
    rows=1,
    columns=3,
    peaks=((0.25, 0.5), (0.125, None)),
    shares=((0.3, 0.6), (0.2, None)),
    levels=bytes([255, 51, 0, 0, 51, 255, 0, 255, 153, 0, 0, 0]),
)
"""The attention of a prompt and an answer at two layers, over an image of three cells."""


def card(index: int = 0, **changes: object) -> Card:
    """Return the card of question ``q<index>``; changes name fields of ``Card``."""
    chance = random.Random(index)  # noqa: S311 - no secret
    noun = NOUNS[index % len(NOUNS)]
    image = list(IMAGES)[index % len(IMAGES)]
    outcome: Outcome = ("faithful", "faithful", "hallucinated", "unscorable")[index % 4]  # type: ignore[assignment]
    made = Card(
        id=f"q{index}",
        images=(image,),
        num_images=1,
        image_id=image,
        question=f"Is there a {noun} in image {index}?",
        truth="No",
        answer=f"Yes, there is a {noun}.",
        category=CATEGORIES[index % len(CATEGORIES)],
        outcome=outcome,
        evidence='says yes, truth no: "yes"',
        scorer="yesno",
        risk=None if outcome == "unscorable" else chance.random(),
        finish_reason="stop",
        positions={"last_image_token": 5, "last_prompt_token": 17},
        num_prompt_tokens=18,
        answer_tokens=(
            ("Yes", -0.119, 0.41),
            (",", -0.0001, 0.001),
            (f" {noun}", -2.3, 2.6),
            (".\n", 0.0, 0.0),
        ),
        answer_tokens_left_out=0,
        first_tokens=(("Yes", 0.888), ("No", 0.112)),
        lens={
            "last_image_token": (
                ((" the", 0.213), ("\n", 0.1), (" photograph", 0.0404)),
                ((f" {noun}", 0.52), ("s", 0.125), (" wooden", 0.09)),
            ),
            "last_prompt_token": (
                (("assistant", 0.31), ("<|image|>", 0.06), ("Is", 0.02)),
                (("Yes", 0.888), ("No", 0.1111), (noun, 0.0004)),
            ),
        },
        attention=(GRID,),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def full(cards: int = 120) -> Document:
    """Return a document with something in every section."""
    return Document(
        title="tiny-model on questions.csv",
        made="Made on 2026-01-02 at 03:04 UTC by vlmscope 0.1.0.",
        headline="A linear probe tells hallucinated from faithful answers with an AUROC of 0.841.",
        sentences=("The best baseline reaches 0.778.", "2 answers could not be scored."),
        details=("The question's words reach 0.611.", "The numbers are of new images."),
        missing=("No other run yet: `vlmscope extract <table>` makes one.",),
        numbers=(Number("questions", "2,000", "on 600 images"), Number("hallucinated", "20.3%")),
        figures=(
            figure("auroc_by_layer", "AUROC by layer"),
            figure("roc_curves", "ROC curves"),
            figure("reliability", "Reliability"),
        ),
        results=RESULTS,
        best_baseline="category",
        categories=CATEGORY_ROWS,
        columns=(COLUMN,),
        cards=tuple(card(i) for i in range(cards)),
        rows=cards,
        images=IMAGES,
        images_note="",
        token_view=TOKEN_VIEW,
        token_view_note="",
        labels=LabelSummary(
            "Labelled on 2026-01-02 by the scorer auto.",
            (("yesno", 1141), ("vqa", 857)),
            (("the ground truth needs a judge", 2),),
        ),
        lens=LensSummary((0, 20)),
        attention=AttentionSummary(
            (0, 20),
            ("last prompt token", "answer"),
            view=AttentionView(
                "q2",
                "Is there a tree?",
                tuple(
                    DrawnMap("answer", layer, "green.png", None, OVERLAY, 0.125, 0.2)
                    for layer in (0, 20)
                ),
            ),
        ),
        failures=(FailureRow("q9999", "image", "questions.csv line 9: image not found", 2),),
        provenance=(
            ("model", (("name", "models/tiny"), ("weights", "f05ae6041e7b0d6c" * 4))),
            ("environment", (("torch", "2.13.0"), ("device", "cpu"))),
        ),
        detectors=detectors_section(),
    )


def detector(name: str, auroc: float = 0.7, **changes: Any) -> DetectorResult:
    """Return the result of a detector; changes name fields of ``DetectorResult``."""
    metrics = {
        f"{metric}{end}": auroc + by
        for metric in METRICS
        for end, by in (("", 0.0), ("_low", -0.05), ("_high", 0.05))
    }
    kind: dict[str, Any] = {
        "name": name, "title": name, "group": "answer", "paper": "Somebody et al. 2024",
        "known": "after the answer", "passes": "answer", "learned": False,
    }  # fmt: skip
    return DetectorResult(**kind | metrics | changes)


def detectors_section() -> DetectorsSection:
    gaps = {f"above_model_free{end}": value for end, value in (
        ("", 0.1), ("_low", 0.05), ("_high", 0.15), ("_p", 0.001), ("_p_holm", 0.01))}  # fmt: skip
    best = detector("category", 0.75, group="no_model", paper="")
    return DetectorsSection(
        sentences=("Best detector: entropy, AUROC 0.850.", "1 of 2 detectors is better."),
        figures=(figure("detectors_by_cost", "Quality of detectors against their cost"),),
        results=(
            best,
            detector("entropy", 0.85, **gaps),
            detector("reversed", 0.3, worse_than_chance=True),
            detector("constant", 0.5, found_nothing=True),
        ),
        best_model_free=best,
        unavailable=(Unavailable("samples", "samples", "the run has no signals/samples/texts"),),
        rows=1998,
        transfers=(
            DetectorTransfer(
                "runs/other", "the same model", 400, {"entropy": 0.66, "constant": None}
            ),
        ),
    )


def bare(document: Document) -> Document:
    """Return the document as it is before labels and probes."""
    cards = (
        replace(card, outcome=None, evidence="", scorer="", risk=None) for card in document.cards
    )
    return replace(
        document,
        headline=None,
        sentences=(),
        details=(),
        missing=(
            "No labels yet: `vlmscope label runs/first` says which answers are hallucinated.",
        ),
        numbers=document.numbers[:1],
        figures=(),
        results=(),
        best_baseline=None,
        categories=(),
        columns=(),
        detectors=None,
        cards=tuple(cards),
        labels=None,
        failures=(),
    )


def prefill(document: Document) -> Document:
    """Return the document of a run without answers, whose images and model are gone."""
    poor = bare(document)
    gone = {"answer": None, "images": (), "category": None, "answer_tokens": (), "lens": {}}
    gone |= {"attention": ()}
    return replace(
        poor,
        cards=tuple(replace(card, **gone, finish_reason="prefill") for card in poor.cards),  # type: ignore[arg-type]
        attention=AttentionSummary(),
        images={},
        images_note="The images are not at hand: `--images` says where they are.",
        token_view=None,
        token_view_note="The model is not at hand: `--model` says where it is.",  # noqa: S106
    )


def empty() -> Document:
    """Return the document of a run in which nothing was captured."""
    nothing = prefill(full(0))
    return replace(nothing, numbers=(), missing=(), provenance=(), rows=0, token_view_note="")


def hostile() -> Document:
    """Return a document whose every text wishes the page ill."""
    bad = " ".join(HOSTILE)
    cards = tuple(
        card(
            i,
            id=f"{i} {text}",
            image_id=text,
            question=text,
            truth=text,
            answer=text,
            category=text,
            evidence=text,
            scorer=text,
            finish_reason=text,
            positions={text: 3},
            answer_tokens=((text, float("-inf"), float("nan")), ("\u202e", -1.0, None)),
            first_tokens=((text, 0.5),),
            lens={text: (((text, float("nan")), ("\u202e", 0.5)), ())},
            attention=(replace(GRID, image=7, peaks=((math.inf, 1e9), (None, math.nan))),),
        )
        for i, text in enumerate((*HOSTILE, "x" * 5000))
    )
    return replace(
        full(0),
        title=bad,
        made=bad,
        headline=bad,
        sentences=HOSTILE,
        details=HOSTILE,
        missing=(*HOSTILE, "`<b>bold</b>`"),
        numbers=tuple(Number(text, text, text) for text in HOSTILE),
        figures=(replace(figure("roc_curves", bad), caption=bad, description=bad, csv=bad),),
        results=tuple(replace(row, title=bad) for row in RESULTS),
        categories=tuple(replace(row, name=bad) for row in CATEGORY_ROWS),
        detectors=replace(
            detectors_section(),
            sentences=HOSTILE,
            figures=(),
            results=(detector(bad, paper=bad, known=bad, group=bad),),
            best_model_free=detector(bad),
            unavailable=(Unavailable(bad, bad, bad),),
            transfers=(DetectorTransfer(bad, bad, 1, {bad: 0.5}),),
        ),
        columns=(
            replace(COLUMN, name=bad, values=tuple(replace(v, name=bad) for v in COLUMN.values)),
        ),
        cards=cards,
        rows=len(cards),
        images={
            "red.png": "javascript:window.hacked=4",
            "blue.png": "data:text/html,hi",
            "green.png": "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' "
            "onload='window.hacked=10'></svg>",
        },
        images_note=bad,
        token_view=TokenView(bad, bad, (PromptToken(0, 1, 7, bad, (bad,)),)),
        token_view_note=bad,
        attention=AttentionSummary(
            (0, 20),
            (bad, bad),
            bad,
            AttentionView(
                bad, bad, (DrawnMap(bad, 0, "red.png", 1, "javascript:1", math.nan, 1e300),)
            ),
        ),
        labels=LabelSummary(bad, ((bad, 1),), ((bad, 1),)),
        failures=(FailureRow(bad, bad, bad, 1),),
        provenance=((bad, ((bad, bad),)),),
    )


def figure(name: str, title: str) -> Figure:
    """Return a figure with one line."""
    svg = (
        '<svg viewBox="0 0 100 60" xmlns="http://www.w3.org/2000/svg"><path d="M5 55 L95 5" '
        'style="stroke: var(--plot-blue, #0072b2); fill: none"/></svg>'
    )
    narrow = svg if name in WIDE else ""
    return Figure(
        name, title, f"How to read {title}.", f"{title} rises.", svg, "x,y\n1,0.5\n", narrow
    )


def result(name: str, kind: str, auroc: float, **changes: object) -> ProbeResult:
    """Return a row of results; changes name fields of ``ProbeResult``."""
    above = auroc - 0.778 if kind in ("probe", "selected", "combined") else None
    made = ProbeResult(
        name=name,
        title=f"the {name}",
        kind=kind,
        known="before",
        representation=None,
        layer=None,
        estimator=None,
        auroc=auroc,
        auroc_low=auroc - 0.02,
        auroc_high=auroc + 0.02,
        auprc=auroc - 0.3,
        brier=0.13,
        ece=0.02,
        recall_at_5=auroc - 0.5,
        above_baseline=above,
        above_baseline_low=None if above is None else above - 0.02,
        above_baseline_high=None if above is None else above + 0.02,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


RESULTS = (
    result("category", "baseline", 0.778),
    result("answer length", "baseline", 0.521, known="after"),
    result("layer 0", "probe", 0.675),
    result("layer 9", "probe", 0.8412),
    result("selected", "selected", 0.841),
    result("combined", "combined", 0.85),
)

CATEGORY_ROWS = (
    CategoryRow("relation", 90, 49, 41, 0, 0.544, 0.442, 0.643, 0.71, 0.6, 0.81),
    CategoryRow("count", 1246, 54, 192, 1000, 0.22, 0.172, 0.275, 0.66, 0.58, 0.74),
    CategoryRow("colour", 132, 0, 132, 0, 0.0, 0.0, 0.028, None, None, None),
    CategoryRow("existence", 3, 0, 0, 3, None, None, None, None, None, None),
    CategoryRow("all", 1471, 103, 365, 1003, 0.22, 0.185, 0.26, 0.841, 0.823, 0.861),
)

COLUMN = ColumnTable(
    "source", 0.76, 0.72, 0.8, 0.81, 0.77, 0.85,
    (
        ColumnValue("AMBER", 900, 0.31, 0.79, 0.74, 0.83, 0.72, 0.85),
        ColumnValue("POPE", 500, 0.08, 0.7, 0.58, 0.8, 0.53, 0.83),
        ColumnValue("MME", 3, 0.0, None, None, None, None, None),
    ),
)  # fmt: skip

TOKEN_VIEW = TokenView(
    "q2",
    "Is there a tree?",
    (
        PromptToken(0, 1, 640, "<|begin_of_text|>", ()),
        PromptToken(1, 1, 566, "\n\n", ()),
        PromptToken(2, 1599, 896, "<|image|>", ()),
        PromptToken(1601, 1, 896, "<|image|>", ("vision_token_boundary",)),
        PromptToken(1602, 1, 332, "Is", ()),
        PromptToken(1603, 1, 316, " there", ()),
        PromptToken(1604, 1, 566, "\n\n", ("query_token_boundary",)),
    ),
)
