"""The process that starts workers is started once, early, and never left behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
from typer.testing import CliRunner

from vlmscope import early_server
from vlmscope.cli import app
from vlmscope.early_server import discard_early, start_early, take_server
from vlmscope.executors.request import Request
from vlmscope.executors.workers import make_workers
from vlmscope.executors.workers.server import Server
from vlmscope.model import VisionLanguageModel
from vlmscope.schema import CaptureSpec

HERE, NOWHERE = Path(__file__), Path(__file__) / "missing"


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes that import nothing and wait; none is left."""
    monkeypatch.setattr(early_server, "_START", "import time; time.sleep(60)")
    monkeypatch.setattr(early_server, "_early", [])
    yield
    discard_early()


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def early() -> early_server.ServerProcess:
    """Start a process early, and return it."""
    start_early(2, "cpu")
    [started] = early_server._early
    return started


def test_the_early_process_is_used_once(idle: None) -> None:
    started = early()
    start_early(2, "cpu")
    assert early_server._early == [started]  # no second one
    server = Server()
    other = take_server()
    assert server._process is started.process
    assert other.process.pid != started.process.pid
    early_server._end(other)
    server.stop()
    assert started.process.returncode is not None


@pytest.mark.parametrize("own", [None, "65536"])
def test_workers_keep_memory_unless_the_user_says_how(
    idle: None, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    name = "MALLOC_MMAP_MAX_"
    monkeypatch.delenv(name, raising=False)
    if own is not None:
        monkeypatch.setenv(name, own)
    environment = Path(f"/proc/{early().process.pid}/environ").read_bytes().split(b"\0")
    assert f"{name}={own or 0}".encode() in environment


def test_a_dead_process_is_not_used(idle: None) -> None:
    started = early()
    started.process.kill()
    started.process.wait()
    found = take_server()
    assert found.process.poll() is None
    assert found.process.pid != started.process.pid
    early_server._end(found)


def test_a_fork_uses_its_own(idle: None) -> None:
    started = early()
    early_server._early[:] = [replace(started, owner=started.owner + 1)]
    found = take_server()
    assert found.process.pid != started.process.pid
    assert is_running(started.process.pid)  # it belongs to the other process
    early_server._end(found)
    os.kill(started.process.pid, 9)


def test_it_ends_if_threads_prepare_the_rows(idle: None, vlm: VisionLanguageModel) -> None:
    started = early()
    request = Request("table.csv", vlm, Path("run"), spec=CaptureSpec())
    assert make_workers(request) is None  # the model is on a CPU
    assert started.process.returncode is not None
    assert early_server._early == []


@pytest.mark.parametrize(
    ("workers", "device", "gpu", "processors", "starts"),
    [
        ("auto", "auto", HERE, 8, True),
        ("auto", "cuda:1", HERE, 3, True),
        ("auto", "spread", HERE, 8, True),
        ("auto", "cpu", HERE, 8, False),
        ("auto", "auto", NOWHERE, 8, False),
        ("auto", "auto", HERE, 2, False),
        (0, "cuda", HERE, 8, False),
        (2, "cpu", NOWHERE, 1, True),
    ],
)
def test_when_it_is_started(
    idle: None,
    monkeypatch: pytest.MonkeyPatch,
    workers: Any,
    device: str,
    gpu: Path,
    processors: int,
    starts: bool,
) -> None:
    monkeypatch.setattr(early_server, "_GPUS", (NOWHERE, gpu))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(processors)))
    monkeypatch.setattr(early_server, "start_server", lambda: "started")
    start_early(workers, device)
    assert early_server._early == ["started"] * starts
    early_server._early.clear()


def test_an_error_is_left_to_the_later_start(idle: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise OSError("no more processes")

    monkeypatch.setattr(early_server, "start_server", fail)
    start_early(2, "auto")
    assert early_server._early == []
    with pytest.raises(OSError, match="no more processes"):
        take_server()


@pytest.mark.exhaustive
def test_the_command_prepares_rows_with_it(
    tmp_path: Path, checkpoint: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    original = subprocess.Popen

    def spy(command: Any, **options: Any) -> Any:
        if "vlmscope.executors.workers.process" in " ".join(map(str, command)):
            started.append(command)
        return original(command, **options)

    monkeypatch.setattr(early_server.subprocess, "Popen", spy)
    arguments = [
        "extract", str(table), "--model", str(checkpoint), "--limit", "4",
        "--max-new-tokens", "0", "--num-workers", "2",
    ]  # fmt: skip
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert len(started) == 1
    assert early_server._early == []
    with h5py.File(tmp_path / "run" / "index.h5") as file:
        assert sum(not name.startswith("_") for name in file) == 4
