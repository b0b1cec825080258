"""The command line in this process, and one finished run of the bundled demo to read.

What every command would do again is done once: typer's tree of commands is built, and a model that
lies where it lay, in the same bytes, is loaded. (The tests of ``tests/model`` load each time.)
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import typer.main

from fewer_forms import fewer_forms
from judge_server import KEY, Server, serving
from vlmscope import demo
from vlmscope.cli import main, output
from vlmscope.cli.output import stderr, stdout
from vlmscope.model import VisionLanguageModel, load_with
from vlmscope.model_options import ModelOptions
from vlmscope.shown_once import forget_shown
from vlmscope.sweeps import SweepSpec
from without_row_groups import without_row_groups


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]

get_command = functools.cache(typer.main.get_command)
"""Builds a twentieth of a second of commands, which keep nothing of a call."""


QUICK = ("--folds", 3, "--repeats", 1, "--permutations", 100, "--draws", 100)
"""What ``vlmscope probe`` is given first: a tenth of the time. What a test gives comes later and
counts."""
_QUICK = {"folds": 3, "repeats": 1, "permutations": 100, "draws": 100}
QUICK_SWEEP = tuple(({field.name: field.default for field in fields(SweepSpec)} | _QUICK).values())
"""The same as the defaults of a sweep, for ``vlmscope demo``."""


@functools.lru_cache(maxsize=6)
def _loaded(name: str, files: tuple[object, ...], options: ModelOptions) -> VisionLanguageModel:
    return load_with(name, options)


def load_once(name: str, options: ModelOptions) -> VisionLanguageModel:
    """Load a model, unless it was loaded from the same files in the same way."""
    if options.adapter or options.family or not Path(name).is_dir():
        return load_with(name, options)
    files = [(path, path.stat()) for path in sorted(Path(name).iterdir())]
    state = tuple((str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in files)
    vlm = _loaded(name, state, options)
    forget_shown()  # as after loading
    return vlm


@pytest.fixture
def prepared_commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands do not build or load again what is there, and sweep quickly."""
    monkeypatch.setattr(SweepSpec.__init__, "__defaults__", QUICK_SWEEP)
    monkeypatch.setattr("typer.main.get_command", get_command)
    for module in ("model", "executors.plan", "risk.scorer", "api.checking"):
        monkeypatch.setattr(f"vlmscope.{module}.load_with", load_once)
    with fewer_forms():
        yield


@pytest.fixture
def vlmscope(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    prepared_commands: None,
) -> Command:
    """Run a command line in this process."""
    monkeypatch.setenv("COLUMNS", "200")
    for console in (stdout, stderr):  # imported where COLUMNS is set, they keep that width
        monkeypatch.setattr(console, "_width", None)
    monkeypatch.setattr(output, "FIRST_LINE", 3600)  # however slow the machine is

    def run(*arguments: object) -> Outcome:
        if arguments[:1] == ("probe",):  # one that is given counts, being the last
            arguments = ("probe", *QUICK, *arguments[1:])
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["vlmscope", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def extract(vlmscope: Command, table: Path, checkpoint: Path, tmp_path: Path) -> Command:
    """``vlmscope extract`` with the arguments every call needs."""

    def run(*extra: object, data: Path = table, out: str = "run") -> Outcome:
        return vlmscope(
            *("extract", data, "--model", checkpoint, "--out", tmp_path / out, "--device", "cpu"),
            *("--max-new-tokens", 5, "--batch-size", 4, *extra),
        )

    return run


@pytest.fixture(scope="module")
def columns_only() -> Iterator[None]:
    """For the tests of a module that read columns alone: runs are written sooner."""
    with without_row_groups():
        yield


@pytest.fixture
def judge_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An endpoint that a judge can be asked at."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the first 80 rows of the demo, extracted. Copy it before writing into it."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    bundled = Path(demo.__file__).parent
    source = (bundled / "questions.csv", "--images", bundled / "images", "--limit", 80)
    command = ("extract", *source, "--model", bundled / "model", "--out", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vlmscope", *map(str, command), "--device", "cpu"])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code
    return folder
