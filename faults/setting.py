"""The setting of a fault: a table with images, a tiny model, and when runs count as equal."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from faults.poison import SKULL
from tools.standin import build_standin
from vlmscope.store import Run, open_run

ROWS = 40
SIZES = ((50, 40), (100, 50), (110, 100))
"""Images of one, two and four tiles."""

TOLERANCE = 1e-5
"""Largest difference of a vector's values, relative to the largest of them."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where faults happen."""

    folder: Path
    """Everything below it may be changed."""
    model: Path
    """Folder of the tiny checkpoint."""
    rows: int = ROWS
    """Rows of its tables."""

    def table(self, name: str, *, poisoned: Sequence[int] = ()) -> Path:
        """Write a table into a folder of that name."""
        return write_table(self.folder / name, self.rows, poisoned=poisoned)

    def arguments(self, table: Path, out: Path, *more: str) -> list[str]:
        """Return the command line that extracts a table into a run folder."""
        return [
            *("extract", str(table), "--model", str(self.model), "--out", str(out)),
            *("--device", "cpu", "--max-new-tokens", "6", *more),
        ]


def make_setting(folder: Path, model: Path | None = None, rows: int = ROWS) -> Setting:
    """Return a setting; the tiny model is made unless one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    return Setting(folder, model or build_standin(folder / "model"), rows)


def write_table(folder: Path, rows: int = ROWS, *, poisoned: Sequence[int] = ()) -> Path:
    """Write a table of questions and its images; the poisoned rows carry the skull."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, (width, height) in enumerate(SIZES):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    path = folder / "questions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "image_name", "question", "gt_answer"])
        for i in range(rows):
            skull = SKULL if i in poisoned else ""
            text = f"Is there a cup {'or a cat ' * (i % 4)}in image {i}{skull}?"
            writer.writerow([f"q{i}", f"{i % 3}.png", text, "Yes"])
    return path


def differences(out: Path, expected: Run, *, without: Sequence[str] = ()) -> list[str]:
    """Return what of a run is not as in the undisturbed one: ids, answers, vectors, checksums."""
    run = open_run(out)
    wanted = [id_ for id_ in expected.ids if id_ not in without]
    if sorted(run.ids) != sorted(wanted):
        missing, more = set(wanted) - set(run.ids), set(run.ids) - set(wanted)
        doubled = len(run.ids) - len(set(run.ids))
        return [f"missing {sorted(missing)}, too many {sorted(more)}, doubled {doubled}"]
    found = run.check()
    others = {capture.sample.id: capture for capture in expected}
    for one in run:
        other = others[one.sample.id]
        if one.answer != other.answer or one.boundaries != other.boundaries:
            found.append(f"{one.sample.id}: another answer")
        if one.vectors.keys() != other.vectors.keys():
            found.append(f"{one.sample.id}: other vectors")
            continue
        for name, vector in other.vectors.items():
            error = np.abs(one.vectors[name] - vector).max() / np.abs(vector).max()
            if not error <= TOLERANCE:
                found.append(f"{one.sample.id}: {name} differs by {error:.1e}")
    return found
