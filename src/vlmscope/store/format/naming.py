"""Names on disk: question id ↔ HDF5 link, position ↔ group and attribute.

Ids are used unchanged, because users look up their questions by id. Only what HDF5 or our layout
cannot represent is escaped, as in a URL: a ``/`` would open a subgroup, a lone ``.`` means "this
group", and root names that start with ``_`` are reserved. A ``%`` is escaped only where it would
otherwise read as one of these escapes, so ``100%`` stays ``100%``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from vlmscope.errors import InputError, shortened
from vlmscope.positions import (
    IMAGE_POSITIONS,
    IMAGE_REPRESENTATIONS,
    REPRESENTATIONS,
    SUBLAYER_REPRESENTATIONS,
    representation,
)
from vlmscope.schema import LONGEST_ID

_ESCAPES = {"%25": "%", "%2F": "/", "%2E": ".", "%5F": "_"}
_ESCAPE = re.compile("|".join(_ESCAPES))
_NEEDS_ESCAPE = re.compile(r"%(?=25|2F|2E|5F)|/|^\.\Z|^_")
_REPRESENTATION = "_representation"
_BOUNDARY = "_boundary"


def link_name(question_id: str) -> str:
    """Return the HDF5 link of a question.

    >>> link_name("question_comb_1732")
    'question_comb_1732'
    >>> link_name("amber/7"), link_name("."), link_name("_columns"), link_name("50%2F")
    ('amber%2F7', '%2E', '%5Fcolumns', '50%252F')
    """
    if not question_id or "\0" in question_id:
        found = "is empty" if not question_id else f"{shortened(question_id)!r} has a NUL character"
        raise InputError(f"question id {found}; HDF5 cannot name it, give the row another id")
    if any("\ud800" <= char <= "\udfff" for char in question_id):
        raise InputError(
            f"question id {shortened(question_id)!r} is not valid Unicode; give the row another"
        )
    if len(question_id) > LONGEST_ID // 4 and (size := len(question_id.encode())) > LONGEST_ID:
        raise InputError(
            f"question id {shortened(question_id)!r} has {size:,} bytes; HDF5 can name at most "
            f"{LONGEST_ID:,}, give the row another id"
        )
    return _NEEDS_ESCAPE.sub(lambda match: f"%{ord(match[0]):02X}", question_id)


def question_id(link: str) -> str:
    """Return the question id of an HDF5 link: the inverse of ``link_name``.

    >>> question_id("amber%2F7"), question_id("%252F"), question_id("100%")
    ('amber/7', '%2F', '100%')
    """
    return _ESCAPE.sub(lambda match: _ESCAPES[match[0]], link)


def representation_name(position: str) -> str:
    """Return the HDF5 group of a token position.

    >>> representation_name("last_prompt_token"), representation_name("answer_mean")
    ('query_token_representation', 'answer_mean_representation')
    """
    return REPRESENTATIONS.get(position, position + _REPRESENTATION)


def boundary_name(position: str) -> str:
    """Return the attribute with the index of a position in the prompt.

    >>> boundary_name("last_image_token"), boundary_name("first_image_token")
    ('vision_token_boundary', 'first_image_token_boundary')
    """
    return representation_name(position).removesuffix(_REPRESENTATION) + _BOUNDARY


def boundary_position(name: str) -> str | None:
    """Return the position of a boundary attribute, or None if the name is not one.

    >>> boundary_position("query_token_boundary"), boundary_position("row")
    ('last_prompt_token', None)
    """
    if not name.endswith(_BOUNDARY):
        return None
    stem = name.removesuffix(_BOUNDARY)
    known = {boundary_name(position): position for position in REPRESENTATIONS}
    return known.get(name, stem)


def vector_path(name: str, layer: int | None = None) -> str:
    """Return the path of a vector in a row, which is also its column under ``_columns``.

    Args:
        name: The representation, or its position.
        layer: The decoder layer; None for the vision encoder's output.

    >>> vector_path("query_token_representation", 20), vector_path("vision_only_representation")
    ('query_token_representation/layer_20', 'vision_only_representation')
    >>> vector_path("last_prompt_token", 20)
    'query_token_representation/layer_20'
    """
    group = representation(name)
    return group if layer is None else f"{group}/layer_{layer}"


def shown_layers(layers: Sequence[int], num_layers: int | None = None) -> str:
    """Return layers as text, with ranges for adjacent layers.

    Args:
        layers: The layers, ascending.
        num_layers: The number of layers of the model, if known.

    >>> shown_layers(range(10), 10), shown_layers((0, 10, 20, 30, 39), 40)
    ('0–9 (all)', '0, 10, 20, 30, 39 of 40')
    >>> shown_layers((0, 1, 5, 6, 7)), shown_layers((0,), 1), shown_layers(())
    ('0, 1, 5–7', '0 (all)', '–')
    """
    groups: list[list[int]] = []
    for layer in layers:
        if groups and groups[-1][-1] == layer - 1:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    spans = [f"{g[0]}–{g[-1]}" if len(g) > 2 else ", ".join(map(str, g)) for g in groups]
    text = ", ".join(spans) or "–"
    if not groups or num_layers is None:
        return text
    return f"{text} (all)" if len(layers) == num_layers else f"{text} of {num_layers}"


def shown_signals(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of signals for a message, with those of several layers as one.

    >>> shown_signals(["entropy", "image_tokens/layer_0", "image_tokens/layer_9"])
    ('entropy', 'image_tokens/layer_k of layers 0, 9')
    >>> shown_signals(["attention_map/boxes", "attention_map/layer_2"])
    ('attention_map/boxes', 'attention_map/layer_2')
    """
    layers: dict[str, list[int]] = {}
    for name in names:
        stem, _, layer = name.rpartition("/layer_")
        numbers = layers.setdefault(stem if stem and layer.isdecimal() else name, [])
        if stem and layer.isdecimal():
            numbers.append(int(layer))
    return tuple(
        f"{stem}/layer_k of layers {shown_layers(sorted(numbers))}"
        if len(numbers) > 1
        else f"{stem}/layer_{numbers[0]}"
        if numbers
        else stem
        for stem, numbers in layers.items()
    )


