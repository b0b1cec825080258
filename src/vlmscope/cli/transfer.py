"""``vlmscope probe --test``: probes of one run tested on others, and the tables of results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from vlmscope.cli import options
from vlmscope.cli.output import number_table, show, shown_text, stdout, with_interval
from vlmscope.shown import rounded_difference

if TYPE_CHECKING:
    from vlmscope.schema import Progress
    from vlmscope.sweeps import SweepResult, SweepSpec
    from vlmscope.sweeps.source import Source
    from vlmscope.sweeps.transfer.targets import Target

HEADINGS = (
    "",
    "AUROC in\ntraining",
    "AUROC\nhere",
    "above\njoint",
    "trained\nhere",
    "Brier",
    "ECE",
)
"""Column headings; the 95% interval is below an AUROC and a difference."""


def prepare_transfer(
    source: Source, tests: Sequence[str], spec: SweepSpec, folder: Path, labels: str
) -> tuple[Target, ...]:
    """Open the test runs, so that unsuitable ones are refused before the sweep.

    Args:
        source: The training run or files.
        tests: Folders or URLs of the test runs.
        spec: The settings of the sweep.
        folder: Folder for the result.
        labels: The label set of the training run.
    """
    from vlmscope.sweeps.transfer.save import check_replaceable
    from vlmscope.sweeps.transfer.targets import checked_source, targets

    if not tests:
        return ()
    check_replaceable(checked_source(source), folder, labels)
    return targets(source, [options.path_or_url(test) for test in tests], spec, labels=labels)


def run_transfer(
    source: Source,
    aims: Sequence[Target],
    spec: SweepSpec,
    result: SweepResult,
    folder: Path,
    progress: Progress,
) -> dict[str, Any] | None:
    """Test on the test runs, save the result, and return the document; None without test runs."""
    from vlmscope.store import read_document
    from vlmscope.sweeps import save_transfer, transfer

    if not aims:
        return None
    found = transfer(
        source,
        aims,
        spec,
        labels=str(result.data.origin.get("label_set", "default")),
        result=result,
        progress=lambda doing: progress(f"transfer: {doing}"),
    )
    document: dict[str, Any] = json.loads(read_document(save_transfer(found, folder)).decode())
    return document


def show_transfer(document: Mapping[str, Any]) -> None:
    """Print a table and the verdict for each test run."""
    from vlmscope.probes.baselines import JOINT

    for test in document["tests"]:
        title = shown_text(f"transfer to {test['run']}: {test['relation']}", 200)
        table = number_table(*HEADINGS, title=Text(title, style="bold"))
        joint = next((row for row in test["results"] if row.get("name") == JOINT), None)
        for row in test["results"]:
            style = {"selected": "bold", "baseline": "dim"}.get(row["kind"])
            table.add_row(Text(row["title"] + " †" * (row["known"] == "after")),
                          *_cells(row, joint),
                          style=style)  # fmt: skip
        stdout.print()
        show(table)
        show(Text("below an AUROC and a difference: its 95% interval", style="dim"))
        stdout.print()
        for line in test["verdict"]:
            show(Text(shown_text(line, len(line))))


def _cells(row: Mapping[str, Any], joint: Mapping[str, Any] | None) -> list[str]:
    """Return the numbers of a row as text, with intervals on a second line."""
    here, above = "constant risk", "–"
    if not row["found_nothing"]:
        here = _with_ends(row, "auroc", row["auroc"])
        if joint is None or not joint["found_nothing"]:
            above = _with_ends(row, "above_joint", _above(row, joint), "+.3f")
    return [
        with_interval(row["source_auroc"], None, None), here, above,
        *(with_interval(row[name], None, None) for name in ("own_auroc", "brier", "ece")),
    ]  # fmt: skip


def _above(row: Mapping[str, Any], joint: Mapping[str, Any] | None) -> float | None:
    """Return the difference to the joint baseline, computed from the rounded AUROCs."""
    if joint is None or row["above_joint"] is None:
        return row["above_joint"]  # type: ignore[no-any-return]
    return rounded_difference(row["auroc"], joint["auroc"])


def _with_ends(row: Mapping[str, Any], name: str, value: float | None, form: str = ".3f") -> str:
    return with_interval(value, row[f"{name}_low"], row[f"{name}_high"], form)
