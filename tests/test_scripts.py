"""The commands that make the demo model run, at a toy size; the card says what was measured."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from tools.demo_world.bundle import write_bundle

ROOT = Path(__file__).parent.parent
EASY_VQA = Path(__file__).parent / "easy-vqa"
MODEL = Path(str(files("vlmscope"))) / "demo" / "model"


@pytest.mark.exhaustive
def test_a_model_is_trained(tmp_path: Path, python: str) -> None:
    model = tmp_path / "model"
    train = ["--pictures", "24", "--batch", "4", "--steps", "3", "--device", "cpu",
             "--workers", "1", "--easy-vqa", "0.25", "--easy-vqa-images", "4",
             "--held-out", "0"]  # fmt: skip
    run(python, "train", "--out", model, *train)
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {
        path.name for path in model.iterdir()
    }
    log = json.loads((model / "training.json").read_text())
    assert log["steps"] == 3
    assert log["command"].startswith("python -m tools.demo_world.train --out ")
    assert log["images_in_a_step"] == {"generated": 3, "easy_vqa": 1}


@pytest.mark.exhaustive
def test_a_model_is_measured(tmp_path: Path, python: str) -> None:
    model = shutil.copytree(MODEL, tmp_path / "model")
    (model / "README.md").unlink()
    write_bundle(tmp_path / "bundle", split="other", pictures=24, questions=96)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "images").symlink_to(EASY_VQA / "images")
    rows = (EASY_VQA / "questions.csv").read_text("utf-8").splitlines(keepends=True)
    (outside / "questions.csv").write_text("".join(rows[:61]), "utf-8")
    options = ["--run", tmp_path / "run", "--data", tmp_path / "bundle", "--outside", outside]
    facts = json.loads(run(python, "measure", model, *options))
    assert 0.6 < facts["accuracy"] < 1
    assert facts["auroc_vision_token_layer_0"] < facts["auroc_query_token_layer_9"]
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "96 questions about 24 pictures" in card
    assert "60 questions about 30 images of a second world" in card
    assert f"| right answers | {facts['outside_accuracy']:.1%} |" in card.split("second world")[1]
    assert 0.7 < facts["outside_accuracy"] < 1


def run(python: str, name: str, *arguments: object) -> str:
    """Run a module of the demo's world as a command, and return what it printed."""
    command = [python, "-m", f"tools.demo_world.{name}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shares(section: str) -> dict[str, float]:
    return {
        name: float(share) / 100
        for name, share in re.findall(r"^\| (.+?) \| ([\d.]+)% \|$", section, re.M)
    }


def categories(section: str) -> dict[str, tuple[int, float, float]]:
    """Category → questions, share right, share hallucinated."""
    rows = re.findall(r"^\| ([a-z-]+) \| (\d+) \| ([\d.]+)% \| ([\d.]+)% \|$", section, re.M)
    return {name: (int(n), float(a) / 100, float(b) / 100) for name, n, a, b in rows}


@pytest.fixture(scope="module")
def sections() -> list[str]:
    """The card: on the first world, and on the second."""
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    return re.split(r"^## .*second world$", card, flags=re.M)


def test_the_card_is_within_what_the_demo_promises(sections: list[str]) -> None:
    found = shares(sections[0])
    assert 0.75 <= found["right answers"] <= 0.92
    claims = found["wrong answers that claim what the picture does not show"]
    assert 0.08 <= claims <= found["wrong answers"] <= 0.30
    assert found["wrong answers"] == pytest.approx(1 - found["right answers"])
    assert found["*Is there …?* of what is there: right"] >= 0.90
    absent = {
        how: share for name, share in found.items() if "said yes" in name
        for how in ("random", "common", "usual") if how in name
    }  # fmt: skip
    assert absent["usual"] > 2 * absent["random"]
    weights = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
    assert f"SHA-256 `{weights}`" in sections[0], "run tools.demo_world.measure"


def test_the_model_knows_where_things_are(sections: list[str]) -> None:
    found = categories(sections[0])
    for name in ("position", "relation"):
        count, right, _ = found[name]
        assert count > 100
        assert right >= 0.85


def test_the_second_world_leaves_something_to_foretell(sections: list[str]) -> None:
    """Every question of easy-VQA's test split; right and wrong answers enough for a probe."""
    [_, section] = sections
    found = categories(section)
    assert sum(count for count, _, _ in found.values()) == 9673
    assert set(found) == {"shape", "colour", "presence", "negated-presence"}
    assert 0.75 <= shares(section)["right answers"] <= 0.97
    assert shares(section)["answers that ended by themselves"] == 1.0


@pytest.mark.exhaustive
@pytest.mark.parametrize("taken", ["run", "run-outside"])
def test_measuring_replaces_nothing_but_a_run(tmp_path: Path, python: str, taken: str) -> None:
    (tmp_path / taken).mkdir()
    (tmp_path / taken / "notes.txt").write_text("mine")
    command = [python, "-m", "tools.demo_world.measure", str(MODEL)]
    command += ["--run", str(tmp_path / "run"), "--outside", str(EASY_VQA)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is no run" in done.stderr
    assert (tmp_path / taken / "notes.txt").exists()
