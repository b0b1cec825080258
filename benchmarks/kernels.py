r"""Where the GPU's time of a family goes: milliseconds per row by kind of operation.

Random weights in bfloat16 (family_shapes.py). After a run that warms up, ``vlmscope.extract`` runs
under torch's profiler, which slows the host down but not the kernels, so the sum of the kernels is
what a row needs of the GPU, not what it takes. ``--library`` profiles the model's own ``forward``
on some of the rows, prepared beforehand. ``--parts`` is that of steady.py: with which faster parts.

    python benchmarks/kernels.py --work /tmp/kernels --models qwen2_5_vl               # one GPU
    python benchmarks/kernels.py --work /tmp/kernels --models gemma3 --modes shared --library
    python benchmarks/kernels.py --work /tmp/tiny --size tiny --rows 6 --models smolvlm
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import vlmscope
from bare_model import free_memory, prepare_plain
from family_runs import build, family_parser, on_gpu, say, write_tables
from family_shapes import SHAPES
from steady import PARTS, running_with
from vlmscope.dataset import read_samples
from vlmscope.model import load_model

KINDS = (
    ("matrix products", ("mm", "linear", "convolution", "cutlass", "gemm", "einsum")),
    ("attention", ("attention", "attn", "flash", "softmax")),
    ("norms", ("norm",)),
    ("activations", ("gelu", "silu", "sigmoid", "tanh", "relu")),
    ("copies", ("copy", "cat", "Memcpy", "Memset", "fill", "index", "gather", "scatter")),
    ("kernels of Triton", ("triton",)),
)
"""Kinds of operations, and what a name of the kind contains; the first that fits."""

OWN = ("_rotate", "_gate", "_norm", "_delta")
"""Beginnings of the names of vlmscope's kernels in Triton's language."""

LIBRARY_ROWS = 32
"""Rows of the batch that the model's own ``forward`` is profiled on."""


def main() -> None:
    """Profile every family and print a table for each."""
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for name in options.models:
        shape, folder = SHAPES[name], options.work / name
        shutil.rmtree(folder, ignore_errors=True)
        build(options, shape, folder / "checkpoint")
        tables = write_tables(options.work / f"images_{name}", options.rows, shape.crops)
        vlm = load_model(folder / "checkpoint")
        for mode, parts in product(options.modes, options.parts):
            extract = extracting(options, vlm, tables[mode], folder / "run", mode)
            with running_with(parts):
                found = profiled(extract, options.rows)
            show(shape.title, f"{mode}, {parts}", found, options.lines)
            results[f"{name} {mode} {parts}"] = found
            (options.results or options.work / "kernels.json").write_text(json.dumps(results))
        if options.library:
            samples = read_samples(tables["prefill"], images=tables["prefill"].parent)
            rows = [sample for sample, _ in zip(samples, range(LIBRARY_ROWS), strict=False)]
            inputs = prepare_plain(vlm, rows).batch(0, len(rows), vlm.device)
            found = profiled(forward(vlm.model, inputs), len(rows))
            show(shape.title, "the model alone", found, options.lines)
        del vlm
        free_memory()
        shutil.rmtree(folder, ignore_errors=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = family_parser(__doc__, rows=256, generate=())
    parser.set_defaults(modes=["prefill"])
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: threads")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["kernels"])
    parser.add_argument("--library", action="store_true", help="also the model's own forward")
    parser.add_argument("--lines", type=int, default=25, help="operations that are shown")
    return parser.parse_args()


def extracting(
    options: argparse.Namespace, vlm: Any, table: Path, out: Path, mode: str
) -> Callable[[], None]:
    """Return what extracts one table."""

    def run() -> None:
        shutil.rmtree(out, ignore_errors=True)
        vlmscope.extract(
            table, vlm, out, images=table.parent, progress=False, num_workers=options.workers,
            max_new_tokens=options.tokens if mode == "answers" else 0,
            batch_size="auto" if options.batch_size == "auto" else int(options.batch_size),
        )  # fmt: skip

    return run


def forward(model: torch.nn.Module, inputs: dict[str, Any]) -> Callable[[], None]:
    """Return what runs the model on one batch."""

    def run() -> None:
        with torch.inference_mode():
            model(**inputs, logits_to_keep=1)

    return run


def profiled(run: Callable[[], None], rows: int) -> dict[str, Any]:
    """Run once to warm up and once under the profiler; return milliseconds per row.

    Returns:
        ``seconds`` of the run that was not profiled, ``gpu_ms`` per row in all, by ``kinds``, and
        by ``operations``: name, shapes of the inputs, calls, ms.
    """
    run()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    say(f"{seconds:.1f} s without the profiler")
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu() else [])]
    with profile(activities=kinds, record_shapes=True) as profiler:
        run()
    averages = profiler.key_averages(group_by_input_shape=True)
    operations = sorted(spent(averages, rows), key=lambda one: -one[-1])
    by_kind: dict[str, float] = defaultdict(float)
    for name, _, _, milliseconds in operations:
        by_kind[kind_of(name)] += milliseconds
    return {
        "seconds": seconds,
        "gpu_ms": sum(by_kind.values()),
        "kinds": dict(by_kind),
        "operations": operations[:60],
    }


def spent(averages: Iterable[Any], rows: int) -> Iterable[tuple[str, str, int, float]]:
    """Yield the operations that launch kernels, with what those take per row.

    A kernel that no operation of torch launches, such as one of Triton, has a line of its own.
    """
    host, device = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA
    operations = [one for one in averages if one.device_type == host]
    for one in operations:
        own = one.self_device_time_total if on_gpu() else one.self_cpu_time_total
        if own and one.key.startswith("aten::"):
            yield one.key, str(one.input_shapes)[:110], one.count, own / rows / 1e3
    for one in averages:
        if one.device_type == device and one.key.startswith(OWN):
            yield f"triton {one.key}"[:60], "", one.count, one.self_device_time_total / rows / 1e3


def kind_of(name: str) -> str:
    """Return the kind of an operation.

    >>> kind_of("aten::addmm"), kind_of("aten::mul")
    ('matrix products', 'sums and products')
    """
    for kind, parts in KINDS:
        if any(part in name for part in parts):
            return kind
    return "sums and products" if name.startswith("aten::") else "other"


def show(title: str, mode: str, found: dict[str, Any], lines: int) -> None:
    """Print one profile."""
    say(f"{title}, {mode}: {found['gpu_ms']:.1f} ms per row, run of {found['seconds']:.1f} s")
    for kind, milliseconds in sorted(found["kinds"].items(), key=lambda item: -item[1]):
        print(f"  {milliseconds:7.2f}  {kind}")
    for name, shapes, calls, milliseconds in found["operations"][:lines]:
        print(f"    {milliseconds:7.3f} {calls:6d} {name} {shapes}", flush=True)


if __name__ == "__main__":
    main()
