"""Shared fixtures: a tiny Llama-3.2-Vision with random weights, and images of every tile count."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from material import QUESTIONS, make_image
from ready import ready_python
from split_once import split_once
from tools.standin import build_standin
from vlmscope.executors.workers import Workers
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.schema import Sample

if os.environ.get("VLMSCOPE_TORCHVISION"):
    from torchvision_operators import declare

    _operators = declare()

torch.set_num_threads(1)  # the suite runs in several processes
split_once()

settings.register_profile("quick", max_examples=15, deadline=None)
settings.register_profile("thorough", max_examples=200, deadline=None)
settings.load_profile(os.environ.get("VLMSCOPE_EXAMPLES", "quick"))


@pytest.fixture(scope="module")
def s3_server() -> Iterator[object]:
    """A real S3 server, which the environment of this and of started processes names."""
    from object_store import serving  # takes a second, and few tests need it

    yield from serving()


@pytest.fixture
def bucket(s3_server: object) -> str:
    """URL of an empty bucket."""
    from object_store import new_bucket

    return new_bucket()


@pytest.fixture(scope="session")
def python() -> Iterator[str]:
    """Path of a python for commands and scripts that begin at once."""
    with (
        tempfile.TemporaryDirectory(prefix="vr", dir="/tmp") as folder,
        ready_python(Path(folder)) as path,
    ):
        yield path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny checkpoint."""
    return build_standin(tmp_path_factory.mktemp("standin") / "tiny")


@pytest.fixture(scope="session")
def talkative(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights with many end-of-turn tokens, so that answers end at different lengths."""
    folder = tmp_path_factory.mktemp("standin") / "talkative"
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "generation_config.json").read_text())
    config["eos_token_id"] += list(range(3, 640, 9))
    (folder / "generation_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def vlm(checkpoint: Path) -> VisionLanguageModel:
    """The tiny model, float32 on the CPU."""
    return load_model(checkpoint, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def talkative_vlm(talkative: Path) -> VisionLanguageModel:
    """The model whose answers end at different lengths."""
    return load_model(talkative, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def worker_processes() -> Iterator[Workers]:
    """Two processes that prepare rows, to be begun for a model; starting them takes seconds."""
    with Workers(2) as workers:
        workers.start()
        yield workers


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """Ten questions of different lengths about images of 1, 2 and 4 tiles, some shared."""
    names = [
        "one",
        "two_wide",
        "four",
        "two_tall",
        "one",
        "four",
        "four",
        "two_wide",
        "one",
        "four",
    ]
    seeds = [0, 0, 0, 0, 1, 0, 0, 1, 0, 2]
    return [
        Sample(
            id=f"question_comb_{i}",
            image=make_image(name, seed),
            question=QUESTIONS[i % len(QUESTIONS)],
            target="Yes",
            image_id=f"{name}_{seed}.png",
        )
        for i, (name, seed) in enumerate(zip(names, seeds, strict=True))
    ]


@pytest.fixture
def table(tmp_path: Path, samples: list[Sample]) -> Path:
    """The samples as a CSV file with its images beside it, in the layout of the research."""
    import csv

    path = tmp_path / "questions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "image_name", "question", "gt_answer", "category"])
        for i, sample in enumerate(samples):
            sample.image.save(tmp_path / sample.image_id)  # type: ignore[union-attr]
            category = "existence" if i % 2 else "attribute"
            writer.writerow([sample.id, sample.image_id, sample.question, sample.target, category])
    return path
