"""Our shards against the original research's files: time to write, size, time to read one column.

    python benchmarks/storage.py --rows 2000
    python benchmarks/storage.py --rows 999 --end
    python benchmarks/storage.py --rows 3000 --process

The same rows go to both, at the specification's true sizes: one vector of 7680 and ten of 4096. The
original keeps a gzip dataset per vector and writes a file per 1,000 rows; we keep columns and
publish a part per batch of 32, pack them and index them. Values are random float32, as from an fp32
model; the column is read after the writing, so it comes from the page cache as far as that reaches.
Our first read of a column in a process compares it with its checksum; later reads need not.

``--end`` measures the end of a run instead: how long closing takes after the last row was added,
if the writer knows how many rows there are, and if it does not. Ten layers of 3,584 in float16.

``--process`` measures how many rows per second the writing process takes that extraction on a GPU
has: batches of 28 as fast as it accepts them, five layers of a 7B model in float16, the number of
rows known; with and without processes that build shards for it. CPU time is of all of these.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from vlmscope.executors.workers.count import auto_builders
from vlmscope.executors.workers.usable import usable_memory, usable_processors
from vlmscope.executors.writing import WritingThread
from vlmscope.schema import Capture, Sample
from vlmscope.signals import DEFAULT_SIGNALS, TOKEN_STATISTICS
from vlmscope.store import (
    CaptureRecord,
    DataRecord,
    Manifest,
    ModelRecord,
    RunWriter,
    RunWriterProcess,
    StoreDtype,
    open_run,
)

LAYERS = (0, 10, 20, 30, 39)
VISION, HIDDEN = 7680, 4096
BATCH, PROCESS_BATCH = 32, 28
ORIGINAL_ROWS_PER_FILE = 1_000
COLUMN = ("query_token_representation", 20)


def id_of(row: int) -> str:
    """Return the id of a row."""
    return f"question_comb_{row}"


def captures(
    rows: Iterable[int],
    *,
    vision: int = VISION,
    hidden: int = HIDDEN,
    layers: Sequence[int] = LAYERS,
) -> Iterator[Capture]:
    """Yield rows, of the specification's size unless told: the same ones at every call."""
    rng = np.random.default_rng(0)
    widths = {"vision_only_representation": vision} | {
        f"{name}_token_representation/layer_{layer}": hidden
        for name in ("vision", "query")
        for layer in layers
    }
    for i in rows:
        yield Capture(
            sample=Sample(id_of(i), f"{i}.png", "Is it lit by a full moon?", "No"),
            vectors={
                path: rng.standard_normal(width, np.float32) for path, width in widths.items()
            },
            boundaries={"last_image_token": 5, "last_prompt_token": 33},
            num_prompt_tokens=34,
            image_sha256="0" * 64,
            first_token_entropy=1.0,
            first_token_ids=np.arange(20),
            first_token_logprobs=np.zeros(20, np.float32),
            finish_reason="stop",
            answer="The image does not appear to be lit by a full moon. " * 4,
            answer_token_ids=np.arange(50),
            answer_logprobs=np.zeros(50, np.float32),
            signals={name: np.zeros(50, np.float32) for name in TOKEN_STATISTICS},
        )


def manifest(store_dtype: StoreDtype) -> Manifest:
    """Return a manifest of the specification's model."""
    return Manifest(
        run_id="0" * 32,
        model=ModelRecord("benchmark", "mllama", "", "", "", "", "", 40, HIDDEN, VISION),
        capture=CaptureRecord(
            LAYERS, ("last_image_token", "last_prompt_token"), "all", 200, signals=DEFAULT_SIGNALS
        ),
        data=DataRecord("none", None, {}, ""),
        dtype="float32",
        store_dtype=store_dtype,
        attention="sdpa",
        device="cpu",
        versions={},
        created_at="",
    )


def write_original(folder: Path, rows: Iterator[Capture]) -> None:
    """Write as the original does: collect 1,000 rows, then one file, gzip level 4 per vector."""
    file = None
    for i, capture in enumerate(rows):
        if i % ORIGINAL_ROWS_PER_FILE == 0:
            if file:
                file.close()
            file = h5py.File(folder / f"part_{i // ORIGINAL_ROWS_PER_FILE:03d}.h5", "w")
        assert file is not None
        row = file.create_group(capture.sample.id)
        row.create_dataset("image_id", data=capture.sample.image_id)
        row.create_dataset("question", data=capture.sample.question)
        row.create_dataset("ground_truth_answer", data=capture.sample.target)
        row.create_dataset("answer", data=capture.answer)
        for path, vector in capture.vectors.items():
            row.create_dataset(path, data=vector, compression="gzip", compression_opts=4)
    if file:
        file.close()


def read_original(folder: Path) -> np.ndarray:
    """Read one column row by row: there is no other way."""
    vectors = []
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path) as file:
            vectors += [file[f"{id_}/{COLUMN[0]}/layer_{COLUMN[1]}"][:] for id_ in file]
    return np.stack(vectors)


