"""A processor that stacks the tiles of all images, made to take images of different tile counts.

Perception LM's processor returns ``[images, tiles, 3, height, width]``, and the library cannot
stack images that are cut into different numbers of tiles: such a batch, or a question about two
such images, fails before the model. The model flattens images and tiles at once, so one row of all
tiles is the same to it: ``[1, tiles of all images, 3, height, width]``.
"""

from __future__ import annotations

from typing import Any

import torch


def join_tiles(processor: Any) -> None:
    """Let a processor lay the tiles of all images in one row; changed in place, once."""
    kind = type(processor)
    if not issubclass(kind, _JoinsTiles):
        members = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        processor.__class__ = type(kind.__name__, (_JoinsTiles, kind), members)


class _JoinsTiles:
    """Goes before a processor's class."""

    def _process_images(self, images: Any, **options: Any) -> tuple[Any, list[str]]:
        """Return the inputs of the images, and the text that stands for each."""
        parts: Any = super()
        made, texts = parts._process_images(images, **{**options, "return_tensors": None})
        made["pixel_values"] = torch.cat(list(made["pixel_values"])).unsqueeze(0)
        return made, texts
