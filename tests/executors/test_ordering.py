"""Questions about the same image meet; nothing is lost, and memory is bounded."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from material import QUESTIONS, make_image
from vlmscope import FailedRowsWarning, extract
from vlmscope.executors import plan
from vlmscope.executors.pending import AHEAD_ROWS, same_image_together
from vlmscope.model import VisionLanguageModel
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec, Sample

IMAGES: list[Any] = [
    "a.png", "b.png", Path("c.png"), b"a", b"b", ["a.png", b"a"], ["b.png"], None, []
]  # fmt: skip

tables = st.lists(st.sampled_from(IMAGES), max_size=40).map(
    lambda images: [Sample(str(i), image, "?") for i, image in enumerate(images)]
)
windows = st.integers(1, 50)


class Source:
    """Rows that tell how many were read."""

    def __init__(self, rows: Iterable[Sample]) -> None:
        self._rows = iter(rows)
        self.read: list[Sample] = []

    def __iter__(self) -> Iterator[Sample]:
        return self

    def __next__(self) -> Sample:
        self.read.append(next(self._rows))
        return self.read[-1]


def ids(rows: Iterable[Sample]) -> list[str]:
    return [row.id for row in rows]


def numbers(rows: Iterable[Sample]) -> list[int]:
    return [int(row.id) for row in rows]


def held_bytes(rows: Iterable[Sample]) -> int:
    return sum(len(one) for row in rows for one in row.images if isinstance(one, bytes))


@given(tables, windows, st.integers(1, 6))
def test_every_row_comes_once_and_those_of_an_image_in_their_order(
    table: list[Sample], ahead: int, ahead_bytes: int
) -> None:
    found = list(same_image_together(iter(table), ahead, ahead_bytes=ahead_bytes))
    assert sorted(numbers(found)) == list(range(len(table)))
    for images in {row.images for row in table}:
        of_one = [int(row.id) for row in found if row.images == images]
        assert of_one == sorted(of_one)


@given(tables)
def test_in_a_window_as_large_as_the_table_every_image_comes_once(table: list[Sample]) -> None:
    found = list(same_image_together(iter(table), len(table) + 1))
    runs = [images for images, _ in groupby(row.images for row in found) if images]
    assert len(runs) == len(set(runs))
    first = [next(row for row in table if row.images == images) for images in runs]
    assert numbers(first) == sorted(numbers(first)), "images come in the order of the table"


@given(tables, windows)
def test_the_oldest_waiting_row_and_all_about_its_images_come_next(
    table: list[Sample], ahead: int
) -> None:
    expected, waiting, rest = [], [], list(table)
    while rest or waiting:
        missing = ahead - len(waiting)
        waiting, rest = waiting + rest[:missing], rest[missing:]
        oldest = waiting[0]
        group = [row for row in waiting if row is oldest or (row.images == oldest.images != ())]
        expected += group
        waiting = [row for row in waiting if row not in group]
    assert ids(same_image_together(iter(table), ahead)) == ids(expected)


@given(tables, windows)
def test_rows_without_an_image_and_images_that_come_once_keep_their_order(
    table: list[Sample], ahead: int
) -> None:
    times = Counter(row.images for row in table if row.images)
    found = same_image_together(iter(table), ahead)
    alone = [int(row.id) for row in found if times[row.images] < 2]
    assert alone == sorted(alone)


@given(tables, windows)
def test_no_more_than_the_window_is_held(table: list[Sample], ahead: int) -> None:
    source = Source(table)
    for yielded, _ in enumerate(same_image_together(source, ahead)):
        assert len(source.read) - yielded <= ahead
    assert len(source.read) == len(table)


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 30))
def test_no_row_is_read_while_enough_bytes_are_held(sizes: list[int], most: int) -> None:
    source = Source(Sample(str(i), bytes(size), "?") for i, size in enumerate(sizes))
    gone: set[str] = set()
    for row in same_image_together(source, ahead_bytes=most):
        waiting = [one for one in source.read if one.id not in gone]
        assert held_bytes(waiting[:-1]) < most
        gone.add(row.id)
    assert len(gone) == len(sizes)


def test_the_first_row_of_an_endless_table_comes_after_one_window() -> None:
    def endless() -> Iterator[Sample]:
        number = 0
        while True:
            yield Sample(str(number), f"{number % 5000}.png", "?")
            number += 1

    source = Source(endless())
    assert next(same_image_together(source)).id == "0"
    assert len(source.read) == AHEAD_ROWS


def test_an_image_larger_than_the_bound_is_let_through() -> None:
    rows = [Sample(str(i), bytes(1000), "?") for i in range(3)]
    source = Source(rows)
    for read, row in enumerate(same_image_together(source, ahead_bytes=10), start=1):
        assert row is rows[read - 1]
        assert len(source.read) == read


def test_a_pil_image_is_known_again_and_counts_its_pixels(tmp_path: Path) -> None:
    one, other = Image.new("RGB", (10, 10)), Image.new("RGB", (10, 10))
    rows = [Sample(str(i), image, "?") for i, image in enumerate((one, other, one, other))]
    assert ids(same_image_together(iter(rows))) == ["0", "2", "1", "3"]
    assert ids(same_image_together(iter(rows), ahead_bytes=300)) == ["0", "1", "2", "3"]


def test_a_broken_image_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    make_image("four").save(path)
    path.write_bytes(path.read_bytes()[:900])
    with Image.open(path) as lazy:
        rows = [Sample("0", lazy, "?"), Sample("1", path, "?"), Sample("2", lazy, "?")]
        assert ids(same_image_together(iter(rows))) == ["0", "2", "1"]


def test_an_error_of_the_table_is_raised() -> None:
    def breaks_off() -> Iterator[Sample]:
        yield Sample("0", "a.png", "?")
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(same_image_together(breaks_off()))


def scattered_table(folder: Path) -> list[Sample]:
    """Write a table that comes back to three images again and again; row 4 is bad."""
    names = ["one", "two_wide", "four"]
    for name in names:
        make_image(name).save(folder / f"{name}.png")
    rows = [
        Sample(f"q{i}", str(folder / f"{names[i % 3]}.png"), f"{QUESTIONS[i % 5]} ({i})")
        for i in range(9)
    ]
    with (folder / "questions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "image", "question"])
        writer.writerows([r.id, r.image, "" if r.id == "q4" else r.question] for r in rows)
    return [row for row in rows if row.id != "q4"]


@pytest.mark.exhaustive
def test_a_table_that_scatters_its_images_gives_the_same_rows(
    tmp_path: Path,
    checkpoint: Path,
    vlm: VisionLanguageModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "load_with", lambda *_, **__: vlm)
    rows = scattered_table(tmp_path)
    spec = CaptureSpec(max_new_tokens=2)
    options: dict[str, Any] = {
        "model": checkpoint,
        "out": tmp_path / "run",
        "spec": spec,
        "batch_size": 2,
    }
    extract(tmp_path / "questions.csv", limit=2, **options)
    with pytest.warns(FailedRowsWarning, match="1 row failed: the question"):
        run = extract(tmp_path / "questions.csv", **options)
    assert list(run.failures) == ["q4"]
    assert run.failures["q4"].stage == "input"
    # What is done is left out first: the questions left about its image are as old as their first.
    assert run.ids == ("q0", "q1", "q2", "q5", "q8", "q3", "q6", "q7")
    for row in rows:
        found, expected = run[row.id], reference(row, vlm, spec)
        assert found.sample.question == row.question
        assert found.answer == expected.answer
        for name, vector in expected.vectors.items():
            np.testing.assert_allclose(found.vectors[name], vector, rtol=1e-4, atol=1e-5)
