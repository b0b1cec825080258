"""``vlmscope agreement``: how far two label sets of a run agree."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vlmscope.cli import options
from vlmscope.cli.output import count, show, shown_text, stdout
from vlmscope.errors import InputError

if TYPE_CHECKING:
    from vlmscope.metrics import Agreement
    from vlmscope.probing import LabelAgreement

SHOWN = 20
"""Disagreements that are listed; --json has them all."""


def agreement(
    run: options.RunFolder,
    one: Annotated[str, typer.Argument(metavar="A", help="A label set.", show_default=False)],
    other: Annotated[str, typer.Argument(metavar="B", help="Another.", show_default=False)],
    draws: Annotated[
        int, typer.Option("--draws", help="Resamples of the images for the intervals.", min=100)
    ] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Decides the resamples.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Compare two label sets of a run: Cohen's kappa, a confusion table, the disagreements.

    The default set is named default. Intervals resample images, with all their questions.
    """
    from vlmscope.probing import compare_labels
    from vlmscope.store import open_run

    if one == other:
        raise InputError(f"agreement: {one!r} twice; give two label sets")
    found = compare_labels(open_run(run), one, other, draws=draws, seed=seed)
    if as_json:
        stdout.print_json(json.dumps(found.record()))
    else:
        _show(found)


def _show(found: LabelAgreement) -> None:
    decided, every = found.decided, found.every
    stdout.print(f"{_kappa(decided)} on the {_rows(decided)} that both decide{_alike(decided)}")
    stdout.print(
        f"{_kappa(every)} on all {_rows(every)}, unscorable as a third label{_alike(every)}"
    )
    for name, number in ((found.one, found.only_one), (found.other, found.only_other)):
        if number:
            stdout.print(f"{count(number, 'question')} only in {name}")
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{found.one} ↓  {found.other} →", header_style="dim", overflow="fold")
    for name in every.classes:
        table.add_column(name, header_style="dim", justify="right")
    for name, row in zip(every.classes, every.confusion, strict=True):
        table.add_row(name, *(f"{number:,}" for number in row))
    show(table)
    if not found.disagreements:
        return
    stdout.print(f"{count(len(found.disagreements), 'disagreement')}:")
    for each in found.disagreements[:SHOWN]:
        stdout.print(Text(f"  {shown_text(each.id)}: {each.one}, {each.other}"))
    if (more := len(found.disagreements) - SHOWN) > 0:
        stdout.print(f"  … and {more:,} more; --json has them all")


def _kappa(found: Agreement) -> str:
    if found.kappa is None:
        return "Cohen's kappa is not defined (one label only, or no rows)"
    if found.interval is None:
        return f"Cohen's kappa {found.kappa:.3f} (no interval: one image only)"
    low, high = found.interval.low, found.interval.high
    return f"Cohen's kappa {found.kappa:.3f} (95% interval {low:.3f} to {high:.3f})"


def _rows(found: Agreement) -> str:
    return count(int(found.confusion.sum()), "row")


def _alike(found: Agreement) -> str:
    return "" if found.agreed is None else f"; {found.agreed:.1%} of them alike"
