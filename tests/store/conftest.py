"""Small synthetic captures: the shapes of the specification, a hundred times smaller."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from store_support import make_captures, make_manifest
from vlmscope.store import RunWriter


@pytest.fixture(scope="session")
def run_of_ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed run of 10 rows in one pack. Copy it before writing into it."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    with RunWriter(folder, make_manifest()) as writer:
        for start in range(0, 10, 4):
            writer.add(make_captures(range(start, min(start + 4, 10))))
    return folder


@pytest.fixture
def run(run_of_ten: Path, tmp_path: Path) -> Path:
    """The same, for one test."""
    return shutil.copytree(run_of_ten, tmp_path / "runs" / "first")
