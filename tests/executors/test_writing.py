"""A run written by a process of its own is the run that a thread writes; and either may die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import h5py
import numpy as np
import pytest

from executors.captured_rows import make_capture, make_manifest
from executors.made_up_model import Rows, made_up
from store.store_support import assert_same
from vlmscope.cli.stopping import stop_on_signals
from vlmscope.errors import RunBusyError, RunMismatchError, StoreError
from vlmscope.executors import Plan, Request, Summary, local, run_plan, runner
from vlmscope.executors import writing as executors_writing
from vlmscope.executors.writing import BEHIND, WritingThread, writing
from vlmscope.schema import Capture, CaptureSpec
from vlmscope.store import RunWriter, RunWriterProcess, check_free, open_run

ROWS = 12
Kind = Literal["auto", "thread", "process"]


class Log:
    """An observer that remembers what it was told, and from which threads."""

    def __init__(self) -> None:
        self.told: list[dict[str, int]] = []
        self.threads: set[int] = set()

    def advance(self, **told: int) -> None:
        self.told.append(told)
        self.threads.add(threading.get_ident())


def row(id_: str) -> Capture:
    """Return a capture; some hold their image, some have no name for it but its path."""
    i = int(id_[1:])
    capture = make_capture(i, id_=id_)
    images = (b"\x89PNG", Path(f"/data/{i}.png"), [f"/data/{i}.png", b"\xff\xd8"])
    changes: dict[str, Any] = {"image": images[i % 3], "image_id": "" if i % 3 else "x.png"}
    return replace(capture, sample=replace(capture.sample, **changes))


def capture_by_hand(batch: Any, *_: Any) -> list[Capture]:
    return [row(sample.id) for sample in batch.samples]


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows come from ``row`` instead of a model."""
    replace_model(monkeypatch, capture_by_hand)


def replace_model(patch: pytest.MonkeyPatch, capture: Callable[..., list[Capture]]) -> None:
    prepared = lambda rows, *_: ([SimpleNamespace(samples=tuple(rows), nbytes=0)], [])  # noqa: E731
    patch.setattr(runner, "prepare", prepared)
    patch.setattr(runner, "capture_batch", capture)


def plan_of(
    out: Path, writer: Kind, rows: int = ROWS, *, gpus: tuple[str, ...] = (), **options: Any
) -> Plan:
    request = Request(
        "table", "model", out, spec=CaptureSpec(), batch_size=2, writer=writer, **options
    )
    done = frozenset(open_run(out).ids) if (out / "run.json").exists() else frozenset()
    ids = tuple(f"q{i}" for i in range(rows))
    scan: Any = SimpleNamespace(ids=ids)
    table: Any = Rows(rows)
    return Plan(request, table, scan, made_up(*gpus), make_manifest(), done & set(ids))


def content(path: Path) -> Any:
    """Return all that a file of a run holds, apart from when it was made."""
    if path.suffix != ".h5":
        return path.read_bytes()
    found: dict[str, Any] = {}

    def look(name: str, item: Any) -> None:
        data = item[()] if isinstance(item, h5py.Dataset) else None
        # The packs' checksums are of files that say when they were made.
        differ = {"created_at", "packs_sha256"}
        attributes = {key: str(item.attrs[key]) for key in item.attrs if key not in differ}
        found[name] = (getattr(data, "dtype", None), repr(np.asarray(data).tolist()), attributes)

    with h5py.File(path) as file:
        look("/", file)
        file.visititems(look)
    return found


def files_of(out: Path) -> dict[str, Any]:
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {str(path.relative_to(out)): content(path) for path in files}


def opened(plan: Plan, size: int = 1) -> AbstractContextManager[WritingThread]:
    return writing(plan.request, plan.manifest, plan.vlm, lambda _: None, size=lambda: size)


def ending(summary: Summary) -> Summary:
    return replace(summary, seconds=0.0)


def writers() -> list[BaseProcess]:
    children = multiprocessing.active_children()
    return [child for child in children if child.name == "vlmscope-write"]


