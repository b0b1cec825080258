"""The macro that shows a chat template a time writes what the library's function would."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import render_jinja_template

from vlmscope.clock import at_time, check_time

TIME = "2026-03-07T23:05:09"

FORMATS = (
    "%d %b %Y", "%Y-%m-%d", "%B %d, %Y", "%A", "%H:%M:%S", "%-d %B", "100%% on %j", "%%d", "%c",
    "%z|%Z|", "no directive", "%e %I %p", "", "%", "%-^b", "%03d of %_5m", "%Ey %Od", "%^",
)  # fmt: skip
"""As in released templates, and odd ones."""

WRITTEN = (
    "{{ strftime_now(%r) }}",
    "\n  {%% set today = strftime_now(%r) %%}\n{{ today ~ '!' }}",
    "  {%% if strftime_now is defined %%}{{ strftime_now(format=%r) }}{%% endif %%}",
    "{%%- macro head() %%}{{ strftime_now(%r) | upper }}{%% endmacro %%}{{ head() }}",
    "{%% if date_string is not defined %%}{%% set date_string = strftime_now(%r) %%}{%% endif %%}"
    "{%% for message in messages %%}{{ date_string }}{%% endfor %%}",
)


def render(template: str, **variables: Any) -> str:
    [text], _ = render_jinja_template(
        [[{"role": "user", "content": "?"}]], chat_template=template, **variables
    )
    return str(text)


@pytest.mark.first(2)
@pytest.mark.parametrize("written", WRITTEN)
def test_it_writes_what_the_librarys_function_does(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fixed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            del tz
            return datetime.fromisoformat(TIME)

    monkeypatch.setattr(chat_template_utils, "datetime", Fixed)
    wanted = {directives: render(written % directives) for directives in FORMATS}
    monkeypatch.undo()
    for directives, text in wanted.items():
        template, variables = at_time(written % directives, TIME)
        assert render(template, **variables) == text, directives


def test_a_template_without_a_clock_is_left_as_it_is() -> None:
    assert at_time("{{ messages }}", TIME) == ("{{ messages }}", {})


@pytest.mark.parametrize("text", ["", "now", "2026-03-07T23:05:09+01:00"])
def test_no_local_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"has a zone|Invalid isoformat"):
        check_time(text)


def test_directives_of_one_template_are_not_another_ones() -> None:
    for directives, text in (("%04d", "0007"), ("%05d", "00007"), ("%04d", "0007")):
        template, variables = at_time(f"{{{{ strftime_now('{directives}') }}}}", TIME)
        assert render(template, **variables) == text
