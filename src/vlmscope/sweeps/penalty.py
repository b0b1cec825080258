"""Where in the grid of penalties the folds chose theirs, and what it means if that is its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from vlmscope.probes import GRID

GridEdge = Literal["low", "high"] | None
"""``low``: the strongest penalty of the grid; ``high``: the weakest; None: between them."""


def grid_edge(chosen: Sequence[float] | None, grid: Sequence[float] = GRID) -> GridEdge:
    """Return the end of the grid that more than half of the folds chose, if any.

    >>> grid_edge([1e-5, 1e-5, 1e-5, 1e-4, 1e-3]), grid_edge([1.0] * 5), grid_edge([1e-3] * 5)
    ('low', 'high', None)
    """
    if not chosen:
        return None
    most = len(chosen) / 2
    if sum(value <= min(grid) for value in chosen) > most:
        return "low"
    return "high" if sum(value >= max(grid) for value in chosen) > most else None


def penalty_sentence(chosen: Sequence[float] | None, grid: Sequence[float] = GRID) -> Iterator[str]:
    """Say that the penalty of the selected probe lies at an end of the grid, where it does.

    Args:
        chosen: The penalty ``C`` of each fold.
        grid: What it was chosen from.
    """
    edge = grid_edge(chosen, grid)
    if edge is None or chosen is None:
        return
    end = min(grid) if edge == "low" else max(grid)
    folds = f"{sum(value == end for value in chosen)} of {len(chosen)} folds"
    if edge == "low":
        yield (
            f"Its penalty is the strongest of the grid (C = {end:g}) in {folds}, as is usual where "
            "there is little for a probe to learn."
        )
    else:
        yield (
            f"Its penalty is the weakest of the grid (C = {end:g}) in {folds}: a weaker one might "
            "do better still, so its AUROC may be an underestimate."
        )
