"""The script that trains the demo model mixes, measures, saves and resumes; seconds on a CPU."""

from __future__ import annotations

import functools
import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tools.demo_world import train as training
from tools.demo_world.batches import Batches
from tools.demo_world.examples import corpus, make_examples
from tools.demo_world.sources import World
from tools.demo_world.steps import Sight, Trainer
from tools.demo_world.train import CHECKPOINT, Progress, _resumed, _save
from tools.standin import DEMO, build_model, build_processor

SIZE = replace(
    DEMO, vision_width=32, vision_layers=2, vision_global_layers=1, intermediate=(0, 1), width=32,
    heads=2, kv_heads=1, feed_forward=64, layers=3, cross_attention=(1,),
)  # fmt: skip
"""A smaller one with the same tiles and words."""

SMALL = ["--pictures", "4", "--batch", "2", "--held-out", "2", "--steps", "2", "--workers", "0",
         "--device", "cpu"]  # fmt: skip


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The script's own main, on so little that it takes seconds; returns what it wrote down."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr(training, "DEMO", SIZE)
    monkeypatch.setattr(training, "corpus", functools.partial(corpus, images=300))

    def run(*options: str) -> dict[str, Any]:
        command = ["train.py", "--out", str(tmp_path / "model"), *SMALL, *options]
        monkeypatch.setattr(sys, "argv", command)
        training.main()
        log: dict[str, Any] = json.loads((tmp_path / "model" / "training.json").read_text())
        return log

    return run


@pytest.mark.exhaustive
def test_without_easy_vqa_no_package_is_needed(
    train: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    log = train("--easy-vqa", "0")
    assert log["images_in_a_step"] == {"generated": 2, "easy_vqa": 0}
    assert log["images"] == {"drawn": 4, "easy_vqa": 0}
    assert [set(entry) for entry in log["held_out"]] == [{"held_out", "step"}]
    assert (tmp_path / "model" / "model.safetensors").exists()
    words = json.loads((tmp_path / "model" / "tokenizer.json").read_text())["model"]["vocab"]
    assert "Ġteal" not in words


def test_with_it_the_missing_package_is_named(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(SystemExit, match="pip install easy-vqa"):
        train()


@pytest.mark.exhaustive
def test_the_share_is_mixed_in_and_both_worlds_are_measured(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[dict[int, list[tuple[int, int]]]] = []
    real = Trainer.__init__

    def spy(self: Trainer, model: Any, sight: Sight, given: Any, device: str) -> None:
        parts.append(
            {asked: [(len(b), count) for b, count in part] for asked, part in given.items()}
        )
        real(self, model, sight, given, device)

    monkeypatch.setattr(Trainer, "__init__", spy)
    log = train("--easy-vqa", "0.5", "--easy-vqa-images", "3", "--measure-every", "1")
    assert log["images_in_a_step"] == {"generated": 1, "easy_vqa": 1}
    assert log["images"] == {"drawn": 4, "easy_vqa": 3}
    assert [entry["step"] for entry in log["held_out"]] == [1, 2]
    for entry in log["held_out"]:
        assert "all" in entry["held_out"]
        assert "all" in entry["held_out_easy_vqa"]
    [given] = parts
    assert given[0] == [(4, 2)], "descriptions are of generated images alone"
    (_, generated), (rows, outside) = given[4]
    assert (generated, outside) == (1, 1)
    assert rows > 3, "an image has more than one row"
    words = json.loads((tmp_path / "model" / "tokenizer.json").read_text())["model"]["vocab"]
    assert {"Ġteal", "Teal", "Ġrectangle", "Ġcolor"} <= set(words)
    assert not (tmp_path / "model" / CHECKPOINT).exists()


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan"])
def test_no_share_is_refused(train: Any, share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train("--easy-vqa", share)
    assert "want a share, 0 to 1" in capsys.readouterr().err


def test_nothing_to_resume_from_is_said(train: Any) -> None:
    with pytest.raises(SystemExit, match=r"no checkpoint to resume from; leave out --resume"):
        train("--easy-vqa", "0", "--resume")


@pytest.fixture(scope="module")
def batches() -> Batches:
    texts = corpus(0, easy_vqa=False, images=300)
    processor = build_processor(vocabulary=DEMO.vocabulary, tile=DEMO.tile, corpus=texts)
    return Batches(make_examples(processor, World(0, "train", 2, 4), 0), processor, "cpu").load()


def trainer(seed: int, batches: Batches) -> Trainer:
    torch.manual_seed(seed)
    sight = Sight(SIZE.vision_width * (1 + len(SIZE.intermediate)))
    return Trainer(build_model(SIZE, seed=seed).train(), sight, {4: [(batches, 2)]}, "cpu")


def test_a_checkpoint_goes_on_where_it_was(tmp_path: Path, batches: Batches) -> None:
    first, second = trainer(0, batches), trainer(1, batches)
    first.schedule(1e-3, 1.0)
    first.step(4)
    progress = Progress(3, 4.5, [{"step": 3, "loss": 1.0}], [{"step": 3, "held_out": {"all": 0.5}}])
    options = Namespace(out=tmp_path, device="cpu", seed=0)
    _save(options, first, progress)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    assert _resumed(options, second) == progress
    for one in (first, second):
        one.schedule(1e-3, 1.0)
        torch.manual_seed(7)
        one.step(4)
    for mine, other in zip(first.parameters, second.parameters, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.exhaustive
def test_steps_teach(batches: Batches) -> None:
    """Of the answers and of where patches are; what the schedule switches off is not taught."""
    taught = trainer(0, batches)
    taught.schedule(3e-3, 1.0)
    losses = []
    for _ in range(12):
        torch.manual_seed(3)
        taught.step(4)
        losses.append(taught.means())
    assert losses[-1][0] < 0.9 * losses[0][0]
    assert losses[-1][1] < 0.9 * losses[0][1]
    taught.optimizer.zero_grad()
    taught.schedule(1e-3, 0.0)
    taught.step(4)
    assert all(not p.grad.any() for p in taught.sight.parameters() if p.grad is not None)
    assert taught.model.lm_head.weight.grad.any()
