"""The specification's model at true shape: parity and speed of the real commands, in one run.

Builds a Llama-3.2-11B-Vision with random weights (10.67 billion parameters, 21 GB in bfloat16),
makes a table of distinct crops of real photographs that fill all four tiles, and then runs what a
user runs: ``vlmscope extract``, ``vlmscope verify``. The reference method (three passes, batch 1)
is timed beside it on the same machine, with the same images, questions and token limit.

    python benchmarks/true_shape.py --work /tmp/true-shape               # one GPU with 80 GB
    python benchmarks/true_shape.py --work /tmp/tiny --size tiny --rows 8 --tokens 8   # a CPU
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import torch
from PIL import Image

import standins
from vlmscope.dataset import read_samples
from vlmscope.model import load_model
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec

SIZES = {"true": standins.TRUE, "tiny": standins.TINY, "photo": standins.PHOTO}
PHOTOS = Path(__file__).parent / "photos"
QUESTIONS = (
    "Is the forest lit by a full moon?",
    "Is there a person in the image?",
    "What is the person wearing, and what is behind the person?",
    "How many cups are there?",
)


def main() -> None:
    """Run everything and print one table."""
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"device": device_name(), "torch": torch.__version__}
    checkpoint = options.work / "checkpoint"
    if not (checkpoint / "config.json").exists():
        start = time.perf_counter()
        on_gpu = torch.cuda.is_available() and options.size == "true"
        standins.build_standin(
            checkpoint,
            size=SIZES[options.size],
            dtype=torch.bfloat16 if on_gpu else torch.float32,
            device="cuda" if on_gpu else "cpu",
        )
        say(f"checkpoint built in {time.perf_counter() - start:.0f} s")
        if on_gpu:
            torch.cuda.empty_cache()
    table = write_table(options.work, options.rows, SIZES[options.size].tile)
    for name, extra in modes(options):
        results[name] = extract(options, name, table, checkpoint, extra)
    results["shapes"] = seed_shapes(options.work / "answers")
    results["verify"] = verify(options.work / "answers", options.verify)
    if options.exact:
        results["verify_float32"] = verify(options.work / "float32", options.verify)
    if "spread" in results:
        results["verify_spread"] = verify(options.work / "spread", 2)
    results["seed"] = time_seed(options, table, checkpoint)
    report(options, results)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder (50 GB for true)")
    parser.add_argument("--size", choices=SIZES, default="true")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--batch-size", default="32")
    parser.add_argument("--tokens", type=int, default=65)
    parser.add_argument("--seed-rows", type=int, default=6, help="rows for the reference method")
    parser.add_argument("--verify", type=int, default=8, help="rows to hold against reference.py")
    parser.add_argument("--exact", action="store_true", help="a float32 run too (43 GB of weights)")
    return parser.parse_args()


def modes(options: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """Return the runs to make: name and options."""
    batch = ["--batch-size", options.batch_size]
    runs = [
        ("answers", [*batch, "--max-new-tokens", str(options.tokens)]),
        ("prefill", [*batch, "--max-new-tokens", "0"]),
        ("auto", ["--batch-size", "auto", "--max-new-tokens", str(options.tokens)]),
    ]
    if options.exact:
        limit = ["--limit", str(options.verify), "--batch-size", str(options.verify)]
        tokens = ["--max-new-tokens", str(options.tokens)]
        runs.append(("float32", [*limit, *tokens, "--dtype", "float32"]))
    if torch.cuda.device_count() > 1:
        runs.append(("spread", [*batch, "--limit", "64", "--device", "spread"]))
    return runs


def write_table(work: Path, rows: int, tile: int) -> Path:
    """Write ``rows`` questions about distinct crops of real photographs, each of 2 x 2 tiles."""
    rng = random.Random(0)  # noqa: S311 - images, no secrets
    photos = sorted(PHOTOS.glob("*.jpg"))
    path = work / "questions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "image_name", "question", "gt_answer"])
        for i in range(rows):
            name = f"crop_{i:04d}.jpg"
            writer.writerow([f"question_comb_{i}", name, QUESTIONS[i % len(QUESTIONS)], "No"])
    seeds = [rng.getrandbits(32) for _ in range(rows)]

    def save(i: int) -> None:
        one = random.Random(seeds[i])  # noqa: S311 - images, no secrets
        crop(photos[i % len(photos)], one, tile).save(work / f"crop_{i:04d}.jpg", quality=90)

    with ThreadPoolExecutor() as threads:
        list(threads.map(save, range(rows)))
    return path


def crop(photo: Path, rng: random.Random, tile: int) -> Image.Image:
    """Return a random crop, scaled so that the processor cuts it into four tiles."""
    with Image.open(photo) as image:
        rgb = image.convert("RGB")
    side = int(min(rgb.size) * rng.uniform(0.6, 0.95))
    left, top = rng.randint(0, rgb.width - side), rng.randint(0, rgb.height - side)
    edge = 2 * tile
    return rgb.crop((left, top, left + side, top + side)).resize((edge, edge), Image.LANCZOS)


def extract(
    options: argparse.Namespace, name: str, table: Path, checkpoint: Path, extra: list[str]
) -> dict[str, Any]:
    """Run the real command; return its own summary."""
    start = time.perf_counter()
    out = options.work / name
    command = ["extract", str(table), "--model", str(checkpoint), "--out", str(out), "--json"]
    summary = json.loads(vlmscope(*command, *extra))
    summary["rows_per_second"] = summary["captured"] / summary["seconds"]
    summary["command_seconds"] = time.perf_counter() - start
    say(f"{name}: {summary}")
    return summary


def verify(run: Path, rows: int) -> dict[str, Any]:
    """Run ``vlmscope verify``; return the largest error and how many answers are the same."""
    # An error above the tolerance is exit code 1; here it is a result like any other.
    checks = json.loads(vlmscope("verify", str(run), "--sample", str(rows), "--json", ok=(0, 1)))
    result = {
        "rows": len(checks),
        "largest_relative_error": max(max(check["errors"].values()) for check in checks),
        "same_answers": sum(check["same_answer"] for check in checks),
        "same_boundaries": sum("boundaries" not in check["differing"] for check in checks),
    }
    say(f"verify {run.name}: {result}")
    return result


def vlmscope(*arguments: str, ok: tuple[int, ...] = (0,)) -> str:
    """Run the command line in a process of its own; its stderr goes to ours."""
    done = subprocess.run(
        [sys.executable, "-m", "vlmscope", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode not in ok:
        raise SystemExit(f"vlmscope {' '.join(arguments)} exited with {done.returncode}")
    return done.stdout


def seed_shapes(run: Path) -> dict[str, Any]:
    """Read one row with plain h5py and return what the specification lists."""
    with h5py.File(run / "index.h5") as file:
        row = file["question_comb_0"]
        shapes: dict[str, Any] = {}
        row.visititems(
            lambda name, item: (
                shapes.__setitem__(name, list(item.shape)) if hasattr(item, "shape") else None
            )
        )
        shapes["vision_token_boundary"] = int(row.attrs["vision_token_boundary"])
        shapes["query_token_boundary"] = int(row.attrs["query_token_boundary"])
    say(json.dumps(shapes))
    return shapes


def time_seed(options: argparse.Namespace, table: Path, checkpoint: Path) -> dict[str, float]:
    """Time the reference method, batch 1, on the first rows; the first of all is a warm-up."""
    vlm = load_model(checkpoint)
    samples = list(read_samples(table, limit=options.seed_rows + 1))
    timings = {}
    for name, tokens in (("with_answer", options.tokens), ("without_answer", 0)):
        spec = CaptureSpec(max_new_tokens=tokens)
        reference(samples[0], vlm, spec)
        start = time.perf_counter()
        for sample in samples[1:]:
            reference(sample, vlm, spec)
        timings[name] = (len(samples) - 1) / (time.perf_counter() - start)
    say(f"reference method: {timings}")
    return timings


def report(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Print the table and keep the numbers."""
    (options.work / "true_shape.json").write_text(json.dumps(results, indent=2))
    seed = results["seed"]
    say(f"\n{results['device']}, torch {results['torch']}, {options.size} shape, rows a second:")
    print(f"{'':34}{'seed':>8}{'vlmscope':>10}{'ratio':>8}")
    for name, key in (
        ("answers", "with_answer"),
        ("auto", "with_answer"),
        ("prefill", "without_answer"),
    ):
        ours = results[name]["rows_per_second"]
        tokens = options.tokens if key == "with_answer" else 0
        label = f"{tokens} tokens, batch {options.batch_size if name != 'auto' else 'auto'}"
        print(f"{label:34}{seed[key]:8.2f}{ours:10.2f}{ours / seed[key]:7.1f}x")
    print(f"parity with reference.py: {results['verify']}")
    if options.exact:
        print(f"in float32: {results['verify_float32']}")


def device_name() -> str:
    """Return the name of the device that ``auto`` will choose."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
