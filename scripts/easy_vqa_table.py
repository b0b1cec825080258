"""Write easy-VQA as a table of questions with a folder of images: a second, outside world.

    pip install easy-vqa==1.0
    python scripts/easy_vqa_table.py --out easy-vqa

easy-VQA (Victor Zhou, MIT licence) is 5,000 images of 64 × 64 pixels with one shape on a pale
ground, and 48,248 questions about its shape, its colour, what is present and what is not. The data
come from the installed package; nothing is downloaded. The demo model is trained on a part of its
training split, never on its test split.
"""

from __future__ import annotations

import argparse
import csv
import random
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPLITS = ("train", "test")

COLUMNS = (
    "question_id",
    "image_id",
    "question",
    "ground_truth_answer",
    "category",
    "answer_type",
)
"""Columns of the table."""

NEGATED = re.compile(r"\bnot\b|\bno\b")
"""What a question for absence has, and no other question."""

LICENCE = "LICENSE"


@dataclass(frozen=True, slots=True)
class Item:
    """One question of easy-VQA."""

    number: int
    """Position in the package's list of its split, from 0."""
    image: int
    """The image's number in its split."""
    question: str
    """As in the package: lower case, with a question mark."""
    answer: str
    """As in the package: one word, lower case."""

    @property
    def category(self) -> str:
        """``shape``, ``colour``, ``presence`` or ``negated-presence``.

        >>> Item(0, 0, "is there not a red shape?", "no").category
        'negated-presence'
        >>> Item(0, 0, "what is the red shape?", "circle").category
        'shape'
        """
        if self.answer_type == "yes/no":
            return "negated-presence" if NEGATED.search(self.question) else "presence"
        return "colour" if "color" in self.question else "shape"

    @property
    def answer_type(self) -> str:
        """``yes/no`` or ``open-ended``, as in the bundled table."""
        return "yes/no" if self.answer in ("yes", "no") else "open-ended"


def read_items(split: str) -> tuple[list[Item], dict[int, Path]]:
    """Return the questions of a split, and the path of each image by its number.

    Args:
        split: ``train`` or ``test``.

    Raises:
        ValueError: There is no such split.
        SystemExit: The package is not installed.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: easy-VQA has {' and '.join(SPLITS)}")
    package = _package()
    found = getattr(package, f"get_{split}_questions")()
    items = [
        Item(number, image, question, answer)
        for number, (question, answer, image) in enumerate(zip(*found, strict=True))
    ]
    paths = getattr(package, f"get_{split}_image_paths")()
    return items, {number: Path(path) for number, path in paths.items()}


def by_image(items: Iterable[Item]) -> dict[int, list[Item]]:
    """Return image → its questions, in the order of the package."""
    found: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        found[item.image].append(item)
    return dict(found)


def choose(items: Sequence[Item], images: int, each: int, seed: int) -> list[Item]:
    """Return ``each`` questions about each of the first ``images`` that have so many.

    Raises:
        ValueError: There are not so many.
    """
    rng = random.Random(f"easy-vqa/{seed}")  # noqa: S311
    ordered = by_image(sorted(items, key=lambda item: item.number))
    groups = [group for _, group in sorted(ordered.items()) if len(group) >= each]
    if not 0 < images <= len(groups):
        raise ValueError(f"{images} images with {each} questions each: there are {len(groups)}")
    return [
        item
        for group in groups[:images]
        for item in sorted(rng.sample(group, each), key=lambda item: item.number)
    ]


def row(item: Item, split: str) -> dict[str, str]:
    """Return one row of the table."""
    return {
        "question_id": f"easy_vqa_{split}_{item.number:05d}",
        "image_id": image_name(item.image, split),
        "question": item.question,
        "ground_truth_answer": item.answer,
        "category": item.category,
        "answer_type": item.answer_type,
    }


def image_name(number: int, split: str) -> str:
    """Return the file name of an image: the splits number theirs alike."""
    return f"{split}_{number:04d}.png"


def write_table(folder: Path, items: Sequence[Item], paths: dict[int, Path], split: str) -> Path:
    """Write ``questions.csv``, ``images/`` and the licence into a folder; return the table's path.

    Raises:
        SystemExit: There is a table in the folder already.
    """
    table = folder / "questions.csv"
    if table.exists():
        raise SystemExit(f"{table} exists; choose another folder")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row(item, split) for item in items)
    for number in sorted(by_image(items)):
        shutil.copyfile(paths[number], folder / "images" / image_name(number, split))
    (folder / LICENCE).write_text(licence(), encoding="utf-8")
    return table


def licence() -> str:
    """Return the package's licence, which goes with every copy of its data.

    Raises:
        SystemExit: The installed package has none.
    """
    from importlib.metadata import files

    for path in files("easy-vqa") or ():
        if path.name == LICENCE:
            return path.read_text("utf-8").strip() + "\n"
    raise SystemExit("the installed easy-vqa has no LICENSE; pip install easy-vqa==1.0")


def _package() -> Any:
    """Import easy-VQA."""
    try:
        import easy_vqa
    except ImportError:
        raise SystemExit("easy-VQA is not installed: pip install easy-vqa==1.0") from None
    return easy_vqa


def main() -> None:
    """Read the options, write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the table; made anew")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument(
        "--images", type=int, help="only the first so many that have --each questions; default all"
    )
    parser.add_argument("--each", type=int, default=2, help="questions about each of them")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of questions")
    options = parser.parse_args()
    items, paths = read_items(options.split)
    if options.images is not None:
        items = choose(items, options.images, options.each, options.seed)
    table = write_table(options.out, items, paths, options.split)
    print(f"{len(items)} questions about {len(by_image(items))} images: {table}")


if __name__ == "__main__":
    main()
