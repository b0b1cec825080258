"""Rows that harm the model, images and tables that change, two writers, clocks that jump."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

from faults.child import finish, start
from faults.killing import undisturbed
from faults.outcome import Outcome
from faults.setting import Setting, differences
from vlmscope.store import Run, open_run, read_failures

LIMIT = "3"
"""Seconds for ``--time-limit``: hundreds of times what a batch of the tiny model takes."""

TITLES = {
    "raise": "a model that raises on a row",
    "nan": "a model that gives NaN on a row",
    "gpu-memory": "GPU memory runs out on a row (its error, raised)",
    "host-memory": "host memory runs out on a row (refused by the allocator)",
    "hang": "a model that hangs on a row, in Python",
    "hang-in-c": "a model that hangs on a row, in C",
    "hang-with-the-lock": "a model that hangs on a row, in C with the interpreter's lock",
    "kill-in-prepare": "the process is killed while a row is prepared (SIGKILL)",
    "kill-in-model": "the process is killed while a row is in the model (SIGKILL)",
}
STAGES = {
    "hang": "model", "hang-in-c": "model", "kill-in-prepare": "prepare", "kill-in-model": "model",
}  # fmt: skip


def poisoned(setting: Setting, harm: str, tries: int, rng: random.Random) -> Outcome:
    """Let one row harm the model: it is recorded, the others are not harmed; then it is well."""
    outcome, folder = Outcome(TITLES[harm]), setting.folder / harm
    for _ in range(tries):
        row = rng.randrange(setting.rows)
        table, out = setting.table(harm, poisoned=[row]), folder / "run"
        expected = undisturbed(setting, table)
        limit = ["--time-limit", LIMIT] if harm.startswith("hang") else []
        arguments, log = setting.arguments(table, out, *limit), folder / "log"
        log.unlink(missing_ok=True)
        codes = [finish(start(arguments, log, harm=harm))]
        wrong: list[str] = []
        if harm.startswith("kill"):
            while codes[-1] == -signal.SIGKILL and len(codes) < 5:
                codes.append(finish(start(arguments, log, harm=harm)))
            wrong = [] if codes[-1] == 3 and len(codes) > 2 else [f"exit codes {codes}"]
        elif codes != [3]:
            wrong = [f"exit code {codes}"]
        if limit and log.read_text("utf-8").count("restarting") < 2:
            wrong += ["the command did not begin again"]
        wrong += _recorded_alone(out, expected, f"q{row}", STAGES.get(harm, "capture"))
        again = finish(start(arguments, log))
        wrong += [f"exit code {again} afterwards"] if again else []
        wrong += differences(out, expected)
        outcome.add(f"recorded, other rows not affected{_sessions(codes)}", wrong)
        shutil.rmtree(out)
    return outcome


def _sessions(codes: list[int]) -> str:
    if len(codes) == 1:
        return ""
    return ", in sessions that end with SIGKILL, then with 3"


def _recorded_alone(out: Path, expected: Run, id_: str, stage: str) -> list[str]:
    """Return what is wrong unless one row failed, at that stage, and the others are equal."""
    failures = open_run(out).failures
    found = [f"failed: {sorted(failures)}"] if list(failures) != [id_] else []
    stages = {failure.stage for failure in failures.values()}
    found += [f"stages {stages}"] if stages != {stage} else []
    return [*found, *differences(out, expected, without=[id_])]


def locked_hang(setting: Setting, tries: int, rng: random.Random) -> Outcome:
    """Hang in C with the interpreter's lock: no thread can record it; the process must end."""
    outcome, folder = Outcome(TITLES["hang-with-the-lock"]), setting.folder / "locked"
    for _ in range(tries):
        row = rng.randrange(setting.rows)
        table, out = setting.table("locked", poisoned=[row]), folder / "run"
        expected = undisturbed(setting, table)
        arguments = setting.arguments(table, out, "--time-limit", LIMIT)
        log = folder / "log"
        code = finish(start(arguments, log, harm="hang-with-the-lock"))
        again = finish(start(arguments, log))
        ends = (code, again) == (-signal.SIGABRT, 0)
        wrong = [] if ends else [f"exit codes {code}, {again}"]
        outcome.add("ended by SIGABRT", [*wrong, *differences(out, expected)])
        shutil.rmtree(out)
    return outcome


