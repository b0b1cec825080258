"""SIGKILL amid the work: a resumed run equals an uninterrupted one, bit for bit.

``make faults`` does it hundreds of times, at random moments.
"""

from __future__ import annotations

import csv
import random
import signal
import time
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faults.child import finish, start
from material import QUESTIONS, make_image
from vlmscope.store import Run, open_run

Command = Callable[..., Any]
ROWS = 24


def write_table(folder: Path, numbers: Iterable[int]) -> Path:
    """Write a table of some rows, in this order; a row of a number is always the same."""
    for seed, name in enumerate(("one", "two_wide", "four")):
        make_image(name, seed).save(folder / f"{name}.png")
    path = folder / "questions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "image_name", "question", "gt_answer"])
        for i in numbers:
            name = ("one", "two_wide", "four")[i % 3]
            writer.writerow([f"q{i}", f"{name}.png", f"{QUESTIONS[i % 5]} ({i})", "Yes"])
    return path


def wait_for_shards(run: Path, new: int, child: BaseProcess) -> None:
    """Wait until the run has so many new shards, or the child has ended."""
    shards = run / "shards"
    before = set(shards.glob("*.h5"))
    while child.exitcode is None and len(set(shards.glob("*.h5")) - before) < new:
        time.sleep(0.01)


def assert_equal(found: Run, expected: Run) -> None:
    assert sorted(found.ids) == sorted(expected.ids)  # rows in work at a kill come last
    assert not found.check()
    assert not found.failures
    assert not list(found.path.glob(".in-progress-*"))
    for other in expected:
        one = found[other.sample.id]
        assert one.answer == other.answer
        np.testing.assert_array_equal(one.answer_token_ids, other.answer_token_ids)
        np.testing.assert_array_equal(one.answer_logprobs, other.answer_logprobs)
        assert one.vectors.keys() == other.vectors.keys()
        for name, vector in other.vectors.items():
            np.testing.assert_array_equal(one.vectors[name], vector)
        assert one.signals.keys() == other.signals.keys()
        for name, array in other.signals.items():
            np.testing.assert_array_equal(one.signals[name], array)


@pytest.mark.exhaustive
def test_kills_lose_nothing_while_the_table_grows_and_is_sorted(
    checkpoint: Path, tmp_path: Path, extract: Command
) -> None:
    out, rng = tmp_path / "run", random.Random(5)  # noqa: S311 - moments, no secrets
    order = list(range(ROWS))
    rng.shuffle(order)
    settings = ("--max-new-tokens", "6", "--batch-size", "1", "--signals", "attention,heads,lens")

    def begin(rows: Iterable[int]) -> BaseProcess:
        arguments = ("extract", str(write_table(tmp_path, rows)), "--model", str(checkpoint))
        place = ("--device", "cpu", "--out", str(out))
        return start([*arguments, *settings, *place], tmp_path / "log")

    amid = []
    for rows in (9, 18):
        child = begin(sorted(order[:rows], reverse=rows == 18))
        wait_for_shards(out, rng.randint(2, 4), child)
        child.kill()
        child.join()
        amid.append((child.exitcode, 0 < len(open_run(out)) < rows))
    assert amid == [(-signal.SIGKILL, True)] * 2, "the kills did not fall on the work"
    assert finish(begin(order)) == 0, (tmp_path / "log").read_text("utf-8")
    table = write_table(tmp_path, range(ROWS))
    assert extract(*settings, data=table, out="uninterrupted").code == 0
    assert_equal(open_run(out), open_run(tmp_path / "uninterrupted"))
