"""Four more families at true shape: the real commands beside the reference method, in one run.

Qwen2.5-VL-7B, Gemma-3-12B, LLaVA-NeXT-8B and SmolVLM2-2.2B with random weights in bfloat16
(family_shapes.py), one after the other. A table of distinct crops of real photographs, 640 x 480
and 480 x 640 pixels mixed, goes through ``vlmscope extract`` with and without answers, rows of it
through ``vlmscope verify``, and a few through the reference method (three passes, batch 1) on the
same machine. Each checkpoint is deleted before the next is built. The results file is written after
every model, so a run that is cut off still tells something.

    python benchmarks/true_families.py --work /tmp/families                # one GPU with 80 GB
    python benchmarks/true_families.py --work /tmp/tiny --size tiny --rows 4 --tokens 8   # a CPU
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import random
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import transformers
from PIL import Image

from family_checkpoint import build_checkpoint, count_parameters
from family_shapes import SHAPES, FamilyShape
from true_shape import PHOTOS, QUESTIONS, device_name, extract, seed_shapes, time_seed, verify
from vlmscope.dataset import read_samples
from vlmscope.model import load_model
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec
from vlmscope.store import open_run

IMAGE_SIZES = ((640, 480), (480, 640))
"""Width and height, in turn."""

_START = time.perf_counter()


def main() -> None:
    """Run every model and print one table."""
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "device": device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "options": {k: str(v) for k, v in vars(options).items()},
        "parameters": {name: count_parameters(shape) for name, shape in SHAPES.items()},
        "models": {},
    }
    for name, count in results["parameters"].items():
        known = SHAPES[name].parameters
        assert round(count / 1e9, 3) == known, (
            f"{name}: {count} parameters, released with {known}e9"
        )
        say(f"{SHAPES[name].title}: {count / 1e9:.3f} billion parameters at its true shape")
    write_table(options.work, options.rows)
    for name in options.models:
        results["models"][name] = run_model(options, name, SHAPES[name])
        file = options.results or options.work / "true_families.json"
        file.write_text(json.dumps(results, indent=2))
    report(options, results)
    if any("failed" in found for found in results["models"].values()):
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="scratch folder (26 GB for true)")
    parser.add_argument("--results", type=Path, help="where the numbers go (default: in --work)")
    parser.add_argument("--models", type=known_models, default=list(SHAPES), help="with commas")
    parser.add_argument("--size", choices=("true", "tiny"), default="true")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--batch-size", default="32")
    parser.add_argument("--tokens", type=int, default=65)
    parser.add_argument("--seed-rows", type=int, default=4, help="rows for the reference method")
    parser.add_argument("--verify", type=int, default=4, help="rows to hold against reference.py")
    parser.add_argument("--exact", action="store_true", help="float32 runs too: twice the memory")
    parser.add_argument("--only-exact", action="store_true", help="the float32 runs alone")
    return parser.parse_args()


def known_models(text: str) -> list[str]:
    """Return the models of ``--models``.

    Raises:
        argparse.ArgumentTypeError: One is not known.
    """
    names = text.split(",")
    if unknown := set(names) - set(SHAPES):
        raise argparse.ArgumentTypeError(f"{sorted(unknown)}: choose from {','.join(SHAPES)}")
    return names


def write_table(work: Path, rows: int) -> None:
    """Write ``rows`` questions about distinct crops of real photographs, wide and tall in turn."""
    rng = random.Random(0)  # noqa: S311 - images, no secrets
    photos = sorted(PHOTOS.glob("*.jpg"))
    with (work / "questions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "image_name", "question", "gt_answer"])
        for i in range(rows):
            name = f"crop_{i:04d}.jpg"
            size = IMAGE_SIZES[i % len(IMAGE_SIZES)]
            # Every photo comes in both shapes.
            photo = photos[i // len(IMAGE_SIZES) % len(photos)]
            crop(photo, rng, *size).save(work / name, quality=90)
            writer.writerow([f"question_comb_{i}", name, QUESTIONS[i % len(QUESTIONS)], "No"])


def crop(photo: Path, rng: random.Random, width: int, height: int) -> Image.Image:
    """Return a random part of a photograph, of this shape and scaled to this size."""
    with Image.open(photo) as image:
        rgb = image.convert("RGB")
    scale = min(rgb.width / width, rgb.height / height) * rng.uniform(0.6, 0.95)
    wide, high = int(width * scale), int(height * scale)
    left, top = rng.randint(0, rgb.width - wide), rng.randint(0, rgb.height - high)
    return rgb.crop((left, top, left + wide, top + high)).resize((width, height), Image.LANCZOS)


def run_model(options: argparse.Namespace, name: str, shape: FamilyShape) -> dict[str, Any]:
    """Build one model, measure it, delete it; a failure is a result like any other."""
    folder = options.work / name
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint = folder / "checkpoint"
    found: dict[str, Any] = {}
    try:
        build(options, shape, checkpoint)
        if not options.only_exact:
            measure(options, folder, checkpoint, found)
        if options.exact or options.only_exact:
            found["precision"] = compare_precisions(options, folder, checkpoint)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the other models are still to come
        traceback.print_exc()
        found["failed"] = f"{type(error).__name__}: {error}"
        say(f"{shape.title} FAILED: {found['failed']}")
    finally:
        shutil.rmtree(checkpoint, ignore_errors=True)
        free_gpu()
    return found


def build(options: argparse.Namespace, shape: FamilyShape, checkpoint: Path) -> None:
    """Write the checkpoint, and leave the GPU to the commands."""
    on_gpu = torch.cuda.is_available()
    count = build_checkpoint(
        checkpoint,
        shape,
        tiny=options.size == "tiny",
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        device="cuda" if on_gpu else "cpu",
    )
    free_gpu()
    say(f"{shape.title}: {options.size} checkpoint built, {count / 1e9:.3f} billion parameters")


def free_gpu() -> None:
    """Give back what a model that is gone has left on the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(
    options: argparse.Namespace, folder: Path, checkpoint: Path, found: dict[str, Any]
) -> None:
    """Run the commands and the reference method; put what they say into ``found`` as it comes."""
    table = options.work / "questions.csv"
    here = argparse.Namespace(**{**vars(options), "work": folder})
    batch = ["--images", str(options.work), "--batch-size", options.batch_size]
    for mode, tokens in (("answers", options.tokens), ("prefill", 0)):
        extra = [*batch, "--max-new-tokens", str(tokens)]
        found[mode] = extract(here, mode, table, checkpoint, extra)
        say(f"{mode}: {found[mode]['rows_per_second']:.2f} rows a second")
    found["shapes"] = seed_shapes(folder / "answers")
    found["lengths"] = lengths(folder / "answers")
    found["verify"] = verify(folder / "answers", options.verify)
    say("verified")
    found["seed"] = time_seed(here, table, checkpoint)
    say("the reference method timed")


