"""The attention over the images of a row, as it is drawn in the report.

A map is stored as whole levels from 0 to 255, shares of its largest cell, whose value is stated.
Maps are of other sizes in each row, so it is counted how many fit into the page.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmscope.errors import InputError
from vlmscope.image_maps import image_maps
from vlmscope.report.document import (
    AttentionGrid,
    AttentionSummary,
    AttentionView,
    Card,
    DrawnMap,
)
from vlmscope.report.rows import hashes_of
from vlmscope.schema import Capture
from vlmscope.signals import BOXES, RecordedSignals

MOST_MAP_BYTES = 2_500_000
"""Maximum number of levels on a page: about 3.4 MB."""

MOST_CELLS = 64
"""Maximum number of cells along a side of a map; of a finer grid, several cells are added."""

MOST_SHARE = 1.01
"""Maximum share of attention, with rounding."""

OF = ("last prompt token", "answer")
"""The tokens whose attention the two columns of a map are."""

COLOUR = (255, 176, 0)
"""Colour of attention, drawn over an image without colours."""


def card_maps(
    captures: Iterable[Capture],
    signals: RecordedSignals,
    images: Collection[str],
    limit: int = MOST_MAP_BYTES,
) -> tuple[dict[str, tuple[AttentionGrid, ...]], AttentionSummary]:
    """Return the maps of each row, by id, and what they are of.

    Args:
        captures: The rows, with the signal ``attention_map`` if the run has it.
        signals: The signals of the run.
        images: Hashes of the images that can be shown.
        limit: Maximum number of levels of all maps.
    """
    found: dict[str, tuple[AttentionGrid, ...]] = {}
    if not signals.map_layers:
        return found, AttentionSummary()
    used, note, columns = 0, "", 0
    for number, capture in enumerate(captures):
        if BOXES not in capture.signals:
            continue  # a question without an image
        try:
            columns = _columns(capture, signals, columns)
            grids = _grids(capture, signals, columns, images)
        except InputError as error:
            return {}, AttentionSummary((), (), f"Attention is not drawn: {error}.")
        used += sum(len(grid.levels) for grid in grids)
        if used > limit:
            note = (
                f"Only the first {number:,} cards have the attention over the image: with all, "
                "the page is too large."
                if found
                else "Attention is not drawn: the maps of one question are too large for the page."
            )
            break
        found[capture.sample.id] = grids
    return found, AttentionSummary(signals.map_layers if found else (), OF[:columns], note)


def _columns(capture: Capture, signals: RecordedSignals, before: int) -> int:
    """Return the number of columns of a row's maps.

    Args:
        capture: The row.
        signals: The signals of the run.
        before: That of the rows before; 0 for the first.

    Raises:
        InputError: They are not arrays of the same tokens, of other columns than the rows before,
            or not shares of attention.
    """
    tokens, arrays = len(capture.signals[BOXES]), capture.signals
    shapes = {arrays[name].shape if name in arrays else () for name in signals.map_names}
    if len(shapes) != 1 or not shapes < {(tokens, 1), (tokens, 2)}:
        raise InputError(
            f"question {capture.sample.id!r}: its maps are of different tokens; restore the run "
            "from a copy"
        )
    values = np.stack([arrays[name] for name in signals.map_names])
    columns = int(values.shape[2])
    if (
        before not in (0, columns)
        or not (np.isnan(values) | (values >= 0) & (values <= MOST_SHARE)).all()
    ):
        raise InputError(
            f"question {capture.sample.id!r}: its maps are not shares of attention, or of other "
            "tokens than the maps of other questions; restore the run from a copy"
        )
    return columns


def _grids(
    capture: Capture, signals: RecordedSignals, columns: int, images: Collection[str]
) -> tuple[AttentionGrid, ...]:
    """Return the maps of a row, one grid for each image.

    Raises:
        InputError: It is not known which part of the image each token covers.
    """
    boxes, hashes = capture.signals[BOXES], hashes_of(capture.image_sha256)
    if boxes.shape[1] and (boxes[:, 0] >= len(hashes)).any():  # before there is a map for each
        raise InputError(f"question {capture.sample.id!r}: maps of more images than it has")
    maps = [
        image_maps(capture.signals[name][:, column], boxes, MOST_CELLS)
        for column in range(columns)
        for name in signals.map_names
    ]
    shown = [sha256 in images for sha256 in hashes]
    return tuple(
        _grid(
            [each[number] for each in maps],
            len(signals.map_layers),
            sum(shown[:number]) if shown[number] else None,
        )
        for number in range(len(maps[0]))
    )


def _grid(maps: list[NDArray[np.float32]], layers: int, image: int | None) -> AttentionGrid:
    """Return the maps of one image: of each column and layer, as levels.

    Args:
        maps: The maps.
        layers: Number of layers.
        image: Which of the card's images it is; None if the image is not available.
    """
    stacked = np.stack(maps)
    known = np.isfinite(stacked).all(axis=(1, 2), keepdims=True)
    values = np.where(known, stacked, 0)
    peaks = values.max(axis=(1, 2), keepdims=True)
    levels = np.rint(255 * values / np.where(peaks > 0, peaks, 1)).astype(np.uint8)

    def by_column(numbers: NDArray[np.float32]) -> tuple[tuple[float | None, ...], ...]:
        flat = [
            float(number) if is_known else None
            for number, is_known in zip(numbers.ravel(), known.ravel(), strict=True)
        ]
        return tuple(tuple(flat[i : i + layers]) for i in range(0, len(flat), layers))

    return AttentionGrid(
        image=image,
        rows=stacked.shape[1],
        columns=stacked.shape[2],
        peaks=by_column(peaks),
        shares=by_column(values.sum(axis=(1, 2))),
        levels=levels.tobytes(),
    )


def with_view(
    summary: AttentionSummary, cards: Iterable[Card], wanted: Card | None
) -> AttentionSummary:
    """Add the maps of one card as images, for readers without scripts and for paper.

    These are of the first and the last layer.

    Args:
        summary: What the maps are of.
        cards: The cards.
        wanted: The card, if it has maps; otherwise the first that has.
    """
    card = wanted if wanted is not None and wanted.attention else None
    card = card or next((each for each in cards if each.attention), None)
    if card is None:
        return summary
    ends = dict.fromkeys((0, len(summary.layers) - 1))
    maps = [
        drawn
        for column, of in enumerate(summary.of)
        for at in ends
        for number, grid in enumerate(card.attention)
        if (drawn := _drawn(card, grid, number, (column, at), (of, summary.layers[at])))
    ]
    return replace(summary, view=AttentionView(card.id, card.question, tuple(maps)))


def _drawn(
    card: Card, grid: AttentionGrid, number: int, index: tuple[int, int], of: tuple[str, int]
) -> DrawnMap | None:
    """Return one map as an image; None if the row has no such attention."""
    column, at = index
    peak, share = grid.peaks[column][at], grid.shares[column][at]
    if peak is None or share is None:
        return None
    layers, size = len(grid.peaks[column]), grid.rows * grid.columns
    begin = (column * layers + at) * size
    levels = np.frombuffer(grid.levels[begin : begin + size], np.uint8)
    pixels = np.empty((grid.rows, grid.columns, 4), np.uint8)
    pixels[..., :3] = COLOUR
    pixels[..., 3] = levels.reshape(grid.rows, grid.columns)
    with BytesIO() as buffer:
        Image.fromarray(pixels).save(buffer, "PNG")
        overlay = base64.b64encode(buffer.getvalue()).decode()
    return DrawnMap(
        of=of[0],
        layer=of[1],
        image="" if grid.image is None else card.images[grid.image],
        number=number + 1 if card.num_images > 1 else None,
        overlay=f"data:image/png;base64,{overlay}",
        peak=peak,
        share=share,
    )


def bytes_beside(images: Mapping[str, str], view: AttentionView | None) -> int:
    """Return the size of the copies of images that the view of one card adds to a page."""
    return sum(len(images.get(each.image, "")) for each in view.maps) if view else 0
