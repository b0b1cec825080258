"""Corrections, in the loaded model or processor, of errors that the library has in some families.

**A vision encoder with causal attention.** Phi-4-multimodal's vision attention sets ``is_causal``
(transformers 5.0 to 5.23 at least). With ``sdpa`` it matters: where all patches of a batch are
real, the mask is dropped, and each patch attends only to those before it; where one image of the
batch has padding, attention is over the complete image. A question's vectors would depend on the
other questions of the batch, and differ from ``eager`` attention.

**Image numbers that count through a batch, not within a question.** Hunyuan-VL gives every image
token four positions, the last of which is the image's number. The library counts it through all
rows of a call (transformers 5.17 to 5.23 at least), so a question's states depend on how many
images the questions before it have. Here each row is counted on its own, as for a single question.

**A processor that stacks the tiles of all images.** Perception LM's processor returns ``[images,
tiles, 3, height, width]``, and cannot stack images with different numbers of tiles: such a batch,
or a question about two such images, fails before the model. The model flattens images and tiles at
once, so one row of all tiles is equivalent: ``[1, tiles of all images, 3, height, width]``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn


def disable_causal_attention(encoder: nn.Module) -> int:
    """Turn off causal attention in all parts of a vision encoder; return how many had it."""
    causal = [module for module in encoder.modules() if getattr(module, "is_causal", False)]
    for module in causal:
        module.is_causal = False  # type: ignore[assignment]
    return len(causal)


_IMAGE = 1
"""An image token, in ``mm_token_type_ids``."""


def number_images_by_row(model: Any) -> None:
    """Let a model number the images of each row of a batch from 0.

    Args:
        model: The submodule that has ``get_rope_index``; changed in place.
    """
    model.get_rope_index = _row_by_row(model.get_rope_index)


def _row_by_row(original: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    @wraps(original)
    def call(
        input_ids: Tensor,
        mm_token_type_ids: Tensor,
        image_grid_thw: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        if image_grid_thw is None:
            return original(input_ids, mm_token_type_ids, None, attention_mask, **options)
        grids = torch.split(image_grid_thw, count_images(mm_token_type_ids))
        found = [
            original(
                input_ids[row : row + 1],
                mm_token_type_ids[row : row + 1],
                own,
                None if attention_mask is None else attention_mask[row : row + 1],
                **options,
            )
            for row, own in enumerate(grids)
        ]
        positions, deltas = zip(*found, strict=True)
        return torch.cat(positions, dim=1), torch.cat(deltas)

    return call


def count_images(token_types: Tensor) -> list[int]:
    """Return how many images each row has, counted as runs of image tokens.

    >>> count_images(torch.tensor([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0]]))
    [2, 0]
    """
    image = token_types == _IMAGE
    before = torch.nn.functional.pad(image[:, :-1], (1, 0))
    return (image & ~before).sum(dim=1).tolist()


def join_tiles(processor: Any) -> None:
    """Make a processor concatenate the tiles of all images into one row; changed in place."""
    kind = type(processor)
    if not issubclass(kind, _JoinsTiles):
        members = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        processor.__class__ = type(kind.__name__, (_JoinsTiles, kind), members)


class _JoinsTiles:
    """Base class to put before a processor's class."""

    def _process_images(self, images: Any, **options: Any) -> tuple[Any, list[str]]:
        """Return the inputs of the images, and the placeholder text of each."""
        parts: Any = super()
        made, texts = parts._process_images(images, **{**options, "return_tensors": None})
        made["pixel_values"] = torch.cat(list(made["pixel_values"])).unsqueeze(0)
        return made, texts
