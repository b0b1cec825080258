"""``extract --ray`` on a real local cluster: what it makes, also when a worker dies.

A worker takes seconds to start, so one of them dies here. ``make faults`` kills workers and drivers
at random moments, and has a row that kills every worker; who is to blame for a death is decided in
``tests/executors/test_dispatch.py``.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import vlmscope
from material import QUESTIONS, make_image
from vlmscope.store import Run, open_run, read_failures

Command = Callable[..., Any]
ROWS, IMAGES = 14, 7

CRASHES = '''
import os, signal
from pathlib import Path

import PIL.Image

_open = PIL.Image.open

def crash(file, *rest, **options):
    """Die as a library does that crashes, of 3.png the first time."""
    name = getattr(file, "name", file)
    name = Path(name).name if isinstance(name, str | os.PathLike) else ""
    once = Path(os.environ["CRASHED"])
    if name == "3.png" and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return _open(file, *rest, **options)

PIL.Image.open = crash
'''
"""Every process of the test has this as its ``sitecustomize``; only workers open images."""


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Fourteen questions about seven images, and one that is empty."""
    for i in range(IMAGES):
        make_image("one", i).save(tmp_path / f"{i}.png")
    rows = [(f"q{i}", f"{i % IMAGES}.png", QUESTIONS[i % 5], "Yes") for i in range(ROWS)]
    path = tmp_path / "many.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        header = ("question_id", "image_name", "question", "gt_answer")
        csv.writer(file).writerows([header, *rows, ("empty", "0.png", "", "Yes")])
    return path


@pytest.fixture
def temporary() -> Iterator[str]:
    """A folder with a short name: Ray's sockets allow no long one."""
    with tempfile.TemporaryDirectory(prefix="vr", dir="/tmp") as folder:
        yield folder


@pytest.fixture
def start(questions: Path, checkpoint: Path, tmp_path: Path, temporary: str) -> Callable[..., Any]:
    """Start ``vlmscope extract --ray`` with two workers on a cluster of its own."""

    def begin(*extra: str, **environment: str) -> subprocess.Popen[str]:
        command = [
            *(sys.executable, "-m", "vlmscope", "extract", str(questions), "--json"),
            *("--model", str(checkpoint), "--out", str(tmp_path / "run"), "--device", "cpu"),
            *("--max-new-tokens", "5", "--batch-size", "1"),
            *("--ray", "--address", "local", "--actors", "2", *extra),
        ]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"RAY_TMPDIR": temporary} | environment,
        )

    return begin


@pytest.fixture
def plain(extract: Command, questions: Path, tmp_path: Path) -> Callable[[], Run]:
    """The same rows from one plain session."""

    def run() -> Run:
        assert extract("--batch-size", 1, data=questions, out="plain").code == 3
        return open_run(tmp_path / "plain")

    return run


def assert_same_rows(found: Run, expected: Run) -> None:
    assert sorted(found.ids) == sorted(expected.ids)
    assert found.check() == []
    for id_ in found.ids:
        one, other = found[id_], expected[id_]
        assert one.answer == other.answer
        np.testing.assert_array_equal(one.answer_logprobs, other.answer_logprobs)
        for name, vector in other.vectors.items():
            np.testing.assert_array_equal(one.vectors[name], vector)


def ended(process: subprocess.Popen[str], code: int) -> Any:
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return json.loads(out)


@pytest.mark.exhaustive
def test_a_worker_that_dies_is_replaced_and_its_rows_are_done_again(
    start: Callable[..., Any], plain: Callable[[], Run], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CRASHES)
    places = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    process = start(PYTHONPATH=places, CRASHED=str(tmp_path / "crashed"))
    summary = ended(process, 3)
    assert (tmp_path / "crashed").exists()
    run = open_run(tmp_path / "run")
    assert_same_rows(run, plain())
    assert set(read_failures(tmp_path / "run")) == {"empty"}
    assert (summary["captured"], summary["failed"], summary["total"]) == (ROWS, 1, ROWS + 1)
    with h5py.File(tmp_path / "run" / "index.h5") as index:
        assert index.attrs["num_samples"] == ROWS
    assert all("_of_ray_" in path.name for path in (tmp_path / "run" / "shards").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ray", "--shard", "0/2"), "--shard and --ray"),
        (("--address", "auto"), "--address is for Ray"),
        (("--actors", 2), "--actors is for Ray"),
        (("--ray", "--actors", 0), "--actors 0"),
        (("--ray", "--device", "cuda:1"), "--device cuda:1 and --ray"),
        (("--ray", "--address", "127.0.0.1:1"), "--address 127.0.0.1:1: no Ray cluster"),
    ],
)
def test_what_makes_no_sense_is_refused(
    extract: Command, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    refused = extract(*options)
    assert refused.code == 2, refused.err
    assert message in refused.err
    assert not (tmp_path / "run").exists()


def test_without_ray_it_says_what_to_install(
    extract: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("vlmscope.executors.ray")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    refused = extract("--ray")
    assert refused.code == 2
    assert "--ray needs Ray: pip install 'vlmscope[ray]'" in refused.err


def test_nothing_else_imports_ray() -> None:
    source = Path(vlmscope.__file__).parent
    importing = {path.name for path in source.rglob("*.py") if "import ray" in path.read_text()}
    assert importing == {"cluster.py", "actors.py", "driver.py"}
