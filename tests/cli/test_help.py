"""``--help`` of every command: nothing is cut, and paragraphs are wrapped as one text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest
import typer.main
from typer.testing import CliRunner

from vlmscope import cli

COMMANDS = sorted(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]

PANEL = 65
"""Columns for a first sentence beside the name of a command, in a panel of 80."""


@pytest.fixture(scope="module")
def shown() -> Iterator[Callable[[str, int], list[str]]]:
    """The lines of the help of a command, at a width."""
    mode = cli.app.rich_markup_mode

    @functools.cache
    def lines(command: str, columns: int) -> list[str]:
        cli.fit_help(columns)
        arguments = [*([command] if command else []), "--help"]
        size = {"COLUMNS": str(columns)}  # typer keeps the first TERMINAL_WIDTH that it sees
        done = CliRunner().invoke(cli.app, arguments, env=size, terminal_width=columns)
        assert done.exit_code == 0, done.output
        return [line.rstrip() for line in done.output.splitlines()]

    yield lines
    cli.app.rich_markup_mode = mode


OTHER_WIDTHS = [pytest.param(columns, marks=pytest.mark.exhaustive) for columns in (60, 100)]


@pytest.mark.first(7)
@pytest.mark.parametrize("columns", [80, *OTHER_WIDTHS])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_nothing_is_cut(command: str, columns: int, shown: Callable[[str, int], list[str]]) -> None:
    lines = shown(command, columns)
    assert len(lines) > 5
    assert [line for line in lines if "…" in line or len(line) > columns] == []
    assert any(line.startswith("╭") for line in lines) == (columns >= cli.NARROWEST)


@pytest.mark.first(6)
@pytest.mark.parametrize("command", COMMANDS)
def test_paragraphs_are_wrapped_as_one_text(
    command: str, shown: Callable[[str, int], list[str]]
) -> None:
    """No line ends where the next word would have fitted, and a command has a short sentence."""
    lines = shown(command, 80)
    start = next(i for i, line in enumerate(lines) if "Usage:" in line) + 2
    end = next(i for i, line in enumerate(lines) if line.startswith("╭"))
    first = lines[start].strip()
    assert first.endswith(".")
    assert len(first) <= PANEL
    for line, following in zip(lines[start:end], lines[start + 1 : end], strict=False):
        if line and following:
            assert len(line) + 1 + len(following.split()[0]) > 79, line


def test_the_names_of_a_position_are_connected(shown: Callable[[str, int], list[str]]) -> None:
    for command in ("extract", "inspect"):
        text = " ".join(" ".join(shown(command, 80)).split("╭")[0].split())
        for position, group in (
            ("last_image_token", "vision_token_representation"),
            ("last_prompt_token", "query_token_representation"),
        ):
            assert position in text
            assert group in text
