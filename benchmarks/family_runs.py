"""Runs of ``extract`` on checkpoints of true shape and a table of photographs, for benchmarks."""

from __future__ import annotations

import argparse
import csv
import gc
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bare_model import free_memory
from ceilings import watch_gpu
from family_checkpoint import build_checkpoint
from family_shapes import SHAPES, FamilyShape
from photo_crops import crop
from true_shape import PHOTOS, QUESTIONS, extract

_START = time.perf_counter()


MODES = ("answers", "prefill", "shared")
"""The runs of ``extract``: with answers, without, and without on four questions an image."""


def known_models(text: str) -> list[str]:
    """Return the models of ``--models``.

    Raises:
        argparse.ArgumentTypeError: One is not known.
    """
    names = text.split(",")
    if unknown := set(names) - set(SHAPES):
        raise argparse.ArgumentTypeError(f"{sorted(unknown)}: choose from {','.join(SHAPES)}")
    return names


def family_parser(
    description: str | None, *, rows: int, generate: Sequence[int]
) -> argparse.ArgumentParser:
    """Return the parser of a benchmark's command line with the options that all have.

    Args:
        description: The docstring of the script.
        rows: Default number of rows.
        generate: Default batch sizes of ``generate``.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="scratch folder (27 GB for true)")
    parser.add_argument("--results", type=Path, help="where the numbers go (default: in --work)")
    parser.add_argument("--models", type=known_models, default=list(SHAPES), help="with commas")
    parser.add_argument("--size", choices=("true", "tiny"), default="true")
    parser.add_argument("--rows", type=int, default=rows)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--batch-size", default="auto")
    parser.add_argument(
        "--generate", type=int, nargs="*", default=list(generate), help="batch sizes"
    )
    parser.add_argument("--tokens", type=int, default=65)
    return parser


def on_gpu() -> bool:
    """Return whether there is a GPU."""
    return torch.cuda.is_available()


def write_tables(images: Path, rows: int, sizes: Sequence[tuple[int, int]]) -> dict[str, Path]:
    """Write the questions beside their images; return mode → table. Sizes are used in turn."""
    images.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)  # noqa: S311 - images, no secrets
    photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))]
    for i in range(rows):
        if not (path := images / f"crop_{i:04d}.jpg").exists():
            # Every photo comes in every shape.
            photo = photos[i // len(sizes) % len(photos)]
            crop(photo, rng, *sizes[i % len(sizes)]).save(path, quality=90)
    tables = {}
    for mode in MODES:
        each = len(QUESTIONS) if mode == "shared" else 1
        tables[mode] = images / f"{mode}.csv"
        with tables[mode].open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["question_id", "image_name", "question", "gt_answer"])
            for i in range(rows):
                question = QUESTIONS[i % len(QUESTIONS)]
                name = f"crop_{i // each:04d}.jpg"
                writer.writerow([f"question_comb_{i}", name, question, "No"])
    return tables


def build(options: argparse.Namespace, shape: FamilyShape, checkpoint: Path) -> None:
    """Write the checkpoint, and leave the GPU to the commands."""
    count = build_checkpoint(
        checkpoint,
        shape,
        tiny=options.size == "tiny",
        dtype=torch.bfloat16 if on_gpu() else torch.float32,
        device="cuda" if on_gpu() else "cpu",
    )
    gc.collect()
    free_memory()
    say(f"{shape.title}: {options.size} checkpoint built, {count / 1e9:.3f} billion parameters")


def run_extract(
    options: argparse.Namespace, folder: Path, mode: str, table: Path, checkpoint: Path
) -> dict[str, Any]:
    """Run the real command; return its summary, and what the GPU did meanwhile."""
    here = argparse.Namespace(**{**vars(options), "work": folder})
    tokens = options.tokens if mode == "answers" else 0
    extra = ["--images", str(table.parent), "--batch-size", options.batch_size]
    extra += ["--max-new-tokens", str(tokens), *options.extract]
    start = time.perf_counter()
    with watch_gpu() as watch, first_file(folder / mode / "shards") as first:
        found = extract(here, mode, table, checkpoint, extra)
    end = time.perf_counter()
    found["busy"] = watch.busy(end - found["seconds"], end)
    found["peak_gb"] = watch.peak_gb()
    found["first_row"] = first[0] - start if first else None
    say(f"{mode}: {found['rows_per_second']:.2f} rows/s, busy {found['busy']}, {found['peak_gb']}")
    return found


@contextmanager
def first_file(folder: Path) -> Iterator[list[float]]:
    """Watch a folder; the list gets the moment of its first file."""
    moments: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            if any(path.is_file() for path in folder.glob("*")):
                moments.append(time.perf_counter())
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield moments
    finally:
        stop.set()
        thread.join()


def say(text: str) -> None:
    """Print a line at once, with the seconds since the start."""
    print(f"[{time.perf_counter() - _START:4.0f} s] {text}", flush=True)
