"""``vlmscope probe``: do hidden states of a run, or of files, predict hallucinations?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from vlmscope.cli import options
from vlmscope.cli.by_column import show_columns
from vlmscope.cli.halp import show_halp
from vlmscope.cli.output import command_line, number_table, show, show_next, status, stderr, stdout
from vlmscope.cli.paths import check_writable
from vlmscope.cli.transfer import prepare_transfer, run_transfer, show_transfer
from vlmscope.cli.verdict import show_verdict

if TYPE_CHECKING:
    from vlmscope.sweeps import LabelTable, SweepResult

AFTER = " †"
"""Mark of baselines that are known only after the answer."""

STYLES = {"selected": "bold", "combined": "bold", "baseline": "dim"}


def probe(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            parser=options.path_or_url,
            help="A labelled run folder; or, with --labels, files in the HALP layout: a folder of "
            ".h5 files, or one.",
            show_default=False,
        ),
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="NAME|FILE",
            help="For a run: the name of a label set (label --name), by default the default set. "
            "For HALP files: CSV with labels, question_id and is_hallucinating_manual or "
            "is_hallucinating; category and answer_type are used by baselines.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            parser=options.path_or_url,
            help="Folder for results and probes (default: probes in the given folder, "
            "probes-<name> for a named label set, or <name>-probes next to a file).",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        list[str],
        typer.Option(
            "--test",
            metavar="RUN",
            help="Another labelled run to test the probes on: another table, or another model. "
            "May be repeated.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer reads it and makes a list of its own
    estimators: Annotated[
        str,
        typer.Option(
            "--estimators",
            help="Probes besides logistic, which always runs: mean-difference, mlp; with commas.",
        ),
    ] = "logistic",
    folds: options.Folds = 5,
    repeats: options.Repeats = None,
    group_by: options.GroupBy = "image",
    copies: options.Copies = "near",
    permutations: Annotated[
        int,
        typer.Option(
            "--permutations",
            help="Permutations of the labels, in whole groups, for the permutation test.",
            min=100,
        ),
    ] = 200,
    draws: options.Draws = 2000,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            metavar="[grouped|halp]",
            help="halp: also train the HALP paper's network on its random 80/20 split, to compare "
            "with published numbers; optimistic, as images are on both sides.",
        ),
    ] = "grouped",
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="COLUMN[,COLUMN]",
            help="Columns of the table to break results down by, known before the answer "
            "(default: category, answer_type, source, type, domain, if they exist).",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of folds, permutations and resamples.")
    ] = 0,
    as_json: options.Json = False,
) -> None:
    """Train and test probes on every representation and layer.

    Probes are compared with baselines that use no hidden states. Folds are grouped by image; the
    layer is chosen inside training; intervals resample images.
    """
    from vlmscope.store import DEFAULT, read_document
    from vlmscope.sweeps import SweepSpec, default_folder, is_run, open_source, save_sweep, sweep
    from vlmscope.sweeps.save import RESULTS, check_folder, check_outside

    spec = SweepSpec(
        estimators=options.names(estimators), folds=folds, repeats=repeats, group_by=group_by,
        copies=copies, permutations=permutations, draws=draws, seed=seed, protocol=protocol,
        by=None if by is None else options.names(by),
    )  # fmt: skip
    wanted = _wanted_labels(run, labels)
    name = wanted if isinstance(wanted, str) else DEFAULT
    folder = out or default_folder(run, name)
    check_writable(folder)
    check_outside(folder, run, name)
    if is_run(run):
        check_folder(folder, name)
        _note_stale(run, name)
    with status("reading") as update:
        source = open_source(
            run,
            labelled=not isinstance(wanted, str | None),
            progress=lambda name: update(f"reading {name}"),
        )
        aims = prepare_transfer(source, test, spec, folder, name)
        result = sweep(
            source, spec, labels=wanted, progress=lambda doing: update(f"probing: {doing}")
        )
        update("saving")
        save_sweep(source, result, folder)
        transferred = run_transfer(source, aims, spec, result, folder, update)
    summary = json.loads(read_document(folder / RESULTS).decode())
    if as_json:
        more = {} if transferred is None else {"transfer": transferred}
        stdout.print_json(json.dumps(summary | more))
    else:
        _show(result, summary, transferred)
        stdout.print(f"\nresults, predictions and probes are in {folder}")
    if is_run(run) and folder == default_folder(run, name):
        show_next("report", str(run), *(() if name == DEFAULT else ("--labels", name)))


def _note_stale(run: Path, name: str) -> None:
    """Print a note if the ground truth has changed since the labels were made."""
    from vlmscope.store import DEFAULT, are_stale, label_sets

    named = () if name == DEFAULT else ("--name", name)
    if name in label_sets(run) and are_stale(run, name):
        stderr.print(
            "note: the ground truth in the table has changed since the labels were made; label "
            f"again: {command_line('label', str(run), *named)}",
            style="yellow",
        )


def _show(result: SweepResult, summary: dict[str, Any], transferred: dict[str, Any] | None) -> None:
    """Print the verdict and then the tables."""
    from vlmscope.sweeps.verdict import verdict_in

    show_verdict(verdict_in(summary))
    stdout.print()
    _show_results(result)
    if result.halp is not None:
        show_halp(result.halp)
    show_columns(result)
    if transferred is not None:
        show_transfer(transferred)


def _wanted_labels(run: Path, labels: str | None) -> str | LabelTable | None:
    """Return the value of ``--labels``: the name of a label set for a run, a table for files."""
    from vlmscope.sweeps import check_label_set, is_run, read_label_table

    if is_run(run):
        if labels is not None:
            check_label_set(run, labels)
        return labels
    return None if labels is None else read_label_table(Path(labels))


def _show_results(result: SweepResult) -> None:
    """Print one line for each probe and baseline."""
    table = number_table("", "AUROC", "95% interval", "AUPRC", "recall\nat 5%", "ECE")
    for row in result.rows:
        ranked = [f"{row.auroc:.3f}", f"{row.auroc_low:.3f}–{row.auroc_high:.3f}",
                  f"{row.auprc:.3f}", f"{row.recall_at_5:.1%}"]  # fmt: skip
        if row.found_nothing:
            ranked = ["–", "constant risk", "–", "–"]
        title = Text(row.title + AFTER * (row.known == "after"))
        table.add_row(title, *ranked, f"{row.ece:.3f}", style=STYLES.get(row.kind))
    show(table)
    if any(row.known == "after" for row in result.rows):
        stdout.print(f"{AFTER.strip()} known only after the answer is written", style="dim")
