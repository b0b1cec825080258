"""easy-VQA as a table: what the installed package holds, in columns that vlmscope reads."""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

import easy_vqa_table
from easy_vqa_table import LICENCE, Item, by_image, choose, licence, read_items, row, write_table
from vlmscope.dataset import read_samples

SHIPPED = Path(__file__).parent / "easy-vqa"
"""500 questions about 250 images of the test split."""

ASKED = re.compile(r"(\w+ shape|circle|rectangle|triangle)")
"""What a yes/no question is about."""


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_of_the_tests_is_what_the_script_writes(tmp_path: Path) -> None:
    items, paths = read_items("test")
    written = write_table(tmp_path, choose(items, 250, 2, 0), paths, "test")
    assert table(written) == table(SHIPPED / "questions.csv")
    names = sorted(path.name for path in (SHIPPED / "images").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "images").iterdir())
    assert len(names) == 250
    for name in names:
        assert (tmp_path / "images" / name).read_bytes() == (SHIPPED / "images" / name).read_bytes()


def test_the_copy_is_small_and_carries_its_licence() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*.*")) < 500_000
    text = (SHIPPED / LICENCE).read_text("utf-8")
    assert text == licence()
    assert "Copyright (c) 2019 Victor Zhou" in text
    assert "Permission is hereby granted, free of charge" in text


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("split", "images", "count"), [("train", 4000, 38575), ("test", 1000, 9673)]
)
def test_every_question_of_a_split_is_read(split: str, images: int, count: int) -> None:
    items, paths = read_items(split)
    assert len(items) == count
    assert set(by_image(items)) == set(paths) == set(range(images))
    assert len({row(item, split)["question_id"] for item in items}) == count
    shares = Counter(item.category for item in items)
    assert set(shares) == {"shape", "colour", "presence", "negated-presence"}
    assert min(shares.values()) > 0.1 * count


def test_presence_and_its_negation_answer_the_opposite() -> None:
    """So the category is told from the words rightly: of the same thing, one is yes, one is no."""
    answers: dict[tuple[int, str], dict[str, set[str]]] = {}
    for item in read_items("test")[0]:
        if item.answer_type == "yes/no":
            [asked] = ASKED.findall(item.question)
            answers.setdefault((item.image, asked), {}).setdefault(item.category, set()).add(
                item.answer
            )
    both = [found for found in answers.values() if len(found) == 2]
    assert len(both) > 500
    for found in both:
        assert len(found["presence"]) == len(found["negated-presence"]) == 1
        assert found["presence"] != found["negated-presence"]


def test_open_questions_are_answered_by_their_category() -> None:
    shapes = {"circle", "rectangle", "triangle"}
    colours = {"red", "green", "blue", "black", "gray", "teal", "brown", "yellow"}
    items = read_items("train")[0]
    assert {item.answer for item in items if item.category == "shape"} == shapes
    assert {item.answer for item in items if item.category == "colour"} == colours


def test_vlmscope_reads_the_table() -> None:
    samples = list(read_samples(SHIPPED / "questions.csv", images=SHIPPED / "images"))
    assert len(samples) == len({sample.id for sample in samples}) == 500
    assert Counter(Counter(sample.image_id for sample in samples).values()) == {2: 250}
    assert all(sample.target for sample in samples)
    assert set(samples[0].metadata) == {"category", "answer_type"}


def test_the_splits_have_names_of_their_own() -> None:
    item = Item(7, 3, "is there a circle?", "no")
    train, test = row(item, "train"), row(item, "test")
    assert train["question_id"] != test["question_id"]
    assert train["image_id"] != test["image_id"]


def test_a_choice_depends_on_the_seed_alone() -> None:
    items, _ = read_items("test")
    assert (
        choose(items, 9, 3, 1) == choose(list(reversed(items)), 9, 3, 1) != choose(items, 9, 3, 2)
    )


@pytest.mark.parametrize(("images", "each"), [(0, 2), (-1, 2), (1001, 1), (1, 40)])
def test_more_than_there_is_is_refused(images: int, each: int) -> None:
    with pytest.raises(ValueError, match="there are"):
        choose(read_items("test")[0], images, each, 0)


def test_another_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'val'.*train and test"):
        read_items("val")


def test_a_table_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "questions.csv").write_text("mine")
    items, paths = read_items("test")
    with pytest.raises(SystemExit, match="exists"):
        write_table(tmp_path, items[:2], paths, "test")
    assert (tmp_path / "questions.csv").read_text() == "mine"
    assert not (tmp_path / "images").exists()


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(SystemExit, match="pip install easy-vqa"):
        read_items("test")


def test_the_command_writes_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path), "--images", "3", "--each", "4", "--split", "train"]
    monkeypatch.setattr(sys, "argv", ["easy_vqa_table.py", *options])
    easy_vqa_table.main()
    assert "12 questions about 3 images" in capsys.readouterr().out
    rows = table(tmp_path / "questions.csv")
    assert Counter(item["image_id"] for item in rows) == dict.fromkeys(
        (f"train_{number:04d}.png" for number in range(3)), 4
    )
    assert (tmp_path / LICENCE).exists()
