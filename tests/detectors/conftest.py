"""Runs that are made at once: detectors read columns alone. Their baselines have fewer forms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fewer_forms import fewer_forms
from without_row_groups import without_row_groups


@pytest.fixture(scope="module", autouse=True)
def quick_runs() -> Iterator[None]:
    with without_row_groups(), fewer_forms():
        yield
