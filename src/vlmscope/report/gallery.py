"""The gallery and the prompt's tokens: rows, pictures and the processor put together.

The table may have moved, its pictures may have changed, the model may be gone. Each is said in
words and takes nothing else with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vlmscope.errors import VlmscopeError
from vlmscope.report.cards import cards, riskiest
from vlmscope.report.document import Card, TokenView
from vlmscope.report.pictures import Thumbnails, find_sample, find_table, thumbnails
from vlmscope.report.spec import MOST_BYTES, Progress, ReportSpec
from vlmscope.report.tokens import find_processor, token_text, token_view
from vlmscope.schema import Capture, Score
from vlmscope.store import Run


@dataclass(frozen=True, slots=True)
class Gallery:
    """What is shown of single questions."""

    cards: tuple[Card, ...]
    """In the order of the run."""
    thumbnails: Thumbnails
    """Their pictures, and why some are missing."""
    view: TokenView | None
    """The prompt of one of them."""
    view_note: str
    """Why there is none, or why tokens have no text."""


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
        spec: Where things are now, and whose prompt is shown.
        progress: Told what is being done.
    """
    table, note = find_table(run, spec)
    small = Thumbnails((), note)
    if table is not None:
        wanted = {capture.sample.id: capture.image_sha256 for capture in captures}
        # base64 makes four bytes of three.
        small = thumbnails(table, wanted, MOST_BYTES * 3 // 4, progress)
    progress("tokens")
    processor, lack = find_processor(run.manifest.model, spec.model)
    pictures = small.sizes[-1] if small.sizes else {}
    made = tuple(cards(captures, labels, risks, pictures, token_text(processor)))
    if processor is None:
        return Gallery(made, small, None, f"Tokens are shown by their ids: {lack}.")
    shown = next((card for card in made if card.id == spec.id), None) or riskiest(made)
    if shown is None:
        return Gallery(made, small, None, "")
    capture = next(item for item in captures if item.sample.id == shown.id)
    sample = None if table is None else find_sample(table, shown.id)
    record = replace(run.manifest.model, prompt_time=run.manifest.prompt_time())
    try:
        view = token_view(processor, record, capture, sample)
        return Gallery(made, small, view, "")
    except VlmscopeError as error:
        return Gallery(made, small, None, f"The prompt of {shown.id} is not shown: {error}.")
