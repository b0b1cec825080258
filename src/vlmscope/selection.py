"""Resolve layers and token positions, which are data, not code.

Layers are relative to the depth of the model (``"0,n/4,n/2,3n/4,n-1"``), so that one spec works for
every model. Positions are found from the token ids of the *expanded* prompt, the sequence that the
decoder is given, and from the attention mask; never from a constant or an estimate, and never from
a length, which is wrong with padding on the left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from vlmscope.errors import InputError

_TERM = re.compile(
    r"(?P<factor>\d*)n(?:/(?P<divisor>[1-9]\d*))?(?P<offset>[+-]\d+)?|(?P<plain>-?\d+)"
)
_SLICE = re.compile(r"(-?\d*):(-?\d*)(?::([1-9]\d*))?")


def resolve_layers(text: str, num_layers: int) -> tuple[int, ...]:
    """Return the decoder layers that ``text`` names, ascending and without duplicates.

    ``text`` is a comma-separated list. A term is a number (negative counts from the end), a
    fraction of the depth ``n`` rounded down, a Python slice, or ``all``.

    Args:
        text: The requested layers.
        num_layers: Decoder layers of the model.

    Raises:
        InputError: A term cannot be read, or names a layer that the model does not have.

    >>> resolve_layers("0,n/4,n/2,3n/4,n-1", 40)
    (0, 10, 20, 30, 39)
    >>> resolve_layers("0,n/4,n/2,3n/4,n-1", 3)
    (0, 1, 2)
    >>> resolve_layers("-1,0:8:2", 32)
    (0, 2, 4, 6, 31)
    >>> resolve_layers("n", 40)
    Traceback (most recent call last):
    ...
    vlmscope.errors.InputError: layers 'n': 'n' is layer 40, but the model has layers 0 to 39
    """
    layers: set[int] = set()
    for term in (part.strip() for part in text.split(",")):
        for layer in _resolve_term(term, num_layers, text):
            if not 0 <= layer < num_layers:
                raise InputError(
                    f"--layers {text!r}: {term!r} is layer {layer}, "
                    f"but the model has layers 0 to {num_layers - 1}"
                )
            layers.add(layer)
    return tuple(sorted(layers))


def _resolve_term(term: str, n: int, text: str) -> Sequence[int]:
    """Return the layers that one term names."""
    if term == "all":
        return range(n)
    if match := _SLICE.fullmatch(term):
        start, stop, step = (int(part) if part else None for part in match.groups())
        if found := range(n)[slice(start, stop, step)]:
            return found
        raise InputError(f"--layers {text!r}: {term!r} is empty for a model of {n} layers")
    match = _TERM.fullmatch(term)
    if match is None:
        raise InputError(
            f"--layers {text!r}: cannot read {term!r}; "
            "write numbers, fractions of the depth like n/2 or 3n/4, n-1, slices like 0:8, or all"
        )
    if match["plain"]:
        layer = int(match["plain"])
        return [layer + n if layer < 0 else layer]
    return [int(match["factor"] or 1) * n // int(match["divisor"] or 1) + int(match["offset"] or 0)]


def locate(
    input_ids: Int[np.ndarray, "batch length"],
    attention_mask: Int[np.ndarray, "batch length"],
    image_token_id: int,
    positions: Sequence[str],
    after_question: Sequence[int] = (),
) -> dict[str, Bool[np.ndarray, "batch length"]]:
    """Return, for each position, a mask of the tokens that it refers to in each padded row.

    A row with one marked token is that token's hidden state; with several, their mean.

    Args:
        input_ids: Token ids of the expanded prompts, padded on either side.
        attention_mask: 1 where a token is real.
        image_token_id: Id of the image token.
        positions: Names of positions in the prompt.
        after_question: Tokens after the question in each row; for ``last_question_token``.

    Raises:
        ValueError: A row has no real token, or no image token where one is needed.

    >>> ids, mask = np.array([[0, 1, 9, 9, 5]]), np.array([[0, 1, 1, 1, 1]])
    >>> locate(ids, mask, 9, ["last_image_token"])["last_image_token"].nonzero()[1]
    array([3])
    """
    real = attention_mask.astype(bool)
    image = real & (input_ids == image_token_id)
    found: dict[str, Bool[np.ndarray, "batch length"]] = {}
    for name in positions:
        tokens = image
        if name == "last_prompt_token":
            tokens = real
        elif name == "last_question_token":
            after = real[:, ::-1].cumsum(axis=1)[:, ::-1]  # this token and the real ones after it
            tokens = real & (after == np.array(after_question)[:, None] + 1)
        if not tokens.any(axis=1).all():
            row = int(np.flatnonzero(~tokens.any(axis=1))[0])
            raise ValueError(f"{name}: row {row} of the batch has no such token")
        found[name] = tokens if name.endswith("_mean") else _edge(tokens, name.split("_")[0])
    return found


def _edge(tokens: Bool[np.ndarray, "batch length"], which: str) -> Bool[np.ndarray, "batch length"]:
    """Keep the first or the last of each row's marked tokens."""
    length = tokens.shape[1]
    index = (
        tokens.argmax(axis=1) if which == "first" else length - 1 - tokens[:, ::-1].argmax(axis=1)
    )
    kept = np.zeros_like(tokens)
    kept[np.arange(len(tokens)), index] = True
    return kept


def boundaries(
    found: dict[str, Bool[np.ndarray, "batch length"]],
    attention_mask: Int[np.ndarray, "batch length"],
    row: int,
) -> dict[str, int]:
    """Return one row's positions as indices into its prompt without padding.

    Positions that refer to several tokens have no index and are omitted.

    >>> mask = np.array([[0, 1, 1, 1]])
    >>> boundaries({"last_prompt_token": np.array([[False, False, False, True]])}, mask, 0)
    {'last_prompt_token': 2}
    """
    index = np.cumsum(attention_mask[row].astype(bool)) - 1
    return {
        name: int(index[tokens[row].argmax()])
        for name, tokens in found.items()
        if not name.endswith("_mean")
    }
