"""Large tables and long runs: time, memory and file handles, measured."""

from __future__ import annotations

import csv
import multiprocessing
import random
import resource
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from faults.child import finish, start
from faults.outcome import Outcome
from faults.setting import Setting, write_table
from vlmscope.store import open_run, read_failures

FLAT = 0.5
"""MiB per 1,000 rows from which memory counts as growing, while rows are captured."""

INDEXED = 4.0
"""MiB per 1,000 rows that may be needed beside that at the end, while the index is built."""

Sample = tuple[float, float, int, int]
"""Seconds, MiB of memory, file handles, rows published."""


def million(setting: Setting, rows: int = 1_000_000, bad: int = 10_000) -> Outcome:
    """Read a table with bad rows from end to end, and record these; no row reaches the model."""
    outcome = Outcome(f"a table of {rows:,} rows, {bad:,} of them bad")
    folder = setting.folder / "million"
    path = folder / "large.csv"
    write_table(folder, 3)
    rng = random.Random(0)  # noqa: S311 - which rows are bad
    _write_large(path, rows, frozenset(rng.sample(range(rows), bad)))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_read_large, args=(path, setting.model, folder / "run", queue))
    child.start()
    scan, record, good, memory = queue.get(timeout=1800)
    child.join()
    found = read_failures(folder / "run")
    wrong = [f"{len(found):,} recorded"] if len(found) != bad else []
    wrong += [f"{good:,} good rows"] if good != rows - bad else []
    outcome.add("every bad row recorded, every good one captured", wrong)
    times = f"checked in {scan:.0f} s, read and recorded in {record:.0f} s"
    outcome.note = f"{times}, {memory:.0f} MiB more memory"
    return outcome


def _write_large(path: Path, rows: int, bad: frozenset[int]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "image_name", "question", "gt_answer"])
        for i in range(rows):
            question = "" if i in bad else f"Is there a cup in image {i}?"
            writer.writerow([f"q{i}", f"{i % 3}.png", question, "Yes"])


def _read_large(path: Path, model: Path, out: Path, queue: object) -> None:
    """Plan the run and take all of its rows as the executor does, without the model."""
    from vlmscope.executors import Request, make_plan
    from vlmscope.executors.pending import pending_rows
    from vlmscope.executors.writing import writing
    from vlmscope.model_options import ModelOptions

    cpu = ModelOptions(device="cpu")
    make_plan(Request(str(path), str(model), out, limit=1, loading=cpu))  # imports and weights
    before, start_ = _peak(), time.perf_counter()
    plan = make_plan(Request(str(path), str(model), out, loading=cpu))
    planned = time.perf_counter()
    with writing(plan.request, plan.manifest, plan.vlm, lambda _: None) as results:
        due = pending_rows(plan.table, plan.request, results.done_ids, results.put)
        good = sum(1 for _ in due)
    ended = time.perf_counter()
    found = (planned - start_, ended - planned, good, _peak() - before)
    queue.put(found)  # type: ignore[attr-defined]


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def soak(setting: Setting, rows: int = 20_000, curve: Path | None = None) -> Outcome:
    """Run many rows and watch memory and file handles, in the second half.

    Until then the allocators may still come to their high-water mark: on a busy machine that took
    5,500 rows. The index, which is built in memory after the last row, has a link to every row. It
    is measured by itself: one peak at the end says nothing about growth on the way.
    """
    outcome, folder = Outcome(f"a soak of {rows:,} rows"), setting.folder / "soak"
    table, out = write_table(folder, rows), folder / "run"
    child = start(setting.arguments(table, out), folder / "log")
    seen = list(_watch(child, folder / "log", rows))
    code = finish(child)
    late = [sample for sample in seen if rows // 2 <= sample[3] < rows]  # the index comes after
    slope, handles = _slope(late), (min(s[2] for s in late), max(s[2] for s in late))
    index = (max(s[1] for s in seen) - max(s[1] for s in late)) / rows * 1000
    wrong = [f"exit code {code}"] if code else []
    wrong += [f"{len(open_run(out)):,} rows"] if len(open_run(out)) != rows else []
    wrong += [f"memory grows by {slope:.1f} MiB per 1,000 rows"] if slope > FLAT else []
    wrong += [f"the index takes {index:.1f} MiB per 1,000 rows"] if index > INDEXED else []
    wrong += [f"file handles {handles}"] if handles[1] - handles[0] > 8 else []
    outcome.add("memory and file handles flat", wrong)
    outcome.note = (
        f"{seen[-1][0]:.0f} s, {slope:+.2f} MiB per 1,000 rows ({late[0][1]:.0f} MiB at half, "
        f"{late[-1][1]:.0f} at the last row, {max(s[1] for s in late):.0f} at most; "
        f"{max(s[1] for s in seen):.0f} with the index), {handles[0]} to {handles[1]} file handles"
    )
    if curve is not None:
        _draw(seen, curve)
    return outcome


def _watch(child: BaseProcess, log: Path, rows: int) -> Iterator[Sample]:
    """Yield what the child uses, about twice a second, until it ends."""
    begin, shards = time.monotonic(), log.parent / "run" / "shards"
    counted: dict[str, int] = {}
    while child.exitcode is None:
        try:
            pages = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])
            handles = len(list(Path(f"/proc/{child.pid}/fd").iterdir()))
        except OSError:
            break
        if not pages:
            break  # it has ended, and is not waited for yet
        yield time.monotonic() - begin, pages / 256, handles, _rows_in(shards, counted, rows)
        child.join(0.5)


def _rows_in(shards: Path, counted: dict[str, int], most: int) -> int:
    """Return about how many rows are published: those of the packs, each counted once."""
    import h5py

    for path in shards.glob("pack-*.h5"):
        if path.name not in counted:
            with h5py.File(path) as file:
                counted[path.name] = int(file.attrs["num_samples"])
    return min(most, sum(counted.values()))


def _slope(late: list[Sample]) -> float:
    """Return MiB per 1,000 rows, by least squares over the median memory of each pack's time."""
    by_rows: dict[int, list[float]] = {}
    for _, memory, _, done in late:
        by_rows.setdefault(done, []).append(memory)
    if len(by_rows) < 3:
        return 0.0
    points = [(done / 1000, float(np.median(memory))) for done, memory in by_rows.items()]
    return float(np.polyfit(*zip(*points, strict=True), 1)[0])


def _draw(seen: list[Sample], path: Path) -> None:
    """Draw memory and file handles over the rows."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "soak"
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
    axis.plot([s[0] / 60 for s in seen], [s[1] for s in seen], color="#2a6fb0", linewidth=1)
    axis.set(xlabel="minutes", ylabel="memory, MiB", ylim=(0, None))
    other = axis.twinx()
    other.plot([s[0] / 60 for s in seen], [s[2] for s in seen], color="#b0672a", linewidth=1)
    other.set(ylabel="file handles", ylim=(0, 60))
    figure.savefig(path, metadata={"Date": None})