def is_vector(path: str) -> bool:
    """Return whether a column contains vectors, judging by its name.

    >>> is_vector("query_token_representation/layer_20"), is_vector("answer")
    (True, False)
    """
    group = path.partition("/")[0]
    return group.endswith(_REPRESENTATION) or group in SUBLAYER_REPRESENTATIONS


SIGNAL_GROUP = "signals"
"""Name of the group of arrays of signals, in a row and in the columns."""


def is_signal(path: str) -> bool:
    """Return whether a column contains an array of a signal, judging by its name.

    >>> is_signal("signals/entropy"), is_signal("answer_logprobs")
    (True, False)
    """
    return path.partition("/")[0] == SIGNAL_GROUP


def signal_path(name: str) -> str:
    """Return the path of an array of a signal in a row, which is also its column.

    >>> signal_path("entropy")
    'signals/entropy'
    """
    return f"{SIGNAL_GROUP}/{name}"


def may_be_absent(path: str) -> bool:
    """Return whether a question without an image may lack a vector that others have.

    That is what is read from an image, and sub-layers of blocks that it skips.

    >>> may_be_absent("query_token_heads/layer_2"), may_be_absent("answer_mean_representation")
    (True, False)
    """
    return is_of_image(path) or path.partition("/")[0] in SUBLAYER_REPRESENTATIONS


def is_of_image(path: str) -> bool:
    """Return whether a vector is read from an image, so that a question without an image lacks it.

    >>> is_of_image("vision_token_representation/layer_2")
    True
    >>> is_of_image("query_token_representation/layer_2")
    False
    """
    return path.partition("/")[0] in IMAGE_REPRESENTATIONS


def image_positions(paths: Iterable[str]) -> list[str]:
    """Return the image's positions that have a boundary (means have none), from vector paths.

    >>> image_positions(["vision_token_representation/layer_0", "vision_only_representation"])
    ['last_image_token']
    """
    groups = {path.partition("/")[0] for path in paths}
    return [
        position
        for position in IMAGE_POSITIONS
        if REPRESENTATIONS[position] in groups and not position.endswith("_mean")
    ]
