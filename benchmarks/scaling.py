"""What a second worker adds: one plain ``extract``, then ranks or Ray actors, as many rows each.

Every worker has a GPU of its own or, with ``--cores``, so many cores of its own. One worker alone
captures ``--rows`` questions; N workers capture N times as many of the same kind, so that they take
as long if nothing is in their way. Efficiency is the rate of N over N times the rate of one:

    whole     from the start of the command to the end of the last process, model loaded and all
    captured  the command's own clock, which starts when a model is loaded; the slowest rank counts

    python benchmarks/scaling.py --work /tmp/scaling --workers 2 --ray              # two GPUs
    python benchmarks/scaling.py --work /tmp/scaling --workers 1 --ray              # what Ray costs
    python benchmarks/scaling.py --work /tmp/tiny --size demo --cores 1 --workers 2     # a CPU

Ray does not bind its actors to cores, so with ``--cores`` it has the first N times as many cores,
and whatever it needs for itself must come out of them. It needs ``pip install vlmscope[ray]``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import standins
from risk import make_checkpoint
from throughput_runs import DEMO, variant
from true_shape import SIZES, device_name, write_table
from vlmscope.store import open_run


@dataclass(frozen=True, slots=True)
class Measured:
    """One way to capture a table."""

    how: str
    workers: int
    rows: int
    whole: float
    """Seconds."""
    captured: float
    """Seconds."""


def main() -> None:
    """Measure one worker, then every crowd, and print one table."""
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    check_places(options)
    made = DEMO / "model" if options.size == "demo" else make_checkpoint(options)
    checkpoint = variant(options.work / "endless", made, None)
    tile = (standins.DEMO if options.size == "demo" else SIZES[options.size]).tile
    table = write_table(options.work, max(options.workers) * options.rows, tile)
    command = Command(options, table, checkpoint)
    found = [command.ranks(1)]
    for workers in options.workers:
        if workers > 1:
            found.append(command.ranks(workers))
        if options.ray:
            found.append(command.ray(workers))
    report(options, found)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="scratch folder (25 GB for true)")
    parser.add_argument("--size", choices=[*SIZES, "demo"], default="true")
    parser.add_argument("--rows", type=int, default=640, help="of each worker")
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--cores", type=int, help="a worker has so many cores, and no GPU")
    parser.add_argument("--tokens", type=int, default=65)
    parser.add_argument("--batch-size", default="auto", help="of vlmscope extract")
    parser.add_argument("--ray", action="store_true", help="Ray actors too")
    return parser.parse_args()


def check_places(options: argparse.Namespace) -> None:
    """Refuse more workers than there are GPUs or cores: they would share, not scale."""
    most = max(options.workers)
    if options.cores:
        there, what = len(os.sched_getaffinity(0)) // options.cores, f"times {options.cores} cores"
    else:
        there, what = torch.cuda.device_count(), "GPUs"
    if most > there:
        raise SystemExit(
            f"--workers {most}: there are {there} {what} here; ask for at most {there}"
        )


class Command:
    """The real ``vlmscope extract`` on places of its own."""

    def __init__(self, options: argparse.Namespace, table: Path, checkpoint: Path) -> None:
        self._options, self._table, self._checkpoint = options, table, checkpoint
        self._cores = sorted(os.sched_getaffinity(0))

    def ranks(self, workers: int) -> Measured:
        """Run so many ranks side by side; one is the plain command."""
        how = "plain" if workers == 1 else "ranks"
        out = self._empty(f"{how}-{workers}")
        start = time.perf_counter()
        processes = [
            self._start(out, workers, [i], [] if workers == 1 else ["--shard", f"{i}/{workers}"])
            for i in range(workers)
        ]
        return self._wait(processes, out, how, workers, start)

    def ray(self, workers: int) -> Measured:
        """Run so many Ray actors on a cluster that the command starts."""
        out = self._empty(f"ray-{workers}")
        start = time.perf_counter()
        extra = ["--ray", "--address", "local", "--actors", str(workers)]
        process = self._start(out, workers, list(range(workers)), extra)
        return self._wait([process], out, "ray", workers, start)

    def _empty(self, name: str) -> Path:
        out = Path(self._options.work / name)
        shutil.rmtree(out, ignore_errors=True)
        return out

    def _start(
        self, out: Path, workers: int, places: list[int], extra: list[str]
    ) -> subprocess.Popen[str]:
        options = self._options
        arguments = [
            *("extract", str(self._table), "--images", str(options.work), "--json"),
            *("--model", str(self._checkpoint), "--out", str(out)),
            *("--limit", str(workers * options.rows), "--max-new-tokens", str(options.tokens)),
            *("--batch-size", options.batch_size, *extra),
        ]
        environment, before = dict(os.environ), []
        if options.cores:
            cores = [
                self._cores[p * options.cores + i] for p in places for i in range(options.cores)
            ]
            before = ["taskset", "--cpu-list", ",".join(map(str, cores))]
            environment["OMP_NUM_THREADS"] = str(options.cores)
            arguments += ["--device", "cpu"]
        else:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, places))
        command = [*before, sys.executable, "-m", "vlmscope", *arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def _wait(
        self,
        processes: list[subprocess.Popen[str]],
        out: Path,
        how: str,
        workers: int,
        start: float,
    ) -> Measured:
        said: list[dict[str, Any]] = []
        for process in processes:
            text, _ = process.communicate()
            if process.returncode:
                raise SystemExit(f"{how} of {workers}: exit code {process.returncode}")
            said.append(json.loads(text))
        whole = time.perf_counter() - start
        rows = workers * self._options.rows
        kept = len(open_run(out))
        if kept != rows:
            raise SystemExit(f"{how} of {workers}: {kept} rows in {out}, expected {rows}")
        shutil.rmtree(out)
        return Measured(how, workers, rows, whole, max(one["seconds"] for one in said))


def report(options: argparse.Namespace, found: list[Measured]) -> None:
    """Print the table, and keep it in ``scaling.json``."""
    alone = found[0]
    place = f"{options.cores} cores" if options.cores else device_name()
    print(f"\n{place} a worker, {options.rows} rows each, {options.tokens} tokens an answer\n")
    print("| | workers | whole, rows/s | efficiency | captured, rows/s | efficiency |")
    print("| --- | --- | --- | --- | --- | --- |")
    lines = []
    for one in found:
        whole, captured = one.rows / one.whole, one.rows / one.captured
        shares = [
            whole / (one.workers * alone.rows / alone.whole),
            captured / (one.workers * alone.rows / alone.captured),
        ]
        print(
            f"| {one.how} | {one.workers} | {whole:.2f} | {shares[0]:.1%} "
            f"| {captured:.2f} | {shares[1]:.1%} |"
        )
        lines.append({"how": one.how, "workers": one.workers, "whole": whole, "captured": captured})
    (options.work / "scaling.json").write_text(json.dumps({"place": place, "found": lines}))


if __name__ == "__main__":
    main()
