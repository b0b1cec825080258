"""The time that a chat template is given: the same for all prompts of a run.

Templates of Llama 3, Mistral Small and others write today's date, which they get from the library's
``strftime_now``. The library does not accept another function from a caller, so a macro of that
name is put before the template: it replaces the directives by the parts of a given time.
"""

from __future__ import annotations

import re
import string
from datetime import datetime
from functools import lru_cache

FUNCTION = "strftime_now"
"""The function that chat templates call."""

_VARIABLE = "vlmscope_time"
_PERCENT = "\ue000"
"""Placeholder for a percent sign that is not part of a directive."""
_MACRO = (
    "{% macro " + FUNCTION + "(format) %}"
    "{% set text = namespace(value=format) %}"
    "{% for directive, part in " + _VARIABLE + " %}"
    "{% set text.value = text.value.replace(directive, part) %}"
    "{% endfor %}{{ text.value }}{% endmacro %}\n"
)
"""The final line break is dropped, as the library's environment trims blocks."""
_FLAGS = ("", "-", "_", "0", "^", "#")
"""Flags between the percent sign and the letter."""
_SPECIAL = re.compile(r"%[-_0^#+]*\d{0,3}[EO]?[a-zA-Z]")
"""A directive with several flags, a width, or a modifier, as the C library accepts them."""


def now() -> str:
    """Return the local time, ISO 8601 without a zone, as the library's function uses it."""
    return datetime.now().isoformat(timespec="seconds")


def check_time(text: str) -> str:
    """Return a time unchanged if it is valid.

    Raises:
        ValueError: It is not a local time, ISO 8601 without a zone.
    """
    if datetime.fromisoformat(text).tzinfo is not None:
        raise ValueError(f"{text}: has a zone")
    return text


def reads_clock(template: str) -> bool:
    """Return whether a chat template reads the time."""
    return FUNCTION in template


def at_time(template: str, time: str) -> tuple[str, dict[str, list[list[str]]]]:
    """Return a chat template with a given time, and the variables that it needs.

    Args:
        template: The checkpoint's template.
        time: Local time, ISO 8601 without a zone.
    """
    if not reads_clock(template):
        return template, {}
    return _MACRO + template, {_VARIABLE: [list(pair) for pair in _parts(template, time)]}


@lru_cache(maxsize=8)
def _parts(template: str, time: str) -> tuple[tuple[str, str], ...]:
    """Return every directive of ``strftime`` with its replacement, if it has one.

    Directives with a width or a modifier are unlimited: only those in the template are included.
    """
    moment = datetime.fromisoformat(time)
    directives = [f"%{flag}{letter}" for flag in _FLAGS for letter in string.ascii_letters]
    directives += sorted(set(_SPECIAL.findall(template)).difference(directives))
    parts = [(directive, moment.strftime(directive)) for directive in directives]
    known = [(directive, part) for directive, part in parts if "%" not in part]
    return (("%%", _PERCENT), *known, (_PERCENT, "%"))


def is_time(text: str) -> bool:
    """Return whether a text is a local time, as in ``check_time``."""
    try:
        return bool(check_time(text))
    except ValueError:
        return False
