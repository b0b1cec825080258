"""What is fuzzed: each reader of a file that may be a stranger's, as a function of its bytes.

A reader must give a result or raise a ``VlmscopeError``. Anything else is a finding.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import captured
import judged
from vlmscope.dataset import load_image, open_table
from vlmscope.errors import VlmscopeError
from vlmscope.probes.storage import load_probe
from vlmscope.store import (
    describe,
    open_halp_files,
    open_run,
    read_failures,
    read_manifest,
    write_manifest,
)
from vlmscope.store.format.manifest import CaptureRecord, DataRecord, Manifest, ModelRecord
from vlmscope.sweeps.halp_files import read_label_table

MANIFEST = Manifest(
    run_id="5f" * 16,
    model=ModelRecord("tiny", "mllama", *(letter * 64 for letter in "cwptg"), 4, 8, 12),
    capture=CaptureRecord((0, 2, 3), ("last_image_token", "last_prompt_token"), "all", 20),
    data=DataRecord("questions.csv", None, {"id": "question_id"}, "d" * 64),
    dtype="float32",
    store_dtype="float32",
    attention="sdpa",
    device="cpu",
    versions={"vlmscope": "0.1.0"},
    created_at="2026-01-01T00:00:00+00:00",
)
"""Of the run whose shard is fuzzed."""


def read_table(suffix: str) -> Callable[[Path, bytes], None]:
    """Return what reads a table of this suffix through, twice as ``extract`` does."""

    def read(folder: Path, data: bytes) -> None:
        path = folder / f"table{suffix}"
        path.write_bytes(data)
        table = open_table(path, text_only=True)
        with suppress(VlmscopeError):  # rows come one by one all the same
            table.scan()
        for _ in table.rows():
            pass

    return read


def capture_rows(folder: Path, data: bytes) -> None:
    """Capture a table without a model, and read the run."""
    captured.capture_table(folder, data, MANIFEST)


def read_labels_csv(folder: Path, data: bytes) -> None:
    """Read a CSV file of labels."""
    path = folder / "labels.csv"
    path.write_bytes(data)
    read_label_table(path)


def read_run_json(folder: Path, data: bytes) -> None:
    """Read a manifest, and use what it says."""
    (folder / "run.json").write_bytes(data)
    manifest = read_manifest(folder)
    manifest.widths()
    json.dumps(asdict(manifest))
    len(open_run(folder).to_pandas())


def read_failure_log(folder: Path, data: bytes) -> None:
    """Read the log of failures."""
    (folder / "failures.jsonl").write_bytes(data)
    read_failures(folder)


def read_shard(folder: Path, data: bytes) -> None:
    """Read a run of one shard in every way there is."""
    write_manifest(folder, MANIFEST)
    (folder / "shards").mkdir(exist_ok=True)
    (folder / "shards" / "pack-000-000001.h5").write_bytes(data)
    with suppress(VlmscopeError):
        describe(folder)
    run = open_run(folder)
    run.check()
    with suppress(VlmscopeError):
        run.to_pandas()
    for name in run.representations:
        with suppress(VlmscopeError):
            run.matrix(name, next(iter(run.layers(name)), None))
    for _ in run.answers():
        pass
    for _ in run:
        pass


def read_research(folder: Path, data: bytes) -> None:
    """Read a file of the original research through."""
    path = folder / "x_part_001.h5"
    path.write_bytes(data)
    with suppress(VlmscopeError):
        describe(path)
    files = open_halp_files(path)
    files.to_pandas()
    for name in files.representations:
        files.matrix(name, next(iter(files.layers(name)), None))


def read_probe_json(folder: Path, data: bytes) -> None:
    """Read the description of a probe."""
    (folder / "probe.json").write_bytes(data)
    load_probe(folder)


def read_image(_: Path, data: bytes) -> None:
    """Decode an image."""
    load_image(data)


READERS: Mapping[str, Callable[[Path, bytes], None]] = {
    "csv": read_table(".csv"),
    "tsv": read_table(".tsv"),
    "jsonl": read_table(".jsonl"),
    "json": read_table(".json"),
    "rows": capture_rows,
    "judge": judged.ask,
    "verdicts": judged.read_verdicts,
    "labels": read_labels_csv,
    "manifest": read_run_json,
    "failures": read_failure_log,
    "shard": read_shard,
    "research": read_research,
    "probe": read_probe_json,
    "image": read_image,
}
"""Name of a target, and of its folder of the corpus → what reads the bytes."""


def feed(name: str, data: bytes) -> None:
    """Give bytes to a reader in a folder of their own; its own errors are no finding."""
    with tempfile.TemporaryDirectory(prefix="vlmscope-fuzz-") as folder, suppress(VlmscopeError):
        READERS[name](Path(folder), data)
