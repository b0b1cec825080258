"""Which family a checkpoint is: one we describe, one that the user describes, or a stranger.

A stranger that follows the library's conventions needs no description: its parts are found by
them, and the proof at loading decides. What cannot be found is said, with the line that would
describe it.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.version import Version
from torch import nn

from vlmscope.errors import InputError, ModelError
from vlmscope.model.families import FAMILIES, Family
from vlmscope.model.vision_rows import RULES
from vlmscope.regular import read_regular

DOCUMENT = "docs/adding-a-model.md"
"""Where a description is explained."""

_KEYS = (
    "title", "vision_encoder", "projector", "decoder", "layers", "final_norm", "image_token",
    "vision_rows", "skipped_without_image", "text_only", "prefix_sees_question",
)  # fmt: skip
"""What a description may say: fields of ``Family``."""


def find_family(config: Any) -> Family | None:
    """Return the description of a configuration's architecture; None for a stranger."""
    vision = getattr(config, "vision_config", None)
    own = f"{config.model_type}/{getattr(vision, 'model_type', '')}"
    return FAMILIES.get(own) or FAMILIES.get(config.model_type)


def check_version(family: Family | None, name: str) -> None:
    """Check that this transformers computes an architecture right.

    Args:
        family: Its description; None for a stranger.
        name: The checkpoint, for the message.

    Raises:
        ModelError: It does not.
    """
    from transformers import __version__

    if family is not None and family.since and Version(__version__) < Version(family.since):
        raise ModelError(
            f"{name}: {family.title} is computed wrongly by transformers {__version__}: images "
            f"come out differently beside others; pip install 'transformers>={family.since}'"
        )


def stranger(config: Any) -> Family:
    """Return the description of an architecture that nobody described: the conventions."""
    return Family(model_type=config.model_type, title=config.model_type)


def read_description(path: str | Path) -> dict[str, Any]:
    """Read a description from a TOML file; see docs/adding-a-model.md.

    Args:
        path: The file; its keys are the fields of ``Family``, all of them optional.

    Raises:
        InputError: The file is missing or is no TOML.
    """
    try:
        found = tomllib.loads(read_regular(path).decode())
    except FileNotFoundError as error:
        raise InputError(f"--family {path}: no such file; give a TOML file, {DOCUMENT}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"--family {path}: cannot be read as TOML: {error}") from error
    return found


def described(description: Mapping[str, Any], config: Any, path: str | Path = "") -> Family:
    """Return the family that a description makes of a configuration's architecture.

    What it leaves open is as in our own description, if there is one, or as the conventions say.

    Args:
        description: Some fields of ``Family``, by name.
        config: The checkpoint's configuration.
        path: Where it was read, for messages.

    Raises:
        InputError: It says something that no description says.
    """
    _check(description, path)
    return dataclasses.replace(find_family(config) or stranger(config), **description)


def _check(found: Mapping[str, Any], path: str | Path) -> None:
    """Refuse keys and values that no description has."""
    if unknown := sorted(found.keys() - set(_KEYS)):
        known = ", ".join(_KEYS)
        raise InputError(f"--family {path}: no description has {unknown[0]!r}; it may have {known}")
    kinds = {field.name: field.type for field in dataclasses.fields(Family)}
    for name, value in found.items():
        wanted = bool if kinds[name] == "bool" else str
        if not isinstance(value, wanted):
            raise InputError(
                f"--family {path}: {name} is {value!r}, expected a {wanted.__name__}; {DOCUMENT}"
            )
    if found.get("vision_rows", "whole") not in RULES:
        raise InputError(
            f"--family {path}: vision_rows is {found['vision_rows']!r}; choose from "
            + ", ".join(map(repr, RULES))
        )


def resolve(family: Family, model: Any, name: str) -> Family:
    """Return the description with the paths that it leaves to the conventions.

    Raises:
        ModelError: A part is not where the conventions say; the message has the line to write.
    """
    encoder = family.vision_encoder or _path_of(model, _find_encoder(model))
    if not encoder:
        raise ModelError(
            f"{name}: no vision encoder: get_encoder(modality='image') gives none, and no part "
            f'has the vision configuration; describe it with vision_encoder = "path", {DOCUMENT}'
        )
    decoder = family.decoder or _path_of(model, _find_decoder(model))
    if not decoder:
        raise ModelError(
            f'{name}: no decoder: get_decoder() gives none; describe it with decoder = "path", '
            f"{DOCUMENT}"
        )
    projector = family.projector or _find_projector(model, encoder)
    return dataclasses.replace(family, vision_encoder=encoder, decoder=decoder, projector=projector)


def _find_projector(model: nn.Module, encoder: str) -> str:
    """Return the path of the merger that ends an encoder, as in Qwen-VL; empty if it has none."""
    path = f"{encoder}.merger"
    return path if path in dict(model.named_modules()) else ""


def _find_encoder(model: Any) -> Any:
    """Return the vision encoder by convention, or None."""
    found = model.get_encoder(modality="image")
    if found is not model and found is not getattr(model, "base_model", None):
        return found
    vision = getattr(model.config, "vision_config", None)
    parts = [m for m in model.modules() if vision is not None and _config_of(m) is vision]
    return parts[0] if parts else None


def _config_of(module: nn.Module) -> Any:
    return getattr(module, "config", None)


def _find_decoder(model: Any) -> Any:
    """Return the decoder by convention, or None."""
    found = model.get_decoder()
    while found is not None and found is not model and _has_head(found):
        inner = found.get_decoder()  # a language model with a head of its own is entered
        if inner is found:  # Llama 4's says that it is its own decoder
            inner = next((part for part in found.children() if hasattr(part, "layers")), None)
        if inner is None:
            break
        found = inner
    return None if found is model else found


def _has_head(module: Any) -> bool:
    """Return whether a module is a language model with a head, of the library's classes."""
    head = getattr(module, "get_output_embeddings", None)
    return head is not None and hasattr(module, "get_decoder") and head() is not None


def _path_of(model: nn.Module, part: Any) -> str:
    """Return a part's dotted path; empty if it is none of the model's."""
    return next((name for name, module in model.named_modules() if module is part), "")
