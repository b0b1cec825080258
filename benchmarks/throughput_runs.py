"""The runs that ``throughput.py`` compares: their tables, their checkpoints, the real command.

What ends an answer is set from outside, in the checkpoint's ``generation_config.json``: random
weights hardly ever choose the one token that ends a real answer.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

import standins
import vlmscope.demo
from ceilings import watch_gpu
from true_shape import QUESTIONS, SIZES, write_table
from vlmscope.store import open_run

DEMO = Path(vlmscope.demo.__file__).parent
SCENARIOS = ("answers", "prefill", "shared", "lengths")
LONGEST, MEDIAN = 200, 40
"""Limit and median of the answers whose lengths differ, in tokens."""

MOST_ENDED = 0.6
"""Share of the answers that may end by the median."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run to make."""

    name: str
    """Its name, and its run folder's."""
    table: Path
    """The questions."""
    images: Path
    """Where their images are."""
    rows: int
    """How many of them."""
    tokens: int
    """Longest answer."""
    checkpoint: Path
    """The model, whose settings say what ends an answer."""
    ends: list[int] | None = None
    """The tokens that do."""


def scenarios(options: argparse.Namespace, checkpoint: Path) -> Iterator[Scenario]:
    """Yield the runs to make; what ends the answers of the last hangs on those of the first."""
    work, rows = options.work, options.rows
    tile = (standins.DEMO if options.size == "demo" else SIZES[options.size]).tile
    table = write_table(work, rows, tile)
    endless = variant(work / "endless", checkpoint, None)
    for name in sorted(options.scenarios, key=SCENARIOS.index):
        if name == "answers":
            yield Scenario(name, table, work, rows, options.tokens, endless)
        elif name == "prefill":
            yield Scenario(name, table, work, rows, 0, endless)
        elif name == "shared":
            images = max(1, 3 * rows // 8)
            shared = write_shared(work, images)
            yield Scenario(name, shared, work, images * len(QUESTIONS), 0, endless)
        else:
            ends = choose_ends(work / "answers", checkpoint)
            ended = variant(work / "ended", checkpoint, ends)
            yield Scenario(name, table, work, 3 * rows // 4, LONGEST, ended, ends)


def variant(folder: Path, checkpoint: Path, ends: list[int] | None) -> Path:
    """Return the same checkpoint with other tokens that end an answer; weights are not copied."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in checkpoint.resolve().iterdir():
        (folder / file.name).symlink_to(file)
    settings = json.loads((checkpoint / "generation_config.json").read_text())
    settings["eos_token_id"] = ends
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


def choose_ends(run: Path, checkpoint: Path) -> list[int]:
    """Return random tokens, so many that half the answers of a run would end by the 40th token.

    A token that would end far more than half by itself is left out: a loop has such tokens.
    """
    vocabulary = AutoConfig.from_pretrained(checkpoint).get_text_config().vocab_size
    answers = answers_of(run)
    rows: dict[int, set[str]] = {}
    for name, tokens in answers.items():
        for token in tokens[:MEDIAN]:
            rows.setdefault(token, set()).add(name)
    ends, ended = [], set[str]()
    for token in np.random.default_rng(0).permutation(vocabulary).tolist():
        more = ended | rows.get(token, set())
        if len(more) <= MOST_ENDED * len(answers):
            ends.append(token)
            ended = more
        if 2 * len(ended) >= len(answers):
            break
    return sorted(ends)


def write_shared(work: Path, images: int) -> Path:
    """Write four questions about each of the first images, the same image's far apart."""
    path = work / "shared.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "image_name", "question", "gt_answer"])
        for turn, question in enumerate(QUESTIONS):
            for image in range(images):
                row = [f"shared_{turn}_{image}", f"crop_{image:04d}.jpg", question, "No"]
                writer.writerow(row)
    return path


def extract(options: argparse.Namespace, scenario: Scenario, *extra: str) -> dict[str, Any]:
    """Run ``vlmscope extract`` in a process of its own; return its summary and what was watched."""
    out = options.work / scenario.name
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "vlmscope", "extract", str(scenario.table), "--json"]
    command += ["--model", str(scenario.checkpoint), "--images", str(scenario.images)]
    command += ["--out", str(out), "--limit", str(scenario.rows)]
    command += ["--max-new-tokens", str(scenario.tokens), "--batch-size", options.batch_size]
    text, end = "", 0.0
    with (
        watch_gpu() as watch,
        subprocess.Popen([*command, *extra], stdout=subprocess.PIPE, text=True) as process,
    ):
        for line in process.stdout or ():
            text, end = text + line, time.perf_counter()  # the process takes a while to go
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {process.returncode}")
    summary: dict[str, Any] = json.loads(text)
    return summary | {
        "rows_per_second": summary["captured"] / summary["seconds"],
        "peak_gb": watch.peak_gb(),
        "busy": watch.busy(end - summary["seconds"], end),
        "answer_lengths": [len(tokens) for tokens in answers_of(out).values()],
    }


def answers_of(run: Path) -> dict[str, list[int]]:
    """Return each row's answer; of a run without answers, the most likely first token."""
    return {
        item.sample.id: (
            item.first_token_ids[:1] if item.answer_token_ids is None else item.answer_token_ids
        ).tolist()
        for item in open_run(run)
    }
