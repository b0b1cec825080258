"""Small runs and sweeps at once.

Runs are made without the rows' groups, which take three quarters of the time and no sweep reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from fewer_forms import all_forms, fewer_forms
from without_row_groups import without_row_groups

OF_GROUPS = ("test_sweep_halp_files.py", "test_sweep_seed_files.py")
"""Tests of sweeps over files in the HALP layout, which has nothing else."""


@pytest.fixture(scope="module", autouse=True)
def quick_sweeps(request: pytest.FixtureRequest) -> Iterator[None]:
    groups = request.path.name in OF_GROUPS
    with contextlib.nullcontext() if groups else without_row_groups(), fewer_forms():
        yield


@pytest.fixture
def every_form() -> Iterator[None]:
    """For a test of what the joint baseline can learn from all its forms."""
    with all_forms():
        yield
