"""Prints the verdict of a sweep: its main sentences, then the details as a list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from vlmscope.cli.output import show, stdout

if TYPE_CHECKING:
    from vlmscope.sweeps.verdict import Verdict


def show_verdict(verdict: Verdict) -> None:
    """Print the main sentences, and the details below a heading."""
    stdout.print()
    for sentence in verdict.main:
        show(Text(sentence))
    if not verdict.details:
        return
    stdout.print()
    stdout.print("Details", style="bold")
    items = Table.grid(padding=(0, 1))
    items.add_column(no_wrap=True)
    items.add_column(overflow="fold")
    for sentence in verdict.details:
        items.add_row("-", Text(sentence))
    show(items)
