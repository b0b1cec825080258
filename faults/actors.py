"""Ray's actors, or the driver of a job, killed at random moments or by a row.

The job goes on, or does with the same command; its rows are those of a quiet run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from faults.killing import ONE_BY_ONE, undisturbed
from faults.outcome import Outcome
from faults.setting import Setting, differences
from vlmscope.store import read_failures

ACTORS = 2


def killed(setting: Setting, tries: int, rng: random.Random) -> Outcome:
    """SIGKILL one of two actors, again and again; jobs that come to their end are begun anew."""
    outcome = Outcome("SIGKILL of an actor")
    folder = setting.folder / "actors"
    table, jobs, amid = setting.table(folder.name), 0, set[int]()
    expected = undisturbed(setting, table)
    with tempfile.TemporaryDirectory(prefix="vr", dir="/tmp") as short:
        while outcome.tries < tries:
            out = folder / f"run-{jobs}"
            job, jobs = _start(setting, table, out, Path(short), folder / "log"), jobs + 1
            for rows in _kill_some(job, out, rng, tries - outcome.tries):
                amid.add(rows)
                outcome.add("replaced, its rows done again")
            code = job.wait(600)
            found = [f"exit code {code}"] if code else differences(out, expected)
            if found:
                outcome.wrong.append("; ".join(found[:3]))
                break
    outcome.note = f"jobs: {jobs}, each equal; killed at {len(amid)} different numbers of shards"
    return outcome


def driver_killed(setting: Setting, tries: int, rng: random.Random) -> Outcome:
    """SIGKILL the driver, and start the same command at once: the old actors may still write."""
    outcome = Outcome("SIGKILL of the driver of a Ray job")
    folder = setting.folder / "ray-driver"
    table = setting.table(folder.name)
    expected = undisturbed(setting, table)
    with tempfile.TemporaryDirectory(prefix="vr", dir="/tmp") as short:
        for number in range(tries):
            out, log = folder / f"run-{number}", folder / "log"
            first = _start(setting, table, out, Path(short), log)
            wanted = rng.randint(1, setting.rows // 2)
            while first.poll() is None and _shards(out) < wanted:
                time.sleep(0.01)
            first.send_signal(signal.SIGKILL)
            first.wait(60)
            code = _start(setting, table, out, Path(short), log).wait(600)
            wrong = [f"exit code {code}"] if code else []
            outcome.add("waited for, then resumed", [*wrong, *differences(out, expected)])
    return outcome


CRASHES = """
import os, signal
from pathlib import Path

import PIL.Image

_open = PIL.Image.open

def crash(file, *rest, **options):
    name = getattr(file, "name", file)
    if isinstance(name, str | os.PathLike) and Path(name).name == "poison.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return _open(file, *rest, **options)

PIL.Image.open = crash
"""
"""The ``sitecustomize`` of a job: a library that crashes on one image. Only actors open images."""


def poisoned(setting: Setting, tries: int, rng: random.Random) -> Outcome:
    """Let one row kill every actor that has it: it is recorded, the others are done."""
    outcome = Outcome("a row that kills every actor of a Ray job")
    folder = setting.folder / "ray-row"
    table = setting.table(folder.name)
    (folder / "sitecustomize.py").write_text(CRASHES)
    shutil.copy(folder / "0.png", folder / "poison.png")
    lines = table.read_text("utf-8").splitlines(keepends=True)
    with tempfile.TemporaryDirectory(prefix="vr", dir="/tmp") as short:
        for number in range(tries):
            row = rng.randrange(setting.rows)
            changed = lines.copy()
            changed[row + 1] = changed[row + 1].replace(f"{row % 3}.png", "poison.png")
            table.write_text("".join(changed), "utf-8")
            expected = undisturbed(setting, table)
            out, log = folder / f"run-{number}", folder / "log"
            code = _start(setting, table, out, Path(short), log, PYTHONPATH=_first(folder)).wait(
                600
            )
            wrong = [] if code == 3 else [f"exit code {code}"]
            errors = {id_: failure.error for id_, failure in read_failures(out).items()}
            alone = "died on this row alone" in errors.get(f"q{row}", "")
            wrong += [] if alone and len(errors) == 1 else [f"failed: {errors}"]
            wrong += differences(out, expected, without=[f"q{row}"])
            outcome.add("recorded, the others done by other actors", wrong)
    return outcome


def _first(folder: Path) -> str:
    """Return a PYTHONPATH that begins with a folder."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))


def _start(
    setting: Setting, table: Path, out: Path, short: Path, log: Path, **environment: str
) -> subprocess.Popen[bytes]:
    ray = ("--ray", "--address", "local", "--actors", str(ACTORS))
    arguments = setting.arguments(table, out, *ONE_BY_ONE, *ray)
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "vlmscope", *arguments],
            stdout=file,
            stderr=file,
            env=os.environ | {"RAY_TMPDIR": str(short)} | environment,
        )


def _kill_some(job: subprocess.Popen[bytes], out: Path, rng: random.Random, most: int) -> list[int]:
    """Kill actors of a job until it ends; return how many shards there were each time."""
    found: list[int] = []
    while job.poll() is None and len(found) < most:
        before = _shards(out)
        wanted = before + rng.randint(1, 6)
        while job.poll() is None and _shards(out) < wanted:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        actors = _actors(job)
        if actors and job.poll() is None:
            rng.choice(actors).send_signal(signal.SIGKILL)
            found.append(_shards(out))
    return found


def _shards(out: Path) -> int:
    return len(list((out / "shards").glob("*.h5")))


def _actors(job: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes in which actors of a job's cluster are at work."""
    try:
        below = psutil.Process(job.pid).children(recursive=True)
        return [one for one in below if "ray::Worker" in one.name() + " ".join(one.cmdline()[:1])]
    except psutil.Error:  # it has just ended
        return []
