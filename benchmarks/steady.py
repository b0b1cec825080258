r"""Rows a second of a loaded model without the start and end of a run, with and without signals.

Random weights in bfloat16 (family_shapes.py), one family after the other, the tables of
families.py. Each model is built and loaded once, so that many short runs of ``vlmscope.extract``
fit into minutes: for every mode (with answers, without, without on four questions an image), a run
without signals first and last, and one for each of ``--signals``. A run is measured from its start
to its last row, and steadily: between a third and two thirds of its rows, with the share of that
time in which the GPU was busy. A run in which rows fail has no numbers. Then the library's batched
``generate`` and the floor, as in families.py.

    python benchmarks/steady.py --work /tmp/steady --models mllama --generate 32        # one GPU
    python benchmarks/steady.py --work /tmp/signals --models qwen2_5_vl --modes answers \
        --signals attention heads lens samples p_true eager
    python benchmarks/steady.py --work /tmp/tiny --size tiny --rows 6 --tokens 3 --models smolvlm

``samples`` draws five answers, ``eager`` is a run without signals whose attention returns complete
weights, which is what other tools record. ``detectors`` is the signals of all detectors of one
answer. ``--parts`` says which element-wise kernels the model runs with: ``norms`` as in
runs of few rows, ``kernels`` as from 1,000 rows, ``library`` for none. With several, every run is
made with each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import vlmscope
from bare_model import free_memory
from ceilings import measure_ceilings, settle, watch_gpu
from family_library import measure_library
from family_runs import MODES, build, family_parser, on_gpu, say, write_tables
from family_shapes import SHAPES
from true_shape import device_name
from vlmscope.executors import local
from vlmscope.executors.writing import WritingThread
from vlmscope.model import load_model
from vlmscope.model.elementwise import ElementwiseKernels
from vlmscope.model.elementwise.recurrence import DeltaRuleKernel
from vlmscope.schema import Failure
from vlmscope.signals import SIGNALS

NONE, EAGER, SAMPLES = "none", "eager", "samples"
FEWER = "none, fewer rows"
"""The run without signals that those with signals are compared with, if they have fewer rows."""


def without_delta_rule(vlm: Any) -> ElementwiseKernels:
    """Return all kernels but that of a step of linear attention."""
    kernels = ElementwiseKernels(vlm, many=True)
    kernels.parts = [part for part in kernels.parts if not isinstance(part, DeltaRuleKernel)]
    return kernels


PARTS: dict[str, Callable[[Any], Any]] = {
    "library": lambda _vlm: SimpleNamespace(in_place=nullcontext),
    "norms": ElementwiseKernels,
    "kernels": partial(ElementwiseKernels, many=True),
    "no-delta-rule": without_delta_rule,
}
"""Element-wise kernels of a model; ``executors.runner.kernels_of_run`` chooses by the rows."""

SAMPLED = 5
"""Answers of the run ``samples``."""


def main() -> None:
    """Measure every family and print one table."""
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if on_gpu() else "cpu")
    results: dict[str, Any] = {
        "device": device_name(),
        "torch": torch.__version__,
        "options": {name: str(value) for name, value in vars(options).items()},
        "ceilings": measure_ceilings(device),
        "models": {},
    }
    say(f"ceilings: {results['ceilings']}")
    for name in options.models:
        found = results["models"][name] = {}
        for step in measure(options, name, results["ceilings"], found):
            say(f"{SHAPES[name].title}: {step}")
            file = options.results or options.work / "steady.json"
            file.write_text(json.dumps(results, indent=1))
    print(as_table(results))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = family_parser(__doc__, rows=640, generate=())
    parser.add_argument("--signal-rows", type=int, help="rows of runs with signals (default: all)")
    parser.add_argument("--eager-rows", type=int, default=48, help="rows of the run eager")
    parser.add_argument("--signal-modes", nargs="+", choices=MODES, default=["answers"])
    parser.add_argument(
        "--signals", nargs="*", default=[], choices=[*SIGNALS, "detectors", SAMPLES, EAGER]
    )
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: threads")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["kernels"])
    return parser.parse_args()


def measure(
    options: argparse.Namespace, name: str, ceilings: dict[str, float], found: dict[str, Any]
) -> Iterator[str]:
    """Build one family, run it in every mode, and delete it; yield what is known after each."""
    shape, folder = SHAPES[name], options.work / name
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint = folder / "checkpoint"
    build(options, shape, checkpoint)
    sizes = "-".join(f"{width}x{height}" for width, height in shape.crops)
    tables = write_tables(options.work / sizes, options.rows, shape.crops)
    vlm = load_model(checkpoint)
    for mode in options.modes:
        found[mode] = {}
        for parts, (run, rows) in product(options.parts, runs(options, mode)):
            title = run if parts == options.parts[0] else f"{run}, {parts}"
            with running_with(parts):
                found[mode][title] = run_once(options, vlm, run, tables[mode], folder / "run", rows)
            yield f"{mode}, {run}, {parts}: {found[mode][title]}"
    del vlm
    free_memory()
    if EAGER in options.signals:
        eager = load_model(checkpoint, attention="eager")
        rows = min(options.rows, options.eager_rows)
        for mode in set(options.modes) & set(options.signal_modes):
            found[mode][EAGER] = run_once(options, eager, EAGER, tables[mode], folder / "run", rows)
            yield f"{mode}, {EAGER}: {found[mode][EAGER]}"
        del eager
        free_memory()
    if options.generate:
        measure_library(options, tables["answers"], checkpoint, ceilings, found)
        yield f"generate: {found['generate']}"
    shutil.rmtree(folder, ignore_errors=True)
    free_memory()


def runs(options: argparse.Namespace, mode: str) -> list[tuple[str, int]]:
    """Return the runs of one mode and their rows, that without signals first and last.

    >>> given = argparse.Namespace(
    ...     signals=["heads", "eager"], signal_modes=["answers"], signal_rows=4, rows=9
    ... )
    >>> runs(given, "shared")
    [('none', 9)]
    >>> runs(given, "answers")
    [('none', 9), ('none, fewer rows', 4), ('heads', 4), ('none again', 4)]
    """
    rows = options.signal_rows or options.rows
    wanted = options.signals if mode in options.signal_modes else []
    signals = [(each, rows) for each in wanted if each != EAGER]
    if signals:
        fewer = [(FEWER, rows)] if rows != options.rows else []
        signals = [*fewer, *signals, ("none again", rows)]
    return [(NONE, options.rows), *signals]


@dataclass(slots=True)
class Times:
    """When rows left the model."""

    moments: list[tuple[float, int]] = field(default_factory=list)
    """Moment in seconds (``time.perf_counter``), and rows until then."""
    failed: int = 0
    """Rows that could not be captured, which are no rows of the rates."""

    def add(self, results: Sequence[Any]) -> None:
        """Note results that leave the model now.

        >>> times = Times()
        >>> times.add([Failure("a", "capture", "out of memory", 0)])
        >>> len(times.moments), times.failed
        (0, 1)
        """
        failed = sum(isinstance(each, Failure) for each in results)
        self.failed += failed
        if rows := len(results) - failed:
            before = self.moments[-1][1] if self.moments else 0
            self.moments.append((time.perf_counter(), before + rows))

    def window(self, rows: int) -> tuple[float, float, int]:
        """Return start and end of the middle third of a run, and the rows within it.

        >>> times = Times([(0.0, 2), (1.0, 4), (2.0, 6), (3.0, 9)])
        >>> times.window(9)
        (1.0, 2.0, 2)
        """
        inner = [moment for moment in self.moments if rows / 3 <= moment[1] <= rows * 2 / 3]
        if len(inner) < 2:
            return 0.0, 0.0, 0
        (start, first), (end, last) = inner[0], inner[-1]
        return start, end, last - first


@contextmanager
def running_with(parts: str) -> Iterator[None]:
    """Let runs use these faster parts within the context, whatever their number of rows."""
    usual = local.kernels_of_run
    local.kernels_of_run = lambda vlm, _rows: PARTS[parts](vlm)
    try:
        yield
    finally:
        local.kernels_of_run = usual


@contextmanager
def timing_rows() -> Iterator[Times]:
    """Watch the results that are handed to the writing thread within the context."""
    times, put = Times(), WritingThread.put

    def put_and_note(writing: WritingThread, results: Sequence[Any]) -> None:
        times.add(results)
        put(writing, results)

    WritingThread.put = put_and_note  # type: ignore[method-assign]
    try:
        yield times
    finally:
        WritingThread.put = put  # type: ignore[method-assign]


def run_once(
    options: argparse.Namespace, vlm: Any, run: str, table: Path, out: Path, rows: int
) -> dict[str, Any]:
    """Extract one table with one set of signals; return what it took, or why it failed."""
    shutil.rmtree(out, ignore_errors=True)
    free_memory()
    more: dict[str, Any] = {"limit": rows, "num_workers": options.workers}
    more["max_new_tokens"] = options.tokens if table.stem == "answers" else 0
    if run in SIGNALS or run == "detectors":
        more["signals"] = run
    if run == SAMPLES:
        more["samples"] = SAMPLED
    if options.batch_size != "auto":
        more["batch_size"] = int(options.batch_size)
    if vlm.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = settle(vlm.device)
    try:
        with watch_gpu() as watch, timing_rows() as times:
            vlmscope.extract(table, vlm, out, images=table.parent, progress=False, **more)
    except (vlmscope.VlmscopeError, torch.OutOfMemoryError) as error:  # the others are to come
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    if times.failed:  # fast, and no rows
        return {"error": f"{times.failed} of {rows} rows failed: see {out}/failures.jsonl"}
    seconds = times.moments[-1][0] - start
    begin, end, inside = times.window(rows)
    peak = torch.cuda.max_memory_allocated() / 1e9 if vlm.device.type == "cuda" else None
    stored = sum(file.stat().st_size for file in out.rglob("*.h5") if file.name != "index.h5")
    return {
        "rows": rows,
        "seconds": seconds,
        "rows_per_second": rows / seconds,
        "steady": inside / (end - begin) if inside else None,
        "busy": watch.busy(begin, end) if inside else None,
        "peak_gb": peak,
        "kb_per_row": stored / rows / 1e3,
    }


def as_table(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| model | mode | signals | rows/s | steady | busy | ms more per row | peak GB | kB/row |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in results["models"].items():
        for mode in (mode for mode in MODES if mode in found):
            plain = found[mode].get(FEWER, found[mode][NONE])
            for run, each in found[mode].items():
                start = f"| {SHAPES[name].title} | {mode} | {run} |"
                if "error" in each:
                    lines.append(f"{start} failed: {each['error']} | | | | | |")
                else:
                    lines.append(f"{start} {' | '.join(cells(each, plain))} |")
        if "generate" in found:
            lines.append(f"| {SHAPES[name].title} | generate | {found['generate']} | | | | | | |")
            lines.append(f"| {SHAPES[name].title} | floor | {found['floor']} | | | | | | |")
    return "\n".join(lines)


def cells(found: dict[str, Any], plain: dict[str, Any]) -> list[str]:
    """Return the numbers of one run as text, beside those of the run without signals."""
    more = None
    if "error" not in plain:
        more = 1e3 * (1 / found["rows_per_second"] - 1 / plain["rows_per_second"])
    numbers = [
        (found["rows_per_second"], ".1f"), (found["steady"], ".1f"), (found["busy"], ".0%"),
        (more, "+.1f"), (found["peak_gb"], ".0f"), (found["kb_per_row"], ".0f"),
    ]  # fmt: skip
    return ["–" if number is None else format(number, how) for number, how in numbers]


if __name__ == "__main__":
    main()
