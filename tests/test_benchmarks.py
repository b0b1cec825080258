"""The benchmarks run, at a toy size. What they measure is not a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize(
    ("script", "arguments", "shown"),
    [
        ("storage.py", ["--rows", "12"], "float16"),
        (
            "true_shape.py",
            ["--size", "tiny", "--rows", "4", "--tokens", "3", "--batch-size", "2",
             "--seed-rows", "1", "--verify", "2", "--exact"],
            "parity with reference.py",
        ),
        ("probing.py", ["--rows", "150", "--width", "32", "--draws", "100"], "largest matrix"),
        (
            "risk.py",
            ["--size", "tiny", "--rows", "4", "--tokens", "3", "--single", "2"],
            "one question",
        ),
    ],
)  # fmt: skip
def test_a_benchmark_runs(script: str, arguments: list[str], shown: str, tmp_path: Path) -> None:
    work = [] if script == "storage.py" else ["--work", str(tmp_path)]
    command = [sys.executable, str(BENCHMARKS / script), *arguments, *work]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
