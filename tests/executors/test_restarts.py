"""A model that hangs ends the process at the time limit, and the command begins again: the run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from executors.captured_rows import make_capture, make_manifest
from executors.made_up_model import made_up
from executors.test_suspects import Good, Killed
from vlmscope.errors import InputError, StoreError, naming_options
from vlmscope.executors import Request, Summary, local, make_plan, runner, time_limit
from vlmscope.executors.plan import Plan
from vlmscope.executors.time_limit import Restarts, end_process, take_restarts
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample
from vlmscope.store import FailureLog, open_run, read_failures

LIMIT = 0.1


@dataclass
class Command:
    """One command line, and the processes that it takes."""

    out: Any
    rows: int = 12
    hangs: Callable[[list[str]], bool] = lambda _ids: False
    exits: list[str] = field(default_factory=list)
    """How processes ended: ``again`` or ``124``."""
    modelled: list[list[str]] = field(default_factory=list)
    """What went into the model together, in the last process."""
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, **options: Any) -> Summary | None:
        """Run the command as often as it begins again; None where it ends with 124."""
        while (summary := self._process(**options)) is None and self.exits[-1] == "again":
            assert len(self.exits) < 40
        return summary

    def _process(self, **options: Any) -> Summary | None:
        self.modelled = []
        ended = threading.Event()

        def execv(path: str, argv: list[str]) -> None:
            assert path == argv[0] == sys.executable
            assert argv[1:] == sys.orig_argv[1:]
            self.exits.append("again")

        def exit_(code: int) -> None:
            if not ended.is_set():
                if len(self.exits) == before:
                    self.exits.append(str(code))
                ended.set()

        def capture_batch(batch: Any, *_: Any) -> list[Capture]:
            ids = [sample.id for sample in batch.samples]
            self.modelled.append(ids)
            if self.hangs(ids):
                assert ended.wait(20), "the limit did not end it"
                raise Killed
            return [make_capture(int(s.id[1:]), id_=s.id) for s in batch.samples]

        before = len(self.exits)
        prepare = lambda rows, *_: ([SimpleNamespace(samples=tuple(rows), nbytes=0)], [])  # noqa: E731
        request = Request(
            "t",
            "m",
            self.out,
            spec=CaptureSpec(),
            **{"time_limit": LIMIT, "batch_size": 4, **options},
        )
        ids = tuple(f"q{i}" for i in range(self.rows))
        known = frozenset(self.held) & set(ids)
        scan: Any = SimpleNamespace(ids=ids)
        plan = Plan(request, Good(self.rows), scan, made_up(), make_manifest(), known)  # type: ignore[arg-type]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "prepare", prepare)
            patch.setattr(runner, "capture_batch", capture_batch)
            ends = {"execv": execv, "_exit": exit_}
            patch.setattr(time_limit, "os", SimpleNamespace(**(vars(os) | ends)))
            with contextlib.suppress(Killed):
                return local.run_plan(plan, stop=self.stop)
        return None

    @property
    def held(self) -> set[str]:
        return set(open_run(self.out).ids) if (self.out / "run.json").exists() else set()

    @property
    def failures(self) -> dict[str, str]:
        failures = open_run(self.out).failures.values()
        return {failure.id: failure.error for failure in failures if failure.stage == "model"}

    def all_but(self, *ids: str) -> set[str]:
        return {f"q{i}" for i in range(self.rows)} - set(ids)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with naming_options():
        yield Command(tmp_path / "run")
    assert time_limit._VARIABLE not in os.environ


ALONE = f"the model took longer than --time-limit {LIMIT:g} seconds on this row alone"


def test_one_row_that_hangs_does_not_end_the_run(
    command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    command.hangs = lambda ids: "q6" in ids
    summary = command.run()
    assert summary is not None
    assert command.exits == ["again", "again"]
    assert (summary.failed, summary.stopped) == (1, False)
    assert command.held == command.all_but("q6")
    assert list(command.failures) == ["q6"]
    assert command.failures["q6"].endswith(ALONE)
    first, second = capfd.readouterr().err.split("note: ")[1:]
    assert first.startswith("the model took longer than --time-limit 0.1 seconds; rows in it: 'q4'")
    assert "'q6'" in first
    assert "tried last, each alone" in first
    assert "rows in it: 'q6'; it is recorded as failed, restarting" in second
    assert not list(command.out.glob(".in-progress-*"))
    # The same command once more tries it again, alone, and comes to the same end.
    again = command.run()
    assert again is not None
    assert (again.already_done, again.failed) == (11, 1)
    command.hangs = lambda _ids: False
    assert command.run() is not None
    assert command.held == command.all_but()
    assert not command.failures


@pytest.mark.exhaustive
def test_every_row_that_hangs_is_found_and_counted(command: Command) -> None:
    command.hangs = lambda ids: not {"q1", "q2", "q9"}.isdisjoint(ids)
    summary = command.run()
    assert summary is not None
    assert summary.failed == 3
    assert command.held == command.all_but("q1", "q2", "q9")
    assert set(command.failures) == {"q1", "q2", "q9"}
    assert all(error.endswith(ALONE) for error in command.failures.values())


def test_what_was_captured_before_is_on_the_disk(command: Command) -> None:
    command.hangs = lambda ids: "q4" in ids
    command._process(batch_size=4)
    assert command.exits == ["again"]
    assert command.held == {"q0", "q1", "q2", "q3"}
    take_restarts()


def test_the_run_is_released_before_the_process_begins_again(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A marker, the lock of file systems without flock, names a process; this one goes on."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    free: list[bool] = []

    def end(*given: Any, **options: Any) -> None:
        free.append(not list(command.out.glob(".marker-*")))
        end_process(*given, **options)

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(runner, "end_process", end)
    command.hangs = lambda ids: "q4" in ids
    command._process(batch_size=4)
    assert free == [True]
    take_restarts()


def test_a_limit_that_no_batch_keeps_ends_with_124(
    command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    command.hangs = lambda _ids: True
    assert command.run() is None
    assert command.exits == ["again"] * (time_limit.TRIES - 1) + ["124"]
    assert command.held == set()
    last = capfd.readouterr().err.rpartition("error: ")[2]
    assert "10 times in succession" in last
    assert "longer --time-limit or a smaller --batch-size" in last


def test_who_asked_to_stop_is_not_begun_again(
    command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    def hangs(ids: list[str]) -> bool:
        command.stop.set()
        return "q0" in ids

    command.hangs = hangs
    assert command.run() is None
    assert command.exits == ["124"]
    assert "run the same command again, which tries them last" in capfd.readouterr().err


@pytest.mark.parametrize("rows", [1, 12])
def test_strict_ends_at_the_row_that_hangs(command: Command, rows: int) -> None:
    command.rows = rows
    command.hangs = lambda ids: "q0" in ids
    summary = command.run(strict=True)
    assert summary is not None
    assert summary.failed == 1
    assert summary.stopped == (rows > summary.captured + summary.already_done + 1)
    assert set(command.failures) >= {"q0"}
    assert command.failures["q0"].endswith(ALONE)
    assert not command.modelled


def test_from_python_a_limit_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    request = Request("t", "m", tmp_path / "run", time_limit=5)
    with pytest.raises(InputError, match=r"^time_limit 5: .* only the command vlmscope extract"):
        make_plan(request)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"hung": 3}', '{"hung": [], "without_progress": "x"}']
)
def test_a_state_that_says_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    path.write_text(text)
    descriptor = os.open(path, os.O_RDONLY)
    monkeypatch.setenv(time_limit._VARIABLE, f"{os.getpid()}:{descriptor}")
    assert take_restarts() == Restarts()
    assert time_limit._VARIABLE not in os.environ
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("text", ["", "x", ":", "PID:", "PID:987654", "{"])
def test_an_environment_that_names_no_state(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(time_limit._VARIABLE, text.replace("PID", str(os.getpid())))
    assert take_restarts() == Restarts()
    assert time_limit._VARIABLE not in os.environ


def test_a_state_of_another_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.pipe()
    monkeypatch.setenv(time_limit._VARIABLE, f"{os.getppid()}:{ours}")
    assert take_restarts() == Restarts()
    for descriptor in (ours, theirs):
        os.close(descriptor)  # neither read, which would block, nor closed


ROW = Sample("q7", "7.png", "Why?", origin="t.csv line 9")


LONG = tuple(f"{i}{'x' * 15_999}" for i in range(40))
"""Ids that do not fit into an environment."""


def hang(out: Path, program: str, without_progress: int) -> None:
    """Be a command whose model hangs."""
    sys.orig_argv = ["python", "-S", "-c", program]
    request = Request("t", "m", out, time_limit=3.0)
    end_process(request, [ROW], Restarts(LONG, without_progress), captured=False, stopping=False)


SAYS = """
import os, sys
process, descriptor = os.environ["VLMSCOPE_TIME_LIMIT"].split(":")
assert int(process) == os.getpid()
state = open(int(descriptor))
state.seek(0)
with open({path!r}, "w") as file:
    file.write(str(os.getpid()) + state.read())
