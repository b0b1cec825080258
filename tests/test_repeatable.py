"""Chat templates that would write another prompt each time are known by what they call."""

from __future__ import annotations

import pytest

from vlmscope.repeatable import uses_randomness


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ ['a', 'b']|random }}", "random"),
        ("{{ ['a', 'b'] | random() }}", "random"),
        ("{%- for a in b -%}{{- a|default('')|random -}}{%- endfor -%}", "random"),
        ("{% filter random %}ab{% endfilter %}", "random"),
        ("{{ messages | map( 'random' ) | list }}", "random"),
        ("{% generation %}{{ x|random }}{% endgeneration %}", "random"),
        ("{{ lipsum() }}", "lipsum"),
        ("{% set greet = lipsum %}{{ greet(n=1) }}", "lipsum"),
    ],
)
def test_chance(template: str, name: str) -> None:
    assert uses_randomness(template) == name


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages }}", "a random | random", "{# x|random #}",
        "{% raw %}{{ x|random }}{% endraw %}",
        "{{ messages[0].random }}{{ messages['random'] }}{{ ('random') }}{{ x.lipsum }}",
        "{% set random = 1 %}{{ f(random=random) }}", "{{ x |",
    ],
)  # fmt: skip
def test_no_chance(template: str) -> None:
    assert not uses_randomness(template)
