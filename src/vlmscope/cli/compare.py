"""``vlmscope compare``: comparison of several labelled runs of the same questions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vlmscope.cli import options
from vlmscope.cli.output import count, show, shown_text, status, stdout
from vlmscope.shown import distinct_names, rounded_difference

if TYPE_CHECKING:
    from vlmscope.sweeps.compare import Comparison, PairSummary, RunSummary

LEVEL = 0.05
"""Significance level."""

CONSTANT_RISK, CONSTANT_PROBE = "constant risk", "the probe has a constant risk"
"""The cell in a table, and the note, for a run whose probe predicts one risk in most folds."""

HEADINGS = ("run", "model", "rows", "unscorable", "hallucinated", "probe AUROC", "above joint")
"""Column headings; the 95% interval is below a rate and an AUROC."""


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
    draws: options.Draws = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the resamples.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Compare labelled runs of the same questions.

    Compares hallucination rates, and probes if the runs have them. Runs are paired by question
    id, if question and image are the same; nothing is written.
    """
    from vlmscope.sweeps.compare import compare_runs

    with status("comparing"):
        found = compare_runs([options.path_or_url(run) for run in runs], draws=draws, seed=seed)
    if as_json:
        stdout.print_json(json.dumps(asdict(found)))
        return
    _show_runs(found)
    stdout.print()
    for line in sentences(found):
        show(Text(shown_text(line, len(line))))


def _show_runs(found: Comparison) -> None:
    """Print a line for each run."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in HEADINGS:
        number = heading not in ("run", "model")
        table.add_column(
            heading, overflow="fold", no_wrap=number, justify="right" if number else "left"
        )
    names = _names(found)
    models = distinct_names([run.model for run in found.runs])
    for run, name, model in zip(found.runs, names, models, strict=True):
        rate = _span(run.hallucination_rate_low, run.hallucination_rate_high, ".1%")
        auroc = _span(run.probe_auroc_low, run.probe_auroc_high)
        table.add_row(
            Text(name),
            Text(f"{shown_text(model)}\n{shown_text(run.dtype)}"),
            f"{run.rows:,}",
            f"{run.unscorable:,}",
            f"{_shown(run.hallucination_rate, '.1%')}\n{rate.replace('% to ', '–')}".rstrip("\n–")
            or "–",
            CONSTANT_RISK
            if run.probe_note == CONSTANT_PROBE
            else f"{_shown(run.probe_auroc)}\n{auroc.replace(' to ', '–')}".rstrip("\n–") or "–",
            _shown(run.above_joint, "+.3f"),
        )
    show(table)
    show(Text("below each: its 95% interval; below a model: its dtype", style="dim"))


def _names(found: Comparison) -> list[str]:
    """Return each run's name: as many parts of its path as needed to be unique."""
    return [shown_text(name) for name in distinct_names([run.run for run in found.runs])]


def sentences(found: Comparison) -> Iterator[str]:
    """Yield sentences on the differences, and on what is missing."""
    names = _names(found)
    for run, name in zip(found.runs, names, strict=True):
        if run.unlabelled:
            yield f"{name}: {count(run.unlabelled, 'row')} without a label."
        if run.probe_note:
            yield f"{name}: {run.probe_note}."
    first, number = found.runs[0], len(found.pairs)
    for run, name, pair in zip(found.runs[1:], names[1:], found.pairs, strict=True):
        both = f"{name} against {names[0]}"
        yield from _rates(both, first, run, pair, number)
        yield from _probes(both, pair, number)


