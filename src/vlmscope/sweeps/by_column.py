"""Results within a column of the table, and for each of its values: source, domain, question type.

Within a column, only answers of the same value (and fold) are compared, so that the column itself
carries no information. For each value: the hallucination rate of its answers, and the AUROC of the
selected probe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmscope.metrics import Interval, Rate, WithinKinds, each_kind, holm, rate
from vlmscope.probes.baselines import JOINT
from vlmscope.sweeps.data import ProbeData, shown
from vlmscope.sweeps.evaluation import within_column
from vlmscope.sweeps.results import ColumnResult, ValueResult, WithinGap
from vlmscope.sweeps.splitting import stacked

NOTE = (
    "interval: 95% for one value or column by itself, not corrected for the number of them; "
    "simultaneous: those of all values of a column together hold the truth in 95%; p_holm: "
    "corrected for the number of columns"
)
"""Explanation of ``by_column`` in the document."""


def by_column(
    data: ProbeData,
    risks: Mapping[str, NDArray[np.float64]],
    pairs: Sequence[tuple[str, str]],
    fold_of: NDArray[np.int64],
    *,
    draws: int,
    seed: int,
) -> dict[str, ColumnResult]:
    """Return the results within each column of ``data.by``, and for each of its values.

    Args:
        data: Truth, images and columns of the rows.
        risks: By name, the risks to measure, ``[R, N]``; ``selected`` among them.
        pairs: Names of a risk and of the one to compare it with.
        fold_of: Fold in which each row is tested, ``[R, N]``.
        draws: Resamples of the images.
        seed: Seed of the resamples.
    """
    found = {}
    for name in data.by:
        cells = data.columns[name]
        within, gaps = within_column(cells, data, risks, pairs, fold_of, draws=draws, seed=seed)
        values = _values(cells, data, risks["selected"], fold_of, draws=draws, seed=seed)
        found[name] = ColumnResult(within, gaps, values)
    return found


def _values(
    cells: Sequence[str],
    data: ProbeData,
    risk: NDArray[np.float64],
    fold_of: NDArray[np.int64],
    *,
    draws: int,
    seed: int,
) -> tuple[ValueResult, ...]:
    """Return a result for each value, the most hallucinated first."""
    kinds = np.array(cells)
    named = kinds != ""
    if len(np.unique(data.groups[named])) < 2:
        return ()
    rows = stacked(data.truth[named], data.groups[named], fold_of[:, named], {"": risk[:, named]})
    kind = np.tile(kinds[named], len(fold_of))
    found = each_kind(rows.truth, rows.risks[""], kind, rows.groups, rows.folds)
    values = []
    for name, each in found.items():
        own = kinds == name
        images = data.grouping.groups[own]
        share = _rate(data.truth[own], images, draws, seed)
        values.append(
            ValueResult(
                value=name,
                rows=share.count,
                image_groups=len(np.unique(images)),
                hallucinated=int(data.truth[own].sum()),
                share=share.value,
                share_interval=share.interval,
                auroc=each.auroc,
                interval=each.interval,
                simultaneous=each.simultaneous,
            )
        )
    return tuple(sorted(values, key=lambda value: (-value.share, value.value)))


def _rate(truth: NDArray[np.bool_], images: NDArray[np.int64], draws: int, seed: int) -> Rate:
    """Return the hallucination rate; for a single image, without an interval."""
    if len(np.unique(images)) < 2:
        return Rate(float(truth.mean()), Interval(float("nan"), float("nan")), len(truth))
    return rate(truth, images, draws=draws, seed=seed)


def column_document(found: Mapping[str, ColumnResult]) -> dict[str, Any]:
    """Return the entry for columns in ``results.json``."""
    corrected = _corrected(found)
    return {
        "by_column": {
            name: {
                "within": {risk: asdict(each) for risk, each in column.within.items()},
                "gaps": [
                    {"of": each.of, "over": each.over, **asdict(each.gap)}
                    | ({"p_holm": corrected[name]} if _planned(each) else {})
                    for each in column.gaps
                ],
                "values": [asdict(each) for each in column.values],
            }
            for name, column in found.items()
        },
        "by_column_note": NOTE,
    }


def columns_error(found: Any) -> str:
    """Return what is missing in the part ``by_column`` of a summary, or an empty text."""
    if not isinstance(found, dict):
        return "has a by_column that is not an object"
    for name, column in found.items():
        if not isinstance(column, dict) or not _is_column(column):
            return f"has no usable entry for the column {name!r}"
    return ""


def _is_column(column: Mapping[str, Any]) -> bool:
    within, values = column.get("within"), column.get("values")
    return (
        isinstance(within, dict)
        and all(isinstance(each, dict) and _has_auroc(each) for each in within.values())
        and isinstance(values, list)
        and all(isinstance(each, dict) and _is_value(each) for each in values)
    )


def _is_value(each: Mapping[str, Any]) -> bool:
    return (
        isinstance(each.get("value"), str)
        and isinstance(each.get("rows"), int)
        and isinstance(each.get("share"), float | int)
        and _has_auroc(each)
        and _is_interval(each.get("simultaneous"))
    )


def _has_auroc(each: Mapping[str, Any]) -> bool:
    return _is_number(each.get("auroc", "")) and _is_interval(each.get("interval"))


def _is_interval(ends: Any) -> bool:
    return isinstance(ends, dict) and all(_is_number(ends.get(end, "")) for end in ("low", "high"))


def _is_number(value: Any) -> bool:
    """Return whether a value is a number, or null for NaN."""
    return value is None or isinstance(value, float | int)


def _planned(each: WithinGap) -> bool:
    """Return whether a difference is the planned one of every column."""
    return (each.of, each.over) == ("selected", JOINT)


def _corrected(found: Mapping[str, ColumnResult]) -> dict[str, float]:
    """Return the p-value of the probe against the joint baseline, corrected for the columns."""
    p_values = {
        name: each.gap.p_value
        for name, column in found.items()
        for each in column.gaps
        if _planned(each) and np.isfinite(each.gap.p_value)
    }
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return {name: corrected.get(name, float("nan")) for name in found}


def column_sentences(found: Mapping[str, ColumnResult], *, joint: bool = True) -> Iterator[str]:
    """Yield the results within the columns except the category, which has its own sentences.

    Args:
        found: Column → its results.
        joint: Whether the joint baseline found something: otherwise it has no AUROC.
    """
    parts = [
        f"{shown(name)} {_span(column.within['selected'])}"
        + (f", everything known {_span(column.within[JOINT])}" if joint else "")
        for name, column in found.items()
        if name != "category" and {"selected", JOINT} <= column.within.keys()
    ]
    if parts:
        yield (
            "Comparing only answers of the same value of another column, the AUROC of the probe "
            f"is, by column (intervals not corrected for their number): {'; '.join(parts)}."
        )


def _span(each: WithinKinds) -> str:
    return f"{each.auroc:.3f} ({each.interval.low:.3f} to {each.interval.high:.3f})"
