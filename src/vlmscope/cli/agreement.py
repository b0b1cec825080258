"""``vlmscope agreement``: the agreement of two label sets of a run."""

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
    from collections.abc import Iterator

    from vlmscope.metrics import Agreement
    from vlmscope.sweeps import LabelAgreement

SHOWN = 5
"""Disagreements that are shown by default; --json has them all."""

LONGEST = 300
"""Maximum number of characters shown of a question, a ground truth or an answer."""


def agreement(
    run: options.RunFolder,
    one: Annotated[str, typer.Argument(metavar="A", help="A label set.", show_default=False)],
    other: Annotated[str, typer.Argument(metavar="B", help="Another.", show_default=False)],
    draws: options.Draws = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the resamples.")] = 0,
    shown: Annotated[
        int, typer.Option("--show", metavar="N", help="Disagreements to show.", min=0)
    ] = SHOWN,
    as_json: options.Json = False,
) -> None:
    """Compare two label sets of a run.

    Prints Cohen's kappa, a confusion table and the disagreements. Rows are compared where both
    sets have a label; rows that are not in a label file are counted separately. The default set
    is named default. Intervals resample images, with all their questions.
    """
    from vlmscope.store import open_run
    from vlmscope.sweeps import compare_labels

    if one == other:
        raise InputError(f"agreement: {one!r} was given twice; give two label sets")
    found = compare_labels(open_run(run), one, other, draws=draws, seed=seed)
    if as_json:
        stdout.print_json(json.dumps(found.record()))
    else:
        _show(found, shown)


def _show(found: LabelAgreement, shown: int) -> None:
    decided, every = found.decided, found.every
    stdout.print(f"{_kappa(decided)} on the {_rows(decided)} that both decide{_alike(decided)}")
    stdout.print(
        f"{_kappa(every)} on all {_rows(every)} that both label, unscorable as a third label"
        f"{_alike(every)}"
    )
    for line in (*_one_sided(found), *_not_compared(found)):
        stdout.print(line)
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{found.one} ↓  {found.other} →", header_style="dim", overflow="fold")
    for name in every.classes:
        table.add_column(name, header_style="dim", justify="right")
    for name, row in zip(every.classes, every.confusion, strict=True):
        table.add_row(name, *(f"{number:,}" for number in row))
    show(table)
    if found.disagreements:
        _show_disagreements(found, shown)


def _not_compared(found: LabelAgreement) -> Iterator[str]:
    """Yield the numbers of questions that only one set labels, or neither."""
    for name, other, number in (
        (found.one, found.other, found.only_one),
        (found.other, found.one, found.only_other),
    ):
        if number:
            yield f"{count(number, 'question')} only in {name}: unlabelled in {other}, not compared"
    if found.neither:
        yield f"{count(found.neither, 'question')} in neither"


def _show_disagreements(found: LabelAgreement, shown: int) -> None:
    stdout.print(f"{count(len(found.disagreements), 'disagreement')}:")
    for each in found.disagreements[:shown]:
        stdout.print(Text(f"  {shown_text(each.id)}: {each.one}, {each.other}"))
        answer = "no answer" if each.answer is None else each.answer
        for name, text in (("question", each.question), ("truth", each.truth), ("answer", answer)):
            stdout.print(Text(f"    {name}: {shown_text(' '.join(text.split()), LONGEST)}"))
    if (more := len(found.disagreements) - shown) > 0:
        stdout.print(f"  … and {more:,} more; --show N shows more, --json has them all")


def _one_sided(found: LabelAgreement) -> Iterator[str]:
    """Yield a note for each set with only one label, which makes kappa uninformative."""
    decided = found.decided
    if decided.kappa is None:
        return
    for name, by_label in (
        (found.one, decided.confusion.sum(axis=1)),
        (found.other, decided.confusion.sum(axis=0)),
    ):
        if (by_label > 0).sum() == 1:
            label = decided.classes[int(by_label.argmax())]
            yield f"{name} labels all of them {label}: kappa is then 0, however many agree"


def _kappa(found: Agreement) -> str:
    if found.kappa is None:
        if not found.confusion.sum():
            return "Cohen's kappa is not defined: no row to compare,"
        label = found.classes[int(found.confusion.diagonal().argmax())]
        return f"Cohen's kappa is not defined, as both label every row {label},"
    if found.interval is None:
        return f"Cohen's kappa {found.kappa:.3f} (no interval: one image only)"
    low, high = found.interval.low, found.interval.high
    return f"Cohen's kappa {found.kappa:.3f} (95% interval {low:.3f} to {high:.3f})"


def _rows(found: Agreement) -> str:
    return count(int(found.confusion.sum()), "row")


def _alike(found: Agreement) -> str:
    return "" if found.agreed is None else f"; agreement on {found.agreed:.1%}"
