"""The columns of the table besides the category: what the sweep found by their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vlmscope.probes.baselines import JOINT
from vlmscope.report.document import ColumnTable, ColumnValue
from vlmscope.sweeps import SavedSweep


def columns(sweep: SavedSweep | None) -> Iterator[ColumnTable]:
    """Yield a table for each column but the category, which has a section of its own."""
    found: Mapping[str, Any] = {} if sweep is None else sweep.summary.get("by_column", {})
    for name, column in found.items():
        if name != "category":
            yield ColumnTable(
                name=name,
                **_within("auroc", column["within"].get("selected")),
                **_within("joint", column["within"].get(JOINT)),
                values=tuple(_value(each) for each in column["values"]),
            )


def _within(name: str, found: Mapping[str, Any] | None) -> dict[str, float | None]:
    """Return an AUROC within the column and its ends; None where there is none."""
    if found is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    ends = found["interval"]
    return {name: found["auroc"], f"{name}_low": ends["low"], f"{name}_high": ends["high"]}


def _value(found: Mapping[str, Any]) -> ColumnValue:
    return ColumnValue(
        name=found["value"],
        rows=found["rows"],
        share=found["share"],
        auroc=found["auroc"],
        auroc_low=found["interval"]["low"],
        auroc_high=found["interval"]["high"],
        all_low=found["simultaneous"]["low"],
        all_high=found["simultaneous"]["high"],
    )
