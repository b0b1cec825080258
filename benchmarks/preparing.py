"""How many rows a second are prepared, by threads and by worker processes.

The processors of four families at their true shape (family_shapes.py), without their models, on
crops of real photographs of 640 x 480 and 480 x 640 pixels. Meanwhile the main thread calls small
operations of torch, as a thread that launches the kernels of a GPU does: the number in brackets is
its speed, in percent of that without preparation. With CUDA, inputs go into pinned memory.

    python benchmarks/preparing.py                       # 1, 4, 8, 16 threads and processes
    python benchmarks/preparing.py --counts 1,2 --seconds 1 --families smolvlm

``--profile`` prints where the time of one row goes instead.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import os
import pstats
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from family_checkpoint import build_processor
from family_shapes import SHAPES, FamilyShape
from photo_crops import IMAGE_SIZES, crop
from true_shape import PHOTOS, QUESTIONS
from vlmscope.engine import prepare
from vlmscope.executors.workers import Workers
from vlmscope.model import FAMILIES, Preprocessing, ResolvedSpec, resolve_spec_for
from vlmscope.model.lengths import ONE_BAND
from vlmscope.model.loading.processors import load_processor
from vlmscope.schema import CaptureSpec, Sample

CROPS = 32
"""Distinct images."""


def main() -> None:
    """Print a table."""
    options = parse()
    torch.set_num_threads(1)
    print(f"{len(os.sched_getaffinity(0))} processors, CUDA: {torch.cuda.is_available()}")
    workers = Workers(max(options.counts))
    with tempfile.TemporaryDirectory() as folder, workers:
        rows = write_rows(Path(folder))
        if options.head_start:
            workers.start()
            time.sleep(options.head_start)
        if not options.profile:
            head = ["rows a second (launching thread's speed)"]
            head += [f"{n} {kind}" for kind in options.kinds for n in options.counts]
            print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}", flush=True)
        for name in options.families:
            model, spec = preprocessing(Path(folder) / name, SHAPES[name])
            if options.profile:
                profile(name, model, spec, rows)
                continue
            size = options.batch_size
            chunks = [rows[i : i + size] for i in range(0, CROPS, size)]
            print(f"| {SHAPES[name].title}", end="", flush=True)
            for kind in options.kinds:
                measure(kind, model, spec, chunks, options, workers)
            print(" |", flush=True)


def measure(
    kind: str,
    model: Preprocessing,
    spec: ResolvedSpec,
    chunks: Sequence[Sequence[Sample]],
    options: argparse.Namespace,
    workers: Workers,
) -> None:
    """Print the cells of threads or processes."""
    alone = launches_per_second(options.seconds)
    if kind == "threads":
        for count in options.counts:
            work = partial(prepare, vlm=model, spec=spec)
            print(" |", measured(work, chunks, count, options.seconds, alone), end="", flush=True)
        return
    start = time.perf_counter()
    workers.begin(model, spec)
    workers.prepare(chunks[0])
    first = time.perf_counter() - start
    for count in options.counts:
        found = measured(workers.prepare, chunks, count, options.seconds, alone)
        print(" |", found, end="", flush=True)
    print(f" (first batch after {first:.1f} s)", end="")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--counts", type=numbers, default=[1, 4, 8, 16])
    parser.add_argument("--families", type=lambda text: text.split(","), default=list(SHAPES))
    parser.add_argument(
        "--kinds", type=lambda text: text.split(","), default=["threads", "processes"]
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument(
        "--head-start", type=float, default=0.0, metavar="SECONDS",
        help="start the workers' server so long before, as while a model is loaded",
    )  # fmt: skip
    parser.add_argument("--profile", action="store_true", help="where the time of a row goes")
    parser.add_argument("--work", help="not used: a temporary folder is")
    return parser.parse_args()


def write_rows(folder: Path) -> list[Sample]:
    """Write crops of photographs; return questions about them."""
    rng = random.Random(0)  # noqa: S311 - images, no secrets
    photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))]
    rows = []
    for i in range(CROPS):
        path = folder / f"crop_{i:04d}.jpg"
        crop(photos[i % len(photos)], rng, *IMAGE_SIZES[i % 2]).save(path, quality=90)
        rows.append(Sample(str(i), str(path), QUESTIONS[i % len(QUESTIONS)]))
    return rows


def preprocessing(folder: Path, shape: FamilyShape) -> tuple[Preprocessing, ResolvedSpec]:
    """Return what preparing the inputs of a family needs."""
    build_processor(folder, shape)
    kind = str(shape.config["model_type"])
    image_token = next(
        shape.config[name] for name in ("image_token_id", "image_token_index")
        if name in shape.config
    )  # fmt: skip
    model = Preprocessing(
        load_processor(folder),
        FAMILIES[kind],
        ONE_BAND,
        max_prompt_tokens=2**17,
        image_token_id=image_token,
        dtype=torch.bfloat16,
        one_at_a_time="",
        pin_memory=torch.cuda.is_available(),
    )
    layers = int(shape.config["text_config"]["num_hidden_layers"])
    return model, resolve_spec_for(CaptureSpec(), kind, layers)


def measured(
    work: Callable[[Sequence[Sample]], Any],
    chunks: Sequence[Sequence[Sample]],
    count: int,
    seconds: float,
    alone: float,
) -> str:
    """Return rows a second of so many threads that call ``work``, and the main thread's speed."""
    with running(work, chunks, count) as done:
        time.sleep(min(seconds, 1.0) / 2)  # until all of them are at work
        before, start = done(), time.perf_counter()
        launched = launches_per_second(seconds)
        rows, passed = done() - before, time.perf_counter() - start
    return f"{rows / passed:.1f} ({launched / alone:.0%})"


