"""Small synthetic captures: the shapes of the specification, a hundred times smaller."""

from __future__ import annotations

from pathlib import Path

import pytest

from store_support import make_captures, make_manifest
from vlmscope.store import RunWriter


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A closed run of 10 rows in one pack."""
    folder = tmp_path / "runs" / "first"
    with RunWriter(folder, make_manifest()) as writer:
        for start in range(0, 10, 4):
            writer.add(make_captures(range(start, min(start + 4, 10))))
    return folder
