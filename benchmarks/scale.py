"""What a run of many rows costs, and what one of a million will: files, opening, reading, resuming.

A run is written by the real writer, 1,000 rows at a time, so that every part becomes a pack at
once. At each size everything is measured in a process of its own, with the pages of the run dropped
before the first opening. A straight line through the sizes says what a million rows will cost. Rows
have the specification's eleven vectors, but narrow ones: only the size on disk and the read of a
column depend on how wide they are.

    python benchmarks/scale.py --work /tmp/scale                       # two minutes, 0.4 GB
    python benchmarks/scale.py --work /tmp/scale --copies              # and a million rows, 12 GB
    python benchmarks/scale.py --work /tmp/wide --true-width --rows 2000 4000 8000

``--copies`` checks the line: it fills the run up with copies of its packs in which each row has an
id of its own, and measures that run as well. Writing a million rows would take hours; all that is
measured here is read from the columns, and these are whole. Pages are dropped, and memory is read,
as Linux has it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np

import storage
from vlmscope.dataset import open_table
from vlmscope.executors.manifest import capture_record
from vlmscope.executors.pending import pending_rows
from vlmscope.executors.plan import compare, open_checked
from vlmscope.executors.request import Request
from vlmscope.model import resolve_spec_for
from vlmscope.schema import CaptureSpec
from vlmscope.store import (
    Manifest,
    RunWriter,
    open_run,
    read_manifest,
    rebuild_index,
    write_manifest,
)
from vlmscope.store.catalog import parse_shard_name, shard_name
from vlmscope.store.format.checksums import digest

TOGETHER = 1_000
NARROW = 8
SAMPLES = 3

Numbers = dict[str, float]


def main() -> None:
    """Grow, measure, draw the line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="scratch folder")
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000, 10_000, 20_000])
    parser.add_argument("--to", type=int, default=1_000_000, help="rows to say the cost of")
    parser.add_argument(
        "--true-width", action="store_true", help="vectors as wide as the specification's"
    )
    parser.add_argument("--copies", action="store_true", help="measure so many rows as well")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(in_this_process(options.step, options.work)))
        return
    found = {rows: measure(options.work, rows, options.true_width) for rows in sorted(options.rows)}
    really = None
    if options.copies:
        add_copies(options.work / "run", from_row=max(options.rows), to_row=options.to)
        really = measure(options.work, options.to, options.true_width)
    report(found, options.to, really)


def measure(work: Path, rows: int, wide: bool) -> Numbers:
    """Let the run grow to so many rows; return what it costs then, by name."""
    start, before = time.perf_counter(), 0
    run = work / "run"
    wanted = manifest(wide)
    if (run / "run.json").exists():
        before = len(open_run(run).ids)
    if before < rows:
        grow(run, wanted, before, rows)
    growing = time.perf_counter() - start
    # The rows that are done and one that is not: all of them are passed over to come to it.
    fingerprint = write_table(work / "table.csv", rows + 1)
    write_manifest(run, replace(wanted, data=replace(wanted.data, fingerprint=fingerprint)))
    numbers: Numbers = {}
    for step in STEPS:
        numbers |= in_own_process(step, work)
    shards = list((run / "shards").iterdir())
    numbers |= {
        "files in shards/": len(shards),
        "MB of a pack, mean": sum(path.stat().st_size for path in shards) / len(shards) / 1e6,
        "MB of all packs": sum(path.stat().st_size for path in shards) / 1e6,
        "MB of index.h5": (run / "index.h5").stat().st_size / 1e6,
    }
    if before < rows:
        print(f"{rows:,} rows: {growing:.0f} s for the last {rows - before:,}", flush=True)
    return numbers


def manifest(wide: bool) -> Manifest:
    """Return the manifest of the run: what a request with the default options captures."""
    base = storage.manifest("float32")
    spec = resolve_spec_for(CaptureSpec(), base.model.type, base.model.num_layers)
    hidden, vision = (storage.HIDDEN, storage.VISION) if wide else (NARROW, NARROW)
    return replace(
        base,
        model=replace(base.model, hidden_size=hidden, vision_size=vision),
        capture=replace(capture_record(spec), layers=storage.LAYERS),
        data=replace(base.data, fields=asdict(request(Path()).fields)),
    )


def request(work: Path) -> Request:
    """Return what is asked of a session that goes on with the run."""
    return Request(data=str(work / "table.csv"), model="benchmark", out=work / "run")


def grow(run: Path, wanted: Manifest, first: int, end: int) -> None:
    """Add rows to the run, so many at a time that each part becomes a pack."""
    if (run / "run.json").exists():
        write_manifest(run, wanted)  # the table of before was shorter
    with RunWriter(run, wanted) as writer:
        for start in range(first, end, TOGETHER):
            rows = range(start, min(end, start + TOGETHER))
            model = wanted.model
            writer.add(
                list(storage.captures(rows, vision=model.vision_size, hidden=model.hidden_size))
            )


