"""Ctrl-C and SIGTERM on the real command: what is being answered is published first."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlmscope.store import open_run


def wait_for_rows(run: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the run holds its first published rows."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if list((run / "shards").glob("part-*.h5")):
            return
        time.sleep(0.02)
    raise AssertionError(f"no rows within a minute; exit code {process.poll()}")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_after_the_batch_in_flight(
    table: Path, checkpoint: Path, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    out = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "vlmscope", "extract", str(table), "--model", str(checkpoint)),
        *("--out", str(out), "--device", "cpu", "--batch-size", "1", "--json"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_rows(out, process)
    process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert "stopping when these rows are done" in stderr
    summary = json.loads(stdout)
    assert summary["stopped"]
    assert 0 < summary["captured"] < 10
    run = open_run(out)
    assert len(run) == summary["captured"]
    assert not run.check()
    assert (out / "index.h5").exists()
    finished = subprocess.run(
        [*command, "--max-new-tokens", "200"], check=True, capture_output=True
    )
    assert json.loads(finished.stdout)["already_done"] == summary["captured"]
    assert len(open_run(out)) == 10
