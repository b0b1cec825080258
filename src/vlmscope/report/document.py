"""The content of a report as plain data: built from a run, rendered as a page.

Texts are those of the table and the model, unescaped and untrusted: the page escapes them. Numbers
are unrounded: the page formats them. Unknown values are None, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vlmscope.arguments import whole_number
from vlmscope.detectors.results import DetectorResult, Unavailable
from vlmscope.schema import Outcome
from vlmscope.store import DEFAULT, labels_file
from vlmscope.sweeps import ProbeResult


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot, ready for the page."""

    name: str
    """Stem of its files and its anchor in the page: ``auroc_by_layer``."""
    title: str
    """Above it."""
    caption: str
    """How to read it, one or two sentences."""
    description: str
    """A text alternative, with numbers."""
    svg: str
    """An ``<svg>`` element, with colours as CSS variables: the only text that is not escaped."""
    csv: str
    """Its data."""
    narrow_svg: str = ""
    """The same element for a narrow screen; empty if the other fits."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number with its own tile."""

    label: str
    """The quantity: ``hallucinated``."""

    value: str
    """The formatted number: ``21.4%``."""
    note: str = ""
    """A few words below: ``428 of 1,997 scorable answers``."""


@dataclass(frozen=True, slots=True)
class CategoryRow:
    """One category of questions, or all of them."""

    name: str
    rows: int
    hallucinated: int
    faithful: int
    unscorable: int
    share: float | None
    """Hallucinated answers as a share of the hallucinated and faithful ones."""
    share_low: float | None
    """Ends of its 95% interval, over images; None if there is only one image."""
    share_high: float | None
    auroc: float | None
    """AUROC of the selected probe within the category; None if it has a single outcome, or without
    probes."""
    auroc_low: float | None
    """Ends of its 95% interval (images resampled)."""
    auroc_high: float | None


@dataclass(frozen=True, slots=True)
class ColumnValue:
    """One value of a column of the table."""

    name: str
    rows: int
    """Rows that were probed."""
    share: float
    """Hallucinated among them."""
    auroc: float | None
    """Of the selected probe, within the value; None where it has one outcome only."""
    auroc_low: float | None
    """Ends of its 95% interval, of this value by itself."""
    auroc_high: float | None
    all_low: float | None
    """Ends of the simultaneous interval for all values of the column."""
    all_high: float | None


@dataclass(frozen=True, slots=True)
class ColumnTable:
    """A column of the table besides the category."""

    name: str
    auroc: float | None
    """Of the selected probe, over pairs of answers of the same value; None where there is none, or
    its risk is constant."""
    auroc_low: float | None
    auroc_high: float | None
    joint: float | None
    """The same of everything known before the answer, in one model."""
    joint_low: float | None
    joint_high: float | None
    values: tuple[ColumnValue, ...]
    """Most hallucinated first."""


@dataclass(frozen=True, slots=True)
class AttentionGrid:
    """The attention over one image of a card."""

    image: int | None
    """Index of the image in ``Card.images``; None if it is not available."""
    rows: int
    columns: int
    """Cells of the grid that covers the complete image."""
    peaks: tuple[tuple[float | None, ...], ...]
    """For each of ``AttentionSummary.of``, for each layer: the attention to the largest cell; None
    if there is no such attention, as for an answer without a token."""
    shares: tuple[tuple[float | None, ...], ...]
    """Likewise the attention to all cells."""
    levels: bytes
    """Likewise the cells, row by row, as 0 to 255 times the largest one."""


@dataclass(frozen=True, slots=True)
class Card:
    """One question of the gallery."""

    id: str
    images: tuple[str, ...]
    """Keys of ``Document.images``, in the order of the question: the available ones."""

    num_images: int
    """Number of images of the question."""
    image_id: str
    question: str
    truth: str
    answer: str | None
    """None after a prefill-only run."""
    category: str | None
    outcome: Outcome | None
    """None without labels."""
    evidence: str
    """The basis of the label, or why there is none."""
    scorer: str
    risk: float | None
    """Out-of-fold risk of the selected probe; None for rows without one."""
    finish_reason: str
    positions: Mapping[str, int] = field(default_factory=dict)
    """Boundary → index in prompt and answer: ``{"last_image_token": 5, …}``."""
    num_prompt_tokens: int = 0
    answer_tokens: tuple[tuple[str, float, float | None], ...] = ()
    """The answer's first tokens, each with its natural-log probability and the entropy of its
    distribution in nats; None for a run without entropies."""
    answer_tokens_left_out: int = 0
    first_tokens: tuple[tuple[str, float], ...] = ()
    """The likeliest first tokens, each with its probability."""
    lens: Mapping[str, tuple[tuple[tuple[str, float], ...], ...]] = field(default_factory=dict)
    """Position → for each of ``Document.lens.layers`` the likeliest tokens of the logit lens, each
    with its probability; empty without."""
    attention: tuple[AttentionGrid, ...] = ()
    """The attention over each image; empty without."""


@dataclass(frozen=True, slots=True)
class PromptToken:
    """One token of a prompt, or a run of equal ones."""

    position: int
    """Position of the first, from 0."""

    count: int
    """Number of equal successive tokens."""
    id: int
    text: str
    marks: tuple[str, ...]
    """Boundaries at this position: ``vision_token_boundary``, ``query_token_boundary``, …"""


@dataclass(frozen=True, slots=True)
class TokenView:
    """The expanded prompt of one sample with its boundaries."""

    id: str
    question: str
    tokens: tuple[PromptToken, ...]


@dataclass(frozen=True, slots=True)
class LensSummary:
    """What the logit lens of the cards is of."""

    layers: tuple[int, ...] = ()
    """Its layers; empty for a run without."""
    note: str = ""
    """Which cards have none, because the page would be too large, or empty."""


