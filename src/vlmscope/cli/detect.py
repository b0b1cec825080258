"""``vlmscope detect``: published detectors of hallucinations, evaluated on a labelled run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from vlmscope.cli import options
from vlmscope.cli.output import (
    count,
    number_table,
    quiet_libraries,
    show,
    show_next,
    shown_text,
    status,
    stdout,
)
from vlmscope.cli.paths import check_writable

if TYPE_CHECKING:
    from vlmscope.detectors import Detection, DetectionTransfer, DetectorResult
    from vlmscope.detectors.results import Unavailable

HEADINGS = (
    "", "known", "AUROC", "95% interval", "above no\nmodel", "above one\nnumber", "AUPRC", "AURC",
    "FPR at\n95%", "acc. at\n90%",
)  # fmt: skip
"""Column headings."""

WIDE = 130
"""Width of a terminal, in columns, from which on all columns are shown."""

NARROW = range(5)
"""The columns shown on a narrower one; the files have all."""

SHORT = {"before the first token": "before", "with the first token": "1st token",
         "after the answer": "answer", "after k answers": "k answers"}  # fmt: skip
"""When a detector is known → as shown in a narrow column."""


def detect(
    run: options.RunFolder,
    detectors: Annotated[
        str | None,
        typer.Option(
            "--detectors",
            metavar="NAME[,NAME]",
            help="Detectors, or groups of them: no_model, answer, attention, states, lens, "
            "samples, asked (default: all that the run allows). The baselines that need no model "
            "are always included. Results of other detectors in the run are kept.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str, typer.Option("--labels", metavar="NAME", help="Label set to evaluate on.")
    ] = "default",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            parser=options.path_or_url,
            help="Folder for results and figures (default: RUN/detectors, RUN/detectors-<name> "
            "for a named label set; RUN/detectors/selected, if --detectors leaves out detectors "
            "that the run has results of).",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        list[str],
        typer.Option(
            "--test",
            metavar="RUN",
            help="Another labelled run to test the detectors on, trained on this one: another "
            "table, or another model. May be repeated.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer reads it and makes a list of its own
    nli: Annotated[
        Path | None,
        typer.Option(
            "--nli",
            metavar="FOLDER",
            help="Model of natural language inference that decides whether two sampled answers "
            "mean the same (default: rules for short answers).",
            show_default=False,
        ),
    ] = None,
    folds: options.Folds = 5,
    repeats: options.Repeats = None,
    group_by: options.GroupBy = "image",
    leave_category_out: Annotated[
        bool,
        typer.Option(
            "--leave-category-out",
            help="Test each category with detectors that were trained on the others: the same as "
            "--group-by category.",
        ),
    ] = False,
    copies: options.Copies = "near",
    draws: options.Draws = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of folds and resamples.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Evaluate published detectors of hallucinations on a labelled run.

    All detectors have the same rows and folds, and intervals over images. Those that are trained
    are tested on images that they were not trained on; the others keep the direction of their
    paper.
    """
    from vlmscope.detectors import detect as evaluate
    from vlmscope.detectors import save_detection
    from vlmscope.detectors.nli import meaning_by_model
    from vlmscope.detectors.save import DOCUMENT, check_folder, detectors_folder
    from vlmscope.detectors.transfer import transfer_to
    from vlmscope.store import DEFAULT, open_run, read_document
    from vlmscope.sweeps import SweepSpec, check_label_set
    from vlmscope.sweeps.transfer.targets import targets

    grouped: Any = {"group_by": _grouping(group_by, leave_category_out), "copies": copies}
    spec = SweepSpec(folds=folds, repeats=repeats, draws=draws, seed=seed, **grouped)
    opened = open_run(run)
    check_label_set(run, labels)
    own = run / detectors_folder(labels)
    folder = out or own
    check_writable(folder)
    check_folder(folder, run, labels)
    if nli is not None:
        quiet_libraries()
    with status("reading") as update:
        common: dict[str, Any] = {
            "same_meaning": None if nli is None else meaning_by_model(nli),
            "progress": lambda doing: update(f"detectors: {doing}"),
        }  # fmt: skip
        others = [open_run(options.path_or_url(each)) for each in test]
        aims = targets(opened, others, spec, labels=labels, vectors=False) if others else ()
        found = evaluate(opened, detectors, spec, labels=labels, **common)
        transfers = transfer_to(opened, found, aims, spec, **common)
        update("saving")
        folder = save_detection(opened, found, folder, transfers=transfers)
    if as_json:
        stdout.print_json(read_document(folder / DOCUMENT).decode())
    else:
        _show(found, json.loads(read_document(folder / DOCUMENT).decode())["verdict"], transfers)
        _show_folder(folder, own)
    if folder == own:
        show_next("report", str(run), *(() if labels == DEFAULT else ("--labels", labels)))


def _show_folder(folder: Path, own: Path) -> None:
    """Print where the results are, and that those of the run are kept if they are beside them."""
    stdout.print(f"\nresults, risks and figures are in {folder}")
    if own in folder.parents:
        stdout.print(f"{own} has the results of more detectors, which are unchanged")


