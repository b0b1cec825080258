"""Categories of questions: how often each is hallucinated, and how well that is foretold in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vlmscope.metrics import bootstrap, measure, wilson
from vlmscope.probing import SavedSweep
from vlmscope.report.document import CategoryRow
from vlmscope.report.rows import Row
from vlmscope.schema import Score

DRAWS = 500
"""Resamples of the images for the interval within a category."""

ALL = "all"
"""Name of the last row."""

NONE = "–"
"""Name of the rows without a category, where others have one."""

_Auroc = tuple[float | None, float | None, float | None]
_NO_AUROC: _Auroc = (None, None, None)


def categories(
    rows: Sequence[Row], labels: Mapping[str, Score], sweep: SavedSweep | None
) -> tuple[CategoryRow, ...]:
    """Return a row for each category, most hallucinated first, and one for all.

    Args:
        rows: The run's rows.
        labels: Label of each, by id.
        sweep: Its probes, where it has some that fit.
    """
    named = {row.id: row.category or NONE for row in rows}
    members: dict[str, list[str]] = {}
    for id_, name in named.items():
        members.setdefault(name, []).append(id_)
    judged = _judged(named, sweep)
    found = [
        _row(name, ids, labels, _auroc(*judged[name]) if name in judged else _NO_AUROC)
        for name, ids in members.items()
        if set(members) != {NONE}
    ]
    found.sort(key=lambda row: (row.share is None, -(row.share or 0), row.name))
    return (*found, _row(ALL, named, labels, _told(sweep)))


def _row(
    name: str, ids: Collection[str], labels: Mapping[str, Score], auroc: _Auroc
) -> CategoryRow:
    outcomes = Counter(labels[id_].outcome for id_ in ids if id_ in labels)
    hallucinated, faithful = outcomes["hallucinated"], outcomes["faithful"]
    share: _Auroc = (None, None, None)
    if scorable := hallucinated + faithful:
        rate = np.array([hallucinated / scorable])
        low, high = wilson(rate, np.array([scorable]))
        share = float(rate[0]), float(low[0]), float(high[0])
    return CategoryRow(
        name,
        len(ids),
        hallucinated,
        faithful,
        outcomes["unscorable"],
        *share,
        *auroc,
    )


def _told(sweep: SavedSweep | None) -> _Auroc:
    """Return the AUROC over all rows as the sweep has it."""
    if sweep is None:
        return _NO_AUROC
    row = sweep["selected"]
    return row["auroc"], row["auroc_low"], row["auroc_high"]


_Judged = tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]


def _judged(named: Mapping[str, str], sweep: SavedSweep | None) -> dict[str, _Judged]:
    """Return truth, risk, image and fold of each category's rows that were probed."""
    if sweep is None:
        return {}
    rows = sweep.stacked("selected")
    category = np.tile([named[id_] for id_ in sweep.predictions["id"]], sweep.repeats)
    found = {}
    for name in np.unique(category):
        inside = category == name
        found[str(name)] = (
            rows.truth[inside],
            rows.risks["selected"][inside],
            rows.groups[inside],
            rows.folds[inside],
        )
    return found


def _auroc(
    truth: NDArray[np.bool_],
    risk: NDArray[np.float64],
    groups: NDArray[np.int64],
    folds: NDArray[np.int64],
) -> _Auroc:
    """Return the AUROC within a category and fold with its interval, where there is one."""
    value = measure(truth, risk, folds).auroc
    if not np.isfinite(value):
        return _NO_AUROC
    if len(np.unique(groups)) < 2:
        return value, None, None
    found = bootstrap(truth, {"": risk}, groups, folds, draws=DRAWS, correct=True)[""]["auroc"]
    return (value, found.low, found.high) if np.isfinite(found.low) else (value, None, None)
