"""Pages of docs that are run and print what they show: recipes, signals.md, detectors.md."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "recipes"
INDEX = FOLDER / "README.md"
RECIPES = sorted(set(FOLDER.glob("*.md")) - {INDEX})
PAGES = [*RECIPES, FOLDER.parent / "signals.md", FOLDER.parent / "detectors.md"]
NUMBER = r"[-+]?\d+(?:\.\d+)?"


@dataclass(frozen=True)
class Block:
    """A code block of a page: its language, its text, and the number of its first line."""

    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start(2)))
        for found in re.finditer(r"^```([^\n]*)\n(.*?)^```", text, re.S | re.M)
    ]


def run_page(page: Path) -> int:
    """Run the Python of a page in the current folder; return how many outputs were compared.

    An error's line is the page's own.
    """
    names: dict[str, Any] = {"__name__": page.stem}
    printed, compared = io.StringIO(), 0
    for block in blocks_of(page):
        if block.language == "python":
            code = "\n" * block.line + block.text
            with contextlib.redirect_stdout(printed):
                exec(compile(code, page, "exec", dont_inherit=True), names)  # noqa: S102
        elif block.language == "text":
            check_output(block.text, printed.getvalue(), page, block.line)
            printed, compared = io.StringIO(), compared + 1
        else:
            assert block.language == "console", f"{page.name}:{block.line}: is not run"
    assert not printed.getvalue(), f"{page.name}: prints something that it does not show"
    return compared


def check_output(shown: str, printed: str, page: Path, line: int) -> None:
    """Compare lines; "…" stands for anything, and numbers may differ a little."""
    where = f"{page.name}:{line}: shows {shown!r}, prints {printed!r}"
    expected, found = shown.splitlines(), printed.splitlines()
    assert len(found) == len(expected), where
    for ours, theirs in zip(expected, found, strict=True):
        pieces = re.split(f"({NUMBER}|…)", ours)
        pattern = "".join(map(pattern_of, pieces))
        match = re.fullmatch(pattern, theirs)
        assert match, where
        numbers = [float(piece) for piece in pieces if re.fullmatch(NUMBER, piece)]
        assert list(map(float, match.groups())) == pytest.approx(numbers, rel=0.05, abs=0.05), where


def pattern_of(piece: str) -> str:
    if piece == "…":
        return ".*"
    return f"({NUMBER})" if re.fullmatch(NUMBER, piece) else re.escape(piece)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the index makes: table, images, model, and a labelled and probed run."""
    folder = tmp_path_factory.mktemp("recipes")
    with contextlib.chdir(folder):
        assert run_page(INDEX) == 1
    return folder


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_recipe_works(
    page: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a copy, so that none depends on another. A new page is run without a new test."""
    shutil.copytree(start, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    try:
        assert run_page(page), "a recipe shows what it prints"
    finally:
        plt.close("all")


def test_the_index_lists_every_recipe() -> None:
    linked = re.findall(r"^\| \[[^]]+\]\(([^)]+)\)", INDEX.read_text("utf-8"), re.M)
    assert sorted(linked) == [page.name for page in RECIPES]


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("AUROC 0.90\n", "AUROC 0.80\n"),
        ("30 rows\n", "40 rows\n"),
        ("a … b\n", "a c\n"),
        ("one\n", ""),
        ("one\n", "one\ntwo\n"),
        ("risk 0.5\n", "risk nan\n"),
    ],
)
def test_another_output_is_noticed(shown: str, printed: str) -> None:
    with pytest.raises(AssertionError, match=r"page\.md:7"):
        check_output(shown, printed, Path("page.md"), 7)


def test_an_output_that_differs_a_little_is_the_same() -> None:
    check_output("AUROC 0.90 of … rows\n", "AUROC 0.93 of many rows\n", Path("page.md"), 7)
