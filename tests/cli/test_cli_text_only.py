"""``--text-only`` as a user meets it, and what ``info`` says of such a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store_support import make_bare, make_capture, make_manifest
from vlmscope.store import RunWriter

Command = Callable[..., Any]


def test_info_counts_rows_without_an_image(vlmscope: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with RunWriter(run, make_manifest()) as writer:
        writer.add([make_bare(0), make_capture(1), make_bare(2)])
    assert "2 rows without an image, and so without vision vectors" in vlmscope("info", run).out
    assert json.loads(vlmscope("info", run, "--json").out)["without_image"] == 2
    with RunWriter(tmp_path / "whole", make_manifest()) as writer:
        writer.add([make_capture(1)])
    assert "without an image" not in vlmscope("info", tmp_path / "whole").out


HINT = "(or --image-pattern, --text-only)"


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A table without an image column."""
    path = tmp_path / "t.csv"
    path.write_text("id,question\n1,What?\n")
    return path


def test_extract_takes_the_option_that_its_message_names(extract: Command, words: Path) -> None:
    assert HINT in " ".join(extract(data=words).err.split())
    said = extract("--text-only", data=words).err
    assert "1 of 1 rows has no image: no vision representations for them" in said


def test_score_takes_the_option_that_its_message_names(
    vlmscope: Command, words: Path, checkpoint: Path
) -> None:
    arguments = ("score", "--data", words, "--probe", words.parent, "--model", checkpoint)
    assert HINT in " ".join(vlmscope(*arguments).err.split())
    assert "is not a probe" in vlmscope(*arguments, "--text-only").err
