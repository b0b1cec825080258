"""Conversion and checking of arguments: what a caller may pass, as the plain value it stands for.

The messages name the command line's options, as all do: see ``errors``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from operator import index
from typing import Any

from vlmscope.errors import InputError, shortened

Layers = str | int | Iterable[str | int]
"""A choice of decoder layers: a text, a number, or several numbers and terms of such a text."""


def layers_text(layers: Layers) -> str:
    """Return layers as the text that selects them, which ``selection.resolve_layers`` reads.

    Args:
        layers: The text itself, a number, or several numbers and terms of such a text.

    Raises:
        InputError: It is none of these.

    >>> layers_text("0,n/2"), layers_text(3), layers_text([0, -1]), layers_text(range(3))
    ('0,n/2', '3', '0,-1', '0,1,2')
    """
    if isinstance(layers, str):
        return layers
    several = isinstance(layers, Iterable) and not isinstance(layers, bytes)
    terms: list[Any] = list(layers) if several else [layers]  # type: ignore[arg-type]
    if not terms:
        raise InputError("--layers []: selects no layer; give numbers, or a text such as 'all'")
    return ",".join(
        term if isinstance(term, str) else str(whole_number("--layers", term)) for term in terms
    )


def several_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return names given one by one, or as one comma-separated text, as a tuple.

    >>> several_names("a, b,"), several_names(["a", "b"])
    (('a', 'b'), ('a', 'b'))
    """
    several = names.split(",") if isinstance(names, str) else names
    plain = (name.strip() if isinstance(name, str) else name for name in several)
    return tuple(name for name in plain if name != "")


def whole_number(option: str, value: Any, *, least: int | None = None) -> int:
    """Return a whole number as a Python ``int``.

    Args:
        option: The command-line option, for the message.
        value: What was given.
        least: The smallest value allowed, if there is one.

    Raises:
        InputError: It is not a whole number (a bool is not one either), or is smaller than
            ``least``.

    >>> whole_number("--limit", 3)
    3
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = index(value)
    except TypeError:
        raise InputError(f"{option} {value!r}: expected a whole number") from None
    if least is not None and number < least:
        raise InputError(f"{option} {number}: give {least} or more")
    return number


def wrong_type(owner: str, name: str, value: Any, expected: str) -> InputError:
    """Return the error for a field of another type.

    >>> print(wrong_type("Sample", "id", 5, "text"))
    Sample: id is 5 of the type int, expected text
    """
    shown = shortened(" ".join(repr(value).split()))
    return InputError(
        f"{owner}: {name} is {shown} of the type {type(value).__name__}, expected {expected}"
    )


def check_fields(owner: Any, kind: Any, expected: str, *names: str) -> None:
    """Raise an error if a field of a dataclass is of another type.

    Args:
        owner: The instance.
        kind: The type, or several.
        expected: The type as text, for the message.
        names: Names of the fields.

    Raises:
        InputError: One is.
    """
    for name in names:
        if not isinstance(value := getattr(owner, name), kind):
            raise wrong_type(type(owner).__name__, name, value, expected)


def listener(option: str, given: Any) -> Callable[[str], None]:
    """Return a callback for lines of text: a given function, or printing to stderr for True.

    Args:
        option: The option of the command line, or the argument, for the message.
        given: The given value; None and False are silent.

    Raises:
        InputError: It is none of these.
    """
    if given is None or given is False:
        return lambda _: None
    if given is True:
        return partial(print, file=sys.stderr)
    check_callable(option, given)
    function: Callable[[str], None] = given
    return function


def check_callable(option: str, given: Any) -> None:
    """Raise for a value that is not a function of one text.

    Raises:
        InputError: It cannot be called.
    """
    if not callable(given):
        raise InputError(
            f"{option} {given!r}: expected a function that takes a text, such as print"
        )


def check_batch_size(size: Any) -> None:
    """Raise ``InputError`` for a batch size that is neither a number of rows nor ``auto``.

    Args:
        size: Rows per batch, or ``auto``.

    Raises:
        InputError: It is neither.
    """
    if size == "auto":
        return
    if isinstance(size, str) or whole_number("--batch-size", size) < 1:
        raise InputError(f"--batch-size {size}: give 1 or more, or auto")
