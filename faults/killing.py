"""Processes killed at random moments, and stopped by Ctrl-C and SIGTERM."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from faults.child import finish, start, start_python, writer_of
from faults.outcome import Outcome
from faults.setting import Setting, differences
from vlmscope.store import Run, open_run

ONE_BY_ONE = ("--batch-size", "1")
"""With batches of one row a resumed run is bit-equal to an undisturbed one."""


_UNDISTURBED: dict[tuple[Path, bytes], Run] = {}
_LOCK = threading.Lock()


def undisturbed(setting: Setting, table: Path) -> Run:
    """Return the run that nothing befell; it is made once for each text of a table."""
    with _LOCK:
        key = setting.model, table.read_bytes()
        if key not in _UNDISTURBED:
            out = setting.folder / f"undisturbed-{len(_UNDISTURBED)}"
            child = start(setting.arguments(table, out, *ONE_BY_ONE), setting.folder / "log")
            if code := finish(child):
                raise RuntimeError(f"the undisturbed run ended with {code}: {setting.folder}/log")
            _UNDISTURBED[key] = open_run(out)
        return _UNDISTURBED[key]


def killed(
    setting: Setting, how: str, tries: int, rng: random.Random, *, name: str = "", lane: int = 0
) -> Outcome:
    """SIGKILL ``driver``, ``group``, ``writer`` or ``driver with a separate writer``, and resume.

    Whenever a session comes to its end the run is compared and begun anew.
    """
    outcome = Outcome(name or f"SIGKILL of the {how}")
    folder = setting.folder / f"{how.replace(' ', '-')}-{lane}"
    table, out, log = setting.table(folder.name), folder / "run", folder / "log"
    expected = undisturbed(setting, table)
    begin, kill = _ways(setting, table, out, log)[how]
    amid: set[int] = set()
    while outcome.tries < tries:
        child = begin()
        _wait_for_shards(out, rng.randint(0, setting.rows // 3), child)
        child.join(rng.uniform(0, 0.15))
        alive = child.exitcode is None and kill(child)
        child.join(60)
        if alive:
            rows = _rows(out)
            amid.add(rows)
            wrong = [] if rows is not None else ["the run cannot be opened"]
            outcome.add("nothing published was lost", wrong)
        elif child.exitcode == 0:
            _check_end(outcome, out, expected)
    last = _to_the_end(setting, table, out, log)
    _check_end(outcome, out, expected, [f"exit code {last}"] if last else [])
    outcome.note = f"killed at {len(amid)} different numbers of rows of {setting.rows}"
    return outcome


def _to_the_end(setting: Setting, table: Path, out: Path, log: Path) -> int:
    """Resume a run until it is whole; return the exit code.

    A row that was alone in work at two kills is recorded as a failure, and is well the next time.
    """
    code = finish(start(setting.arguments(table, out, *ONE_BY_ONE), log))
    if code == 3:
        code = finish(start(setting.arguments(table, out, *ONE_BY_ONE), log))
    return code


def _ways(
    setting: Setting, table: Path, out: Path, log: Path
) -> dict[str, tuple[Callable[[], BaseProcess], Callable[[BaseProcess], bool]]]:
    """Return, for each thing that can be killed, how to begin and how to kill it."""
    request = {"table": table, "model": setting.model, "out": out}

    def command() -> BaseProcess:
        return start(setting.arguments(table, out, *ONE_BY_ONE), log)

    def python() -> BaseProcess:
        return start_python(request, log)

    return {
        "driver": (command, _kill),
        "process group": (python, _kill_group),
        "writer": (python, _kill_writer),
        "driver with a separate writer": (python, _kill),
    }


def _kill(child: BaseProcess) -> bool:
    child.kill()
    child.join()
    return child.exitcode == -signal.SIGKILL


def _kill_group(child: BaseProcess) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid or 0, signal.SIGKILL)
        return True
    return False


def _kill_writer(child: BaseProcess) -> bool:
    pid = writer_of(child)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        child.join(60)
        return child.exitcode == 1  # and it says so; 0 if the writer was done already
    return False


def _wait_for_shards(out: Path, new: int, child: BaseProcess) -> None:
    """Wait until the run has so many new shards, or the child has ended."""
    before = set((out / "shards").glob("*.h5"))
    while child.exitcode is None and len(set((out / "shards").glob("*.h5")) - before) < new:
        time.sleep(0.005)


def _rows(out: Path) -> int | None:
    """Return how many rows are published; None where they cannot be read."""
    if not (out / "run.json").exists():
        return 0
    for _ in range(200):  # a writer that outlives its driver by a moment may be packing
        with contextlib.suppress(Exception):
            run = open_run(out)
            if not run.check():
                return len(run)
        time.sleep(0.02)
    return None


def _check_end(outcome: Outcome, out: Path, expected: Run, wrong: list[str] | None = None) -> None:
    """Compare a run that came to its end with the undisturbed one, and remove it."""
    found = [*(wrong or []), *differences(out, expected)]
    if found:
        outcome.wrong.append("; ".join(found[:3]))
    shutil.rmtree(out)


def stopped(setting: Setting, signum: signal.Signals, tries: int, rng: random.Random) -> Outcome:
    """Ctrl-C or SIGTERM at random moments, and resume until the end."""
    title = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[signum]
    outcome, folder = Outcome(title), setting.folder / title
    table, out, log = setting.table(folder.name), folder / "run", folder / "log"
    expected = undisturbed(setting, table)
    while outcome.tries < tries:
        child = start(setting.arguments(table, out, *ONE_BY_ONE), log)
        _wait_for_shards(out, rng.randint(0, setting.rows // 3), child)
        child.join(rng.uniform(0, 0.15))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid or 0, signum)
        code = finish(child)
        if code == 128 + signum:
            rows = _rows(out)
            outcome.add("finished its batch, exit code " + str(code), _open_parts(out, rows))
        elif code == -signum:
            outcome.add("ended while loading")
        elif code == 0:
            _check_end(outcome, out, expected)
        else:
            outcome.add("", [f"exit code {code}"])
    last = finish(start(setting.arguments(table, out, *ONE_BY_ONE), log))
    _check_end(outcome, out, expected, [f"exit code {last}"] if last else [])
    return outcome


def _open_parts(out: Path, rows: int | None) -> list[str]:
    if rows is None:
        return ["the run cannot be opened"]
    left = list((out / "shards").glob("part-*")) if rows else []
    return [f"{len(left)} parts left"] if left else []
