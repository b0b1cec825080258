"""A run with a pipe, a socket, a device or a folder where a file belongs: every command ends.

What does not end is interrupted, so that a test fails instead of waiting for ever.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewer_forms import fewer_forms
from store_support import make_capture, make_manifest
from vlmscope import demo
from vlmscope.errors import VlmscopeError
from vlmscope.model import load_model
from vlmscope.model.families import read_description
from vlmscope.probes import load_probe
from vlmscope.schema import Score
from vlmscope.store import RunWriter, open_run, write_labels
from vlmscope.sweeps import SweepSpec, save_sweep, sweep

Command = Callable[..., Any]

PICTURE = Path(demo.__file__).parent / "images" / "demo_0449.jpg"

SECONDS = 10
"""After which a command counts as one that does not end."""

HUGE = 10 * 2**30

ROWS = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was labelled and probed, with every file that a command reads."""
    run = tmp_path_factory.mktemp("special") / "run"
    rng = np.random.default_rng(1)
    captures = []
    for i in range(ROWS):
        image = int(rng.integers(0, 2**63))
        captures.append(make_capture(i, image_sha256=f"{image:064x}", image_dhash=f"{image:016x}"))
    with RunWriter(run, make_manifest()) as writer:
        writer.add(captures)
    scores = [Score(item.sample.id, i % 2 == 0, "yesno", "made") for i, item in enumerate(captures)]
    write_labels(run, scores, {"scorer": "yesno"})
    opened = open_run(run)
    spec = SweepSpec(draws=100, folds=3, repeats=1, permutations=100)
    with fewer_forms():
        save_sweep(opened, sweep(opened, spec))
    (run / "failures.jsonl").write_text('{"id": "x", "stage": "image", "error": "?", "attempt": 1}')
    (run / "judge.jsonl").write_text("")
    (run / "report.html").write_text("")
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("id,image,question,answer\nq,a.png,Is it?,yes\n", "utf-8")
    return path


@contextmanager
def ends() -> Iterator[None]:
    """Interrupt what takes too long."""

    def interrupt(*_: Any) -> None:
        raise AssertionError(f"did not end within {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 0.1)  # again, should it be swallowed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, HUGE)


KINDS: dict[str, Callable[[Path], None]] = {
    "a pipe": pipe, "a socket": bound, "a device": device, "a folder": folder, "huge": sparse,
}  # fmt: skip

NAMES = (
    "run.json", "failures.jsonl", "labels.parquet", "index.h5", "judge.jsonl", "shards/pack.h5",
    "probes/results.json", "probes/predictions.parquet", "probes/P/probe.json",
    "probes/P/weights.safetensors", ".lock-000",
)  # fmt: skip


def spoil(run: Path, name: str, kind: str) -> Path:
    """Put something else where a file is."""
    probe = json.loads((run / "probes/results.json").read_text("utf-8"))["selected_probe"]
    path = run / name.replace("/P/", f"/{probe}/")
    if name == "shards/pack.h5":
        [path] = (run / "shards").glob("pack-*.h5")
    path.unlink(missing_ok=True)
    KINDS[kind](path)
    return path


def commands(run: Path, table: Path) -> dict[str, tuple[object, ...]]:
    """Every command that reads a run."""
    out = run.parent
    return {
        "info": ("info", run),
        "verify": ("verify", run),
        "verify --files": ("verify", run, "--files"),
        "label": ("label", run),
        "label by the judge": ("label", run, "--judge-model", "none", "--yes"),
        "export": ("export", run, out / "out.h5"),
        "extract": ("extract", table, "--model", "none/none", "--out", run),
        "score": ("score", PICTURE, "Is it?", "--model", "./none", "--probe", run),
        "probe": ("probe", run, "--draws", 100, "--folds", 3),
        "report": ("report", run),
    }


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "a pipe") for name in NAMES),
        ("run.json", "a socket"), ("shards/pack.h5", "a socket"),
        ("run.json", "a device"), ("failures.jsonl", "a device"),
        ("probes/P/probe.json", "a device"),
    ],
)  # fmt: skip
def test_no_command_waits_for_it(
    vlmscope: Command, run: Path, table: Path, name: str, kind: str
) -> None:
    path = spoil(run, name, kind)
    told = 0
    for command, arguments in commands(run, table).items():
        with ends():
            found = vlmscope(*arguments)
        assert found.code in (1, 2), (command, found.err)
        assert found.err.splitlines()[-1].startswith("error: "), (command, found.err)
        assert "Traceback" not in found.err, command
        told += path.name in found.err.splitlines()[-1]
    # A score reads its probe only, and the first of its files that is no file is not there.
    assert told >= len(commands(run, table)) - 1


READERS = {
    "run.json": ("info", "verify --files", "label", "export", "extract", "probe", "report"),
    "failures.jsonl": ("info", "extract"),
    "labels.parquet": ("probe", "report"),
    "shards/pack.h5": ("info", "verify --files", "label", "export", "probe", "report"),
    "index.h5": ("verify --files",),
    "judge.jsonl": ("label by the judge",),
    "probes/results.json": ("report", "score"),
    "probes/predictions.parquet": ("report",),
    "probes/P/probe.json": ("score",),
    "probes/P/weights.safetensors": ("score",),
}
"""File → the commands that read it."""


