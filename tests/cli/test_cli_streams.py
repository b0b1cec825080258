"""Wherever the output goes, and whatever is in it: one line, the right exit code, no traceback."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fewer_forms import fewer_forms
from store_support import make_capture, make_manifest
from vlmscope import demo
from vlmscope.cli import main, output, progress
from vlmscope.schema import Score
from vlmscope.store import RunWriter, open_run, write_labels
from vlmscope.sweeps import SweepSpec, save_sweep, sweep

Command = Callable[..., Any]

PICTURE = Path(demo.__file__).parent / "images" / "demo_0449.jpg"

ROWS = 30
HALF = "\ud83d"  # of a surrogate pair, as a truncated JSON text has it
PROBE = ("--draws", 100, "--folds", 3)


def make_run(run: Path, text: str) -> Path:
    """A run that was labelled, in which every text of the table holds ``text``."""
    rng = np.random.default_rng(1)
    captures = []
    for i in range(ROWS):
        image = int(rng.integers(0, 2**63))
        item = make_capture(i, image_sha256=f"{image:064x}", image_dhash=f"{image:016x}")
        metadata = {
            "category": f"{text}{i % 2}", "answer_type": text, f"key {text}": text,
            "nested": {text: [text, text]}, "label": "yes" if i % 2 else "no",
        }  # fmt: skip
        sample = replace(
            item.sample,
            metadata=metadata,
            question=f"Is the {text} there?",
            target=text,
            image_id=text,
        )
        captures.append(replace(item, sample=sample, answer=text))
    with RunWriter(run, make_manifest()) as writer:
        writer.add(captures)
    scores = [Score(c.sample.id, i % 2 == 0, "yesno", text) for i, c in enumerate(captures)]
    write_labels(run, scores, {"scorer": "yesno"})
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("streams") / "run", "été 月")
    opened = open_run(run)
    spec = SweepSpec(draws=100, folds=3, repeats=1, permutations=100)
    with fewer_forms():
        save_sweep(opened, sweep(opened, spec))
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def code_of(monkeypatch: pytest.MonkeyPatch, prepared_commands: None) -> Callable[..., int]:
    """Run a command line with other streams, and return its exit code."""

    def run(*arguments: object, **streams: Any) -> int:
        monkeypatch.setattr(sys, "argv", ["vlmscope", *map(str, arguments)])
        with monkeypatch.context() as patch:
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            with pytest.raises(SystemExit) as stop:
                main()
        output.stdout._buffer.clear()  # else the next command prints what this one could not
        return int(stop.value.code or 0)

    return run


@pytest.fixture
def full() -> Iterator[Any]:
    with Path("/dev/full").open("w", encoding="utf-8") as file:
        yield file


PRINT = {
    "info": ("info", "RUN"), "info --json": ("info", "RUN", "--json"), "help": ("--help",),
    "version": ("--version",), "help of a command": ("extract", "--help"), "models": ("models",),
    "label": ("label", "RUN"), "label --json": ("label", "RUN", "--json"),
    "export": ("export", "RUN", "OUT"), "report": ("report", "RUN"),
    "probe": ("probe", "RUN", *PROBE),
}  # fmt: skip
"""Commands that print something."""


@pytest.mark.first(1)
@pytest.mark.parametrize("name", PRINT)
def test_a_full_stdout_is_told_in_a_line(
    code_of: Callable[..., int], run: Path, full: Any, name: str
) -> None:
    known = {"RUN": run, "OUT": run.parent / "out.npz"}
    errors = io.StringIO()
    code = code_of(*(known.get(str(a), a) for a in PRINT[name]), stdout=full, stderr=errors)
    assert code == 1
    [line] = [line for line in errors.getvalue().splitlines() if not line.startswith("note: ")]
    assert line == (
        "error: stdout: cannot be written: No space left on device; redirect it to another file"
    )


@pytest.mark.exhaustive
def test_a_full_stdout_of_extract(
    code_of: Callable[..., int], extract: Command, table: Path, checkpoint: Path, tmp_path: Path,
    full: Any,
) -> None:  # fmt: skip
    errors = io.StringIO()
    arguments = ("extract", table, "--model", checkpoint, "--out", tmp_path / "run", "--json")
    code = code_of(*arguments, "--device", "cpu", "--limit", 2, stdout=full, stderr=errors)
    assert code == 1
    assert errors.getvalue().splitlines()[-1].startswith("error: stdout: cannot be written: ")
    assert len(open_run(tmp_path / "run")) == 2


@pytest.mark.exhaustive
def test_a_full_disk_of_the_log_does_not_stop_extract(
    code_of: Callable[..., int], table: Path, checkpoint: Path, tmp_path: Path, full: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    out = io.StringIO()
    arguments = ("extract", table, "--model", checkpoint, "--out", tmp_path / "run", "--json")
    code = code_of(*arguments, "--device", "cpu", "--batch-size", 2, stdout=out, stderr=full)
    assert code == 0
    assert json.loads(out.getvalue())["captured"] == len(open_run(tmp_path / "run")) == 10


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("arguments", "code"), [(("info", "none"), 2), (("nonsense",), 2), (("info", "RUN"), 0)]
)
def test_a_full_stderr_leaves_the_exit_code_as_it_is(
    code_of: Callable[..., int], run: Path, full: Any, arguments: tuple[str, ...], code: int
) -> None:
    arguments = tuple(str(run) if a == "RUN" else a for a in arguments)
    assert code_of(*arguments, stdout=io.StringIO(), stderr=full) == code


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        (">/dev/full 2>/dev/full", 1), (">&-", 1), ("2>&-", 0), ("<&- >&- 2>&-", 1),
        ("| true", 1),
    ],
)  # fmt: skip
def test_streams_of_a_shell(redirection: str, code: int) -> None:
    """In a process of its own, whose end may fail too: Python's own exit code is then 120."""
    # Help is the command that prints most and imports least.
    command = f'"{sys.executable}" -m vlmscope --help {redirection}; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.splitlines()[-1] == str(code), done.stderr
    told = done.stderr.splitlines()
    assert told == (
        ["error: stdout: cannot be written: Bad file descriptor; redirect it to another file"]
        if redirection == ">&-"
        else []
    )


