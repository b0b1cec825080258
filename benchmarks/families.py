"""The mainstream families at true shape: batched ``generate``, ours, and the floor, in one run.

Random weights in bfloat16 (family_shapes.py), one family after the other; a table of distinct crops
of real photographs, 640 x 480 and 480 x 640 pixels mixed (1120 x 1120 for Llama-3.2-Vision, which
then has four tiles). For each family, rows a second of

- ``generate`` of the library on prepared batches, at each size, the time to prepare them apart;
- the real ``vlmscope extract`` with answers, without, and without on four questions an image, with
  the share of time in which the GPU was busy, peak memory, and seconds to the first stored row;
- the floor: operations of a prefill over a large matrix product's rate, and bytes of the decoding
  steps over a copy's, both measured in the same run.

``--exact`` holds a float32 run against the reference method, and both in bfloat16 against that.
``--generate`` without sizes leaves out the library and the floor, ``--verify 0`` the reference.

    python benchmarks/families.py --work /tmp/families --models qwen2_5_vl      # one GPU
    python benchmarks/families.py --work /tmp/tiny --size tiny --rows 4 --tokens 3 --models smolvlm
"""

from __future__ import annotations

import argparse
import json
import shutil
import traceback
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import transformers

from bare_model import free_memory
from ceilings import measure_ceilings
from family_checkpoint import count_parameters
from family_library import measure_library
from family_runs import build, family_parser, on_gpu, run_extract, say, write_tables
from family_shapes import SHAPES
from true_shape import device_name, extract, verify
from vlmscope.dataset import read_samples
from vlmscope.model import load_model
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec
from vlmscope.store import open_run


def main() -> None:
    """Run every model and print one table."""
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "device": device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "options": {k: str(v) for k, v in vars(options).items()},
        "parameters": {name: count_parameters(SHAPES[name]) for name in options.models},
        "models": {},
    }
    for name, count in results["parameters"].items():
        known = SHAPES[name].parameters
        assert round(count / 1e9, 3) == known, (
            f"{name}: {count} parameters, released with {known}e9"
        )
    results["ceilings"] = measure_ceilings(torch.device("cuda" if on_gpu() else "cpu"))
    say(f"ceilings: {results['ceilings']}")
    free_memory()
    for name in options.models:
        results["models"][name] = run_model(options, name, results["ceilings"])
        file = options.results or options.work / "families.json"
        file.write_text(json.dumps(results, indent=2))
    report(options, results)
    if any("failed" in found for found in results["models"].values()):
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = family_parser(__doc__, rows=2000, generate=(32, 128))
    parser.add_argument("--verify", type=int, default=4, help="rows to hold against the reference")
    parser.add_argument("--exact", action="store_true", help="float32 runs too: twice the memory")
    parser.add_argument("extract", nargs="*", help="options for extract, after --")
    return parser.parse_args()


def run_model(options: argparse.Namespace, name: str, ceilings: dict[str, float]) -> dict[str, Any]:
    """Build one model, measure it, delete it; a failure is a result like any other."""
    shape, folder = SHAPES[name], options.work / name
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint = folder / "checkpoint"
    found: dict[str, Any] = {}
    try:
        build(options, shape, checkpoint)
        sizes = "-".join(f"{width}x{height}" for width, height in shape.crops)
        tables = write_tables(options.work / sizes, options.rows, shape.crops)
        for mode in options.modes:
            found[mode] = run_extract(options, folder, mode, tables[mode], checkpoint)
        found["lengths"] = lengths(folder / options.modes[0])
        if options.verify:
            found["verify"] = verify(folder / options.modes[0], options.verify)
        if options.generate:
            measure_library(options, tables["answers"], checkpoint, ceilings, found)
        if options.exact:
            found["precision"] = compare_precisions(options, folder, tables["answers"], checkpoint)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the other models are still to come
        traceback.print_exc()
        found["failed"] = f"{type(error).__name__}: {error}"
        say(f"{shape.title} FAILED: {found['failed']}")
    finally:
        shutil.rmtree(checkpoint, ignore_errors=True)
        free_memory()
    return found


