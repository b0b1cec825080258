"""``vlmscope compare``: several labelled runs of the same questions, side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vlmscope.cli import options
from vlmscope.cli.output import count, show, shown_text, stderr, stdout

if TYPE_CHECKING:
    from vlmscope.sweeps.compare import Comparison, PairSummary, RunSummary

HEADINGS = ("run", "model", "rows", "unscorable", "hallucinated", "probe AUROC", "above joint")
"""Below a rate and an AUROC stands the 95% interval."""


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Two or more labelled run folders, or their URLs; all are compared with the "
            "first.",
            show_default=False,
        ),
    ],
    draws: Annotated[
        int, typer.Option("--draws", help="Resamples of the images for the intervals.", min=100)
    ] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Decides the resamples.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Compare labelled runs of the same questions: hallucination rates, and probes where there are.

    Runs are paired by question id, where question and image are the same; nothing is written.
    """
    from vlmscope.sweeps.compare import compare_runs

    with stderr.status("comparing"):
        found = compare_runs([options.place(run) for run in runs], draws=draws, seed=seed)
    if as_json:
        stdout.print_json(json.dumps(asdict(found)))
        return
    _show_runs(found)
    stdout.print()
    for line in _sentences(found):
        show(Text(shown_text(line, len(line))))


def _show_runs(found: Comparison) -> None:
    """Print a line for each run."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in HEADINGS:
        number = heading not in ("run", "model")
        table.add_column(
            heading, overflow="fold", no_wrap=number, justify="right" if number else "left"
        )
    names = [run.run.rstrip("/").rsplit("/", 1)[-1] for run in found.runs]
    for run, name in zip(found.runs, names, strict=True):
        rate = _span(run.hallucination_rate_low, run.hallucination_rate_high, ".1%")
        auroc = _span(run.probe_auroc_low, run.probe_auroc_high)
        table.add_row(
            Text(shown_text(name if names.count(name) == 1 else run.run)),
            Text(
                f"{shown_text(run.model.rstrip('/').rsplit('/', 1)[-1])}\n{shown_text(run.dtype)}"
            ),
            f"{run.rows:,}",
            f"{run.unscorable:,}",
            f"{_shown(run.hallucination_rate, '.1%')}\n{rate.replace('% to ', '–')}".rstrip("\n–")
            or "–",
            f"{_shown(run.probe_auroc)}\n{auroc.replace(' to ', '–')}".rstrip("\n–") or "–",
            _shown(run.above_joint, "+.3f"),
        )
    show(table)
    show(Text("below each: its 95% interval; below a model: its dtype", style="dim"))


def _sentences(found: Comparison) -> Iterator[str]:
    """Yield what differs, and what is missing."""
    first = found.runs[0]
    for run in found.runs:
        if run.unlabelled:
            yield f"{shown_text(run.run)}: {count(run.unlabelled, 'row')} without a label."
        if run.probe_note:
            yield f"{shown_text(run.run)}: {run.probe_note}."
    for run, pair in zip(found.runs[1:], found.pairs, strict=True):
        yield from _rates(first, run, pair)
        yield from _probes(first, run, pair)


def _rates(first: RunSummary, run: RunSummary, pair: PairSummary) -> Iterator[str]:
    """Say whether one run hallucinates more often."""
    names = f"{shown_text(run.run)} against {shown_text(first.run)}"
    if pair.other_questions:
        yield (
            f"{names}: {count(pair.other_questions, 'id')} of {pair.common:,} in both mean "
            "different questions or images, and are left out."
        )
    if pair.difference is None:
        yield f"{names}: {count(pair.compared, 'question')} in common, too few to compare."
        return
    yield from _made_otherwise(names, first, run)
    says = _says(
        pair.difference_low,
        pair.difference_high,
        "it hallucinates more often",
        "it hallucinates less often",
        "which hallucinates more often cannot be told",
    )
    yield (
        f"{names}: on {count(pair.compared, 'question')} in common {says}, "
        f"{_points(pair)}, "
        f"{_p_values(pair.difference_p, pair.difference_p_holm)}): both right "
        f"{pair.both_right:,}, only this one {pair.only_this_right:,}, only the first "
        f"{pair.only_first_right:,}, both wrong {pair.both_wrong:,}."
    )


def _made_otherwise(names: str, first: RunSummary, run: RunSummary) -> Iterator[str]:
    """Say what else differs than what the runs are compared for."""
    if run.dtype != first.dtype:
        yield f"{names}: the model ran in {shown_text(run.dtype)}, there in {first.dtype}."
    if run.labelled_by and first.labelled_by and run.labelled_by != first.labelled_by:
        yield (
            f"{names}: labelled by {shown_text(run.labelled_by)}, there by "
            f"{shown_text(first.labelled_by)}, which may differ where the answers do not."
        )


def _points(pair: PairSummary) -> str:
    """Return the difference of two rates and its interval, in percentage points."""
    value, low, high = (
        None if each is None else 100 * each
        for each in (pair.difference, pair.difference_low, pair.difference_high)
    )
    return f"{_shown(value, '+.1f')} points ({_span(low, high, '+.1f')}"


def _probes(first: RunSummary, run: RunSummary, pair: PairSummary) -> Iterator[str]:
    """Say whether one run's hallucinations can be predicted better."""
    if pair.probe_difference is None:
        return
    low, high = pair.probe_difference_low, pair.probe_difference_high
    if pair.probe_not_alike:
        yield (
            f"{shown_text(run.run)} against {shown_text(first.run)}: on "
            f"{count(pair.probe_compared, 'question')} that both probes judged, its probe's AUROC "
            f"differs by {pair.probe_difference:+.3f} ({_span(low, high, '+.3f')}), but not like "
            f"for like: {pair.probe_not_alike}; which probe is better cannot be told."
        )
        return
    says = _says(low, high, "is better", "is worse", "cannot be told from the other")
    yield (
        f"{shown_text(run.run)} against {shown_text(first.run)}: on "
        f"{count(pair.probe_compared, 'question')} that both probes judged, its probe {says}, "
        f"{pair.probe_difference:+.3f} ({_span(low, high, '+.3f')}, "
        f"{_p_values(pair.probe_difference_p, pair.probe_difference_p_holm)}), each on the "
        "hallucinations of its own model."
    )


def _says(low: float | None, high: float | None, more: str, less: str, neither: str) -> str:
    if low is not None and low > 0:
        return more
    return less if high is not None and high < 0 else neither


def _p_values(plain: float | None, corrected: float | None) -> str:
    return f"p {_shown(plain)}, corrected {_shown(corrected)}"


def _shown(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else f"{value:{form}}"


def _span(low: float | None, high: float | None, form: str = ".3f") -> str:
    return "–" if low is None or high is None else f"{low:{form}} to {high:{form}}"
