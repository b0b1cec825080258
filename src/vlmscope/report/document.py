"""What a report says, as plain data: gathered from a run on one side, drawn as a page on the other.

Texts are as the table and the model gave them, unescaped and untrusted: the page escapes them.
Numbers are numbers: the page decides on digits. What is not known is None, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vlmscope.arguments import whole_number
from vlmscope.schema import Outcome
from vlmscope.store import DEFAULT, labels_file
from vlmscope.sweeps import ProbeResult


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot, ready for the page; its files lie beside the report."""

    name: str
    """Stem of its files and its anchor in the page: ``auroc_by_layer``."""
    title: str
    """Above it."""
    caption: str
    """How to read it, one or two sentences."""
    description: str
    """What it shows, with numbers, for those who cannot see it."""
    svg: str
    """An ``<svg>`` element of ours, colours as CSS variables: the one text that is not escaped."""
    csv: str
    """Its data."""
    narrow_svg: str = ""
    """The same element for a narrow screen; empty where the other fits there too."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number worth a tile of its own."""

    label: str
    """What it counts: ``hallucinated``."""
    value: str
    """As it is read: ``21.4%``."""
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
    """Hallucinated among those that are hallucinated or faithful."""
    share_low: float | None
    """Ends of its 95% interval, over images; None where there is one image only."""
    share_high: float | None
    auroc: float | None
    """Of the selected probe, within the category; None where it has one outcome only, or without
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
    """Ends of the interval that holds for all values of the column together."""
    all_high: float | None


@dataclass(frozen=True, slots=True)
class ColumnTable:
    """A column of the table besides the category."""

    name: str
    auroc: float | None
    """Of the selected probe, over pairs of answers of the same value; None where there is none, or
    it found nothing."""
    auroc_low: float | None
    auroc_high: float | None
    joint: float | None
    """The same of everything known before the answer, in one model."""
    joint_low: float | None
    joint_high: float | None
    values: tuple[ColumnValue, ...]
    """Most hallucinated first."""


@dataclass(frozen=True, slots=True)
class Card:
    """One question of the gallery."""

    id: str
    images: tuple[str, ...]
    """Keys of ``Document.images``, in the order of the question: those that are at hand."""
    num_images: int
    """How many images the question is about."""
    image_id: str
    question: str
    truth: str
    answer: str | None
    """None after a prefill-only run."""
    category: str | None
    outcome: Outcome | None
    """None without labels."""
    evidence: str
    """What the label was decided on, or why it could not be."""
    scorer: str
    risk: float | None
    """Out-of-fold risk of the selected probe; None for rows that no probe judged."""
    finish_reason: str
    positions: Mapping[str, int] = field(default_factory=dict)
    """Boundary → index in prompt and answer: ``{"last_image_token": 5, …}``."""
    num_prompt_tokens: int = 0
    answer_tokens: tuple[tuple[str, float], ...] = ()
    """The answer's first tokens, each with its natural-log probability."""
    answer_tokens_left_out: int = 0
    first_tokens: tuple[tuple[str, float], ...] = ()
    """The likeliest first tokens, each with its probability."""


@dataclass(frozen=True, slots=True)
class PromptToken:
    """One token of a prompt, or a run of equal ones."""

    position: int
    """Place of the first, from 0."""
    count: int
    """How many follow each other."""
    id: int
    text: str
    marks: tuple[str, ...]
    """Boundaries that lie here: ``vision_token_boundary``, ``query_token_boundary``, …"""


@dataclass(frozen=True, slots=True)
class TokenView:
    """What the model read of one sample: the expanded prompt with its boundaries."""

    id: str
    question: str
    tokens: tuple[PromptToken, ...]


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
    """Which way hallucinated answers to yes/no questions are wrong → rows."""


@dataclass(frozen=True, slots=True)
class FailureRow:
    """A row that could not be captured."""

    id: str
    stage: str
    error: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report."""

    title: str
    """Model and table: ``Llama-3.2-11B-Vision-Instruct on questions.csv``."""
    made: str
    """When and with which version this report was made, one sentence."""
    headline: str | None
    """The main finding in one sentence, with its interval; None before ``vlmscope probe``."""
    sentences: tuple[str, ...]
    """The other main findings, a sentence each."""
    missing: tuple[str, ...]
    """What this run lacks yet and the command that makes it, a sentence each."""
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
    """Rows of the run; more than cards where the gallery holds a draw of them."""
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
    """What no fold separated, so that no risk is of one that was seen: ``question``, …"""
    details: tuple[str, ...] = ()
    """What else was found, a sentence each."""
    columns: tuple[ColumnTable, ...] = ()
    """Columns of the table besides the category; empty without probes."""


MOST_BYTES = 15_000_000
"""Most that a page with its images may weigh."""


@dataclass(frozen=True, slots=True)
class ReportSpec:
    """What to show. Places that are None are those of the run's manifest."""

    labels: str = DEFAULT
    """The label set."""
    samples: int = 2000
    """Most questions in the gallery; of a larger run they are drawn at random."""
    seed: int = 0
    """Decides the draw."""
    id: str | None = None
    """Question whose tokens are shown; None for the riskiest hallucinated one."""
    model: str | None = None
    """Where the model is now: a folder, or a hub id that was downloaded before. ``write_report``
    takes a loaded model too, and asks where it lies."""
    data: str | None = None
    """Where the table is now."""
    images: str | None = None
    """Where its images are now."""
    allow_absolute_paths: bool = False
    """Let the table's paths lead out of the image root."""

    def __post_init__(self) -> None:
        """Refuse what cannot be shown."""
        labels_file(self.labels)
        whole_number("--samples", self.samples, least=1)
