"""The results of the sweep by the values of the table's columns other than the category."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vlmscope.probes.baselines import JOINT
from vlmscope.report.document import ColumnTable, ColumnValue
from vlmscope.sweeps import SavedSweep


def columns(sweep: SavedSweep | None) -> Iterator[ColumnTable]:
    """Yield a table for each column except the category, which has its own section."""
    found: Mapping[str, Any] = {} if sweep is None else sweep.summary.get("by_column", {})
    results = () if sweep is None else sweep.results
    nothing = {row.name for row in results if row.found_nothing}
    for name, column in found.items():
        if name != "category":
            within = {risk: each for risk, each in column["within"].items() if risk not in nothing}
            yield ColumnTable(
                name=name,
                **_within("auroc", within.get("selected")),
                **_within("joint", within.get(JOINT)),
                values=tuple(_value(each, "selected" in nothing) for each in column["values"]),
            )


def _within(name: str, found: Mapping[str, Any] | None) -> dict[str, float | None]:
    """Return an AUROC within the column and the ends of its interval, or None for each."""
    if found is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    ends = found["interval"]
    return {name: found["auroc"], f"{name}_low": ends["low"], f"{name}_high": ends["high"]}


def _value(found: Mapping[str, Any], nothing: bool) -> ColumnValue:
    """Return the numbers of a value; no AUROC if the probe has a constant risk."""
    interval, simultaneous = found["interval"], found["simultaneous"]
    if nothing:
        interval = simultaneous = {"low": None, "high": None}
    return ColumnValue(
        name=found["value"],
        rows=found["rows"],
        share=found["share"],
        auroc=None if nothing else found["auroc"],
        auroc_low=interval["low"],
        auroc_high=interval["high"],
        all_low=simultaneous["low"],
        all_high=simultaneous["high"],
    )
