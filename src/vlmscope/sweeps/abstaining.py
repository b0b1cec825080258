"""Change of the share of hallucinations when the riskiest answers are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from vlmscope.metrics import Abstention, Interval
from vlmscope.shown import rounded_difference


def abstaining_document(found: Abstention) -> dict[str, Any]:
    """Return its entry in ``results.json``."""
    return {"abstaining": asdict(found)}


_SHARES = ("share", "before", "after", "change")


def abstaining_error(found: Any) -> str:
    """Return what is missing in the entry of ``abstaining_document``, or an empty text."""
    if not isinstance(found, Mapping) or not isinstance(found.get("interval"), Mapping):
        return "has no effect of abstaining"
    for name in _SHARES:
        if not np.isfinite(_number(found.get(name))):
            return f"has no {name} of abstaining"
    return ""


def abstaining_of(document: Mapping[str, Any]) -> Abstention:
    """Return the content of an ``abstaining_document`` that lacks nothing."""
    found = document["abstaining"]
    share, before, after, change = (_number(found[name]) for name in _SHARES)
    low, high = (_number(found["interval"].get(end)) for end in ("low", "high"))
    return Abstention(share, before, after, change, Interval(low, high))


def _number(value: Any) -> float:
    """Return a number of a document; NaN, which JSON lacks, for anything else."""
    return float(value) if isinstance(value, int | float) else float("nan")


def abstaining_sentence(found: Abstention) -> str:
    """Return a sentence on the change of the hallucination rate, as far as its interval shows it.

    >>> from vlmscope.metrics import Interval
    >>> abstaining_sentence(Abstention(0.1, 0.425, 0.381, -0.044, Interval(-0.06, -0.02)))
    'Abstaining from the riskiest 10% lowers the share of hallucinations from 42.5% to 38.1%, by \
4.4 points (95% interval 2.0 to 6.0).'
    """
    start = f"Abstaining from the riskiest {found.share:.0%}"
    low, high = 100 * found.interval.low, 100 * found.interval.high
    span = f"from {found.before:.1%} to {found.after:.1%}"
    if not np.isfinite(low):
        return f"{start} changes the share of hallucinations {span}; there is no interval of it."
    change = rounded_change(found)
    if high < 0 or low > 0:
        verb = "lowers" if high < 0 else "raises"
        ends = sorted((abs(low), abs(high)))
        return (
            f"{start} {verb} the share of hallucinations {span}, by {abs(change):.1f} "
            f"points (95% interval {ends[0]:.1f} to {ends[1]:.1f})."
        )
    if low == high == 0:
        return f"{start} leaves the share of hallucinations at {found.before:.1%}."
    return (
        f"{start} does not measurably change the share of hallucinations: {span}, "
        f"{change:+.1f} points (95% interval {low:+.1f} to {high:+.1f})."
    )


def rounded_change(found: Abstention) -> float:
    """Return the change in percentage points, computed from the rounded shares as shown."""
    return rounded_difference(100 * found.after, 100 * found.before, 1)
