"""The command: every fault many times, and the table of what came of it.

The whole takes under an hour on two cores. ``--kills`` and ``--soak`` make it shorter.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from faults import actors, disks, killing, rows, scale
from faults.outcome import HEADER, Outcome
from faults.setting import Setting, make_setting

LANES = 2
"""Faults that are tried side by side."""

Job = Callable[[], Outcome]


def jobs(setting: Setting, kills: int, tries: int, seed: int) -> list[Job]:
    """Return every fault that does not measure, the long ones first."""

    def rng(number: int) -> random.Random:
        return random.Random(seed * 1000 + number)  # noqa: S311 - moments, no secrets

    ways = ("driver", "process group", "writer", "driver with a separate writer")
    found: list[Job] = [
        lambda way=way, i=i: killing.killed(setting, way, -(-kills // 4), rng(i))  # type: ignore[misc]
        for i, way in enumerate(ways)
    ]
    found += [
        lambda s=s: killing.stopped(setting, s, 5 * tries, rng(10 + s))  # type: ignore[misc]
        for s in (signal.SIGINT, signal.SIGTERM)
    ]
    found += [
        lambda harm=harm: rows.poisoned(setting, harm, tries, rng(50))  # type: ignore[misc]
        for harm in rows.TITLES
        if harm != "hang-with-the-lock"
    ]
    found += [lambda: rows.locked_hang(setting, 2, rng(51))]
    found += [
        lambda how=how: disks.damaged(setting, how, 100 * tries, rng(60))  # type: ignore[misc]
        for how in disks.DAMAGES
    ]
    singly = (
        disks.file_limit, disks.full_disk, disks.read_only, rows.two_writers, rows.changed_table,
        rows.vanishing, rows.clock,
    )  # fmt: skip
    found += [
        lambda do=do, i=i: do(setting, 2 * tries, rng(70 + i))  # type: ignore[misc]
        for i, do in enumerate(singly)
    ]
    return found


def _said(done: Outcome, began: float) -> Outcome:
    print(f"{time.monotonic() - began:6.0f} s  {done.row()}", file=sys.stderr, flush=True)
    return done


def main() -> int:
    """Do it all, print the table, and return 1 if something came that should not."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=240, help="SIGKILLs in all (240)")
    parser.add_argument("--actors", type=int, default=20, help="SIGKILLs of Ray's actors (20)")
    parser.add_argument("--tries", type=int, default=4, help="tries of what is slow (4)")
    parser.add_argument("--soak", type=int, default=20_000, help="rows of the soak, 0 for none")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the large table")
    parser.add_argument("--lanes", type=int, default=LANES, help="faults side by side (2)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--curve", type=Path, help="where the soak's curve is drawn, an SVG")
    options = parser.parse_args()
    folder, began = Path(tempfile.mkdtemp(prefix="faults-")), time.monotonic()
    folder.chmod(0o755)
    setting = make_setting(folder)
    todo = jobs(setting, options.kills, options.tries, options.seed)
    if options.soak:
        todo.insert(0, lambda: scale.soak(setting, options.soak, options.curve))
    if options.rows:
        todo.append(lambda: scale.million(setting, options.rows, options.rows // 100))
    if options.actors:
        rng = random.Random(options.seed * 1000 + 90)  # noqa: S311 - moments, no secrets
        todo.append(lambda: actors.killed(setting, options.actors, rng))
        todo.append(lambda: actors.driver_killed(setting, -(-options.actors // 10), rng))
        todo.append(lambda: actors.poisoned(setting, -(-options.actors // 20), rng))
    with ThreadPoolExecutor(options.lanes) as lanes:
        coming: list[Future[Outcome]] = [
            lanes.submit(lambda job=job: _said(job(), began)) for job in todo
        ]
    outcomes = [future.result() for future in coming]
    print(HEADER, *(outcome.row() for outcome in outcomes), sep="\n")
    minutes = (time.monotonic() - began) / 60
    print(f"\n{sum(o.tries for o in outcomes):,} tries in {minutes:.0f} minutes.")
    shutil.rmtree(folder, ignore_errors=True)
    return int(any(outcome.wrong for outcome in outcomes))