@pytest.mark.first(1)
@pytest.mark.parametrize(
    "sessions", [((9, True), (ROWS, False)), ((4, False), (9, True), (ROWS, False))], ids=len
)
@pytest.mark.usefixtures("by_hand")
def test_a_process_writes_what_a_thread_writes(
    tmp_path: Path, sessions: tuple[tuple[int, bool], ...]
) -> None:
    kinds: tuple[Kind, Kind] = ("thread", "process")
    for rows, strict in sessions:
        logs = Log(), Log()
        one, other = (
            run_plan(plan_of(tmp_path / kind, kind, rows, strict=strict), observer=log)
            for kind, log in zip(kinds, logs, strict=True)
        )
        assert ending(one) == ending(other)
        assert logs[0].told == logs[1].told
        assert len(logs[1].threads) == 1
        thread, process = (files_of(tmp_path / kind) for kind in kinds)
        assert thread == process
    assert other.already_done + other.captured + other.failed == ROWS
    assert "failures.jsonl" in process
    assert len(open_run(tmp_path / "process")) == ROWS - 1
    assert not writers()


@pytest.mark.exhaustive
@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize(
    ("kind", "name"), [("thread", "RunWriter"), ("process", "RunWriterProcess")]
)
def test_the_writer_is_told_how_many_rows_are_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, name: str
) -> None:
    """Those that a resumed run already has are not; and a process, how many may help it."""
    told: list[dict[str, int]] = []
    original = getattr(executors_writing, name)

    def spy(*args: Any, **options: int) -> Any:
        told.append(options)
        return original(*args, **options)

    monkeypatch.setattr(executors_writing, name, spy)
    monkeypatch.setattr(executors_writing, "builders_for", lambda _, sharing: 2 + sharing)
    for rows in (4, ROWS):
        run_plan(plan_of(tmp_path / "run", kind, rows))
    builders = {"builders": 3} if kind == "process" else {}
    assert told == [{"expected": 4, **builders}, {"expected": ROWS - 4, **builders}]


def test_on_a_gpu_it_is_a_process(tmp_path: Path) -> None:
    for gpus in ((), ("cuda:0",)):
        with opened(plan_of(tmp_path / "run", "auto", gpus=gpus)):
            assert len(writers()) == len(gpus)


@pytest.mark.first(1)
@pytest.mark.parametrize("kind", ["thread", "process"])
@pytest.mark.usefixtures("by_hand")
def test_a_disk_that_refuses_is_one_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: Kind
) -> None:
    out = tmp_path / "run"
    in_the_way = out / "shards" / "part-000-000001.h5"

    def capture_batch(batch: Any, *_: Any) -> list[Capture]:
        in_the_way.mkdir(exist_ok=True)
        return capture_by_hand(batch)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "capture_batch", capture_batch)
        with pytest.raises(StoreError, match=r"part-000-000001\.h5: .* Is a directory"):
            run_plan(plan_of(out, kind))
    in_the_way.rmdir()
    assert {"q0", "q1"} <= set(open_run(out).ids) < {f"q{i}" for i in range(ROWS)}
    run_plan(plan_of(out, kind))
    assert len(open_run(out)) == ROWS - 1


