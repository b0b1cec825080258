"""The scripts that make the demo model run, at a toy size, and the card says what was measured."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from vlmscope.demo.bundle import write_bundle

SCRIPTS = Path(__file__).parent.parent / "scripts"
MODEL = Path(str(files("vlmscope"))) / "demo" / "model"


def test_a_model_is_trained(tmp_path: Path, python: str) -> None:
    model = tmp_path / "model"
    train = [
        "--pictures",
        "24",
        "--batch",
        "4",
        "--steps",
        "3",
        "--device",
        "cpu",
        "--workers",
        "1",
    ]
    script(python, "train_demo_model.py", "--out", model, *train)
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {
        path.name for path in model.iterdir()
    }
    assert json.loads((model / "training.json").read_text())["steps"] == 3


def test_a_model_is_measured(tmp_path: Path, python: str) -> None:
    model = shutil.copytree(MODEL, tmp_path / "model")
    (model / "README.md").unlink()
    write_bundle(tmp_path / "bundle", split="other", pictures=24, questions=96)
    options = ["--run", tmp_path / "run", "--data", tmp_path / "bundle"]
    facts = json.loads(script(python, "measure_demo_model.py", model, *options))
    assert 0.6 < facts["accuracy"] < 1
    assert facts["auroc_vision_token_layer_0"] < facts["auroc_query_token_layer_9"]
    assert "96 questions about 24 pictures" in (model / "README.md").read_text(encoding="utf-8")


def script(python: str, name: str, *arguments: object) -> str:
    """Run a script and return what it printed."""
    command = [python, str(SCRIPTS / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_card_is_within_what_the_demo_promises() -> None:
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    shares = {
        name: float(share) / 100
        for name, share in re.findall(r"^\| (.+?) \| ([\d.]+)% \|$", card, re.M)
    }
    assert 0.75 <= shares["right answers"] <= 0.92
    assert 0.08 <= shares["hallucinated answers"] <= 0.30
    assert shares["*Is there …?* of what is there: right"] >= 0.90
    absent = {
        how: share for name, share in shares.items() if "said yes" in name
        for how in ("random", "common", "usual") if how in name
    }  # fmt: skip
    assert absent["usual"] > 2 * absent["random"]
    weights = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
    assert f"SHA-256 `{weights}`" in card, "run scripts/measure_demo_model.py"


def test_measuring_replaces_nothing_but_a_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    command = [sys.executable, str(SCRIPTS / "measure_demo_model.py"), str(MODEL)]
    done = subprocess.run(
        [*command, "--run", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "is no run" in done.stderr
    assert (tmp_path / "notes.txt").exists()
