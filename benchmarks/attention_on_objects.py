"""Does attention lie on the object that a question is about? On the demo, whose boxes are known.

Questions "Is there a …?" about objects that are in the image, and the demo's model. For each layer
of cross-attention: the share of the last prompt token's attention to the image that is on patches
of the object's boxes, over the share of the image's area that these boxes take (1: as much as by
chance); and the same of the boxes of the other objects of the same image, which tells attention to
objects in general from attention to this one. Means over rows with 95% intervals over images.

    python benchmarks/attention_on_objects.py --work /tmp/objects --rows 400
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import vlmscope
import vlmscope.demo
from vlmscope.signals import BOXES

sys.path.insert(0, str(Path(__file__).parents[1]))
from tools.demo_world.scenes import Scene, Thing, scenes
from tools.demo_world.world import KINDS

DEMO = Path(vlmscope.demo.__file__).parent
"""Its model, questions and images."""

DRAWS = 2000
"""Resamples of the images."""

Floats = NDArray[np.float64]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="scratch folder")
    parser.add_argument("--rows", type=int, default=400)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    table, kinds = write_table(options.work, options.rows)
    run = vlmscope.extract(
        table, DEMO / "model", options.work / "run", images=DEMO / "images", layers="all",
        positions="last_prompt_token", signals="attention_map", max_new_tokens=0,
    )  # fmt: skip
    drawn = dict(enumerate(scenes(0, "demo", 600)))
    layers = sorted(int(name.rpartition("_")[2]) for name in run.signals if "/layer_" in name)
    found: dict[tuple[int, str], list[tuple[int, float]]] = {}
    for row in run:
        image = int(re.search(r"_(\d+)\.jpg", str(row.sample.image))[1])  # type: ignore[index]
        for layer, name, value in ratios(row, drawn[image], kinds[row.sample.id], layers):
            found.setdefault((layer, name), []).append((image, value))
    print(f"{len(run)} questions about {len({i for e in found.values() for i, _ in e})} images")
    for (layer, name), values in sorted(found.items()):
        mean, low, high = interval(values)
        print(f"layer {layer}, {name:15}: {mean:.2f} ({low:.2f} to {high:.2f}), {len(values)} rows")


def write_table(folder: Path, most: int) -> tuple[Path, dict[str, str]]:
    """Write the questions about objects that are there; return the table, and id → object."""
    kinds = {}
    with (DEMO / "questions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = []
    for row in rows:
        names = [name for name in KINDS if re.search(rf"\b{name}\b", row["question"])]
        if (
            row["category"].startswith("existence")
            and row["gt_answer"] == "Yes"
            and len(names) == 1
        ):
            chosen.append(row)
            kinds[row["question_id"]] = names[0]
    path = folder / "present.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(chosen[:most])
    return path, kinds


def ratios(
    row: vlmscope.Capture, scene: Scene, kind: str, layers: Sequence[int]
) -> Iterator[tuple[int, str, float]]:
    """Yield layer, which objects, and the share of attention on them over their share of area."""
    boxes = np.asarray(row.signals[BOXES], np.float64)
    known = boxes[:, 0] >= 0
    asked = [thing for thing in scene.things if thing.kind == kind]
    others = [thing for thing in scene.things if thing.kind != kind]
    for name, things in (("the object", asked), ("other objects", others)):
        covered = coverage(boxes[known, 1:], things, scene)
        areas = np.prod(boxes[known, 3:] - boxes[known, 1:3], axis=1)
        expected = (covered * areas).sum() / areas.sum()
        if not things or expected <= 0:
            continue
        for layer in layers:
            weights = np.asarray(row.signals[f"attention_map/layer_{layer}"], np.float64)[known, 0]
            yield layer, name, float((covered * weights).sum() / weights.sum() / expected)


def coverage(boxes: Floats, things: Sequence[Thing], scene: Scene) -> Floats:
    """Return the share of each patch (top, left, bottom, right) that is in a thing's box."""
    steps = (np.arange(8) + 0.5) / 8
    top, left, bottom, right = (boxes[:, i, None, None] for i in range(4))
    y = (top + (bottom - top) * steps[None, :, None]) * scene.height
    x = (left + (right - left) * steps[None, None, :]) * scene.width
    inside = np.zeros((len(boxes), 8, 8), dtype=bool)
    for thing in things:
        half = thing.size / 2
        inside |= (abs(x - thing.x) <= half) & (abs(y - thing.y) <= half)
    return np.asarray(inside.mean(axis=(1, 2)))


def interval(values: Sequence[tuple[int, float]]) -> tuple[float, float, float]:
    """Return the mean over rows, and its 95% interval over images."""
    rng = np.random.default_rng(0)
    images = sorted({image for image, _ in values})
    sums = {image: [v for i, v in values if i == image] for image in images}
    totals = np.array([sum(sums[image]) for image in images])
    counts = np.array([len(sums[image]) for image in images])
    picks = rng.integers(len(images), size=(DRAWS, len(images)))
    means = totals[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(totals.sum() / counts.sum()), float(low), float(high)


if __name__ == "__main__":
    main()