def write_table(path: Path, rows: int) -> str:
    """Write a table with so many questions, three about an image; return its fingerprint."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "image_name", "question", "answer", "category"])
        for i in range(rows):
            question = f"Is there a red bus to the left of pedestrian {i % 97}?"
            row = (storage.id_of(i), f"images/{i // 3:07d}.jpg", question, "No", "existence")
            writer.writerow(row)
    return open_table(path).scan().fingerprint


def add_copies(run: Path, *, from_row: int, to_row: int) -> None:
    """Fill the run up with copies of its packs, each row under an id of its own."""
    packs = sorted((run / "shards").glob("pack-*.h5"))
    packs = [path for path in packs if _rows_of(path) == TOGETHER]
    number = 1 + max(parse_shard_name(path).seq for path in packs)
    for k, start in enumerate(range(from_row, to_row, TOGETHER)):
        target = run / "shards" / shard_name("pack", "000", number + k)
        shutil.copyfile(packs[k % len(packs)], target)
        ids = [storage.id_of(i) for i in range(start, start + TOGETHER)]
        with h5py.File(target, "r+") as file:
            named = file["_columns/question_id"]
            named[:] = np.array(ids, dtype=object)
            named.attrs["sha256"] = digest(ids)
            file.attrs["supersedes"] = [shard_name("part", "000", number + k)]


def _rows_of(path: Path) -> int:
    with h5py.File(path) as file:
        return int(file.attrs["num_samples"])


def in_own_process(step: str, work: Path) -> Numbers:
    """Take one step in a fresh process; return what it measured."""
    command = [sys.executable, __file__, "--work", str(work), "--step", step]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def in_this_process(step: str, work: Path) -> Numbers:
    """Take one step; return what it measured, and the most memory it took beside the imports."""
    if step != "reopening":
        drop_pages(work / "run")
    before = peak()
    numbers = STEPS[step](work)
    return numbers | {f"{step}: MB of memory": (peak() - before) / 1e6}


def drop_pages(folder: Path) -> None:
    """Have the kernel forget what it holds of these files, as far as it does so when asked."""
    for path in folder.rglob("*.h5"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def peak() -> int:
    """Return the most bytes that this process has had in memory."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


def opening(work: Path) -> Numbers:
    """Open the run: not in the page cache, and once more in the same process."""
    return {
        "open_run, not cached, s": storage.timed(lambda: open_run(work / "run")),
        "open_run, again in the process, s": best(lambda: open_run(work / "run")),
    }


def reopening(work: Path) -> Numbers:
    """Open the run in a new process while it is in the page cache."""
    return {"open_run, cached, s": storage.timed(lambda: open_run(work / "run"))}


def column(work: Path) -> Numbers:
    """Read one column of all rows: the first time, which checks it, and again."""
    run = open_run(work / "run")
    return {
        "one column, first read, s": storage.timed(lambda: run.matrix(*storage.COLUMN)),
        "one column, later reads, s": best(lambda: run.matrix(*storage.COLUMN)),
    }


def resuming(work: Path) -> Numbers:
    """Do all that a session does before its first row, but for what the model has to do with."""
    asked, times = request(work), [time.perf_counter()]
    table, scan, held = open_checked(asked)
    times.append(time.perf_counter())
    wanted = read_manifest(asked.out)  # what a loaded model would say
    done, _ = compare(asked, scan, wanted, held)
    times.append(time.perf_counter())
    with suppress(_Enough), RunWriter(asked.out, wanted) as writer:
        times.append(time.perf_counter())
        row = next(pending_rows(table, asked, writer.done_ids, lambda _: None))
        times.append(time.perf_counter())
        assert len(done) == len(scan.ids) - 1
        assert row.id == scan.ids[-1]
        raise _Enough  # a close would rebuild the index, which is measured by itself
    parts = ("table read and checked", "run opened", "writer opened", "table passed to the row due")
    spent = zip(parts, times, times[1:], strict=False)
    return {
        **{f"resume: {part}, s": end - start for part, start, end in spent},
        "resume: nothing due, s": times[3] - times[0],
        "resume: only the last row due, s": times[4] - times[0],
    }


class _Enough(Exception):  # noqa: N818 - not an error
    """Leaves a writer without closing it."""


def indexing(work: Path) -> Numbers:
    """Make the index anew, as a writer does at its end."""
    return {"index made, s": storage.timed(lambda: rebuild_index(work / "run"))}


STEPS: dict[str, Callable[[Path], Numbers]] = {
    "opening": opening,
    "reopening": reopening,
    "column": column,
    "resuming": resuming,
    "indexing": indexing,
}


def best(work: Callable[[], object]) -> float:
    """Return the fewest seconds of a few times."""
    return min(storage.timed(work) for _ in range(SAMPLES))


def report(found: dict[int, Numbers], to: int, really: Numbers | None) -> None:
    """Print every number at every size, and what the line through them says of ``to`` rows."""
    sizes = list(found)
    heads = [f"{size:,}" for size in sizes]
    print("\n| | " + " | ".join(heads) + f" | line: constant + per million rows | {to:,} rows |"
          + (" measured |" if really else ""))  # fmt: skip
    print("| --- |" + " --- |" * (len(sizes) + 2 + bool(really)))
    for name in found[sizes[0]]:
        values = [found[size][name] for size in sizes]
        slope, constant = np.polyfit(sizes, values, 1) if len(sizes) > 1 else (0.0, values[0])
        shown = [f"{value:.4g}" for value in values]
        line = [f"{constant:.2g} + {slope * 1e6:.4g}", f"{constant + slope * to:.4g}"]
        last = [f"{really[name]:.4g}"] if really else []
        print(f"| {name} | " + " | ".join(shown + line + last) + " |")


if __name__ == "__main__":
    main()
