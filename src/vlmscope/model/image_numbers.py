"""Positions that number images: counted through a batch where they should be within a question.

Hunyuan-VL gives every image token four positions, the last of which is the image's number. The
library counts it through all rows of a call (transformers 5.17 to 5.23 at least), so that a
question's states depend on how many images the questions before it have. Here each row is counted
by itself, which is what the model gets for a question alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_IMAGE = 1
"""An image token, in ``mm_token_type_ids``."""


def number_images_by_row(model: Any) -> None:
    """Let a model number the images of each row of a batch from 0.

    Args:
        model: The part of it that has ``get_rope_index``; changed.
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
    """Return how many images each row has: runs of image tokens.

    >>> count_images(torch.tensor([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0]]))
    [2, 0]
    """
    image = token_types == _IMAGE
    before = torch.nn.functional.pad(image[:, :-1], (1, 0))
    return (image & ~before).sum(dim=1).tolist()
