"""What each signal costs at true shape: ``extract`` with one signal beside ``extract`` with none.

Random weights (family_shapes.py), one family after the other, the table of families.py. For each
signal rows a second, peak memory and bytes a row, as ratios to the run without signals beside it;
and ``extract`` with eager attention, which is what other tools use for attention weights.

    python benchmarks/signals.py --work /tmp/signals --models qwen2_5_vl,mllama      # one GPU
    python benchmarks/signals.py --work /tmp/tiny --size tiny --rows 4 --tokens 3 --models smolvlm
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from family_runs import build, known_models, run_extract, write_tables
from family_shapes import SHAPES
from true_shape import device_name
from vlmscope.signals import SIGNALS

EAGER = "eager attention"
"""The run without signals, with the attention that returns complete weights."""


def main() -> None:
    """Run every family with every signal and print one table."""
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"device": device_name(), "models": {}}
    for name in options.models:
        results["models"][name] = measure(options, name)
        (options.work / "signals.json").write_text(json.dumps(results, indent=1))
    print(table(results))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="scratch folder")
    parser.add_argument("--models", type=known_models, default=["qwen2_5_vl", "mllama"])
    parser.add_argument("--size", choices=("true", "tiny"), default="true")
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--tokens", type=int, default=65, help="0: without answers")
    parser.add_argument("--batch-size", default="auto")
    parser.add_argument("--signals", nargs="+", default=[*list(SIGNALS)[1:], "detectors"])
    return parser.parse_args()


def measure(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Build one family, run it without signals first and last, and with each; delete it."""
    shape, folder = SHAPES[name], options.work / name
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint = folder / "checkpoint"
    build(options, shape, checkpoint)
    sizes = "-".join(f"{width}x{height}" for width, height in shape.crops)
    rows = write_tables(options.work / sizes, options.rows, shape.crops)["answers"]
    extra = {"none": [], "none again": [], EAGER: ["--attention", "eager"]}
    extra |= {each: ["--signals", each] for each in options.signals}
    found = {}
    for run in ("none", *options.signals, EAGER, "none again"):
        here = argparse.Namespace(**vars(options), extract=extra[run])
        home = folder / run.replace(" ", "_")
        mode = "answers" if options.tokens else "prefill"
        try:
            found[run] = run_extract(here, home, mode, rows, checkpoint)
            shards = list((home / mode / "shards").glob("*.h5"))
            found[run]["bytes_per_row"] = sum(s.stat().st_size for s in shards) / options.rows
        except SystemExit as error:  # out of memory, for example: the others are still to come
            found[run] = {"error": str(error)}
        shutil.rmtree(home, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def table(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| model | signals | rows/s | of none | peak GB | kB a row |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in results["models"].items():
        none = runs["none"].get("rows_per_second")
        for run, found in runs.items():
            if "error" in found:
                lines.append(f"| {SHAPES[name].title} | {run} | failed: {found['error']} | | | |")
                continue
            speed = found["rows_per_second"]
            share = f"{speed / none:.2f}" if none else "–"
            lines.append(
                f"| {SHAPES[name].title} | {run} | {speed:.2f} | {share} | {found['peak_gb']} "
                f"| {found['bytes_per_row'] / 1e3:.0f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