@pytest.mark.exhaustive
def test_errors_of_opening_arrive_as_they_are(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with RunWriterProcess(out, make_manifest()) as recorder:
        recorder.add([row("q0")])
        with (
            pytest.raises(RunBusyError, match="another vlmscope is writing"),
            RunWriterProcess(out, make_manifest()),
        ):
            raise AssertionError("two writers")
        with pytest.raises(StoreError, match="already has a row"):
            recorder.add([row("q0")])
        recorder.add([row("q1")])
    with RunWriterProcess(out, make_manifest()) as recorder:
        assert set(recorder.done_ids) == {"q0", "q1"}
    other = make_manifest(capture={"max_new_tokens": 9})
    with pytest.raises(RunMismatchError, match="max_new_tokens") as here, RunWriter(out, other):
        pass
    with pytest.raises(RunMismatchError) as apart, RunWriterProcess(out, other):
        pass
    assert str(apart.value) == str(here.value)


def test_a_writing_process_that_is_killed_is_one_error(tmp_path: Path) -> None:
    out = tmp_path / "run"

    def write() -> None:
        with opened(plan_of(out, "process")) as results:
            results.put([row("q0")])
            results.wait()
            [writer] = writers()
            writer.kill()
            results.put([row("q1")])

    with pytest.raises(StoreError) as error:
        write()
    assert str(error.value) == (
        f"{out}: the writing process died (signal 9); published rows are kept, run the same "
        "command again to continue"
    )
    check_free(out)
    assert open_run(out).ids == ("q0",)


def test_leaving_by_an_exception_only_lets_go(tmp_path: Path) -> None:
    out = tmp_path / "run"

    def write() -> None:
        with opened(plan_of(out, "process")) as results:
            for i in range(3):
                results.put([row(f"q{i}")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    check_free(out)
    assert not writers()
    assert len(list((out / "shards").glob("part-*.h5"))) == 3
    assert not (out / "index.h5").exists()


def test_leaving_by_an_exception_writes_what_waits_for_more_rows(tmp_path: Path) -> None:
    def write() -> None:
        with opened(plan_of(tmp_path / "run", "thread"), 100) as results:
            results.put([row("q0")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert open_run(tmp_path / "run").ids == ("q0",)


@pytest.mark.first(1)
@pytest.mark.parametrize("kind", [RunWriter, RunWriterProcess])
def test_a_released_run_has_its_rows_and_another_writer_may_go_on(
    kind: type[RunWriter | RunWriterProcess], tmp_path: Path
) -> None:
    first = kind(tmp_path, make_manifest()).__enter__()
    first.add([row("q0")])
    first.release()
    assert not writers()
    with RunWriter(tmp_path, make_manifest()) as second:
        assert second.done_ids == {"q0"}


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize(("behind_bytes", "handed_over"), [(0, BEHIND), (2**30, BEHIND + 3)])
def test_the_model_waits_for_a_slow_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind_bytes: int, handed_over: int
) -> None:
    """But not for a crowd of answers that ends at once, as long as it is not too large."""
    monkeypatch.setattr(executors_writing, "BEHIND_BYTES", behind_bytes)
    out, handed = tmp_path / "run", []
    with opened(plan_of(out, "process")) as results:
        [writer] = writers()
        assert writer.pid
        os.kill(writer.pid, signal.SIGSTOP)

        def hand_over() -> None:
            for i in range(BEHIND + 3):
                results.put([row(f"q{i}")])
                handed.append(i)

        model = threading.Thread(target=hand_over)
        model.start()
        model.join(0.5)
        assert len(handed) == handed_over
        os.kill(writer.pid, signal.SIGCONT)
        model.join()
    assert len(handed) == BEHIND + 3
    assert open_run(out).ids == tuple(f"q{i}" for i in handed)


SCRIPT = """
import sys
from pathlib import Path
from store_support import make_captures, make_manifest
from vlmscope.store import RunWriterProcess
print("once", flush=True)
with RunWriterProcess(Path(sys.argv[1]), make_manifest()) as recorder:
    recorder.add(make_captures(range(3)))
heavy = {"torch", "transformers", "pandas", "PIL"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.exhaustive
def test_a_script_is_not_run_again_and_nothing_heavy_is_imported(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    folders = [str(Path(__file__).parent.parent / "store"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "once\n"
    assert not done.stderr
    assert len(open_run(tmp_path / "run")) == 3


LONG = 60
"""Rows that take a second or two, so that a signal falls on the work."""


def run_in_a_group(out: Path) -> None:
    """Run like ``vlmscope extract``, in a process group of its own."""
    os.setpgrp()
    run_command(out)


def run_command(out: Path) -> None:
    """Run like ``vlmscope extract``; note every batch begun."""
    batches = count()

    def capture(batch: Any, *_: Any) -> list[Capture]:
        (out.parent / f"begun-{next(batches)}").touch()
        time.sleep(0.05)
        return capture_by_hand(batch)

    with pytest.MonkeyPatch.context() as patch, stop_on_signals() as request:
        replace_model(patch, capture)
        run_plan(plan_of(out, "process", LONG), stop=request.event)
    sys.exit(request.exit_code)


def start_and_wait_for_rows(out: Path, run: Callable[[Path], None] = run_in_a_group) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")  # it imports everything only once
    context.set_forkserver_preload(["vlmscope.cli.extract", "vlmscope.executors", "transformers"])
    command = context.Process(target=run, args=(out,))
    command.start()
    while command.exitcode is None and len(list(out.glob("shards/part-*.h5"))) < 2:
        time.sleep(0.01)
    assert command.exitcode is None
    return command


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.exhaustive)],
)
def test_a_signal_to_the_whole_group_publishes_the_batch_in_flight(
    tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    out = tmp_path / "run"
    command = start_and_wait_for_rows(out)
    assert command.pid
    os.killpg(command.pid, signum)
    command.join(30)
    assert command.exitcode == code
    run = open_run(out)
    assert len(run) == 2 * len(list(tmp_path.glob("begun-*")))
    assert 0 < len(run) < LONG - 2
    assert not run.check()
    assert not list(out.glob("shards/part-*.h5"))
    assert (out / "index.h5").exists()


@pytest.mark.exhaustive
@pytest.mark.usefixtures("by_hand")
def test_a_killed_command_takes_its_writing_process_along(tmp_path: Path) -> None:
    out = tmp_path / "run"
    # In a group of its own the writer, stopped, would be hung up and continued by the kernel
    # as soon as the command dies: nobody would be left in its session to continue it.
    command = start_and_wait_for_rows(out, run_command)
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    [writer] = [
        int(child)
        for child in children
        if "resource_tracker" not in Path(f"/proc/{child}/cmdline").read_text()
    ]
    os.kill(writer, signal.SIGSTOP)  # a disk that does not answer
    assert is_busy(out)
    command.kill()
    command.join()
    assert is_busy(out)
    os.kill(writer, signal.SIGCONT)
    deadline = time.monotonic() + 5
    while is_busy(out):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    published = len(open_run(out))
    run_plan(plan_of(out, "process", LONG))
    run_plan(plan_of(tmp_path / "uninterrupted", "thread", LONG))
    found, expected = open_run(out), open_run(tmp_path / "uninterrupted")
    assert 4 <= published < LONG
    assert len(found) == LONG - 1
    assert sorted(found.ids) == sorted(expected.ids)  # rows in work at the kill come last
    assert not found.check()
    for other in expected:
        assert_same(found[other.sample.id], other)


def is_busy(out: Path) -> bool:
    """Whether a process still holds the lock of a run."""
    try:
        check_free(out)
    except RunBusyError:
        return True
    return False


@pytest.mark.exhaustive
def test_the_kernels_of_the_model_are_made_while_the_process_starts(
    by_hand: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []
    usual = local.kernels_of_run

    def kernels_of_run(vlm: Any, rows: int) -> Any:
        seen.append((rows, len(writers()) == 1))
        return usual(vlm, rows)

    monkeypatch.setattr(local, "kernels_of_run", kernels_of_run)
    run_plan(plan_of(tmp_path / "run", "process"))
    run_plan(plan_of(tmp_path / "other", "thread"))
    assert seen == [(ROWS, True), (ROWS, False)]  # once each


@pytest.mark.parametrize("writer", ["process", "thread"])
def test_an_error_meanwhile_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Kind
) -> None:
    def fail(_vlm: Any, _rows: int) -> Any:
        raise MemoryError("of the GPU")

    with monkeypatch.context() as patch:
        patch.setattr(local, "kernels_of_run", fail)
        with pytest.raises(MemoryError, match="of the GPU"):
            run_plan(plan_of(tmp_path / "run", writer))
    assert writers() == []
    with opened(plan_of(tmp_path / "run", "thread")):  # nobody holds the lock
        pass
