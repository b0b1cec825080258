"""The gallery: cards with rows, images and the tokens of prompts.

The table may have moved, its images may have changed, the model may be missing. Each is described
in a note and does not affect the rest.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmscope.dataset import Table
from vlmscope.errors import VlmscopeError
from vlmscope.report.attention_maps import card_maps, with_view
from vlmscope.report.document import (
    MOST_BYTES,
    AttentionGrid,
    AttentionSummary,
    Card,
    LensSummary,
    ReportSpec,
    TokenView,
)
from vlmscope.report.prompt_view import TokenText, find_processor, token_text, token_view
from vlmscope.report.rows import category_of, hashes_of
from vlmscope.report.thumbnails import Thumbnails, find_sample, find_table, thumbnails
from vlmscope.schema import Capture, Progress, Score
from vlmscope.signals import RecordedSignals
from vlmscope.store import Run, lens_of

ANSWER_TOKENS = 64
"""Maximum number of answer tokens on a card; the others are counted."""

FIRST_TOKENS = 5
"""Number of likeliest first tokens on a card."""

LENS_TOKENS = 5
"""Number of tokens of the logit lens on a card, for each position and layer."""

MOST_LENS_TOKENS = 300_000
"""Maximum number of tokens of the logit lens on a page: about 3 MB."""


def cards(
    captures: Iterable[Capture],
    labels: Mapping[str, Score],
    risks: Mapping[str, float],
    images: Collection[str],
    text: TokenText,
    signals: RecordedSignals | None = None,
    maps: Mapping[str, tuple[AttentionGrid, ...]] | None = None,
) -> Iterator[Card]:
    """Yield a card for each row.

    Args:
        captures: The rows to show.
        labels: Labels by id; empty without.
        risks: Out-of-fold risks by id; empty without.
        images: Hashes of the images that can be shown.
        text: Token id → text.
        signals: The signals of the run.
        maps: The attention over the images, by id.
    """
    with_lens = cards_with_lens(signals) if signals else 0
    for number, capture in enumerate(captures):
        sample, score = capture.sample, labels.get(capture.sample.id)
        hashes = hashes_of(capture.image_sha256)
        tokens = _answer_tokens(capture, text)
        yield Card(
            id=sample.id,
            images=tuple(sha256 for sha256 in hashes if sha256 in images),
            num_images=len(hashes),
            image_id=sample.image_id,
            question=sample.question,
            truth=sample.target,
            answer=capture.answer,
            category=category_of(capture),
            outcome=score.outcome if score is not None and score.labelled else None,
            evidence="" if score is None else score.evidence,
            scorer="" if score is None else score.scorer,
            risk=risks.get(sample.id),
            finish_reason=capture.finish_reason,
            positions=dict(capture.boundaries),
            num_prompt_tokens=capture.num_prompt_tokens,
            answer_tokens=tokens[:ANSWER_TOKENS],
            answer_tokens_left_out=max(0, len(tokens) - ANSWER_TOKENS),
            first_tokens=_first_tokens(capture, text),
            lens=_lens(capture, signals, text) if signals and number < with_lens else {},
            attention=(maps or {}).get(sample.id, ()),
        )


def cards_with_lens(signals: RecordedSignals) -> int:
    """Return on how many cards the logit lens is shown at most; 0 for a run without."""
    tokens = len(signals.lens_positions) * len(signals.lens_layers) * LENS_TOKENS
    return MOST_LENS_TOKENS // tokens if tokens else 0


def lens_summary(signals: RecordedSignals, number: int) -> LensSummary:
    """Return the layers of the logit lens, and which of so many cards have none."""
    shown, note = cards_with_lens(signals), ""
    if shown < number and signals.lens_positions:
        note = (
            f"Only the first {shown:,} cards have the logit lens: with all, the page is too large."
        )
    return LensSummary(signals.lens_layers if shown else (), note)


def riskiest(cards: Iterable[Card]) -> Card | None:
    """Return the hallucinated answer of the highest risk, else the first card, else None."""
    first, found = None, None
    for card in cards:
        first = first or card
        if card.outcome == "hallucinated" and (
            found is None or (card.risk or 0.0) > (found.risk or 0.0)
        ):
            found = card
    return found or first


def _answer_tokens(
    capture: Capture, text: TokenText
) -> tuple[tuple[str, float, float | None], ...]:
    ids, logprobs = capture.answer_token_ids, capture.answer_logprobs
    if ids is None or logprobs is None:
        return ()
    entropies = capture.signals.get("entropy")
    known = [None] * len(ids) if entropies is None else entropies.tolist()
    return tuple(
        (text(int(token)), float(logprob), entropy)
        for token, logprob, entropy in zip(ids, logprobs, known, strict=True)
    )


def _first_tokens(capture: Capture, text: TokenText) -> tuple[tuple[str, float], ...]:
    pairs = zip(
        capture.first_token_ids[:FIRST_TOKENS],
        capture.first_token_logprobs[:FIRST_TOKENS],
        strict=True,
    )
    return tuple((text(int(token)), math.exp(logprob)) for token, logprob in pairs)


def _lens(
    capture: Capture, signals: RecordedSignals, text: TokenText
) -> dict[str, tuple[tuple[tuple[str, float], ...], ...]]:
    return {
        position: tuple(tuple((text(token), prob) for token, prob in layer) for layer in layers)
        for position, layers in lens_of(capture, signals, LENS_TOKENS).items()
    }


@dataclass(frozen=True, slots=True)
class Gallery:
    """The part of the report about single questions."""

    cards: tuple[Card, ...]
    """In the order of the run."""
    thumbnails: Thumbnails
    """Their images, and why some are missing."""
    view: TokenView | None
    """The prompt of one of them."""
    view_note: str
    """Why there is no view, or why tokens have no text."""
    attention: AttentionSummary
    """What the maps of the cards are of."""


def gallery(
    run: Run,
    captures: Sequence[Capture],
    labels: Mapping[str, Score],
    risks: Mapping[str, float],
    spec: ReportSpec,
    progress: Progress,
) -> Gallery:
    """Return the gallery of some rows.

    Args:
        run: The run.
        captures: The rows to show; vectors are not needed.
        labels: Labels by id; empty without.
        risks: Out-of-fold risks by id; empty without.
        spec: The options of the report.
        progress: Called with the current step.
    """
    table, note = find_table(run, spec)
    small = Thumbnails((), note)
    if table is not None:
        wanted = {capture.sample.id: capture.image_sha256 for capture in captures}
        # base64 makes four bytes of three.
        small = thumbnails(table, wanted, MOST_BYTES * 3 // 4, progress)
    progress("tokens")
    processor, lack = find_processor(run.manifest.model, spec.model)
    images = small.sizes[-1] if small.sizes else {}
    signals = run.manifest.capture.recorded
    maps, summary = card_maps(captures, signals, images)
    made = tuple(cards(captures, labels, risks, images, token_text(processor), signals, maps))
    shown = next((card for card in made if card.id == spec.id), None) or riskiest(made)
    view, note = None, f"Tokens are shown by their ids: {lack}."
    if processor is not None:
        view, note = _view(run, captures, shown, table, processor)
    return Gallery(made, small, view, note, with_view(summary, made, shown))


def _view(
    run: Run, captures: Sequence[Capture], shown: Card | None, table: Table | None, processor: Any
) -> tuple[TokenView | None, str]:
    """Return the prompt of a card, or None and why it is not shown."""
    if shown is None:
        return None, ""
    capture = next(item for item in captures if item.sample.id == shown.id)
    sample = None if table is None else find_sample(table, shown.id)
    try:
        return token_view(processor, run.manifest.model, capture, sample), ""
    except VlmscopeError as error:
        return None, f"The prompt of {shown.id} is not shown: {error}."
