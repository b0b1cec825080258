"""Put questions together and write them as a table with a folder of pictures.

The table has the columns of the research data (``question_id, image_name, question, gt_answer,
category, …``). 2,000 questions about 600 pictures ship with vlmscope; the same code makes as many
as a soak test wants.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

from tools.demo_world.drawing import draw
from tools.demo_world.questions import Mix, Question, ask
from tools.demo_world.scenes import Scene, description, scenes

BUNDLED = Mix(
    weights={
        "existence-random": 240, "existence-popular": 240, "existence-adversarial": 280,
        "colour": 240, "colour-check": 200, "count": 240, "position": 140, "relation": 200,
        "false-premise": 240, "insufficient-context": 100,
    },
    yes_share=0.5,
    tempting_share=0.5,
)  # fmt: skip
"""The bundled questions: as in POPE half of the existence questions are about what is there."""

TRAINING = Mix(
    weights={
        "existence-foreign": 8, "existence-random": 2,
        "colour": 6, "colour-check": 5, "count": 7, "position": 6, "relation": 12,
        "false-premise": 4, "insufficient-context": 3,
    },
    yes_share=0.6,
    tempting_share=0.0,
    absent="foreign",
)  # fmt: skip
"""Training questions: what is absent is seldom what one would expect, so habits go unpunished."""

COLUMNS = (
    "question_id",
    "image_name",
    "question",
    "gt_answer",
    "category",
    "answer_type",
    "description",
)
"""Columns of the table."""

GREY_BOOST = 4
"""How much more often a black-and-white picture is asked what it cannot tell."""

TRIES = 100
"""Draws for each question before a scene counts as exhausted."""

LEAST = 0.002
"""Least weight of a category that has had its share: every scene must find its questions."""

JPEG_QUALITY = 85
"""Quality of the stored pictures, in training as in the bundle."""


def questions_about(
    scene: Scene, count: int, rng: random.Random, weights: Mapping[str, float], mix: Mix
) -> Iterator[Question]:
    """Yield ``count`` questions about a scene, none twice about the same kinds.

    Args:
        scene: What they are about.
        count: How many.
        rng: The draw.
        weights: Category → share. In a black-and-white picture, what it cannot tell weighs more.
        mix: Shares within a category.

    Raises:
        ValueError: The scene does not have so much to ask about.
    """
    shares = dict(weights)
    if scene.look.grey and "insufficient-context" in shares:
        shares["insufficient-context"] *= GREY_BOOST
    asked: set[tuple[str, ...]] = set()
    for _ in range(TRIES * count):
        if len(asked) == count:
            return
        (category,) = rng.choices(list(shares), list(shares.values()))
        question = ask(scene, category, rng, mix)
        if question is None:
            continue
        family = question.category.split("-")[0]
        if (family, *question.about) not in asked:
            asked.add((family, *question.about))
            yield question
    if len(asked) < count:
        raise ValueError(f"no {count} different questions about {description(scene)!r}")


def picture(scene: Scene) -> bytes:
    """Return the scene as a JPEG file."""
    buffer = io.BytesIO()
    draw(scene).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def photograph(scene: Scene) -> Image.Image:
    """Return the scene as a reader of its JPEG file sees it."""
    return Image.open(io.BytesIO(picture(scene))).convert("RGB")


def rows(seed: int, split: str, *, pictures: int, questions: int) -> Iterator[dict[str, str]]:
    """Yield the table's rows, picture by picture.

    Args:
        seed: The same seed gives the same rows.
        split: Splits with different names share no picture.
        pictures: How many pictures.
        questions: How many questions, spread evenly over them.

    Raises:
        ValueError: There are fewer questions than pictures, or too many for them.
    """
    if not 0 < pictures <= questions:
        raise ValueError(f"{questions} questions about {pictures} pictures: want one each or more")
    rng = random.Random(f"questions/{seed}/{split}")  # noqa: S311
    whole = sum(BUNDLED.weights.values())
    wanted = {name: questions * share / whole for name, share in BUNDLED.weights.items()}
    number = 0
    for index, scene in enumerate(scenes(seed, split, pictures)):
        share = questions * (index + 1) // pictures - questions * index // pictures
        # What many scenes do not allow is made up for by those that do.
        weights = {name: max(left, LEAST * questions) for name, left in wanted.items()}
        for question in questions_about(scene, share, rng, weights, BUNDLED):
            number += 1
            wanted[question.category] -= 1
            yield {
                "question_id": f"demo_{number:04d}",
                "image_name": f"{split}_{index:04d}.jpg",
                "question": question.text,
                "gt_answer": "; ".join(question.accepted),
                "category": question.category,
                "answer_type": question.answer_type,
                "description": description(scene),
            }


def write_bundle(
    folder: Path, *, seed: int = 0, split: str = "demo", pictures: int = 600, questions: int = 2000
) -> Path:
    """Write ``questions.csv`` and ``images/`` into a folder and return the table's path."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    table = folder / "questions.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows(seed, split, pictures=pictures, questions=questions))
    for index, scene in enumerate(scenes(seed, split, pictures)):
        (folder / "images" / f"{split}_{index:04d}.jpg").write_bytes(picture(scene))
    return table