def compare_precisions(
    options: argparse.Namespace, folder: Path, checkpoint: Path
) -> dict[str, Any]:
    """Hold a float32 batched run against the reference method, and both in bfloat16 against that.

    What is further from the float32 truth than the reference method would be our fault.
    """
    table = options.work / "questions.csv"
    here = argparse.Namespace(**{**vars(options), "work": folder})
    rows = str(options.verify)
    shared = ["--images", str(options.work), "--limit", rows, "--batch-size", rows]
    extra = [*shared, "--max-new-tokens", "8"]
    extract(here, "float32", table, checkpoint, [*extra, "--dtype", "float32"])
    extract(here, "half", table, checkpoint, extra)
    found: dict[str, Any] = {"float32": verify(folder / "float32", options.verify)}
    truth, ours = open_run(folder / "float32"), open_run(folder / "half")
    vlm = load_model(checkpoint)
    errors: dict[str, list[float]] = {"ours": [], "seed": []}
    for sample in read_samples(table, images=options.work, limit=options.verify):
        seed = reference(sample, vlm, CaptureSpec(max_new_tokens=0)).vectors
        for name, vector in truth[sample.id].vectors.items():
            norm = np.linalg.norm(vector)
            for whose, vectors in (("ours", ours[sample.id].vectors), ("seed", seed)):
                errors[whose].append(float(np.linalg.norm(vectors[name] - vector) / norm))
    for whose, values in errors.items():
        found[whose] = {"mean": float(np.mean(values)), "largest": max(values)}
    say(f"{vlm.dtype} against float32: {found['ours']} ours, {found['seed']} the specification's")
    return found


def lengths(run: Path) -> dict[str, list[int]]:
    """Return the shortest and longest prompt and answer, in tokens."""
    with h5py.File(run / "index.h5") as file:
        rows = [row for name, row in file.items() if not name.startswith("_")]
        prompts = [int(row.attrs["num_prompt_tokens"]) for row in rows]
        answers = [len(row["answer_token_ids"]) for row in rows]
    found = {"prompt": [min(prompts), max(prompts)], "answer": [min(answers), max(answers)]}
    say(f"tokens, least and most: {found}")
    return found


def report(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Print one line for each model and mode."""
    say(f"{results['device']}, torch {results['torch']}, {options.size} shape, rows a second:")
    print(f"{'':16}{'tokens':>7}{'batch':>7}{'prompt':>11}{'seed':>8}{'vlmscope':>10}{'ratio':>8}")
    for name, found in results["models"].items():
        title = SHAPES[name].title
        if "failed" in found:
            print(f"{title:16}failed: {found['failed']}")
            continue
        if "precision" in found:
            print(f"{title:16}precision: {found['precision']}")
        if "answers" not in found:
            continue
        prompt = "-".join(str(length) for length in found["lengths"]["prompt"])
        for mode, key, tokens in (
            ("answers", "with_answer", options.tokens),
            ("prefill", "without_answer", 0),
        ):
            ours, seed = found[mode]["rows_per_second"], found["seed"][key]
            line = f"{title:16}{tokens:7}{options.batch_size:>7}{prompt:>11}"
            print(f"{line}{seed:8.2f}{ours:10.2f}{ours / seed:7.1f}x")
        print(f"{'':16}parity with reference.py: {found['verify']}")


def say(text: str) -> None:
    """Print a line at once, with the seconds since the start."""
    print(f"[{time.perf_counter() - _START:4.0f} s] {text}", flush=True)


if __name__ == "__main__":
    main()
