"""The attention of the last prompt token, and of the answer, to each image token of a prompt.

The attention to all tokens of the prompt is copied to the host, where the image tokens are
selected. In layers of cross-attention it is that to each patch of the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from vlmscope.engine.answer_states import AnswerStates
from vlmscope.engine.batch import Batch
from vlmscope.engine.device import Fetch
from vlmscope.model import VisionLanguageModel
from vlmscope.model.image_grids import TILES, boxes_of_patches, boxes_of_row
from vlmscope.prompt import image_order
from vlmscope.signals import ATTENTION_MAP, BOXES, RecordedSignals, token_states_name

MAPS = "maps/"
"""Before the name of an array of attention to all tokens of a prompt, among the tensors that are
copied to the host."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageKeys:
    """What is drawn of the attention of one row."""

    columns: Int[np.ndarray, " tokens"]
    """The image tokens among those of the padded prompt, or all patches."""
    boxes: Float[np.ndarray, "tokens five"]
    """The part of an image that each covers: see ``signals.BOXES``."""


def image_keys(
    batch: Batch, vlm: VisionLanguageModel, maps: Mapping[int, Tensor]
) -> list[ImageKeys | None]:
    """Return what is drawn of the attention of each row; None for a question without an image.

    Args:
        batch: The rows.
        vlm: The model.
        maps: Decoder layer → the attention of the last prompt token, ``[batch, keys]``.
    """
    found: list[ImageKeys | None] = []
    for row, images in enumerate(batch.images):
        if not images or not maps:
            found.append(None)
            continue
        sample = batch.samples[row]
        order = image_order(sample.question, len(sample.images))
        shown = order, batch.shown_sizes[row]
        if vlm.skipped_without_image:
            columns = np.arange(next(iter(maps.values())).shape[1])
            tiles = batch.inputs_of(row).get(TILES)
            boxes = boxes_of_patches(vlm, *shown, tiles)
        else:
            ids, mask = batch.input_ids[row], batch.attention_mask[row].astype(bool)
            columns = np.flatnonzero(mask & (ids == vlm.image_token_id))
            boxes = boxes_of_row(vlm, ids, mask, *shown, batch.inputs_of(row))
        found.append(ImageKeys(columns, boxes))
    return found


def copied_maps(maps: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Return what is copied to the host of the prompts, by name."""
    return {MAPS + token_states_name(ATTENTION_MAP, layer): each for layer, each in maps.items()}


def copied_maps_of_answers(
    signals: RecordedSignals, states: AnswerStates, rows: Int[Tensor, " chosen"]
) -> dict[str, Tensor]:
    """Return what is copied to the host of some answers, by name."""
    found = {layer: states.mean_attention(layer, rows) for layer in signals.map_layers}
    return copied_maps({layer: each for layer, each in found.items() if each is not None})


def map_arrays(
    signals: RecordedSignals, keys: ImageKeys | None, sources: Sequence[tuple[Fetch, int]]
) -> dict[str, np.ndarray]:
    """Return the arrays of a row.

    Args:
        signals: The signals.
        keys: What is drawn of the row; None for a question without an image.
        sources: What was copied to the host and the row there: of the prompt, and of the answer if
            there is one.
    """
    if keys is None:
        return {}
    found = {}
    for name in signals.map_names:
        columns = [
            numbers[MAPS + name][row][keys.columns]
            if MAPS + name in set(numbers)
            else np.full(len(keys.columns), np.nan, np.float32)
            for numbers, row in sources
        ]
        found[name] = np.stack(columns, axis=1)
    return {**found, BOXES: keys.boxes}
