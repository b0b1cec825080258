"""Categories of questions: their hallucination rate, and the AUROC within each.

Numbers in the saved sweep are used unchanged, so that a number is the same wherever it is shown;
only missing ones are computed, in the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmscope.metrics import each_kind, rate
from vlmscope.probes import image_groups
from vlmscope.report.document import CategoryRow
from vlmscope.report.rows import Row, hashes_of
from vlmscope.schema import Score
from vlmscope.sweeps import ProbeResult, SavedSweep

ALL = "all"
"""Name of the last row."""

NONE = "–"
"""Name for the rows without a category, if others have one."""

_Span = tuple[float | None, float | None, float | None]
"""A number and the ends of its interval; None if unknown."""

_NO_SPAN: _Span = (None, None, None)


def categories(
    rows: Sequence[Row], labels: Mapping[str, Score], sweep: SavedSweep | None
) -> tuple[CategoryRow, ...]:
    """Return a row for each category, most hallucinated first, and one for all.

    Args:
        rows: The run's rows.
        labels: Label of each, by id.
        sweep: Its probes, if they are up to date.
    """
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(row.category or NONE, []).append(row)
    images = _images(rows, sweep)
    saved = _saved(sweep)
    aurocs = saved or _computed_aurocs(members, sweep)
    found = [
        _row(name, own, labels, images, aurocs.get(name, {}))
        for name, own in members.items()
        if set(members) != {NONE}
    ]
    found.sort(key=lambda row: (row.share is None, -(row.share or 0), row.name))
    overall = {} if sweep is None or _found_nothing(sweep) else _overall(sweep["selected"])
    return (*found, _row(ALL, rows, labels, images, overall))


def _row(
    name: str,
    rows: Sequence[Row],
    labels: Mapping[str, Score],
    images: Mapping[str, int],
    saved: Mapping[str, Any],
) -> CategoryRow:
    """Return one category.

    Args:
        name: Its name.
        rows: Its rows.
        labels: Label of each row of the run, by id.
        images: Number of the image group of each, by id.
        saved: Its entry in the sweep's ``by_column``.
    """
    outcomes = Counter(labels[row.id].outcome for row in rows if row.id in labels)
    hallucinated, faithful = outcomes["hallucinated"], outcomes["faithful"]
    same = (saved.get("rows"), saved.get("hallucinated")) == (
        hallucinated + faithful, hallucinated,
    )  # fmt: skip
    if same and isinstance(saved.get("share_interval"), Mapping):
        share = _span(saved["share"], saved["share_interval"])
    else:
        share = _share(rows, labels, images)
    return CategoryRow(
        name,
        len(rows),
        hallucinated,
        faithful,
        outcomes["unscorable"],
        *share,
        *(_span(saved["auroc"], saved["interval"]) if "auroc" in saved else _NO_SPAN),
    )


def _share(rows: Sequence[Row], labels: Mapping[str, Score], images: Mapping[str, int]) -> _Span:
    """Return the share of the hallucinated with its interval over images."""
    scorable = [
        (labels[row.id].hallucinated, images[row.id])
        for row in rows
        if row.id in labels and labels[row.id].hallucinated is not None
    ]
    if not scorable:
        return _NO_SPAN
    flags = np.array([bool(flag) for flag, _ in scorable])
    groups = np.array([image for _, image in scorable])
    if len(np.unique(groups)) < 2:
        return float(flags.mean()), None, None
    found = rate(flags, groups)
    return found.value, found.interval.low, found.interval.high


def _images(rows: Sequence[Row], sweep: SavedSweep | None) -> dict[str, int]:
    """Return a number for each row's image; near-copies share one if the sweep has groups."""
    copies: dict[str, int] = {}
    if sweep is not None:
        numbers = sweep.predictions["image_group"].tolist()
        copies = dict(zip(sweep.predictions["id"], numbers, strict=True))
    names = []
    for row in rows:
        own = hashes_of(row.image_sha256) or [f"question {row.id}"]
        names.append([*own, f"group {copies[row.id]}"] if row.id in copies else own)
    return dict(zip((row.id for row in rows), image_groups(names).tolist(), strict=True))


def _saved(sweep: SavedSweep | None) -> dict[str, Mapping[str, Any]]:
    """Return the sweep's entry for each category; empty if it has no breakdown by category."""
    columns = {} if sweep is None else sweep.summary.get("by_column", {})
    values = columns.get("category", {}).get("values", ())
    left_out = {"auroc"} if sweep is not None and _found_nothing(sweep) else set()
    return {
        value["value"]: {name: each for name, each in value.items() if name not in left_out}
        for value in values
    }


def _found_nothing(sweep: SavedSweep) -> bool:
    """Return whether the selected probe predicts one risk in most folds, and so has no AUROC."""
    return sweep["selected"].found_nothing


def _computed_aurocs(
    members: Mapping[str, Sequence[Row]], sweep: SavedSweep | None
) -> dict[str, Mapping[str, Any]]:
    """Return the AUROC within each category, as ``sweeps.by_column`` computes it."""
    if sweep is None or _found_nothing(sweep):
        return {}
    named = {row.id: name for name, rows in members.items() for row in rows}
    rows = sweep.stacked("selected")
    kinds = np.tile([named[id_] for id_ in sweep.predictions["id"]], sweep.repeats)
    if len(np.unique(rows.groups)) < 2:
        return {}
    found = each_kind(rows.truth, rows.risks["selected"], kinds, rows.groups, rows.folds)
    return {
        name: {
            "auroc": each.auroc,
            "interval": {"low": each.interval.low, "high": each.interval.high},
        }
        for name, each in found.items()
    }


def _overall(selected: ProbeResult) -> dict[str, Any]:
    """Return the AUROC over all rows from the sweep."""
    ends = {"low": selected.auroc_low, "high": selected.auroc_high}
    return {"auroc": selected.auroc, "interval": ends}


def _span(value: Any, interval: Mapping[str, Any]) -> _Span:
    return _known(value), _known(interval.get("low")), _known(interval.get("high"))


def _known(value: Any) -> float | None:
    """Return a finite number, or None for any other value, as in a foreign file."""
    if not isinstance(value, int | float) or not np.isfinite(value):
        return None
    return float(value)
