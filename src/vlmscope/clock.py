"""The time that a chat template is shown: one for all prompts of a run.

Templates of Llama 3, Mistral Small and others write today's date, which they get from the library's
``strftime_now``. The library takes no other function from a caller, so a macro of that name is put
before the template: it writes the parts of a given time in the place of the directives.
"""

from __future__ import annotations

import re
import string
from datetime import datetime
from functools import lru_cache

FUNCTION = "strftime_now"
"""What chat templates call."""

_VARIABLE = "vlmscope_time"
_PERCENT = "\ue000"
"""Stands for a percent sign that is none of a directive."""
_MACRO = (
    "{% macro " + FUNCTION + "(format) %}"
    "{% set text = namespace(value=format) %}"
    "{% for directive, part in " + _VARIABLE + " %}"
    "{% set text.value = text.value.replace(directive, part) %}"
    "{% endfor %}{{ text.value }}{% endmacro %}\n"
)
"""Its line break is dropped, as the library's environment trims blocks."""
_FLAGS = ("", "-", "_", "0", "^", "#")
"""What may stand between the percent sign and the letter."""
_SPECIAL = re.compile(r"%[-_0^#+]*\d{0,3}[EO]?[a-zA-Z]")
"""A directive with several flags, a width, or a modifier, as the C library takes them."""


def now() -> str:
    """Return the local time, ISO 8601 without a zone, as the library's function knows it."""
    return datetime.now().isoformat(timespec="seconds")


def check_time(text: str) -> str:
    """Return a time as it is.

    Raises:
        ValueError: It is no local time, ISO 8601 without a zone.
    """
    if datetime.fromisoformat(text).tzinfo is not None:
        raise ValueError(f"{text}: has a zone")
    return text


def local_time(text: str) -> str:
    """Return a time that may have a zone as local time without one.

    Raises:
        ValueError: It is no time.
    """
    found = datetime.fromisoformat(text)
    return found.astimezone().replace(tzinfo=None).isoformat(timespec="seconds")


def reads_clock(template: str) -> bool:
    """Return whether a chat template asks for the time."""
    return FUNCTION in template


def at_time(template: str, time: str) -> tuple[str, dict[str, list[list[str]]]]:
    """Return a chat template that is shown a time, and the variables that it needs.

    Args:
        template: The checkpoint's.
        time: Local time, ISO 8601 without a zone.
    """
    if not reads_clock(template):
        return template, {}
    return _MACRO + template, {_VARIABLE: [list(pair) for pair in _parts(template, time)]}


@lru_cache(maxsize=8)
def _parts(template: str, time: str) -> tuple[tuple[str, str], ...]:
    """Return every directive of ``strftime`` with what it stands for, those that stand for it.

    Of directives with a width or a modifier there is no end: those in the template are meant.
    """
    moment = datetime.fromisoformat(time)
    directives = [f"%{flag}{letter}" for flag in _FLAGS for letter in string.ascii_letters]
    directives += sorted(set(_SPECIAL.findall(template)).difference(directives))
    parts = [(directive, moment.strftime(directive)) for directive in directives]
    known = [(directive, part) for directive, part in parts if "%" not in part]
    return (("%%", _PERCENT), *known, (_PERCENT, "%"))
