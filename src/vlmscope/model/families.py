"""What differs between architectures, as data: one short description for each family.

A description names the parts of the model by their path and says how the vision encoder's output
falls into samples. Everything else (prompt, capture, store) is the same for all. How to add one:
docs/adding-a-model.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

VisionRows = tuple[Float[Tensor, "positions width"], Bool[Tensor, " positions"]]
"""One sample's share of the encoder's output, and which of its positions are not padding."""


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture."""

    model_type: str
    """``config.model_type`` of its checkpoints."""
    title: str
    """What people call it."""
    vision_encoder: str
    """Path of the module whose output is pooled, before any projection into the language model."""
    projector: str
    """Path of the module that brings the encoder's output to the width of the decoder."""
    decoder: str
    """Path of the decoder; it holds ``layers`` and ``norm``."""
    split_vision: Callable[[Tensor, Mapping[str, Tensor]], list[VisionRows]]
    """(encoder output, model inputs) → one entry for each sample of the batch."""
    tile_layout: Callable[[Mapping[str, Tensor], Any], tuple[int, int]]
    """(model inputs, config) → rows and columns of tiles of the first sample's picture."""
    encoder_inputs: tuple[str, ...]
    """Inputs of the encoder, each with one leading entry a sample: what the processor makes of the
    image alone, and what is taken once where several questions of a batch share an image."""


def split_mllama(features: Tensor, inputs: Mapping[str, Tensor]) -> list[VisionRows]:
    """Split ``[batch, images, tiles, patches, width]``; tiles that hold no picture are padding."""
    used = inputs["aspect_ratio_mask"].to(features.device, torch.bool)
    rows = []
    for sample, tiles in zip(features, used, strict=True):
        valid = tiles.unsqueeze(-1).expand(sample.shape[:-1])
        rows.append((sample.flatten(0, -2), valid.flatten()))
    return rows


def mllama_tiles(inputs: Mapping[str, Tensor], config: Any) -> tuple[int, int]:
    """Return the layout behind the first picture's aspect-ratio id; ids count from 1."""
    rows, columns = config.vision_config.supported_aspect_ratios[
        int(inputs["aspect_ratio_ids"][0, 0]) - 1
    ]
    return rows, columns


MLLAMA = Family(
    model_type="mllama",
    title="Llama-3.2-Vision",
    vision_encoder="model.vision_model",
    projector="model.multi_modal_projector",
    decoder="model.language_model",
    split_vision=split_mllama,
    tile_layout=mllama_tiles,
    encoder_inputs=("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"),
)

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in (MLLAMA,)}
"""``config.model_type`` → description."""
