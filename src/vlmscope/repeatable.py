"""Find chat templates that are random: their rows would not be reproducible.

A chat template is a program of the checkpoint. Besides the conversation it can read the time, which
``clock`` keeps constant, and random numbers: Jinja's ``random`` filter and its ``lipsum`` function.
A run with random prompts can be neither verified nor scored, so such a template is refused.
"""

from __future__ import annotations

from functools import lru_cache

_FILTER, _FUNCTION = "random", "lipsum"
_BY_NAME = ("map", "select", "reject")
"""Filters that accept the name of another filter as a string."""


@lru_cache(maxsize=64)
def uses_randomness(template: str) -> str:
    """Return the name of the random function that a chat template uses; empty for none.

    >>> uses_randomness("{{ ['Hi', 'Hello'] | random }}"), uses_randomness("{{ lipsum(1) }}")
    ('random', 'lipsum')
    >>> uses_randomness("Take a random one. {{ messages[0].random }}{# |random #}")
    ''
    """
    if _FILTER not in template and _FUNCTION not in template:
        return ""
    from jinja2 import Environment, TemplateSyntaxError

    two, one = "", ""  # the last two tokens
    try:
        for _, kind, text in Environment(autoescape=True).lex(template):
            if kind == "whitespace":
                continue
            if kind == "name" and text == _FILTER and one in {"|", "filter"}:
                return _FILTER
            if kind == "name" and text == _FUNCTION and one != ".":
                return _FUNCTION
            if kind == "string" and text[1:-1] == _FILTER and one == "(" and two in _BY_NAME:
                return _FILTER
            two, one = one, text
    except TemplateSyntaxError:
        return ""  # rendering the template reports it
    return ""
