"""Token positions, and the names of the HDF5 groups of what is read there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vlmscope.arguments import several_names
from vlmscope.errors import InputError
from vlmscope.signals import SUBLAYERS

VISION_ONLY = "vision_only_representation"
"""HDF5 name of the pooled output of the vision encoder."""

REPRESENTATIONS: Mapping[str, str] = {
    "last_image_token": "vision_token_representation",
    "last_prompt_token": "query_token_representation",
    "first_image_token": "first_image_token_representation",
    "image_mean": "image_mean_representation",
    "last_question_token": "last_question_token_representation",
    "first_answer_token": "first_answer_token_representation",
    "last_answer_token": "last_answer_token_representation",
    "answer_mean": "answer_mean_representation",
}
"""Position → name of its HDF5 group. The first two are the specification's names."""

ANSWER_POSITIONS = ("first_answer_token", "last_answer_token", "answer_mean")
"""Positions in the answer: the tokens that were generated, without the end-of-turn token."""

IMAGE_POSITIONS = ("last_image_token", "first_image_token", "image_mean")
"""Positions that a prompt without an image does not have."""


def representation(name: str) -> str:
    """Return the HDF5 name of a representation, which may be given as a position.

    >>> representation("last_prompt_token"), representation("query_token_representation")
    ('query_token_representation', 'query_token_representation')
    """
    return REPRESENTATIONS.get(name, name)


def sublayer_representation(position: str, sublayer: str) -> str:
    """Return the HDF5 name of a sub-layer's vectors at a position.

    >>> sublayer_representation("last_prompt_token", "heads")
    'query_token_heads'
    """
    return representation(position).removesuffix(_REPRESENTATION) + f"_{sublayer}"


def position_group(position: str, sublayer: str = "") -> str:
    """Return the HDF5 group of a position: of hidden states, or of a sub-layer's vectors.

    >>> position_group("last_prompt_token"), position_group("last_prompt_token", "mlp")
    ('query_token_representation', 'query_token_mlp')
    """
    return sublayer_representation(position, sublayer) if sublayer else representation(position)


_REPRESENTATION = "_representation"

IMAGE_REPRESENTATIONS = (
    VISION_ONLY,
    *(REPRESENTATIONS[name] for name in IMAGE_POSITIONS),
    *(sublayer_representation(name, part) for part in SUBLAYERS for name in IMAGE_POSITIONS),
)
"""HDF5 names of the representations that a question without an image does not have."""

SUBLAYER_REPRESENTATIONS: Mapping[str, tuple[str, str]] = {
    sublayer_representation(name, part): (name, part)
    for part in SUBLAYERS
    for name in REPRESENTATIONS
}
"""HDF5 name → position and sub-layer."""

DEFAULT_POSITIONS = ("last_image_token", "last_prompt_token")
"""The specification's two token boundaries."""

Positions = str | Iterable[str]
"""Token positions: one name, several, or a comma-separated text."""


def position_names(positions: Positions) -> tuple[str, ...]:
    """Return positions from names of positions or of their HDF5 groups.

    Raises:
        InputError: A name is not a position, or there is none.

    >>> position_names("last_prompt_token, vision_token_representation")
    ('last_prompt_token', 'last_image_token')
    """
    if not isinstance(positions, Iterable):
        raise InputError(f"--positions {positions!r}: expected names from {_KNOWN_POSITIONS}")
    groups = {group: position for position, group in REPRESENTATIONS.items()}
    names = several_names(positions)
    found = tuple(groups.get(name, name) if isinstance(name, str) else "" for name in names)
    unknown = [
        name for name, known in zip(names, found, strict=True) if known not in REPRESENTATIONS
    ]
    if unknown or not found:
        raise InputError(
            f"--positions: {unknown[0] if unknown else ''!r} is not a position; "
            f"choose from {_KNOWN_POSITIONS}"
        )
    return found


_KNOWN_POSITIONS = ", ".join(REPRESENTATIONS)
