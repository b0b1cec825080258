"""Whether a change of the code changed a result: the demo and every tiny family, before and after.

    python scripts/same_results.py record before.json     with the code as it was
    python scripts/same_results.py compare before.json    with the code as it is

What is compared is what a user keeps, digest by digest: every dataset of every shard, labels, the
probes' numbers and predictions, and the report's text. Times, versions and paths are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT / "tests"), str(ROOT)]

from typer.testing import CliRunner  # noqa: E402

from families.conformance import (  # noqa: E402 - needs the path
    ONE_IMAGE,
    RUNNABLE,
    SEVERAL,
    build,
)
from vlmscope.cli import app  # noqa: E402
from vlmscope.engine import capture  # noqa: E402
from vlmscope.model import load_model  # noqa: E402
from vlmscope.schema import Capture, CaptureSpec  # noqa: E402

ONE_IMAGE_ONLY = ("mllama", "paligemma")
PASSING = re.compile(
    r"\b[0-9a-f]{32}\b|\d{4}-\d\d-\d\d(T| at | )\d\d:\d\d(:\d\d)?(\+00:00)?|"
    r"/tmp/[^\s\"'<]*|\d+(\.\d+)? (s|ms|MB|KB)\b"
)
"""Run ids, times, durations, temporary paths, sizes of files: these differ between equal runs."""


def digest(value: Any) -> str:
    """Return a short digest of an array, a text or anything JSON holds."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        data = f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    else:
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        data = json.dumps(plain, default=repr, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def run_command(*arguments: str) -> str:
    """Run a command of vlmscope in this process and return what it printed."""
    done = CliRunner().invoke(app, list(arguments))
    if done.exit_code:
        raise SystemExit(f"vlmscope {' '.join(arguments)}: exit {done.exit_code}\n{done.output}")
    return str(done.output)


def of_shards(run: Path) -> Iterator[tuple[str, str]]:
    """Yield name and digest of every dataset and attribute of a run's shards."""
    for number, path in enumerate(sorted((run / "shards").glob("*.h5"))):
        found: dict[str, str] = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, item, found=found: found.update(of_item(name, item)))
        yield from ((f"shard {number}/{name}", value) for name, value in found.items())


def of_item(name: str, item: Any) -> dict[str, str]:
    """Return the digests of one HDF5 object: its data and its attributes."""
    attributes = {f"{name}@{key}": digest(np.asarray(value)) for key, value in item.attrs.items()}
    return attributes | ({name: digest(item[()])} if isinstance(item, h5py.Dataset) else {})


def of_table(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and digest of every column of a Parquet file."""
    frame = pd.read_parquet(path)
    for column in frame:
        yield f"{path.name}/{column}", digest(frame[column].astype(str).tolist())


def of_json(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of every number and text of a JSON document."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from of_json(each, f"{name}/{key}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from of_json(each, f"{name}/{number}")
    else:
        yield name, PASSING.sub("…", str(value))


def of_demo(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the results of the demo's first questions, from capture to report."""
    run = folder / "run"
    run_command("demo", "--out", str(run), "--limit", "400")
    yield from of_shards(run)
    for path in sorted(run.rglob("*.parquet")):
        yield from of_table(path)
    for path in sorted((run / "probes").rglob("*.json")):
        yield from of_json(json.loads(path.read_text("utf-8")), path.relative_to(run).as_posix())
    for path in sorted((run / "plots").glob("*.csv")):
        yield path.name, digest(path.read_text("utf-8"))
    page = (run / "report.html").read_text("utf-8")
    body = page[page.index("<body") :]
    yield "report", digest(PASSING.sub("…", re.sub(r"<[^>]*>", " ", body)))


def of_capture(item: Capture) -> Iterator[tuple[str, str]]:
    """Yield name and digest of every field of a capture."""
    for name in sorted({*item.__dataclass_fields__} - {"sample"}):
        value = getattr(item, name)
        if isinstance(value, Mapping):
            yield from ((f"{name}/{key}", digest(np.asarray(each))) for key, each in value.items())
        else:
            yield name, digest(value)


def of_family(name: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the results of one tiny family: batches, answers, several images."""
    model = load_model(str(build(name, folder)))
    several = () if name in ONE_IMAGE_ONLY else SEVERAL
    spec = CaptureSpec(max_new_tokens=6)
    for item in capture((*ONE_IMAGE, *several), model, spec, batch_size=3):
        if isinstance(item, Capture):
            yield from ((f"{item.sample.id}/{key}", value) for key, value in of_capture(item))
        else:
            yield f"{item.id}/error", item.error


def results(only: str) -> dict[str, str]:
    """Return every result by its name."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        if only in ("", "demo"):
            found |= {f"demo: {key}": value for key, value in of_demo(Path(folder))}
        for name in RUNNABLE:
            if only in ("", name):
                place = Path(folder) / name
                place.mkdir()
                found |= {f"{name}: {key}": value for key, value in of_family(name, place)}
    return found


def main() -> int:
    """Record results, or compare them with recorded ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="", help="demo, or one family")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    now = results(options.only)
    if options.what == "record":
        options.file.write_text(json.dumps(now, indent=0), "utf-8")
        print(f"{len(now)} results recorded")
        return 0
    before: dict[str, str] = json.loads(options.file.read_text("utf-8"))
    if options.only:
        before = {key: value for key, value in before.items() if key.startswith(f"{options.only}:")}
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            print(f"{key}: {before.get(key, 'absent')} before, {now.get(key, 'absent')} now")
    same = sum(before.get(key) == value for key, value in now.items())
    print(f"{same} of {len(before)} results are the same")
    return int(before != now)


if __name__ == "__main__":
    sys.exit(main())