def test_a_reader_that_leaves_is_no_error_to_speak_of(
    code_of: Callable[..., int], run: Path
) -> None:
    end, other = os.pipe()
    os.close(end)
    errors = io.StringIO()
    with os.fdopen(other, "w") as stream:
        assert code_of("info", run, stdout=stream, stderr=errors) == 1
    assert errors.getvalue() == ""


@pytest.mark.first(3)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("name", ["info", "label", "help"])
def test_an_encoding_without_the_characters(
    code_of: Callable[..., int], tmp_path: Path, run: Path, encoding: str, name: str
) -> None:
    run = run.rename(tmp_path / "été 月")
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding)
    arguments = ("--help",) if name == "help" else (name, run, "--json")
    assert code_of(*arguments, stdout=stream) == 0
    stream.flush()
    text = buffer.getvalue().decode(encoding)
    assert stream.errors == "strict", "as it was before"
    if name != "help":
        assert "t\u00e9 \u6708" in json.dumps(json.loads(text), ensure_ascii=False)
    if name == "label":
        assert "été 月0" in json.loads(text)["categories"]


@pytest.mark.first(3)
@pytest.mark.parametrize("columns", ["0", "1", "3"])
@pytest.mark.parametrize("name", ["info", "help", "label", "models", "nonsense"])
def test_a_narrow_terminal(
    vlmscope: Command, monkeypatch: pytest.MonkeyPatch, run: Path, columns: str, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    arguments = PRINT.get(name, ("nonsense",))
    done = vlmscope(*(run if a == "RUN" else a for a in arguments))
    assert done.code == (2 if name == "nonsense" else 0)


def test_a_current_folder_that_is_gone(
    vlmscope: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Path
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for arguments in (("info", run), ("report", run), ("extract", "t.csv"), ("--version",)):
        done = vlmscope(*arguments)
        assert done.code == 2
        assert done.err == (
            "error: the current folder does not exist any more; change to another one\n"
        )


@pytest.mark.exhaustive
def test_a_path_that_is_not_utf8(vlmscope: Command, tmp_path: Path, run: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xffd"))
    folder.mkdir()
    run = run.rename(folder / "run")
    (folder / "labels.csv").write_text(
        "question_id,label\n" + "".join(f"question_comb_{i},{i % 2}\n" for i in range(ROWS)),
        "utf-8",
    )
    for arguments in (
        ("info", run), ("info", run, "--json"), ("verify", run, "--files"), ("label", run),
        ("label", run, "--labels", folder / "labels.csv", "--json"),
        ("probe", run, *PROBE, "--json"), ("report", run, "--json"),
        *(("export", run, folder / f"out.{kind}") for kind in ("h5", "parquet", "npz")),
        ("info", folder / "out.h5"),
    ):  # fmt: skip
        done = vlmscope(*arguments)
        assert done.code == 0, (arguments, done.err)
        if "--json" in arguments:
            json.loads(done.out)
    for arguments, code in (
        (("info", folder / "none"), 2), (("label", folder), 2), (("verify", run), 2),
        (("score", PICTURE, "?", "--model", "m/m", "--probe", folder), 2),
        (("extract", folder / "t.csv", "--model", "m/m", "--out", folder / "out"), 2),
    ):  # fmt: skip
        done = vlmscope(*arguments)
        assert done.code == code
        assert done.err.splitlines()[-1].startswith("error: "), done.err
        assert "Traceback" not in done.err


@pytest.mark.exhaustive
def test_half_a_surrogate_pair_in_every_text(vlmscope: Command, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", HALF)
    for arguments in (
        ("info", run, "--json"), ("label", run, "--json"), ("label", run),
        ("label", run, "--column", "label", "--json"),
        ("probe", run, *PROBE, "--json"), ("report", run, "--json"),
        *(("export", run, tmp_path / f"out.{kind}") for kind in ("h5", "parquet", "npz")),
    ):  # fmt: skip
        done = vlmscope(*arguments)
        assert done.code == 0, (arguments, done.err)
        if "--json" in arguments:
            json.loads(done.out)
    assert "\N{REPLACEMENT CHARACTER}" in (run / "report.html").read_text("utf-8")
    frame = open_run(run).to_pandas()
    frame.to_parquet(tmp_path / "frame.parquet")
    assert pd.read_parquet(tmp_path / "frame.parquet")["category"].tolist() == [
        f"?{i % 2}" for i in range(ROWS)
    ]
    assert len(pd.read_parquet(tmp_path / "out.parquet")) == ROWS


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(MemoryError, 1, "out of memory"), (KeyboardInterrupt, 130, "interrupted")],
)
def test_memory_that_runs_out_and_an_interrupt(
    vlmscope: Command,
    monkeypatch: pytest.MonkeyPatch,
    run: Path,
    error: type[BaseException],
    code: int,
    said: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("vlmscope.store.describe", fail)
    done = vlmscope("info", run)
    assert (done.code, done.err) == (code, f"error: {said}; published rows are kept\n")
