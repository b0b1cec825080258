"""SIGKILL at random moments: no acknowledged row is lost, none is doubled or wrong.

A few kills: ``make faults`` kills commands and their writing processes hundreds of times.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py

from store_support import assert_same, make_capture, make_manifest
from vlmscope.store import RunWriter, open_run

HERE = Path(__file__).parent
KILLS = 3

WRITE = """
import sys
from pathlib import Path
from store_support import make_captures, make_manifest
from vlmscope.store import RunWriter
print("ready", flush=True)
for line in sys.stdin:
    run, first = line.split()
    start = int(first)
    with RunWriter(Path(run), make_manifest(), pack_rows=7) as writer:
        while start < 10_000:
            writer.add(make_captures(range(start, start + 2)))
            start += 2
            print(start, flush=True)
"""


def writer_process() -> subprocess.Popen[str]:
    """Start a writer that waits for its orders: so the imports are over when the clock starts."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITE],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill_after(process: subprocess.Popen[str], order: str, batches: int, seconds: float) -> int:
    """Let it acknowledge some batches and go on for a moment; kill it.

    Return the first row that it did not acknowledge.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write(order + "\n")
    process.stdin.flush()
    lines = [process.stdout.readline() for _ in range(batches)]
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()  # not ``communicate``, which loses what was read ahead
    process.wait()
    process.stdin.close()
    process.stdout.close()
    acknowledged = [int(line) for line in lines if line.endswith("\n")]
    return acknowledged[-1] if acknowledged else int(order.split()[1])


def test_no_acknowledged_row_is_lost(tmp_path: Path) -> None:
    rng = random.Random(0)  # noqa: S311
    run, first = tmp_path / "run", 0
    waiting = writer_process()
    for _ in range(KILLS):
        process, waiting = waiting, writer_process()
        batches, seconds = rng.randrange(4), rng.uniform(0.0, 0.06)
        acknowledged = kill_after(process, f"{run} {first}", batches, seconds)
        if (run / "run.json").exists():
            first = len(open_run(run))
        assert acknowledged <= first <= acknowledged + 2
    waiting.kill()
    waiting.communicate()
    assert first >= KILLS
    assert open_run(run).ids == tuple(f"question_comb_{i}" for i in range(first))
    with RunWriter(run, make_manifest()):
        pass
    reader = open_run(run)
    assert reader.ids == tuple(f"question_comb_{i}" for i in range(first))
    assert reader.check() == []
    for i, capture in enumerate(reader):
        assert_same(capture, make_capture(i))
    assert not list((run / "shards").glob("part-*"))
    assert not list((run / "shards").glob(".*"))
    with h5py.File(run / "index.h5") as index:
        assert index.attrs["num_samples"] == first