def write_ours(folder: Path, rows: Iterator[Capture], store_dtype: StoreDtype) -> None:
    """Write as ``extract`` does: a durable part per batch, packs, the index."""
    with RunWriter(folder, manifest(store_dtype)) as writer:
        batch = []
        for capture in rows:
            batch.append(capture)
            if len(batch) == BATCH:
                writer.add(batch)
                batch = []
        writer.add(batch)


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(rows: int) -> dict[str, tuple[float, float, float, float]]:
    """Return seconds to write, bytes, and seconds to read first and later, by layout."""
    making = timed(lambda: [None for _ in captures(range(rows))])
    layouts: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
        "original (gzip 4)": (lambda p: write_original(p, captures(range(rows))), read_original),
        "vlmscope float32": (
            lambda p: write_ours(p, captures(range(rows)), "float32"),
            lambda p: open_run(p).matrix(*COLUMN),
        ),
        "vlmscope float16": (
            lambda p: write_ours(p, captures(range(rows)), "float16"),
            lambda p: open_run(p).matrix(*COLUMN),
        ),
    }
    results = {}
    for name, (write, read) in layouts.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            writing = timed(lambda: write(path)) - making  # noqa: B023
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            first = timed(lambda: read(path))  # noqa: B023
            later = min(timed(lambda: read(path)) for _ in range(3))  # noqa: B023
        results[name] = (writing, size, first, later)
    return results


def rows_of_7b(rows: int, layers: tuple[int, ...]) -> tuple[Manifest, list[Capture]]:
    """Return the manifest and the rows of a model with 7 billion parameters."""
    vision, hidden = 1280, 3584
    model = replace(manifest("float16").model, vision_size=vision, hidden_size=hidden)
    capture = replace(manifest("float16").capture, layers=layers)
    settings = replace(manifest("float16"), model=model, capture=capture)
    return settings, list(captures(range(rows), vision=vision, hidden=hidden, layers=layers))


def measure_end(rows: int) -> None:
    """Print how long the end of a run takes, and how many packs it then has."""
    settings, made = rows_of_7b(rows, tuple(range(0, 30, 3)))
    for expected in (None, rows):
        with tempfile.TemporaryDirectory() as folder:
            writer = RunWriter(Path(folder), settings, expected=expected)
            writer.__enter__()
            adding = timed(lambda: [writer.add(made[i : i + BATCH]) for i in range(0, rows, BATCH)])  # noqa: B023
            closing = timed(writer.close)
            packs = len(list(Path(folder, "shards").glob("pack-*.h5")))
        known = "not known" if expected is None else "known"
        print(
            f"{rows} rows, their number {known}: {adding:.1f} s until the last is added, "
            f"{closing:.1f} s to the end; {packs} packs"
        )


def measure_process(rows: int, counts: Sequence[int]) -> None:
    """Print how fast the writing process takes rows, with so many builders."""
    settings, made = rows_of_7b(rows, (0, 7, 14, 21, 27))
    for count in counts:
        before = cpu_of_children()
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            with (
                RunWriterProcess(Path(folder), settings, expected=rows, builders=count) as writer,
                ThreadPoolExecutor(1) as begins,
                ThreadPoolExecutor(1) as waits,
            ):
                results = WritingThread(writer, begins, lambda _: None, waiting=waits)
                begin = time.perf_counter()
                for first in range(0, rows, PROCESS_BATCH):
                    results.put(made[first : first + PROCESS_BATCH])
                results.wait()
                last = time.perf_counter()
            end = time.perf_counter()
            packs = len(list(Path(folder, "shards").glob("pack-*.h5")))
        cpu = cpu_of_children() - before
        print(
            f"{rows} rows, at most {count} builders: {rows / (last - begin):.0f} rows/s until the "
            f"last is recorded, {rows / (end - begin):.0f} until the run is closed; "
            f"{begin - start:.1f} s to open, {end - last:.1f} s to close, {packs} packs; "
            f"{cpu / rows * 1e3:.1f} ms CPU per row"
        )


def cpu_of_children() -> float:
    """Return the CPU seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000, help="rows to write (default 2000)")
    parser.add_argument("--end", action="store_true", help="measure the end of a run instead")
    parser.add_argument(
        "--process", action="store_true", help="measure the writing process instead"
    )
    parser.add_argument(
        "--builders", type=int, nargs="*", help="with --process: numbers of builders"
    )
    options = parser.parse_args()
    rows = options.rows
    if options.process:
        most = auto_builders(usable_processors(), usable_memory())
        measure_process(rows, options.builders or (0, most))
        return
    if options.end:
        measure_end(rows)
        return
    results = measure(rows)
    base = results["original (gzip 4)"]
    print(f"{rows} rows, one column is [{rows}, {HIDDEN}]; in brackets: the original's over this\n")
    print(f"{'layout':<20}{'write s':>16}{'size MB':>17}{'first read ms':>19}{'later ms':>19}")
    for name, (writing, size, first, later) in results.items():
        print(
            f"{name:<20}{writing:>9.1f} ({base[0] / writing:3.1f}×)"
            f"{size / 1e6:>10.0f} ({base[1] / size:3.1f}×)"
            f"{first * 1e3:>11.0f} ({base[2] / first:4.1f}×)"
            f"{later * 1e3:>11.0f} ({base[3] / later:4.1f}×)"
        )


if __name__ == "__main__":
    main()
