"""Runs without the rows' groups, which take three quarters of the time of writing a small run.

For tests of what reads columns alone: probes, labels, comparisons. The groups are for others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from vlmscope.store.format.row_groups import RowWriter

_write = RowWriter.write


def _write_exported(rows: Any) -> Iterator[str]:
    """Write the rows of an export; of a shard, which has columns, none."""
    return iter(()) if rows._virtual else _write(rows)


@contextlib.contextmanager
def without_row_groups() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowWriter, "write", _write_exported)
        yield


@contextlib.contextmanager
def with_row_groups() -> Iterator[None]:
    """The groups as they are, within ``without_row_groups``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowWriter, "write", _write)
        yield
