"""SIGKILL at random moments: a resumed run equals an uninterrupted one, bit for bit."""

from __future__ import annotations

import csv
import multiprocessing
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from material import QUESTIONS, picture
from vlmscope.store import Run, open_run

KILLS = 12
ROWS = 40


def command_line(arguments: list[str]) -> None:
    """Run ``vlmscope`` in a child process, as its console script would."""
    import torch

    from vlmscope.cli import main

    torch.set_num_threads(1)
    sys.argv = ["vlmscope", *arguments]
    main()


def write_table(folder: Path, numbers: Iterable[int] = range(ROWS)) -> Path:
    """Write a table of some rows, in this order; a row of a number is always the same."""
    for seed, name in enumerate(("one", "two_wide", "four")):
        picture(name, seed).save(folder / f"{name}.png")
    path = folder / "questions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "image_name", "question", "gt_answer"])
        for i in numbers:
            name = ("one", "two_wide", "four")[i % 3]
            writer.writerow([f"q{i}", f"{name}.png", f"{QUESTIONS[i % 5]} ({i})", "Yes"])
    return path


def wait_for_shards(run: Path, new: int, child: multiprocessing.process.BaseProcess) -> None:
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


def test_kills_lose_nothing(checkpoint: Path, tmp_path: Path) -> None:
    # A fork server that has imported everything: a child starts in milliseconds, so that the
    # kills fall on the work and not on the imports. Batches of one row make results bit-equal.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults.warm"])
    table, out = write_table(tmp_path), tmp_path / "run"
    arguments = [
        *("extract", str(table), "--model", str(checkpoint), "--device", "cpu"),
        *("--max-new-tokens", "6", "--batch-size", "1", "--out"),
    ]

    def start(folder: Path) -> multiprocessing.process.BaseProcess:
        child = context.Process(target=command_line, args=([*arguments, str(folder)],))
        child.start()
        return child

    uninterrupted = start(tmp_path / "uninterrupted")
    uninterrupted.join(120)
    assert uninterrupted.exitcode == 0
    expected = open_run(tmp_path / "uninterrupted")
    assert len(expected) == ROWS

    rng, kills, amid = random.Random(7), 0, set()  # noqa: S311 - moments, no secrets
    while kills < KILLS:
        child = start(out)
        wait_for_shards(out, rng.randint(0, 10), child)
        child.join(rng.uniform(0, 0.1))
        child.kill()
        child.join()
        if child.exitcode == -signal.SIGKILL:
            kills += 1
            amid.add(len(open_run(out)) if (out / "run.json").exists() else 0)
        elif child.exitcode == 3:  # a row that was alone in work at two kills is recorded
            assert [f.stage for f in open_run(out).failures.values()] in (["prepare"], ["model"])
        else:  # it got to the end: begin anew, so that kills go on to fall on work
            assert child.exitcode == 0
            assert_equal(open_run(out), expected)
            shutil.rmtree(out)
    assert len(amid - {0, ROWS}) >= 4, f"the kills did not fall on the work: {amid}"
    for _ in range(2):  # a row that was recorded is tried again
        last = start(out)
        last.join(120)
        if last.exitcode != 3:
            break
    assert last.exitcode == 0
    assert_equal(open_run(out), expected)


def test_a_table_that_grows_and_is_sorted_between_kills_loses_nothing(
    checkpoint: Path, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults.warm"])
    out, rng = tmp_path / "run", random.Random(5)  # noqa: S311 - moments, no secrets
    order = list(range(24))
    rng.shuffle(order)

    def start(folder: Path, rows: Iterable[int]) -> multiprocessing.process.BaseProcess:
        arguments = [
            *("extract", str(write_table(tmp_path, rows)), "--model", str(checkpoint)),
            *("--device", "cpu", "--max-new-tokens", "6", "--batch-size", "1", "--out"),
        ]
        child = context.Process(target=command_line, args=([*arguments, str(folder)],))
        child.start()
        return child

    amid = []
    for rows in (9, 18):
        child = start(out, sorted(order[:rows], reverse=rows == 18))
        wait_for_shards(out, rng.randint(2, 4), child)
        child.kill()
        child.join()
        amid.append((child.exitcode, 0 < len(open_run(out)) < rows))
    assert amid == [(-signal.SIGKILL, True)] * 2, "the kills did not fall on the work"
    last = start(out, order)
    last.join(120)
    assert last.exitcode == 0
    whole = start(tmp_path / "uninterrupted", range(24))
    whole.join(120)
    assert_equal(open_run(out), open_run(tmp_path / "uninterrupted"))
