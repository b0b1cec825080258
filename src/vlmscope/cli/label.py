"""``vlmscope label``: answers against ground truth."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import track
from rich.table import Table

from vlmscope.cli import options
from vlmscope.cli.output import count, show, shown_text, stderr, stdout
from vlmscope.errors import InputError

if TYPE_CHECKING:
    from vlmscope.schema import Answered, Score
    from vlmscope.score import Code, Scorer
    from vlmscope.store import Run

SCORERS = ("auto", "yesno", "exact", "vqa", "column", "file", "judge")
"""What ``--scorer`` takes."""

READ_LABELS = ("column", "file")
"""Scorers that read labels and need no answers."""

SHOWN_REASONS = 5
"""How many reasons for unscorable rows are shown."""

JUDGEMENTS = "judge.jsonl"
"""File in the run folder that keeps the judge's verdicts."""


def label(
    run: options.RunFolder,
    scorer: Annotated[
        str | None,
        typer.Option(
            "--scorer",
            help=f"{', '.join(SCORERS[:-1])} or {SCORERS[-1]} (default: auto). auto: yesno or vqa, "
            "by the truth, and for what they leave the judge, if --judge-model names one.",
            show_default=False,
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option("--column", help="Column of the table with labels.", show_default=False),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="CSV file with labels: question_id, and is_hallucinating_manual or "
            "is_hallucinating.",
            show_default=False,
        ),
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option("--judge-model", help="Language model that judges.", show_default=False),
    ] = None,
    judge_url: Annotated[
        str | None,
        typer.Option(
            "--judge-url",
            help="Its OpenAI-compatible endpoint; the key is taken from OPENAI_API_KEY.",
            show_default=False,
        ),
    ] = None,
    judge_concurrency: Annotated[
        int, typer.Option("--judge-concurrency", min=1, help="Requests under way at a time.")
    ] = 8,
    judge_prices: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--judge-prices",
            metavar="INPUT OUTPUT",
            help="Prices of a million tokens, for the estimate.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask the judge without asking you first.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace labels that were read from --labels or --column, too."
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Compare every answer with its ground truth and write the labels, replacing older ones.

    Labels that were read from a file or a column may be a person's work: they are kept, unless
    --overwrite is given.

    A label is hallucinated, faithful, or unscorable with the reason: what no rule can decide is
    never silently faithful.
    """
    from vlmscope.labelling import check_answers, check_kept, replace_labels
    from vlmscope.store import open_run

    scorer = scorer or ("column" if column else "file" if labels else "auto")
    _check_options(scorer, {"column": column, "labels": labels, "judge-model": judge_model})
    opened = open_run(run)
    if scorer not in READ_LABELS:
        check_answers(opened)
        if not overwrite:  # before a judge is paid
            check_kept(opened)
    settings: dict[str, Any] = {"scorer": scorer}
    judge = None
    if judge_model is not None:
        judge, asked = _make_judge(run, judge_model, judge_url, judge_concurrency, judge_prices)
        settings["judge"] = asked
        _confirm_judge(judge, opened, scorer, judge_model, yes)
    code = _read_code(opened, scorer)
    chosen = _make_scorer(scorer, column, labels, judge, code)
    settings |= {"column": column} if column else {}
    settings |= {"labels": str(labels)} if labels else {}
    scores = list(
        track(chosen(opened.answers()), "labelling", len(opened), console=stderr, transient=True,
              disable=not stderr.is_terminal)
    )  # fmt: skip
    record = _summary(opened, scores)
    if code is not None and code.told:
        record["truth_read"] = code.told
    if labels is not None:
        record["not_in_run"] = len(chosen.unknown(opened.ids))  # type: ignore[attr-defined]
        if record["not_in_run"] == len(chosen.labels):  # type: ignore[attr-defined]
            raise InputError(
                f"{labels}: none of its questions is in the run; its ids look like "
                f"{next(iter(chosen.labels), 'none')!r}, "  # type: ignore[attr-defined]
                f"the run's like {next(iter(opened.ids), 'none')!r}"
            )
    record["labels"] = str(replace_labels(opened, scores, settings, overwrite=overwrite))
    if as_json:
        stdout.print_json(json.dumps(record))
    else:
        _show(record)


def _check_options(scorer: str, given: dict[str, object]) -> None:
    """Refuse options that do not go together."""
    if scorer not in SCORERS:
        raise InputError(f"--scorer {scorer!r}: choose from {', '.join(SCORERS)}")
    takers = {"column": ("column",), "labels": ("file",), "judge-model": ("judge", "auto")}
    for name, value in given.items():
        if value is None and scorer == takers[name][0]:
            raise InputError(f"--scorer {scorer}: needs --{name}")
        if value is not None and scorer not in takers[name]:
            raise InputError(
                f"--{name}: does not go with --scorer {scorer}; give --scorer {takers[name][0]}"
            )


def _read_code(run: Run, scorer: str) -> Code | None:
    """Return how the truths of a run are coded, where the scorer reads them."""
    from vlmscope.score import read_code

    return read_code(run.answers()) if scorer == "auto" else None


def _make_scorer(
    name: str,
    column: str | None,
    labels: Path | None,
    judge: Scorer | None,
    code: Code | None = None,
) -> Scorer:
    from vlmscope.score import Auto, Column, Exact, LabelFile, Vqa, YesNo

    if column is not None:
        return Column(column)
    if labels is not None:
        return LabelFile(labels)
    if name == "judge" and judge is not None:
        return judge
    plain: dict[str, Scorer] = {"yesno": YesNo(), "exact": Exact(), "vqa": Vqa()}
    return plain.get(name) or Auto(judge, code)


def _make_judge(
    run: Path, model: str, url: str | None, concurrency: int, prices: tuple[float, float] | None
) -> tuple[Any, dict[str, Any]]:
    """Return the judge and its settings as plain data."""
    from vlmscope.score.judge import Judge, JudgeSettings
    from vlmscope.store import is_remote

    if is_remote(run):
        raise InputError(
            f"--judge-model: its verdicts are appended to {JUDGEMENTS} in the run as they come, "
            f"and nothing can be appended in an object store; copy {run} to a folder first"
        )

    per_input, per_output = prices or (None, None)
    settings = JudgeSettings(
        model=model,
        base_url=url,
        concurrency=concurrency,
        input_price=per_input,
        output_price=per_output,
    )
    return Judge(settings, cache=run / JUDGEMENTS), settings.record()


def _confirm_judge(judge: Any, run: Run, scorer: str, model: str, yes: bool) -> None:
    """Say what the judge will take, and go on only if that is wanted."""
    estimate = judge.estimate(_for_judge(run, scorer))
    cost = "" if estimate.cost is None else f", about {estimate.cost:,.2f} in all"
    stderr.print(
        f"{model}: {count(estimate.to_ask, 'request')} to make, {estimate.cached:,} known already;"
        f" about {estimate.input_tokens:,} tokens in, {estimate.output_tokens:,} out{cost}"
    )
    if yes or not estimate.to_ask:
        return
    if not sys.stdin.isatty():
        raise InputError("--judge-model: requests cost money; give --yes to make them unasked")
    if not typer.confirm("Go ahead?", err=True):
        raise InputError("the judge was not asked; nothing was done")


def _for_judge(run: Run, scorer: str) -> Iterator[Answered]:
    """Yield the rows that the judge would be asked about."""
    from vlmscope.score import Auto, left_over

    if scorer == "judge":
        return run.answers()
    return left_over(run.answers(), Auto(code=_read_code(run, scorer))(run.answers()))


def _summary(run: Run, scores: list[Score]) -> dict[str, Any]:
    """Return what was found, as plain data."""
    categories: dict[str, Counter[str]] = {}
    for row, score in zip(run.answers(), scores, strict=True):
        category = row.metadata.get("category")
        name = "–" if category in (None, "") else str(category)
        categories.setdefault(shown_text(name), Counter())[score.outcome] += 1
    unscorable = (score.evidence for score in scores if score.hallucinated is None)
    reasons = Counter(evidence.split(":")[0] for evidence in unscorable)
    return {
        "rows": len(scores),
        "all": _shares(Counter(score.outcome for score in scores)),
        "categories": {name: _shares(categories[name]) for name in sorted(categories)},
        "reasons": dict(reasons.most_common()),
        "scorers": dict(
            Counter(s.scorer for s in scores if s.hallucinated is not None).most_common()
        ),
    }


def _shares(outcomes: Counter[str]) -> dict[str, Any]:
    hallucinated, faithful = outcomes["hallucinated"], outcomes["faithful"]
    scorable = hallucinated + faithful
    return {
        "hallucinated": hallucinated,
        "faithful": faithful,
        "unscorable": outcomes["unscorable"],
        "share": hallucinated / scorable if scorable else None,
    }


def _show(record: dict[str, Any]) -> None:
    """Print the summary."""
    table = Table(box=None, pad_edge=False)
    table.add_column("category", header_style="dim", overflow="fold")
    for heading in ("hallucinated", "faithful", "unscorable", "share"):
        table.add_column(heading, header_style="dim", justify="right")
    rows = record["categories"] if list(record["categories"]) != ["–"] else {}
    for name, found in (*rows.items(), ("all", record["all"])):
        share = "–" if found["share"] is None else f"{found['share']:.1%}"
        counts = (f"{found[outcome]:,}" for outcome in ("hallucinated", "faithful", "unscorable"))
        table.add_row(name, *counts, share, style="bold" if name == "all" and rows else "")
    show(table)
    stdout.print("share: hallucinated among those that are hallucinated or faithful")
    if record.get("truth_read"):
        stdout.print(f"read: {record['truth_read']}")
    decided = ", ".join(f"{name} {number:,}" for name, number in record["scorers"].items())
    stdout.print(f"decided by: {decided or 'none'}")
    for reason, number in list(record["reasons"].items())[:SHOWN_REASONS]:
        stdout.print(f"unscorable {number:,}: {reason}")
    if (more := len(record["reasons"]) - SHOWN_REASONS) > 0:
        stdout.print(f"… and {count(more, 'more reason')}")
    if record.get("not_in_run"):
        stdout.print(f"{count(record['not_in_run'], 'question')} of the file not in the run")
    stdout.print(record["labels"])
