"""What the tests of detectors share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from detected_runs import without_trees


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Leave out the baseline that takes longer than all others; its own test is of the sweep."""
    with without_trees():
        yield