sys.exit(7)
"""


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize(("without_progress", "code"), [(0, 7), (time_limit.TRIES - 1, 124)])
def test_the_process_begins_again_as_itself(
    tmp_path: Path, without_progress: int, code: int
) -> None:
    said, out = tmp_path / "said", tmp_path / "run"
    out.mkdir()
    program = SAYS.format(path=str(said))
    context = multiprocessing.get_context("fork")
    process = context.Process(target=hang, args=(out, program, without_progress))
    process.start()
    process.join(20)
    assert process.exitcode == code
    if code == 7:
        told = said.read_text()
        assert told.startswith(str(process.pid))
        now = json.loads(told.removeprefix(str(process.pid)))
        assert now == {"hung": [*LONG, "q7"], "without_progress": 1}
    failure: Failure = read_failures(out)["q7"]
    assert failure.stage == "model"
    assert failure.error.startswith("t.csv line 9: the model took longer than ")


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_command_that_cannot_be_restarted_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "removed"))
    context = multiprocessing.get_context("fork")
    process = context.Process(target=hang, args=(tmp_path, "", 0))
    process.start()
    process.join(20)
    assert process.exitcode == 124
    said = capfd.readouterr().err
    assert "error: the command cannot be restarted: No such file or directory; run the" in said
    assert list(read_failures(tmp_path)) == ["q7"]


def test_the_state_needs_no_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every system has anonymous files in memory."""
    before = Restarts(("q1",), 3)
    without = {name: value for name, value in vars(os).items() if name != "memfd_create"}
    monkeypatch.setattr(time_limit, "os", SimpleNamespace(**without))
    time_limit._leave_restarts(before)
    assert take_restarts() == before


def test_rows_that_cannot_be_recorded_end_it(
    command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise StoreError("failures.jsonl: no space left")

    monkeypatch.setattr(FailureLog, "add_all", full)
    command.hangs = lambda ids: "q6" in ids
    assert command.run() is None
    assert command.exits == ["124"]
    said = capfd.readouterr().err
    assert "error: failures.jsonl: no space left" in said
    assert "run the same command again" in said


def test_a_terminal_that_is_gone_keeps_nothing_from_being_recorded(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = SimpleNamespace(write=lambda _: (_ for _ in ()).throw(BrokenPipeError()))
    monkeypatch.setattr(sys, "__stderr__", gone)
    command.hangs = lambda ids: "q6" in ids
    summary = command.run()
    assert summary is not None
    assert summary.failed == 1
    assert list(command.failures) == ["q6"]
