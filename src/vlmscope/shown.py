"""Formatting of numbers, names and texts, shared so that all outputs agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

UNTELLING = ("model",)
"""Last parts of paths that are too common to identify one."""


def plain(value: float, digits: int) -> str:
    """Return a number with a fixed number of digits, and zero without a minus sign.

    >>> plain(-0.001, 2), plain(-1.2, 2)
    ('0.00', '-1.20')
    """
    return f"{round(value, digits) + 0.0:.{digits}f}"


def count(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count(1, "row"), count(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def encodable(text: str) -> str:
    r"""Return text that UTF-8 can encode: a lone surrogate becomes a question mark.

    >>> encodable("a\ud83d"), encodable("köln")
    ('a?', 'köln')
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def rounded_difference(value: float, other: float, digits: int = 3) -> float:
    """Return the difference of two numbers as a reader of both computes it: after rounding.

    >>> rounded_difference(12.53, 7.57, 1)  # shown as 12.5 and 7.6; unrounded it is 4.96
    4.9
    """
    return round(float(f"{value:.{digits}f}") - float(f"{other:.{digits}f}"), digits) + 0.0


def distinct_names(paths: Sequence[str]) -> list[str]:
    """Return the last parts of each path, as many as make it distinct from the others.

    Equal paths have equal names. A last part that is in ``UNTELLING`` is shown with its parent.

    >>> distinct_names(["runs/a/first", "runs/b/first", "runs/b/second", "demo/model"])
    ['a/first', 'b/first', 'second', 'demo/model']
    """
    parts = {path: [part for part in path.split("/") if part] for path in paths}
    return [_name(path, parts) for path in paths]


def _name(path: str, parts: dict[str, list[str]]) -> str:
    own = parts[path]
    fewest = 2 if own and own[-1] in UNTELLING else 1
    for size in range(fewest, len(own) + 1):
        last = own[-size:]
        if not any(other[-size:] == last for name, other in parts.items() if name != path):
            return "/".join(last)
    return path


def shown_image(image: Any) -> str:
    """Return an image, or several, as text for ``repr``: bytes by their number."""
    if isinstance(image, list | tuple):
        return f"[{', '.join(map(shown_image, image))}]"
    return f"<{len(image):,} bytes>" if isinstance(image, bytes) else repr(image)


def dataclass_line(item: Any, **shown: str) -> str:
    """Return a dataclass as one line, without fields that have their default.

    Args:
        item: The dataclass.
        shown: Field → text to show for it.
    """
    texts = (
        f"{each.name}={shown.get(each.name, repr(value))}"
        for each in fields(item)
        if (value := getattr(item, each.name)) not in ("", {}) or each.name in shown
    )
    return f"{type(item).__name__}({', '.join(texts)})"
