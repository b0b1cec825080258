"""Prints the results of a sweep for each value of a column, below the other results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from vlmscope.cli.output import number_table, show, shown_text, stdout

if TYPE_CHECKING:
    from vlmscope.sweeps import SweepResult

MOST_VALUES = 12
"""Number of values shown per column; ``results.json`` and the report have all."""


def show_columns(result: SweepResult) -> None:
    """Print a short table for each column by which results are broken down.

    A probe with a constant risk has no AUROC there either.
    """
    nothing = result["selected"].found_nothing
    for name, column in result.by_column.items():
        if not column.values:
            continue
        stdout.print()
        table = number_table(
            f"by {shown_text(name)}", "rows", "hallucinated", "AUROC", "95% interval"
        )
        for value in column.values[:MOST_VALUES]:
            low, high = value.interval.low, value.interval.high
            table.add_row(
                Text(shown_text(value.value)),
                f"{value.rows:,}",
                f"{value.share:.1%}",
                "–" if nothing or value.auroc != value.auroc else f"{value.auroc:.3f}",
                "–" if nothing or low != low else f"{low:.3f}–{high:.3f}",
            )
        show(table)
        if (more := len(column.values) - MOST_VALUES) > 0:
            stdout.print(f"… and {more:,} more in results.json", style="dim")
