"""The benchmarks run, at a toy size. What they measure is not a test.

Those that take more than a few seconds are run by ``make test-exhaustive``.
"""

from __future__ import annotations

import json
import runpy
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
LONG = pytest.mark.exhaustive


@pytest.mark.parametrize(
    ("script", "arguments", "shown"),
    [
        pytest.param("storage.py", ["--rows", "12"], "float16", marks=LONG),
        pytest.param(
            "true_shape.py",
            ["--size", "tiny", "--rows", "4", "--tokens", "3", "--batch-size", "2",
             "--seed-rows", "1", "--verify", "2", "--exact"],
            "parity with reference.py", marks=LONG,
        ),
        pytest.param(
            "scale.py", ["--rows", "4", "8", "--to", "1000"], "index made, s", marks=LONG
        ),
        pytest.param(
            "probing.py", ["--rows", "150", "--width", "32", "--draws", "100"],
            "largest matrix", marks=LONG,
        ),
        pytest.param(
            "risk.py",
            ["--size", "tiny", "--rows", "4", "--tokens", "3", "--single", "2"],
            "one question", marks=LONG,
        ),
        pytest.param(
            "steady.py",
            ["--size", "tiny", "--rows", "6", "--tokens", "2", "--models", "smolvlm",
             "--batch-size", "2", "--modes", "answers", "--signals", "attention",
             "--generate", "2"],
            "| SmolVLM2-2.2B | answers | attention |", marks=LONG,
        ),
        pytest.param(
            "attention_on_objects.py", ["--rows", "12"], "layer 8, the object", marks=LONG
        ),
        pytest.param(
            "throughput.py",
            ["--size", "tiny", "--rows", "4", "--tokens", "3", "--batch-size", "2",
             "--seed-rows", "1", "--verify", "2", "--hf-sizes", "2",
             "--scenarios", "answers", "prefill", "lengths"],
            "prefill, share of the FLOP/s", marks=LONG,
        ),
        pytest.param(
            "scaling.py",
            ["--size", "tiny", "--cores", "1", "--workers", "1", "--rows", "2", "--tokens", "2"],
            "| plain | 1 |",
            marks=LONG,
        ),
        pytest.param(
            "encoders.py",
            ["--tiny", "--rows", "2", "--rounds", "1", "--compile", "none",
             "--families", "qwen2_5_vl"],
            "and 3 MLPs filled up", marks=LONG,
        ),
        pytest.param(
            "preparing.py",
            ["--counts", "1", "--seconds", "0.1", "--kinds", "threads", "--families", "smolvlm",
             "--batch-size", "2"],
            "| SmolVLM2-2.2B |", marks=LONG,
        ),
        pytest.param(
            "throughput.py",
            ["--cpu-overhead", "--rows", "4", "--tokens", "3", "--rounds", "1"],
            "overhead", marks=LONG,
        ),
    ],
)  # fmt: skip
def test_a_benchmark_runs(
    script: str, arguments: list[str], shown: str, tmp_path: Path, python: str
) -> None:
    work = [] if script in {"storage.py", "encoders.py"} else ["--work", str(tmp_path)]
    command = [python, str(BENCHMARKS / script), *arguments, *work]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


RELEASED = {
    "llava_onevision": 8.030, "internvl": 7.944, "mllama": 10.670, "qwen2_5_vl": 8.292,
    "gemma3": 12.187, "llava_next": 8.355, "smolvlm": 2.247, "qwen3_vl": 8.767,
    "qwen3_5": 9.410,
}  # fmt: skip
"""Parameters of the released checkpoints, in billions; Qwen3.5's are those of transformers' default
settings."""


@pytest.mark.first(1)
@pytest.mark.parametrize("name", RELEASED)
def test_a_family_has_as_many_parameters_as_its_released_checkpoint(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from family_checkpoint import count_parameters
    from family_shapes import SHAPES

    assert SHAPES.keys() == RELEASED.keys()
    assert round(count_parameters(SHAPES[name]) / 1e9, 3) == SHAPES[name].parameters
    assert SHAPES[name].parameters == RELEASED[name]


@LONG
@pytest.mark.parametrize("name", [name for name in RELEASED if name != "smolvlm"])
def test_every_family_is_measured_against_its_floor(name: str, tmp_path: Path, python: str) -> None:
    script = [python, str(BENCHMARKS / "families.py"), "--work", str(tmp_path), "--models", name]
    small = ["--size", "tiny", "--rows", "2", "--tokens", "2", "--batch-size", "2"]
    command = [*script, *small, "--generate", "2", "--modes", "answers", "--verify", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "families.json").read_text())["models"][name]
    assert found["floor"]["prefill"] > found["floor"]["answers"] > 0
    assert found["verify"]["same_answers"] == found["verify"]["same_boundaries"] == 1
    assert found["verify"]["largest_relative_error"] < 1e-4


