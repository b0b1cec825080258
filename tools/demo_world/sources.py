"""Where the demo model's training examples come from: the generated world and easy-VQA.

A source is a numbered list of images, each with questions about it. The same number gives the same
image and questions on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from scripts.easy_vqa_table import Item, by_image, read_items
from tools.demo_world.bundle import TRAINING, photograph, questions_about
from tools.demo_world.questions import CATEGORIES, Mix, Question, ask
from tools.demo_world.scenes import Scene, scenes

EASY_VQA_CATEGORIES = ("shape", "presence", "negated-presence")
"""Categories of easy-VQA that the generated world does not have."""

NAMES = (*CATEGORIES, "existence-foreign", *EASY_VQA_CATEGORIES)
"""Every category that an example can have."""

HELD_OUT_IMAGES = 200
"""The last images of easy-VQA's training split are only measured on, never trained on."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image and what is asked about it."""

    image: Image.Image
    """Mode RGB, as a reader of its file sees it."""
    questions: Sequence[Question]
    """As many as the source says."""
    caption: Question | None
    """The request to describe it, where the source has one."""
    scene: Scene | None
    """The truth about the image, where it is known in full."""


class Source(Protocol):
    """Rows by their number."""

    each: int
    """Questions about each image."""

    def __len__(self) -> int:
        """Return how many rows there are."""

    def rows(self, start: int, stop: int) -> list[Row]:
        """Return the rows of these numbers."""


@dataclass(frozen=True, slots=True)
class World:
    """Generated images, and questions about them in the shares of a mix."""

    seed: int
    split: str
    images: int
    each: int
    mix: Mix = TRAINING

    def __len__(self) -> int:
        """Return the number of images."""
        return self.images

    def rows(self, start: int, stop: int) -> list[Row]:
        """Draw the images of these numbers."""
        return [
            self._row(scene, number)
            for number, scene in enumerate(
                scenes(self.seed, self.split, stop - start, start), start
            )
        ]

    def _row(self, scene: Scene, number: int) -> Row:
        """Draw one image and choose its questions."""
        rng = random.Random(f"ask/{self.seed}/{self.split}/{number}")  # noqa: S311
        asked = list(questions_about(scene, self.each, rng, self.mix.weights, self.mix))
        return Row(photograph(scene), asked, ask(scene, "describe", rng, self.mix), scene)


class EasyVqa:
    """Images of easy-VQA's training split, ``each`` questions a row.

    An image with more questions has more rows; the last one repeats questions of the same image
    until it is full. The last images of the split are another list, to measure on.
    """

    def __init__(self, each: int, *, images: int | None = None, held_out: bool = False) -> None:
        """Read the installed package's training split, or its first images."""
        items, self._paths = read_items("train")
        self.each = each
        groups = sorted(by_image(items).items())
        parts = groups[-HELD_OUT_IMAGES:] if held_out else groups[:-HELD_OUT_IMAGES]
        chosen = parts[:images]
        self._rows = [
            (image, part) for image, group in chosen for part in _filled_parts(group, each)
        ]
        self.images = len(chosen)

    def __len__(self) -> int:
        """Return the number of rows: more than there are images."""
        return len(self._rows)

    def rows(self, start: int, stop: int) -> list[Row]:
        """Read the images of these rows."""
        return [
            Row(_read(self._paths[image]), [as_question(item) for item in part], None, None)
            for image, part in self._rows[start:stop]
        ]


def as_question(item: Item) -> Question:
    """Return a question of easy-VQA with the answer that the model learns.

    The answer is the truth's one word, as a sentence of its own: ``Yes.``, ``Teal.`` That is how
    the generated world is answered where a short answer is asked for, and what every scorer reads
    without a rule for this data set.
    """
    return Question(
        item.question,
        f"{item.answer.capitalize()}.",
        (item.answer,),
        item.category,
        item.answer_type,
    )


def _filled_parts(group: list[Item], each: int) -> list[list[Item]]:
    """Cut a list into parts of ``each``; the last is filled up from the front."""
    parts = [group[start : start + each] for start in range(0, len(group), each)]
    while len(parts[-1]) < each:
        parts[-1] = [*parts[-1], *group[: each - len(parts[-1])]]
    return parts


def _read(path: Path) -> Image.Image:
    """Return an image file's pixels."""
    with Image.open(path) as image:
        return image.convert("RGB")
