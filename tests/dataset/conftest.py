"""Messages about tables are asserted as the command line shows them, with its options."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vlmscope.errors import naming_options


@pytest.fixture(autouse=True)
def as_on_the_command_line() -> Iterator[None]:
    with naming_options():
        yield
