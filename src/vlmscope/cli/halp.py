"""Prints the results of the HALP protocol, below those of ``vlmscope probe``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from vlmscope.cli.output import number_table, show, stdout

if TYPE_CHECKING:
    from vlmscope.sweeps.halp_protocol import HalpReport


def show_halp(found: HalpReport) -> None:
    """Print one line for each representation and layer."""
    stdout.print()
    heading = "HALP protocol, optimistic"
    table = number_table(
        heading, "test AUROC", "95% interval", "accuracy", "precision", "recall", "F1"
    )
    best = found.best
    for row in found.results:
        ranked = ["–", "constant risk" if row.found_nothing else "no AUROC"]
        if row.auroc == row.auroc and not row.found_nothing:
            ranked = [f"{row.auroc:.3f}", f"{row.interval.low:.3f}–{row.interval.high:.3f}"]
        rates = [f"{value:.3f}" for value in (row.accuracy, row.precision, row.recall, row.f1)]
        title = Text(row.title.partition(", HALP")[0])
        style = "bold" if best is not None and row.name == best.name else None
        table.add_row(title, *ranked, *rates, style=style)
    show(table)