@dataclass(frozen=True, slots=True)
class DrawnMap:
    """One map as an image."""

    of: str
    """The token whose attention it is."""
    layer: int
    image: str
    """Key of ``Document.images``; empty if the image is not available."""
    number: int | None
    """Number of the image, from 1, if the question has several."""
    overlay: str
    """The map as a ``data:image/png;base64,`` URI, to be stretched over the image."""
    peak: float
    """The attention to the largest cell."""
    share: float
    """The attention to all cells."""


@dataclass(frozen=True, slots=True)
class AttentionView:
    """The attention over the images of one row, at the first and the last layer."""

    id: str
    question: str
    maps: tuple[DrawnMap, ...]


@dataclass(frozen=True, slots=True)
class AttentionSummary:
    """What the maps of the cards are of."""

    layers: tuple[int, ...] = ()
    """Their layers; empty for a run without."""
    of: tuple[str, ...] = ()
    """The tokens whose attention it is: the last prompt token, and the answer if there is one."""
    note: str = ""
    """Which cards have none, or why no card has, or empty."""
    view: AttentionView | None = None
    """The maps of one card; None without maps."""


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """How the labels were made."""

    made: str
    """One sentence: when, by which scorer, with which settings."""
    decided_by: tuple[tuple[str, int], ...]
    """Scorer → labels, the most first."""
    reasons: tuple[tuple[str, int], ...]
    """Reason → unscorable rows, the most first."""
    error_kinds: tuple[tuple[str, int], ...] = ()
    """Kind of error of hallucinated answers to yes/no questions → rows."""


@dataclass(frozen=True, slots=True)
class FailureRow:
    """A row that could not be captured."""

    id: str
    stage: str
    error: str
    attempt: int


@dataclass(frozen=True, slots=True)
class DetectorTransfer:
    """Detectors of this run on another one."""

    name: str
    """A short name of the other run."""
    relation: str
    """How its model is related to that of this run."""
    rows: int
    """Tested answers."""
    auroc: Mapping[str, float | None]
    """Name of a detector → its AUROC there; None if its risk is constant."""


@dataclass(frozen=True, slots=True)
class DetectorsSection:
    """The results of ``vlmscope detect``."""

    sentences: tuple[str, ...]
    """The findings, a sentence each."""
    figures: tuple[Figure, ...]
    """Quality against cost, and against when a detector is known."""
    results: tuple[DetectorResult, ...]
    best_model_free: DetectorResult | None
    """The baseline that detectors are compared with."""
    unavailable: tuple[Unavailable, ...]
    """Detectors that were not evaluated, with the reason."""
    rows: int
    """Rows that all detectors were evaluated on."""
    transfers: tuple[DetectorTransfer, ...] = ()
    """The results on other runs."""


@dataclass(frozen=True, slots=True)
class Document:
    """A complete report."""

    title: str
    """Model and table: ``Llama-3.2-11B-Vision-Instruct on questions.csv``."""
    made: str
    """When and with which version this report was made, one sentence."""
    headline: str | None
    """The main finding in one sentence, with its interval; None before ``vlmscope probe``."""
    sentences: tuple[str, ...]
    """The other main findings, a sentence each."""
    missing: tuple[str, ...]
    """Missing parts and the commands that make them, a sentence each."""
    numbers: tuple[Number, ...]
    figures: tuple[Figure, ...]
    """In reading order; empty before labels and probes."""
    results: tuple[ProbeResult, ...]
    best_baseline: str | None
    """Name of the row that probes are compared with."""
    categories: tuple[CategoryRow, ...]
    """Most hallucinated first; the last is all rows, named ``all``. Empty without labels."""
    cards: tuple[Card, ...]
    rows: int
    """Rows of the run; more than cards if the gallery is a random sample."""
    images: Mapping[str, str]
    """Hash of an image → its thumbnail as a ``data:image/…;base64,`` URI."""
    images_note: str
    """Why images are missing, or empty."""
    token_view: TokenView | None
    token_view_note: str
    """Why there is none, or empty."""
    labels: LabelSummary | None
    failures: tuple[FailureRow, ...]
    provenance: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """Heading → names and values: model, data, capture, environment."""
    held_out: str = "image"
    """The groups that folds do not split: ``image``, ``question``, …"""

    details: tuple[str, ...] = ()
    """Other findings, a sentence each."""
    columns: tuple[ColumnTable, ...] = ()
    """Columns of the table besides the category; empty without probes."""
    lens: LensSummary = LensSummary()
    """What the logit lens of the cards is of."""
    attention: AttentionSummary = AttentionSummary()
    """What the maps of the cards are of."""
    detectors: DetectorsSection | None = None
    """None before ``vlmscope detect``."""


MOST_BYTES = 15_000_000
"""Maximum size in bytes of a page with its images."""


@dataclass(frozen=True, slots=True)
class ReportSpec:
    """The options of a report. Paths that are None are those of the run's manifest."""

    labels: str = DEFAULT
    """The label set."""
    samples: int = 2000
    """Maximum number of questions in the gallery; for a larger run they are drawn at random."""

    seed: int = 0
    """Seed of the random draw."""
    id: str | None = None
    """Question whose tokens are shown; None for the riskiest hallucinated one."""
    model: str | None = None
    """Current path of the model: a folder, or a hub id that was downloaded before. ``write_report``
    takes a loaded model too, and uses the path it was loaded from."""
    data: str | None = None
    """Current path of the table."""

    images: str | None = None
    """Current image root."""

    allow_absolute_paths: bool = False
    """Allow image paths outside the image root."""

    def __post_init__(self) -> None:
        """Refuse invalid options."""
        labels_file(self.labels)
        whole_number("--samples", self.samples, least=1)