@LONG
def test_the_benchmark_of_families_does_what_the_large_one_does(
    tmp_path: Path, python: str
) -> None:
    script = [python, str(BENCHMARKS / "families.py"), "--work", str(tmp_path)]
    small = ["--size", "tiny", "--rows", "4", "--tokens", "3", "--batch-size", "2"]
    small += ["--generate", "2", "--modes", "answers", "shared"]
    command = [*script, *small, "--verify", "2", "--models", "smolvlm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "parity with reference.py" in done.stdout
    results = json.loads((tmp_path / "families.json").read_text())
    billions = {name: round(count / 1e9, 2) for name, count in results["parameters"].items()}
    assert billions == {"smolvlm": 2.25}
    found = results["models"]["smolvlm"]
    assert found["lengths"]["answer"] == [3, 3]  # no answer ends by itself
    assert found["generate"]["2"].keys() == {"host_seconds", "prefill", "answers"}
    assert found["floor"]["prefill"] > found["floor"]["answers"] > 0
    assert found["shared"]["captured"] == 4
    assert found["verify"] | {"largest_relative_error": 0.0} == {
        "rows": 2, "largest_relative_error": 0.0, "same_answers": 2, "same_boundaries": 2,
    }  # fmt: skip
    assert found["verify"]["largest_relative_error"] < 1e-4
    assert not (tmp_path / "smolvlm" / "checkpoint").exists()


def test_what_a_benchmark_of_families_left_out_is_not_a_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ``--generate`` without sizes and ``--verify 0`` only vlmscope is measured."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = runpy.run_path(str(BENCHMARKS / "families.py"))  # there is a package of this name
    ours = {"rows_per_second": 20.0, "busy": 0.98, "peak_gb": 37.0, "first_row": None}
    both = {"generate": {"32": {"answers": 4.0}}, "floor": {"answers": 80.0}, "verify": "4 rows"}
    for found, shown in ((both, "4.0 20.0 5.00x 80.0 25% 98% 37"), ({}, "nan 20.0 nanx nan nan%")):
        models = {"qwen3_5": {"answers": ours, **found}}
        script["report"](
            Namespace(size="true", modes=["answers"]),
            {"device": "H200", "torch": "2.11", "models": models},
        )
        out = " ".join(capsys.readouterr().out.split())
        assert f"Qwen3.5-9B answers {shown}" in out
        assert ("parity" in out) == bool(found)


@pytest.mark.exhaustive
def test_commands_run_at_once_each_on_a_gpu_of_its_own(tmp_path: Path, python: str) -> None:
    commands = tmp_path / "commands.txt"
    commands.write_text(
        "# name  command\n"
        "one  sh -c 'until [ -e {out}/two.log ]; do sleep 0.02; done; echo $CUDA_VISIBLE_DEVICES'\n"
        "two  sh -c 'echo {name} $CUDA_VISIBLE_DEVICES; sleep 0.3; exit 3'\n"
        "three  sh -c 'sleep 60 & wait'\n"
        "folder/four  true\n"
    )
    script = [python, str(BENCHMARKS / "on_gpus.py"), str(commands), "--limit", "1"]
    done = subprocess.run(
        [*script, "--out", str(tmp_path / "out"), "--gpus", "2"],
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert done.returncode == 1
    failed = done.stderr.partition("failed: ")[2].strip().split(", ")
    assert sorted(failed) == ["folder/four", "three", "two"]
    assert "== three: GPU" in done.stdout  # with the process that it had started
    logs = {path.stem: path.read_text().split() for path in (tmp_path / "out").glob("*.log")}
    assert {logs["one"][0], logs["two"][1]} == {"0", "1"}