def _rates(
    names: str, first: RunSummary, run: RunSummary, pair: PairSummary, number: int
) -> Iterator[str]:
    """Yield sentences on whether one run hallucinates more often."""
    if pair.other_questions:
        yield (
            f"{names}: {count(pair.other_questions, 'id')} of {pair.common:,} in both have "
            "different questions or images, and are left out."
        )
    if pair.difference is None:
        yield f"{names}: {count(pair.compared, 'question')} in common, too few to compare."
        return
    yield from _made_otherwise(names, first, run)
    low, high = pair.difference_low, pair.difference_high
    conclusion = _conclusion(
        low,
        high,
        "it hallucinates more often",
        "it hallucinates less often",
        "the difference is not significant",
    )
    p_values = pair.difference_p, pair.difference_p_holm
    yield (
        f"{names}: on {count(pair.compared, 'question')} in common {conclusion}, {_points(pair)}"
        f"{_significance(low, high, *p_values, number)}: both right {pair.both_right:,}, only "
        f"this one {pair.only_this_right:,}, only the first {pair.only_first_right:,}, "
        f"both wrong {pair.both_wrong:,}."
    )


def _made_otherwise(names: str, first: RunSummary, run: RunSummary) -> Iterator[str]:
    """Yield other differences between the runs that may affect the rates."""
    if run.dtype != first.dtype:
        yield f"{names}: the model ran in {shown_text(run.dtype)}, the other in {first.dtype}."
    if run.labelled_by and first.labelled_by and run.labelled_by != first.labelled_by:
        yield (
            f"{names}: labelled by {shown_text(run.labelled_by)}, the other by "
            f"{shown_text(first.labelled_by)}, so labels of equal answers may differ."
        )


def _points(pair: PairSummary) -> str:
    """Return two rates and the difference of the rounded rates, in percentage points."""
    one, two = (
        100 * (wrong + pair.both_wrong) / pair.compared
        for wrong in (pair.only_this_right, pair.only_first_right)
    )
    low, high = (
        None if each is None else 100 * each for each in (pair.difference_low, pair.difference_high)
    )
    return (
        f"{two:.1f}% against {one:.1f}%, {rounded_difference(two, one, 1):+.1f} points "
        f"(95% interval {_span(low, high, '+.1f')}"
    )


def _probes(names: str, pair: PairSummary, number: int) -> Iterator[str]:
    """Yield sentences on whether the hallucinations of one run are predicted better."""
    if pair.probe_difference is None:
        return
    low, high = pair.probe_difference_low, pair.probe_difference_high
    if pair.probe_not_alike:
        yield (
            f"{names}: on {count(pair.probe_compared, 'question')} that both probes predicted, its "
            f"probe's AUROC differs by {pair.probe_difference:+.3f} (95% interval "
            f"{_span(low, high, '+.3f')}), but the probes are not comparable: "
            f"{pair.probe_not_alike}."
        )
        return
    conclusion = _conclusion(low, high, "is better", "is worse", "is not significantly different")
    p_values = pair.probe_difference_p, pair.probe_difference_p_holm
    yield (
        f"{names}: on {count(pair.probe_compared, 'question')} that both probes predicted, its "
        f"probe {conclusion}, {pair.probe_difference:+.3f} (95% interval {_span(low, high, '+.3f')}"
        f"{_significance(low, high, *p_values, number)}, each on the hallucinations of its own "
        "model."
    )


def _conclusion(low: float | None, high: float | None, more: str, less: str, neither: str) -> str:
    if low is not None and low > 0:
        return more
    return less if high is not None and high < 0 else neither


def _significance(
    low: float | None, high: float | None, plain: float | None, corrected: float | None, number: int
) -> str:
    """Return p-values, the end of a bracket, and a note if a difference is not significant.

    Args:
        low: Lower end of the interval.
        high: Upper end.
        plain: The p-value.
        corrected: The p-value after correction.
        number: Number of runs that are compared with the first.
    """
    end = f", p {_shown(plain)}, corrected {_shown(corrected)})"
    differs = (low is not None and low > 0) or (high is not None and high < 0)
    if not differs or corrected is None or corrected <= LEVEL:
        return end
    if number == 1:
        return f"{end}, which is not significant at 5%"
    return f"{end}, which is not significant after correction for {number} comparisons"


def _shown(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else f"{value:{form}}"


def _span(low: float | None, high: float | None, form: str = ".3f") -> str:
    return "–" if low is None or high is None else f"{low:{form}} to {high:{form}}"
