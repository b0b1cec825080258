"""What a processor has to know of the model, where the checkpoint's files do not say it.

Older checkpoints (and copies by ``save_pretrained`` of old versions) have no ``patch_size`` in
``processor_config.json``: the library counted image tokens in the model then. A processor without
it cannot tell how many tokens an image becomes. The model's own configuration can.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from vlmscope.errors import ModelError

FILE = "processor_config.json"
"""The file of a checkpoint that settles them."""


def _grid(config: Any) -> int:
    vision = config.vision_config
    return int((_side(vision.image_size) // _side(vision.patch_size)) ** 2)


def _side(size: Any) -> Any:
    """Return one number for a square that is given by both of its sides, as InternVL's are."""
    square = isinstance(size, list | tuple) and len(size) > 0 and len(set(size)) == 1
    return size[0] if square else size


SETTINGS: Mapping[str, Callable[[Any], Any]] = {
    "patch_size": lambda config: _side(config.vision_config.patch_size),
    "vision_feature_select_strategy": lambda config: config.vision_feature_select_strategy,
    "num_image_tokens": _grid,
    "downsample_rate": lambda config: config.downsample_rate,
}
"""Setting of a processor that has no default in the library → what it is by the configuration."""

_CLASS_TOKENS = frozenset({"class_embedding", "cls_token", "class_token"})
"""What vision encoders call the embedding of a position that is no patch."""


def complete_processor(processor: Any, config: Any, encoder: Any, name: str) -> None:
    """Give a processor the settings that its files leave open.

    Args:
        processor: The processor; changed in place.
        config: The model's configuration.
        encoder: The vision encoder: it may have a position that is no patch.
        name: The checkpoint, for the message.

    Raises:
        ModelError: The configuration does not say it either.
    """
    taken = signature(type(processor).__init__).parameters
    missing = [key for key in SETTINGS if key in taken and getattr(processor, key, 0) is None]
    for key in missing:
        try:
            value = SETTINGS[key](config)
        except (AttributeError, TypeError, ZeroDivisionError) as error:
            raise ModelError(
                f"{name}: {FILE} has no {key!r}, and config.json does not say it ({error}); add it "
                f"to {FILE}"
            ) from error
        setattr(processor, key, value)
    extra = "num_additional_image_tokens"
    if "patch_size" in missing and extra in taken and not getattr(processor, extra):
        names = {path.rpartition(".")[2] for path, _ in encoder.named_parameters()}
        setattr(processor, extra, int(bool(names & _CLASS_TOKENS)))


def left_to_defaults(processor: Any, name: str, revision: str | None) -> str:
    """Return which numbers of a processor come from the library, for the message of a failure.

    Args:
        processor: The processor.
        name: Folder of the checkpoint, or a hub id.
        revision: Its commit.
    """
    try:
        given, _ = type(processor).get_processor_dict(name, revision=revision)
    except (OSError, ValueError, json.JSONDecodeError):
        given = {}
    absent = [
        f"{key} (taken as {getattr(processor, key)})"
        for key, parameter in signature(type(processor).__init__).parameters.items()
        if isinstance(parameter.default, int | float)
        and not isinstance(parameter.default, bool)
        and key not in given
        and hasattr(processor, key)
    ]
    return f"{FILE} does not give {', '.join(absent)}" if absent else ""