@pytest.mark.first(10)
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["huge", "a folder"])
def test_a_folder_or_a_huge_file_in_its_place(
    vlmscope: Command, run: Path, table: Path, name: str, kind: str
) -> None:
    if kind == "huge" and name == "judge.jsonl":
        kind = "a folder"
    path = spoil(run, name, kind)
    for command in READERS[name]:
        if command == "extract" and name == "failures.jsonl":
            continue  # it is read once the model is loaded
        with ends():
            found = vlmscope(*commands(run, table)[command])
        assert found.code in (1, 2), (command, found.err)
        error = found.err.splitlines()[-1]
        assert error.startswith("error: "), (command, found.err)
        assert path.name in error or path.parent.name in error, (command, found.err)
        assert "Traceback" not in found.err, command


@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a device"])
@pytest.mark.parametrize("name", ["probe.json", "weights.safetensors"])
def test_the_folder_of_a_probe_alone(run: Path, name: str, kind: str) -> None:
    """It is read without the run around it."""
    path = spoil(run, f"probes/P/{name}", kind)
    with ends(), pytest.raises(VlmscopeError, match=f"{name}: .*is {kind}, expected a file"):
        load_probe(path.parent)


@pytest.mark.first(7)
@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a device"])
@pytest.mark.parametrize(
    "name", ["t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet", "t.txt", "none"]
)
def test_a_table(vlmscope: Command, tmp_path: Path, name: str, kind: str) -> None:
    KINDS[kind](tmp_path / name)
    with ends():
        found = vlmscope("extract", tmp_path / name, "--model", "m/m", "--out", tmp_path / "run")
    assert found.code == 2
    assert found.err == (
        f"error: {tmp_path / name}: is {kind}, expected a file; a table is read more than once: "
        "save it as a file first\n"
    )


def test_a_stream_as_the_table(vlmscope: Command, tmp_path: Path) -> None:
    """``vlmscope extract <(zcat t.csv.gz)`` and ``… | vlmscope extract /dev/stdin``."""
    end, other = os.pipe()
    with os.fdopen(end), os.fdopen(other, "w"), ends():
        found = vlmscope("extract", f"/dev/fd/{end}", "--model", "m/m", "--out", tmp_path / "run")
    assert found.code == 2
    assert "is a pipe, expected a file; a table is read more than once" in found.err


@pytest.mark.first(1)
@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a device", "a folder"])
def test_a_label_file(vlmscope: Command, run: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "labels.csv"
    KINDS[kind](path)
    export = tmp_path / "research.h5"
    assert vlmscope("export", run, export).code == 0
    for arguments in (("label", run), ("probe", export)):
        with ends():
            found = vlmscope(*arguments, "--labels", path)
        assert found.code == 2
        expected = "Is a directory" if kind == "a folder" else f"is {kind}, expected a file"
        assert found.err.splitlines()[-1].startswith(f"error: {path}: {expected}")


@pytest.mark.first(1)
@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a device", "a folder"])
def test_research_files(vlmscope: Command, tmp_path: Path, kind: str) -> None:
    (tmp_path / "labels.csv").write_text("question_id,label\nq,1\n", "utf-8")
    (tmp_path / "files").mkdir()
    KINDS[kind](tmp_path / "files/x_part_001.h5")
    with ends():
        found = vlmscope("probe", tmp_path / "files", "--labels", tmp_path / "labels.csv")
        assert vlmscope("info", tmp_path / "files/x_part_001.h5").code in (1, 2)
    assert found.code == 2
    assert "x_part_001.h5" in found.err
    assert "Traceback" not in found.err


@pytest.mark.first(4)
@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a device"])
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "generation_config.json"]
)
def test_a_checkpoint(checkpoint: Path, tmp_path: Path, name: str, kind: str) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    (copy / name).unlink()
    KINDS[kind](copy / name)
    with ends(), pytest.raises(VlmscopeError, match=f"{name}: is {kind}, expected a file"):
        load_model(copy, device="cpu")


@pytest.mark.parametrize("kind", ["a pipe", "huge"])
def test_a_checkpoint_with_a_huge_template(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    KINDS[kind](copy / "chat_template.jinja")
    with ends(), pytest.raises(VlmscopeError, match=r"chat_template\.jinja: "):
        load_model(copy, device="cpu")


@pytest.mark.first(2)
@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a device", "a folder", "huge"])
def test_an_adapter_and_a_description(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "adapter").mkdir()
    KINDS[kind](tmp_path / "adapter/adapter_config.json")
    with ends(), pytest.raises(VlmscopeError, match="adapter"):
        load_model(checkpoint, device="cpu", adapter=tmp_path / "adapter")
    with ends(), pytest.raises(VlmscopeError, match="family"):
        read_description(tmp_path / "adapter/adapter_config.json")


@pytest.mark.first(1)
@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_saved_dataset(vlmscope: Command, tmp_path: Path, name: str) -> None:
    import datasets

    datasets.Dataset.from_list([{"id": "q", "image": "a.png", "question": "?"}]).save_to_disk(
        tmp_path / "saved"
    )
    (tmp_path / "saved" / name).unlink()
    pipe(tmp_path / "saved" / name)
    with ends():
        found = vlmscope("extract", tmp_path / "saved", "--model", "m/m", "--out", tmp_path / "run")
    assert found.code == 2
    assert found.err.startswith("error: ")
    assert len(found.err.splitlines()) == 1
