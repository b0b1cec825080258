"""A first ``extract`` with a missing or wrong ``--images``: later commands find the images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlmscope.store import open_run, read_manifest

Command = Callable[..., Any]
QUICK = ("--limit", 4, "--layers", 2)


@pytest.fixture
def images(table: Path, tmp_path: Path) -> Path:
    """The folder of the table's images, which is not the table's."""
    folder = tmp_path / "img"
    folder.mkdir()
    for path in tmp_path.glob("*.png"):
        path.rename(folder / path.name)
    return folder


@pytest.fixture
def partly(images: Path, tmp_path: Path) -> Path:
    """A folder that has some of the images."""
    folder = tmp_path / "img2"
    folder.mkdir()
    for path in images.glob("four_*.png"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def assert_all_found(vlmscope: Command, run: Path) -> None:
    """Verify every row and make the report, without being told where the images are."""
    done = vlmscope("verify", run, "--device", "cpu", "--sample", 4)
    assert done.code == 0, done.err
    assert "same images: 4" in done.out
    done = vlmscope("report", run)
    assert (done.code, "missing" in done.err) == (0, False), done.err


@pytest.mark.exhaustive
def test_after_a_first_extract_without_images(
    extract: Command, vlmscope: Command, images: Path, tmp_path: Path
) -> None:
    assert extract(*QUICK).code == 3
    assert not len(open_run(tmp_path / "run"))
    done = extract(*QUICK, "--images", images)
    assert done.code == 0
    assert "earlier rows" not in done.err
    assert "came from" not in done.err
    assert read_manifest(tmp_path / "run").data.images == str(images)
    assert_all_found(vlmscope, tmp_path / "run")


@pytest.mark.exhaustive
def test_after_a_first_extract_with_a_partly_wrong_folder(
    extract: Command, vlmscope: Command, images: Path, partly: Path, tmp_path: Path
) -> None:
    assert extract(*QUICK, "--images", partly).code == 3
    assert len(open_run(tmp_path / "run")) == 1
    done = extract(*QUICK, "--images", images)
    assert done.code == 0
    assert f"images of earlier rows came from {partly}, now they come from {images}" in done.err
    assert_all_found(vlmscope, tmp_path / "run")
