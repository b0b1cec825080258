"""A plot as files: a picture to print, a picture to edit, and the data for a plot of one's own."""

from __future__ import annotations

import csv
from io import BytesIO, StringIO
from typing import Any

from vlmscope.plots.canvas import drawing
from vlmscope.plots.palette import PALETTE
from vlmscope.plots.plot import Plot
from vlmscope.plots.svg import svg_file

_DPI = 200
_DIGITS = 6
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What spreadsheets take for the start of a formula (OWASP, "CSV injection")."""


def csv_text(plot: Plot) -> str:
    """Return the plotted data as CSV, numbers to six significant digits, unknown cells empty.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.

    Raises:
        ValueError: The columns are not equally long.
    """
    out = StringIO()
    # The line ends of RFC 4180, which also make the module quote a cell that holds one of them.
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(map(_cell, plot.columns))
    writer.writerows([_cell(value) for value in row] for row in _rows(plot))
    return out.getvalue()


def plot_files(plot: Plot) -> dict[str, bytes]:
    """Return the plot's files by name: ``<name>.svg``, ``<name>.png`` and ``<name>.csv``."""
    contents = {".svg": svg_file(plot), ".png": _png(plot), ".csv": csv_text(plot).encode()}
    return {f"{plot.name}{suffix}": data for suffix, data in contents.items()}


def _rows(plot: Plot) -> list[tuple[Any, ...]]:
    """Return the data by row."""
    return list(zip(*plot.columns.values(), strict=True))


def _cell(value: Any) -> Any:
    """Return a value as the csv module should write it."""
    if isinstance(value, str):
        # Lone surrogates fit no encoding.
        text = value.encode("utf-8", "replace").decode("utf-8")
        return f"'{text}" if text.startswith(_FORMULA) else text
    if isinstance(value, float):
        # NaN is the one number that is not itself.
        return f"{value:.{_DIGITS}g}" if value == value else None
    return value


def _png(plot: Plot) -> bytes:
    """Return the figure as pixels on white."""
    out = BytesIO()
    with drawing():
        plot.figure.savefig(out, format="png", dpi=_DPI, facecolor=PALETTE["paper"])
    return out.getvalue()
