"""Whether two saved sweeps may be held against each other: the same settings, as many answers.

A probe that learnt from more answers is better for that alone, and so is one that is judged by
other folds. Then the difference of two AUROCs is a number without a verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vlmscope.sweeps.loading import SavedSweep

MOST_MORE = 0.10
"""Share by which the answers that two probes learnt from may differ."""

_SETTINGS: Mapping[str, str] = {
    "repeats": "splits into folds",
    "folds": "folds",
    "group_by": "group-by",
    "copies": "copies",
    "estimators": "estimators",
}
"""Settings of a sweep that change what its selected probe reaches, and their names in a message."""


def not_alike(one: SavedSweep, other: SavedSweep) -> Iterator[str]:
    """Yield in what two sweeps differ, a phrase each with the value of both.

    What an older summary does not say is not compared.

    Args:
        one: The sweep that is named first.
        other: The one that it is held against.
    """
    here, there = learnt_from(one), learnt_from(other)
    if max(here, there) > (1 + MOST_MORE) * min(here, there):
        yield f"trained on {here:,} answers and {there:,}"
    for name, title in _SETTINGS.items():
        values = [sweep.summary["settings"].get(name) for sweep in (one, other)]
        if None not in values and values[0] != values[1]:
            yield f"{title} {_shown(values[0])} and {_shown(values[1])}"
    if one.label_set != other.label_set:
        yield f"label set {one.label_set} and {other.label_set}"
    reads = [_representations(sweep) for sweep in (one, other)]
    if reads[0] != reads[1]:
        yield f"layers chosen from {_listed(reads[0])} and {_listed(reads[1])}"


def learnt_from(sweep: SavedSweep) -> int:
    """Return how many answers a probe learnt from in a fold of the first split, on average."""
    folds = len(np.unique(sweep.folds))
    return round(len(sweep.predictions) * (folds - 1) / folds)


def _representations(sweep: SavedSweep) -> frozenset[str]:
    """Return what the selected layer was chosen from. The layers themselves are the model's."""
    return frozenset(
        str(row["representation"])
        for row in sweep.results
        if row["kind"] == "probe" and row["known"] == "before"
    )


def _listed(names: frozenset[str]) -> str:
    words = (name.removesuffix("_representation").replace("_", " ") for name in names)
    return " + ".join(sorted(words)) or "none"


def _shown(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
