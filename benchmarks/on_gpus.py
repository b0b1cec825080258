"""Run several commands at once, each on a GPU and a share of the processors of its own.

    python benchmarks/on_gpus.py --out results --gpus 4 commands.txt

Each line of the file is a name and a command; the next free GPU takes the next line:

    qwen    python benchmarks/families.py --work /tmp/{name} --models qwen2_5_vl
    gemma   python benchmarks/families.py --work /tmp/{name} --models gemma3 --results {out}/g.json

What a command prints is in ``OUT/NAME.log`` while it runs; its last lines are shown when it ends.
Commands that run at the same time share the host's disk and memory, nothing else.
"""

from __future__ import annotations

import argparse
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LAST_LINES = 8
"""Lines of a command that are shown when it ends."""


@dataclass(frozen=True, slots=True)
class Job:
    """A named command."""

    name: str
    command: list[str]


def main() -> None:
    """Run every command; exit with 1 if one failed."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in read_jobs(options.commands, options.out):
        jobs.put(job)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the commands too
    failed: list[str] = []
    running: set[subprocess.Popen[str]] = set()
    lanes = [
        threading.Thread(target=run_jobs, args=(jobs, gpu, options, running, failed), daemon=True)
        for gpu in range(options.gpus)
    ]
    try:
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
    finally:
        for process in running.copy():
            end(process)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commands", type=Path, help="file with a name and a command per line")
    parser.add_argument("--out", type=Path, required=True, help="folder of the logs")
    parser.add_argument("--gpus", type=int, required=True, help="number of GPUs")
    parser.add_argument("--limit", type=float, help="seconds that a command may take")
    return parser.parse_args()


def read_jobs(file: Path, out: Path) -> list[Job]:
    """Read the commands; ``{name}`` and ``{out}`` are replaced in each."""
    jobs = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            name, command = line.split(maxsplit=1)
            jobs.append(Job(name, shlex.split(command.format(name=name, out=out))))
    return jobs


def run_jobs(
    jobs: queue.SimpleQueue[Job],
    gpu: int,
    options: argparse.Namespace,
    running: set[subprocess.Popen[str]],
    failed: list[str],
) -> None:
    """Run one command after the other on a GPU, until there are no more."""
    while True:
        try:
            job = jobs.get_nowait()
        except queue.Empty:
            return
        start = time.perf_counter()
        try:
            code, last = run(job, gpu, options, running)
        except OSError as error:  # it cannot be started, or its log cannot be written
            code, last = 1, [str(error)]
        if code:
            failed.append(job.name)
        seconds = time.perf_counter() - start
        print(f"== {job.name}: GPU {gpu}, {seconds:.0f} s, exit code {code}", *last, sep="\n")
        sys.stdout.flush()


def run(
    job: Job, gpu: int, options: argparse.Namespace, running: set[subprocess.Popen[str]]
) -> tuple[int, list[str]]:
    """Run one command; return its exit code and its last lines."""
    last: deque[str] = deque(maxlen=LAST_LINES)
    process = subprocess.Popen(
        ["taskset", "-c", processors_of(gpu, options.gpus), *job.command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "CUDA_VISIBLE_DEVICES": str(gpu), "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    running.add(process)
    limit = threading.Timer(options.limit or threading.TIMEOUT_MAX, end, [process])
    limit.daemon = True
    limit.start()
    with (options.out / f"{job.name}.log").open("w", encoding="utf-8") as log:
        for line in process.stdout or ():
            log.write(line)
            log.flush()
            last.append(line.rstrip("\n"))
    limit.cancel()
    code = process.wait()
    running.discard(process)
    return code, list(last)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a command and the processes that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def processors_of(gpu: int, gpus: int) -> str:
    """Return the share of a GPU in the processors, as ``taskset`` takes it."""
    usable = sorted(os.sched_getaffinity(0))
    each = max(1, len(usable) // gpus)
    first = min(gpu * each, len(usable) - each)
    return ",".join(map(str, usable[first : first + each]))


if __name__ == "__main__":
    main()