def vanishing(setting: Setting, tries: int, rng: random.Random) -> Outcome:
    """Remove images while their run goes on; then bring them back."""
    outcome, folder = Outcome("images that vanish while running"), setting.folder / "vanish"
    table, log = setting.table(folder.name), folder / "log"
    expected = undisturbed(setting, table)
    for _ in range(tries):
        out, gone = folder / "run", folder / f"{rng.randrange(3)}.png"
        arguments = setting.arguments(table, out, "--batch-size", "1")
        child = start(arguments, log)
        time.sleep(rng.uniform(0, 1))
        gone.rename(gone.with_suffix(".away"))
        code = finish(child)
        failures = open_run(out).failures if (out / "run.json").exists() else {}
        gone.with_suffix(".away").rename(gone)
        wrong = [] if code == (3 if failures else 0) else [f"exit code {code}"]
        stages = {failure.stage for failure in failures.values()} - {"input", "image"}
        wrong += [f"stages {stages}"] if stages else []
        wrong += differences(out, expected, without=list(failures))
        again = finish(start(arguments, log))
        wrong += [f"exit code {again} afterwards"] if again else []
        what = "recorded, and captured once available again" if failures else "after the last read"
        outcome.add(what, [*wrong, *differences(out, expected)])
        shutil.rmtree(out)
    return outcome


def two_writers(setting: Setting, tries: int, rng: random.Random) -> Outcome:
    """Start the same command twice."""
    outcome, folder = Outcome("two writers on one run at once"), setting.folder / "two"
    table, log = setting.table(folder.name), folder / "log"
    expected = undisturbed(setting, table)
    for _ in range(tries):
        out = folder / "run"
        arguments = setting.arguments(table, out)
        first = start(arguments, log)
        time.sleep(rng.uniform(0, 0.5))
        second = start(arguments, log)
        codes = sorted((finish(first), finish(second)))
        if codes == [0, 0]:
            outcome.add("one after the other", differences(out, expected))
        else:
            wrong = [] if codes == [0, 2] else [f"exit codes {codes}"]
            outcome.add("one refused, the other complete", [*wrong, *differences(out, expected)])
        shutil.rmtree(out)
    return outcome


def changed_table(setting: Setting, tries: int, rng: random.Random) -> Outcome:
    """Change a question between two sessions: refused; changed back: resumed."""
    outcome, folder = Outcome("a data file changed before a resume"), setting.folder / "changed"
    table, log = setting.table(folder.name), folder / "log"
    expected = undisturbed(setting, table)
    original = table.read_text("utf-8")
    for _ in range(tries):
        out, row = folder / "run", rng.randrange(setting.rows)
        shutil.copytree(expected.path, out)
        table.write_text(original.replace(f"image {row}?", f"image {row}, you say?"), "utf-8")
        before = _bytes_of(out)
        refused = finish(start(setting.arguments(table, out), log))
        wrong = [] if _bytes_of(out) == before else ["the run was changed"]
        table.write_text(original, "utf-8")
        again = finish(start(setting.arguments(table, out), log))
        wrong += [f"exit codes {refused}, {again}"] if (refused, again) != (2, 0) else []
        outcome.add("refused before anything was done", [*wrong, *differences(out, expected)])
        shutil.rmtree(out)
    return outcome


def _bytes_of(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name[0] != "."}


def _jump() -> None:
    """Let the wall clock of this process jump by up to a year, either way, whenever it is read."""
    rng, original = random.Random(time.time_ns()), time.time  # noqa: S311 - a fault, no secret
    time.time = lambda: original() + rng.uniform(-3e7, 3e7)


def clock(setting: Setting, tries: int, _rng: random.Random) -> Outcome:
    """Run with a wall clock that jumps back and forth."""
    outcome, folder = Outcome("a clock that jumps by up to a year"), setting.folder / "clock"
    table, log = setting.table(folder.name), folder / "log"
    expected = undisturbed(setting, table)
    for _ in range(tries):
        out = folder / "run"
        code = finish(start(setting.arguments(table, out, "--json"), log, before=_jump))
        summary = json.loads(log.read_text("utf-8").rpartition("\n{")[2].join(("{", "")))
        wrong = [] if code == 0 else [f"exit code {code}"]
        wrong += [] if 0 < summary["seconds"] < 100 else [f"took {summary['seconds']} seconds"]
        wrong += [str(failure) for failure in read_failures(out)]
        outcome.add("no difference", [*wrong, *differences(out, expected)])
        shutil.rmtree(out)
    return outcome
