"""Small runs and sweeps at once.

Runs are made without the rows' groups, which take three quarters of the time and no sweep reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fewer_forms import all_forms, fewer_forms
from vlmscope.store.format.row_groups import RowWriter

OF_GROUPS = ("test_sweep_halp_files.py", "test_sweep_seed_files.py")
"""Tests of sweeps over files in the HALP layout, which has nothing else."""

_write = RowWriter.write


def _write_exported(rows: Any) -> Iterator[str]:
    """Write the rows of an export; of a shard, which has columns, none."""
    return iter(()) if rows._virtual else _write(rows)


@pytest.fixture(scope="module", autouse=True)
def quick_sweeps(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, fewer_forms():
        if request.path.name not in OF_GROUPS:
            patch.setattr(RowWriter, "write", _write_exported)
        yield


@pytest.fixture
def every_form() -> Iterator[None]:
    """For a test of what the joint baseline can learn from all its forms."""
    with all_forms():
        yield