def _grouping(group_by: str, leave_category_out: bool) -> str:
    """Return what folds are grouped by.

    Raises:
        InputError: Both options are given, and differ.
    """
    from vlmscope.errors import InputError

    if not leave_category_out:
        return group_by
    if group_by not in ("image", "category"):
        raise InputError(
            f"--leave-category-out: is --group-by category, found --group-by {group_by}; give one "
            "of them"
        )
    return "category"


def _show(found: Detection, verdict: Sequence[str], transfers: Sequence[DetectionTransfer]) -> None:
    """Print the findings, a line for each detector, and the results on other runs."""
    for line in verdict:
        show(Text(shown_text(line, len(line))))
    stdout.print()
    shown = range(len(HEADINGS)) if stdout.width >= WIDE else NARROW
    table = number_table(*(HEADINGS[column] for column in shown))
    group = ""
    for row in found.results:
        if row.group != group:
            group = row.group
            table.add_row(Text(group.replace("_", " "), style="bold"))
        cells = _cells(row)
        style = "dim" if found.detectors[row.name].is_model_free else ""
        table.add_row(*(cells[column] for column in shown), style=style)
    show(table)
    show(
        Text(
            "* better, p < 0.05, corrected for all comparisons (Holm)   – constant risk   "
            "↓ worse than chance",
            style="dim",
        )
    )
    _show_unavailable(found.unavailable, images=found.data.grouping.images > 0)
    show_transfers(found, transfers)


def _show_unavailable(unavailable: Sequence[Unavailable], *, images: bool) -> None:
    """Print which detectors were not evaluated, by what ``extract`` has to record for them."""
    from vlmscope.detectors.missing import missing_by_remedy, options_of_all
    from vlmscope.detectors.verdict import named

    if not unavailable:
        return
    things = missing_by_remedy(unavailable)
    grid = Table.grid(padding=(0, 2))
    for thing, titles in things.items():
        grid.add_row(Text(f"  {thing}"), Text(named(titles)), style="dim")
    number = len({each.name for each in unavailable})
    show(Text(f"\nNot evaluated: {count(number, 'detector')}. What the run lacks for them:"))
    show(grid)
    if options := options_of_all(things, images=images):
        # Not wrapped: a break inside an option is copied with it.
        stdout.print(Text(f"One run with all of these options: vlmscope extract ... {options}"))


def _cells(row: DetectorResult) -> list[str | Text]:
    """Return a result as the cells of the table."""
    mark = " ↓" if row.worse_than_chance else ""
    title = Text(f"  {row.title}{mark}")
    known = SHORT.get(row.known, row.known)
    if row.found_nothing:
        return [title, known, "–", "constant risk", *["–"] * 6]
    return [
        title, known, f"{row.auroc:.3f}", f"{row.auroc_low:.3f}–{row.auroc_high:.3f}",
        _gap(row.above_model_free, row.above_model_free_p_holm),
        _gap(row.above_single, row.above_single_p_holm),
        f"{row.auprc:.3f}", f"{row.aurc:.3f}", f"{row.fpr_at_95:.1%}", f"{row.accuracy_at_90:.1%}",
    ]  # fmt: skip


def _gap(value: float | None, p: float | None) -> str:
    """Return a difference, with a star if it is significantly above 0.

    >>> _gap(0.05, 0.01), _gap(-0.1, 0.01), _gap(None, None)
    ('+0.050*', '-0.100 ', '')
    """
    if value is None:
        return ""
    return f"{value:+.3f}{'*' if p is not None and p < 0.05 and value > 0 else ' '}"


def show_transfers(found: Detection, transfers: Sequence[DetectionTransfer]) -> None:
    """Print the matrix of detectors and runs: AUROC within the training run, and on each other."""
    from vlmscope.shown import distinct_names

    if not transfers:
        return
    names = distinct_names([each.run for each in transfers])
    stdout.print()
    for number, (name, each) in enumerate(zip(names, transfers, strict=True), 1):
        text = (
            f"test {number}: {name}, {each.relation}, {each.rows:,} answers, "
            f"{each.hallucinated:,} hallucinated"
        )
        show(Text(shown_text(text, 300)))
    headings = [f"test {number + 1}" for number in range(len(transfers))]
    table = number_table("AUROC", "here", *headings, title=Text("transfer", style="bold"))
    by_name: list[dict[str, Any]] = [{row.name: row for row in each.results} for each in transfers]
    for row in found.results:
        cells = [_auroc(each.get(row.name)) for each in by_name]
        table.add_row(Text(row.title), _auroc(row), *cells)
    show(table)
    for number, each in enumerate(transfers, 1):
        for line in _untested(each.unavailable):
            show(Text(f"not tested on test {number}: {line}", style="dim"))


def _untested(unavailable: Sequence[Unavailable]) -> Iterator[str]:
    """Yield a line for each reason why detectors were not tested, with their titles."""
    from vlmscope.detectors.verdict import named

    for reason in dict.fromkeys(each.reason for each in unavailable):
        yield f"{named([e.title for e in unavailable if e.reason == reason])}: {reason}"


def _auroc(row: Any) -> str:
    return "" if row is None else "–" if row.found_nothing else f"{row.auroc:.3f}"
