"""JSON within limits: what is cut, what is refused, and that nothing else is touched."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmscope.jsontext import (
    MOST_DIGITS,
    cut_json,
    is_long,
    json_lines,
    line_break,
    load_json,
    nests_deeper,
)

texts = st.text('[]{}"\\,: a\n', max_size=9) | st.text(max_size=5)
numbers = st.integers() | st.floats() | st.integers(0, 3).map(lambda n: 10 ** (MOST_DIGITS - n))
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=20,
)


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (isinstance(value, dict | list)) + max(map(depth_of, inner), default=0)


def cut(value: Any, levels: int) -> Any:
    """What is left of a value: containers one level deeper than ``levels`` are empty."""
    if isinstance(value, dict):
        return {key: cut(item, levels - 1) for key, item in value.items()} if levels else {}
    if isinstance(value, list):
        return [cut(item, levels - 1) for item in value] if levels else []
    return value


@settings(deadline=None, derandomize=True)
@given(value=values, levels=st.integers(1, 5), ascii_only=st.booleans())
def test_levels_are_counted_and_cut(value: Any, levels: int, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert nests_deeper(text, levels) == (depth_of(value) > levels)
    assert json.dumps(json.loads(cut_json(text, levels))) == json.dumps(cut(value, levels))
    assert cut_json(text, 70) == text


@settings(deadline=None, derandomize=True)
@given(st.text('[]{}"\\1', max_size=30))
def test_any_text_is_cut_without_an_error(text: str) -> None:
    assert len(cut_json(text, 2)) <= len(text)
    nests_deeper(text, 2)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5000, "9" * 5000, "[", "nan"])
def test_what_is_refused_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"^nests deeper|^has a whole number of|^Expecting"):
        load_json(text)


def test_a_long_number_stays_a_long_number() -> None:
    short = json.loads(cut_json(f"[-{'7' * 9000}]", 5))[0]
    assert is_long(short)
    assert not is_long(10**MOST_DIGITS - 1)


@pytest.mark.parametrize(
    "odd",
    [b"", b"{", b"\xff\xfe", b'{"a": ' + b"9" * 5000 + b"}", b"[" * 90 + b"]" * 90,
     b'{"long": "' + b"x" * 200 + b'{"a": 0}', b"x" * 63, b"x" * 64, b"x" * 65, b'"\\ud83d'],
)  # fmt: skip
def test_lines_around_an_odd_one_are_read(odd: bytes) -> None:
    file = BytesIO(b'{"a": 1}\n' + odd)
    file = BytesIO(file.getvalue() + line_break(file) + b'{"a": 2}\n')
    assert list(json_lines(file, 64)) == [{"a": 1}, {"a": 2}]


def test_the_end_of_a_line_that_is_too_long_is_no_line() -> None:
    file = BytesIO(b"x" * 64 + b'{"a": 0}\n{"a": 1}')
    assert list(json_lines(file, 64)) == [{"a": 1}]
