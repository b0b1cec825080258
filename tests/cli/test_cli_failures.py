"""What ``vlmscope extract`` says of rows that failed, beside their number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from material import picture

Command = Callable[..., Any]

HEADER = "question_id,image_name,question,gt_answer\n"


@pytest.fixture
def write(tmp_path: Path, table: Path) -> Callable[[str, dict[str, str]], Path]:
    """Write a table of id → image name beside the pictures."""

    def written(name: str, images: dict[str, str]) -> Path:
        path = tmp_path / name
        rows = (f"{id_},{image},What is it?,Yes\n" for id_, image in images.items())
        path.write_text(HEADER + "".join(rows))
        return path

    return written


def test_the_most_frequent_reason_is_said_with_what_to_do(extract: Command, write: Any) -> None:
    data = write("t.csv", {"a": "one_0.png", "b": "", "c": "gone.png", "d": ""})
    said = extract(data=data).err
    assert "3 rows failed" in said
    assert "most often (2 of 3): no image in column 'image_name'" in said
    assert "pass --text-only if questions without a picture are meant" in said


def test_reasons_that_differ_in_a_name_are_one(extract: Command, write: Any) -> None:
    data = write("t.csv", {"a": "one_0.png", "b": "", "c": "1.mp4", "d": "two.mp4"})
    said = extract(data=data).err
    assert "most often (2 of 3): the image '1.mp4' is a video" in said
    assert "extract a frame" in said


def test_only_failures_of_this_session_count(extract: Command, write: Any) -> None:
    """The file keeps those of the session before."""
    data = write("t.csv", {"a": "one_0.png", "b": "", "c": "new.png", "d": "newer.png"})
    first = extract(data=data)
    assert "most often (2 of 3): image" in first.err
    for name in ("new.png", "newer.png"):
        picture("one", 5).save(data.parent / name)
    again = extract(data=data)
    assert "1 row failed" in again.err
    assert "reason: no image in column 'image_name'" in again.err


def test_nothing_is_said_where_nothing_failed(extract: Command) -> None:
    done = extract()
    assert done.code == 0
    assert "most often" not in done.err
