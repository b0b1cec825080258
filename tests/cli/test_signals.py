"""Ctrl-C and SIGTERM on the real command: what is being answered is published first."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlmscope.store import open_run

Command = Callable[..., Any]


def wait_for_rows(run: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the run holds rows that this process published."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if list((run / "shards").glob("part-*.h5")):
            return
        time.sleep(0.02)
    raise AssertionError(f"no rows within a minute; exit code {process.poll()}")


@pytest.mark.exhaustive
def test_a_signal_stops_after_the_batch_in_flight(
    table: Path, checkpoint: Path, tmp_path: Path, python: str, extract: Command
) -> None:
    """SIGINT, then SIGTERM for the command that goes on; a third comes to the end."""
    out, done = tmp_path / "run", 0
    settings = ("--batch-size", "1", "--max-new-tokens", "40", "--json")
    command = [
        *(python, "-m", "vlmscope", "extract", str(table), "--model", str(checkpoint)),
        *("--out", str(out), "--device", "cpu", *settings),
    ]
    for signum, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_for_rows(out, process)
        process.send_signal(signum)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == code, stderr
        assert "stopping when these rows are done" in stderr
        summary = json.loads(stdout)
        assert summary["stopped"]
        assert summary["already_done"] == done
        assert summary["captured"] > 0
        done += summary["captured"]
        run = open_run(out)
        assert len(run) == done < 10
        assert not run.check()
        assert (out / "index.h5").exists()
        assert not list((out / "shards").glob("part-*.h5")), "the next one publishes its own"
    finished = extract(*settings)
    assert finished.code == 0
    assert json.loads(finished.out)["already_done"] == done
    assert len(open_run(out)) == 10