def compare_precisions(
    options: argparse.Namespace, folder: Path, table: Path, checkpoint: Path
) -> dict[str, Any]:
    """Hold a float32 batched run against the reference method, and both in bfloat16 against that.

    What is further from the float32 truth than the reference method would be our fault.
    """
    here = argparse.Namespace(**{**vars(options), "work": folder})
    rows = str(options.verify)
    shared = ["--images", str(table.parent), "--limit", rows, "--batch-size", rows]
    extra = [*shared, "--max-new-tokens", "8"]
    extract(here, "float32", table, checkpoint, [*extra, "--dtype", "float32"])
    extract(here, "half", table, checkpoint, extra)
    found: dict[str, Any] = {"float32": verify(folder / "float32", options.verify)}
    truth, ours = open_run(folder / "float32"), open_run(folder / "half")
    vlm = load_model(checkpoint)
    errors: dict[str, list[float]] = {"ours": [], "reference": []}
    for sample in read_samples(table, images=table.parent, limit=options.verify):
        slow = reference(sample, vlm, CaptureSpec(max_new_tokens=0)).vectors
        for name, vector in truth[sample.id].vectors.items():
            norm = np.linalg.norm(vector)
            for whose, vectors in (("ours", ours[sample.id].vectors), ("reference", slow)):
                errors[whose].append(float(np.linalg.norm(vectors[name] - vector) / norm))
    for whose, values in errors.items():
        found[whose] = {"mean": float(np.mean(values)), "largest": max(values)}
    say(f"{vlm.dtype} against float32: {found['ours']} ours, {found['reference']} the reference's")
    return found


def lengths(run: Path) -> dict[str, list[int]]:
    """Return the shortest and longest prompt and answer, in tokens."""
    with h5py.File(run / "index.h5") as file:
        rows = [row for name, row in file.items() if not name.startswith("_")]
        prompts = [int(row.attrs["num_prompt_tokens"]) for row in rows]
        answers = [len(row.get("answer_token_ids", ())) for row in rows]
    found = {"prompt": [min(prompts), max(prompts)], "answer": [min(answers), max(answers)]}
    say(f"tokens, least and most: {found}")
    return found


def report(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Print one line for each model and mode."""
    say(f"{results['device']}, torch {results['torch']}, {options.size} shape, rows a second:")
    print(
        f"{'':16}{'mode':>9}{'generate':>10}{'ours':>8}{'ratio':>7}{'floor':>8}{'of it':>7}"
        f"{'busy':>6}{'GB':>6}{'first row':>11}"
    )
    for name, found in results["models"].items():
        title = SHAPES[name].title
        if "failed" in found:
            print(f"{title:16}failed: {found['failed']}")
            continue
        for mode in options.modes:
            print(f"{title:16}{mode:>9}" + line(found, mode))
        if "verify" in found:
            parity = f"{found['verify']} {found.get('precision', '')}"
            print(f"{'':16}parity with reference.py: {parity}")


def line(found: dict[str, Any], mode: str) -> str:
    """Return the numbers of one run as text."""
    ours = found[mode]
    plain = "answers" if mode == "answers" else "prefill"
    timed = found.get("generate", {}).values()
    best = max((each[plain] for each in timed if isinstance(each, dict)), default=float("nan"))
    floor = float("nan") if mode == "shared" else found.get("floor", {}).get(plain, float("nan"))
    rate, busy, peak = ours["rows_per_second"], ours["busy"], ours["peak_gb"]
    first = ours["first_row"]
    return (
        f"{best:10.1f}{rate:8.1f}{rate / best:6.2f}x{floor:8.1f}{rate / floor:7.0%}"
        f"{'' if busy is None else format(busy, '.0%'):>6}"
        f"{'' if peak is None else format(peak, '.0f'):>6}"
        f"{'' if first is None else format(first, '.1f') + ' s':>11}"
    )


if __name__ == "__main__":
    main()
