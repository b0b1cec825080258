"""The noun: a figure with its data and with words for those who cannot see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, eq=False)
class Plot:
    """A figure, ready for a page or for files."""

    name: str
    """Stem of its files, and of its ids in a page: letters, digits and underscores."""
    title: str
    """What it is about, in a few words; it is not drawn in the figure."""
    caption: str
    """How to read it, one or two sentences."""
    description: str
    """What it shows with its numbers: the text for those who cannot see it."""
    columns: Mapping[str, Sequence[Any]]
    """The plotted data, tidy: name → values, all equally long. None: does not apply."""
    figure: Figure
    """Drawn with matplotlib's objects, never through pyplot's global state."""