@contextmanager
def running(
    work: Callable[[Sequence[Sample]], Any], chunks: Sequence[Sequence[Sample]], count: int
) -> Iterator[Callable[[], float]]:
    """Prepare rows again and again; yield a function that returns their number so far."""
    stop = threading.Event()
    finished = [0] * count
    began = [time.perf_counter()] * count
    took = [0.0] * count

    def loop(number: int) -> None:
        turn = number
        while not stop.is_set():
            began[number] = time.perf_counter()
            chunk = chunks[turn % len(chunks)]
            work(chunk)
            finished[number] += len(chunk)
            took[number] = (time.perf_counter() - began[number]) / len(chunk)
            turn += 1

    def done() -> float:
        """Count the part of a batch that is probably done, too."""
        now = time.perf_counter()
        parts = [
            min(len(chunks[0]), (now - start) / each) if each else 0.0
            for start, each in zip(began, took, strict=True)
        ]
        return sum(finished) + sum(parts)

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    while not all(took):  # each has prepared a batch
        time.sleep(0.01)
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def launches_per_second(seconds: float) -> float:
    """Return how many small operations this thread calls in a second."""
    tensor, other = torch.zeros(8), torch.ones(8)
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(50):
            tensor.add_(other)
        calls += 50
    return calls / (time.perf_counter() - start)


def profile(name: str, model: Preprocessing, spec: ResolvedSpec, rows: Sequence[Sample]) -> None:
    """Print where the time of a row goes."""
    profiler = cProfile.Profile()
    start, busy = time.perf_counter(), time.process_time()
    for row in rows:
        prepare([row], model, spec)
    plain = (time.perf_counter() - start) / len(rows)
    busy = (time.process_time() - busy) / len(rows)
    profiler.enable()
    for row in rows:
        prepare([row], model, spec)
    profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(28)
    print(
        f"\n{name}: {1000 * plain:.1f} ms a row, {1000 * busy:.1f} of them computing; "
        f"{len(rows)} rows:\n{text.getvalue()}"
    )


if __name__ == "__main__":
    main()
