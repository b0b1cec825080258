"""Runs that are made at once, for the tests that read columns alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from without_row_groups import with_row_groups, without_row_groups

OF_GROUPS = ("test_extract.py", "test_writing.py", "test_resume_property.py")
"""Tests of all that is written."""


@pytest.fixture(scope="module", autouse=True)
def quick_runs(request: pytest.FixtureRequest) -> Iterator[None]:
    groups = request.path.name in OF_GROUPS
    with contextlib.nullcontext() if groups else without_row_groups():
        yield


@pytest.fixture
def row_groups() -> Iterator[None]:
    """For a test of all that is written."""
    with with_row_groups():
        yield
