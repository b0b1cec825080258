"""What ships with vlmscope is what its generator makes, is small, and was not trained on."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.demo_world.bundle import BUNDLED, COLUMNS, picture, rows, write_bundle
from tools.demo_world.scenes import SHAPES, TILE, scenes
from vlmscope.dataset import read_samples

DEMO = Path(str(files("vlmscope"))) / "demo"


def test_the_bundled_table_is_what_the_generator_writes() -> None:
    with (DEMO / "questions.csv").open(encoding="utf-8", newline="") as file:
        bundled = list(csv.DictReader(file))
    assert bundled == list(rows(0, "demo", pictures=600, questions=2000))
    assert len({row["question_id"] for row in bundled}) == 2000


@pytest.mark.first(1)
@pytest.mark.parametrize("each", [30, 4])
def test_the_bundled_pictures_are_what_the_generator_draws(each: int) -> None:
    for index, scene in enumerate(scenes(0, "demo", 600)):
        path = DEMO / "images" / f"demo_{index:04d}.jpg"
        with Image.open(path) as stored:
            assert stored.size == (scene.width, scene.height)
            if index % each == 0:  # another version of Pillow may round a pixel otherwise
                drawn = Image.open(io.BytesIO(picture(scene)))
                gap = np.abs(np.asarray(stored, dtype=int) - np.asarray(drawn, dtype=int))
                high, wide = (edge // 8 * 8 for edge in gap.shape[:2])
                blocks = gap[:high, :wide].reshape(high // 8, 8, wide // 8, 8, 3)
                assert blocks.mean((1, 3, 4)).max() < 6, path.name


def test_what_ships_is_small() -> None:
    pictures = sum(path.stat().st_size for path in (DEMO / "images").iterdir())
    assert pictures + (DEMO / "questions.csv").stat().st_size <= 8_000_000
    assert (DEMO / "model" / "model.safetensors").stat().st_size <= 10_000_000


@pytest.mark.exhaustive
def test_training_and_bundle_share_no_picture() -> None:
    bundled = set(scenes(0, "demo", 600))
    assert len(bundled) == 600
    for split in ("train", "corpus", "survey"):
        others = {replace(scene, seed=0) for scene in scenes(0, split, 6000)}
        assert not {replace(scene, seed=0) for scene in bundled} & others


def test_pictures_come_in_every_tile_count_with_several_questions_each() -> None:
    shapes = Counter(
        (-(-scene.width // TILE), -(-scene.height // TILE)) for scene in scenes(0, "demo", 600)
    )
    assert set(shapes) == set(SHAPES)
    per_picture = Counter(
        row["image_name"] for row in rows(0, "demo", pictures=600, questions=2000)
    )
    assert set(per_picture.values()) == {3, 4}


def test_the_categories_have_the_shares_they_should() -> None:
    found = Counter(row["category"] for row in rows(0, "demo", pictures=600, questions=2000))
    whole = sum(BUNDLED.weights.values())
    for name, share in BUNDLED.weights.items():
        assert found[name] == pytest.approx(2000 * share / whole, rel=0.3)


@pytest.mark.first(2)
@pytest.mark.parametrize(("pictures", "questions"), [(0, 0), (3, 2), (1, 400)])
def test_what_cannot_be_asked_is_refused(pictures: int, questions: int) -> None:
    with pytest.raises(ValueError, match="questions about"):
        list(rows(1, "mine", pictures=pictures, questions=questions))


def test_a_bundle_of_any_size_is_read_as_a_table(tmp_path: Path) -> None:
    table = write_bundle(tmp_path, seed=1, split="mine", pictures=3, questions=9)
    samples = list(read_samples(table, images=tmp_path / "images"))
    assert [sample.id for sample in samples] == [f"demo_{n:04d}" for n in range(1, 10)]
    assert {sample.image_id for sample in samples} == {f"mine_{n:04d}.jpg" for n in range(3)}
    assert all(sample.target for sample in samples)
    extra = set(COLUMNS) - {"question_id", "image_name", "question", "gt_answer"}
    assert set(samples[0].metadata) == extra
