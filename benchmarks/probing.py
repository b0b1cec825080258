"""What ``vlmscope probe`` costs at true sizes: seconds, and memory beside the matrices.

Writes a run of 10,000 rows with the specification's eleven representations (one of 7,680 numbers,
ten of 4,096), three questions an image and a sign planted in one layer, then runs the real command
in a process of its own. One plain fit of scikit-learn on one of the matrices is timed in the same
run: the protocol needs many of them for each matrix (folds, and pairs of folds × penalties).

    python benchmarks/probing.py --work /tmp/probing                  # 2 GB of disk
    python benchmarks/probing.py --work /tmp/probing-tiny --rows 300 --width 64
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import storage
from vlmscope.probes.crossfit import GRID
from vlmscope.schema import Capture, Score
from vlmscope.store import ModelRecord, RunWriter, open_run, write_labels

PLANTED = "query_token_representation/layer_20"
QUESTIONS_AN_IMAGE = 3
FOLDS = 5
CATEGORIES = ("existence", "attribute", "number", "relation")


def main() -> None:
    """Write, probe, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="scratch folder")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=storage.HIDDEN, help="of the decoder")
    parser.add_argument("--draws", type=int, default=2_000, help="resamples for the intervals")
    options = parser.parse_args()
    run = options.work / f"run-{options.rows}-{options.width}"
    if not (run / "labels.parquet").exists():
        write_run(run, options.rows, options.width)
    imports = "import sklearn.linear_model, scipy.special, h5py, pandas, pyarrow, vlmscope.sweeps"
    _, _, idle = measured(imports)
    arguments = ["vlmscope", "probe", str(run), "--json", "--draws", str(options.draws)]
    out, seconds, memory = measured(
        f"import sys; sys.argv = {arguments!r}; from vlmscope.cli import main; main()"
    )
    found = json.loads(out)
    report(run, found, seconds, memory, idle)


def write_run(run: Path, rows: int, width: int) -> None:
    """Write the rows and their labels."""
    rng = np.random.default_rng(1)
    truth = rng.random(rows) < 0.2
    run.mkdir(parents=True)
    record = ModelRecord("benchmark", "mllama", *"12345", 40, width, storage.VISION)
    with RunWriter(run, replace(storage.manifest("float32"), model=record)) as writer:
        batch: list[Capture] = []
        for item in captures(truth, width, rng):
            batch.append(item)
            if len(batch) == 256:
                writer.add(batch)
                batch = []
        writer.add(batch)
    labels = [
        Score(f"question_comb_{i}", bool(label), "column", "") for i, label in enumerate(truth)
    ]
    write_labels(run, labels, {})


def captures(truth: np.ndarray, width: int, rng: np.random.Generator) -> Iterator[Capture]:
    """Yield rows: correlated features, as hidden states have, and one planted direction."""
    mixing = rng.standard_normal((64, width), np.float32)
    direction = rng.standard_normal(width, np.float32) * np.float32(2 / np.sqrt(width))
    for i, item in enumerate(storage.captures(range(len(truth)))):
        vectors = {
            path: vector[:width] + rng.standard_normal(64, np.float32) @ mixing
            for path, vector in item.vectors.items()
            if path != "vision_only_representation"
        }
        vectors[PLANTED] += direction * np.float32(truth[i])
        vectors["vision_only_representation"] = item.vectors["vision_only_representation"]
        image = i // QUESTIONS_AN_IMAGE
        sample = replace(item.sample, metadata={"category": CATEGORIES[i % 4]})
        yield replace(item, sample=sample, vectors=vectors, image_sha256=f"{image:064x}")


_PEAK = """
import atexit, pathlib, re, sys
def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    print("peak kB", re.search(r"VmHWM:\\s+(\\d+)", status)[1], file=sys.stderr)
atexit.register(peak)
"""
"""Makes a process say its peak memory when it ends; what the kernel adds up for children counts
the process that started them too. Linux only."""


def measured(code: str) -> tuple[str, float, int]:
    """Run Python code in a process of its own; return its output, seconds and peak bytes."""
    start = time.perf_counter()
    command = [sys.executable, "-c", _PEAK + code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    return done.stdout, seconds, int(done.stderr.split("peak kB")[1]) * 1024


def report(run: Path, found: dict, seconds: float, memory: int, idle: int) -> None:
    """Print the numbers."""
    opened = open_run(run)
    rows, width = opened.matrix(*PLANTED_PLACE).shape
    largest = rows * storage.VISION * 4
    name, layer = PLANTED_PLACE
    one = time_one_fit(opened.matrix(name, layer), run)
    fits = FOLDS + FOLDS * (FOLDS - 1) // 2 * len(GRID)  # inner folds are pairs of outer ones
    probes = [row for row in found["results"] if row["kind"] == "probe"]
    selected = next(row for row in found["results"] if row["kind"] == "selected")
    print(f"{rows} rows, {len(probes)} representations, decoder width {width}")
    print(f"vlmscope probe, everything: {seconds:.1f} s")
    print(
        f"peak memory {memory / 1e6:.0f} MB, of which imports {idle / 1e6:.0f} MB; the rest is "
        f"{(memory - idle) / largest:.2f} times the largest matrix ({largest / 1e6:.0f} MB)"
    )
    print(f"one scikit-learn fit of one matrix: {one:.1f} s; the protocol needs {fits} for each")
    print(f"planted at {PLANTED}; selected in {found['chosen']['selected'].count(PLANTED)} of "
          f"{len(found['chosen']['selected'])} folds, AUROC {selected['auroc']:.3f}")  # fmt: skip


PLANTED_PLACE = ("query_token_representation", 20)


def time_one_fit(matrix: np.ndarray, run: Path) -> float:
    """Time one fit of scikit-learn, standardised, on four fifths of the rows."""
    import pandas as pd

    truth = pd.read_parquet(run / "labels.parquet")["hallucinated"].to_numpy(bool)
    train = np.arange(len(matrix)) % 5 != 0
    start = time.perf_counter()
    scaled = StandardScaler().fit_transform(matrix[train])
    LogisticRegression(C=1e-3, max_iter=1000).fit(scaled, truth[train])
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
