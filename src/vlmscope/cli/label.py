"""``vlmscope label``: compare answers with the ground truth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.progress import track
from rich.table import Table

from vlmscope.cli import options
from vlmscope.cli.label_doubts import doubt
from vlmscope.cli.label_judge import JudgeOptions, confirm_judge, make_judge
from vlmscope.cli.label_reading import reading_record, show_reading
from vlmscope.cli.label_sets import OUTCOMES
from vlmscope.cli.label_target import open_target
from vlmscope.cli.output import count, show, show_next, shown_text, stderr, stdout
from vlmscope.errors import InputError

if TYPE_CHECKING:
    from vlmscope.schema import Answered, Outcome, Score
    from vlmscope.score import Code, Scorer
    from vlmscope.store import Run

SCORERS = ("auto", "yesno", "exact", "vqa", "column", "file", "judge")
"""The values of ``--scorer``."""

READ_LABELS = ("column", "file")
"""Scorers that read labels and need no answers."""

SHOWN_REASONS = 5
"""Number of reasons shown for unscorable rows."""

SHOWN_CATEGORIES = 50
"""Number of categories shown; a column of ids has as many as there are rows."""


def label(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            parser=options.path_or_url,
            help="A run folder, or its URL; or answers from elsewhere, with --out: a table of "
            "questions, ground truths and answers (.csv, .tsv, .json, .jsonl, .parquet), or .h5 "
            "files in the HALP layout: a folder or one.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str,
        typer.Option("--name", help="Name of the label set to write."),
    ] = "default",
    scorer: Annotated[
        str | None,
        typer.Option(
            "--scorer",
            help=f"{', '.join(SCORERS[:-1])} or {SCORERS[-1]} (default: auto). auto: yesno or vqa, "
            "by the ground truth, and the judge for rows they cannot score, if --judge-model is "
            "given. exact: every answer that is not word for word the ground truth is "
            "hallucinated, even No, there is none for No.",
            show_default=False,
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            "--column",
            help="Column with labels: of the table, or of the file --labels.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="CSV file with labels: question_id, and is_hallucinating_manual, "
            "is_hallucinating, hallucinated or label (1: hallucinated), or is_correct (1: right).",
            show_default=False,
        ),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="COLUMN",
            help="Column with the ground truth, instead of the one used so far.",
            show_default=False,
        ),
    ] = None,
    fields: Annotated[
        list[str],
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN",
            help="For a table: the column of a field: id, question, target, answer or category. "
            "May be repeated.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer copies it
    question_template: Annotated[
        str | None,
        typer.Option(
            "--question-template",
            metavar="TEMPLATE",
            help="For a table: the question as it was asked, with columns in braces, \\n for a "
            "line break: '{question}\\n{choices:A}'.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="For a table or .h5 files: the labelled table to write, .csv or .parquet.",
            show_default=False,
        ),
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option(
            "--judge-model",
            help="Language model used as judge: a folder with a config.json (a chat model or a "
            "VLM, loaded here), or the model's name at the endpoint.",
            show_default=False,
        ),
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
        int, typer.Option("--judge-concurrency", min=1, help="Requests in progress at a time.")
    ] = 8,
    judge_batch_size: Annotated[
        int,
        typer.Option("--judge-batch-size", min=1, help="Rows per batch of a judge loaded here."),
    ] = 8,
    judge_prices: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--judge-prices",
            metavar="INPUT OUTPUT",
            help="Prices per million tokens, for the estimate.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask the judge without confirmation.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Also replace labels that were read from --labels or --column, or the file --out.",
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Compare every answer with its ground truth, and write labels.

    The labels replace older ones. A run may have several label sets, by --name. Labels that were
    read from a file or a column may be made by hand: they are kept, unless --overwrite is given.

    A label is hallucinated, faithful, or unscorable with the reason: an answer that no rule can
    decide is never counted as faithful. Rows that are not in a label file, or whose cell is
    empty, are unlabelled and excluded from all rates.
    """
    from vlmscope.score import Column, LabelFile, read_code, with_error_kinds
    from vlmscope.store import Run

    scorer = scorer or ("file" if labels else "column" if column else "auto")
    _check_options(scorer, {"column": column, "labels": labels, "judge-model": judge_model})
    target = open_target(
        run, name=name, out=out, fields=fields, truth=truth, overwrite=overwrite,
        question_template=question_template,
    )  # fmt: skip
    if scorer not in READ_LABELS:
        target.check_scorable()
    settings: dict[str, Any] = {"scorer": scorer}
    judge = None
    if judge_model is not None:
        asked = JudgeOptions(
            judge_model, judge_url, judge_concurrency, judge_prices, judge_batch_size
        )
        judge, settings["judge"] = make_judge(asked, target)
        confirm_judge(judge, target, scorer, asked, yes)
    code = read_code(target.rows())
    chosen = _make_scorer(scorer, column, labels, judge, code)
    given = {"column": column, "labels": labels and str(labels), "target": truth}
    settings |= {key: value for key, value in given.items() if value}
    scores = list(
        track(target.score(chosen), "labelling", len(target.answers), console=stderr,
              transient=True, disable=not stderr.is_terminal)
    )  # fmt: skip
    scores = list(with_error_kinds(map(code.decode, target.rows()), scores))
    doubted = doubt(chosen.name, target.rows(), scores, code)
    record = _summary(target.rows(), scores)
    read = [target.option_targets.summary, code.summary if scorer == "auto" else ""]
    if scorer not in READ_LABELS and any(read):
        record["truth_read"] = "; ".join(filter(None, read))
    if isinstance(chosen, LabelFile | Column):
        record |= reading_record(chosen, target.answers.ids, labels)
    record |= {"settings": settings, "labels": str(target.write(scores, settings))}
    record["doubt"] = asdict(doubted) if doubted else None
    _print(record, as_json)
    if isinstance(target.answers, Run):
        _show_next(target.answers, name, record["all"])


def _show_next(run: Run, name: str, counts: dict[str, Any]) -> None:
    """Print the next command: probe, or report if there are probes that fit these labels."""
    from vlmscope.errors import StoreError
    from vlmscope.store import DEFAULT
    from vlmscope.sweeps import probes_folder, read_sweep

    try:
        probed = read_sweep(run, name)
    except StoreError:  # damaged: probe replaces it
        probed = None
    probes = run.path / probes_folder(name)
    if probed is not None and probed.stale:
        stderr.print(f"the probes in {probes} are out of date: {probed.stale}; train them again")
    elif probed is not None:
        stderr.print(f"the probes in {probes} fit these labels")
    option = () if name == DEFAULT else ("--labels", name)
    if probed is not None and not probed.stale:
        show_next("report", str(run.path), *option)
    elif counts["hallucinated"] and counts["faithful"]:
        show_next("probe", str(run.path), *option)


def _print(record: dict[str, Any], as_json: bool) -> None:
    """Print the summary, and doubts on stderr."""
    if record["doubt"]:
        stderr.print(f"warning: {shown_text(record['doubt']['text'], 400)}")
    if as_json:
        stdout.print_json(json.dumps(record))
    else:
        _show(record)
        show_reading(record)
        stdout.print(record["labels"])


def _check_options(scorer: str, given: dict[str, object]) -> None:
    """Refuse options that exclude each other."""
    if scorer not in SCORERS:
        raise InputError(f"--scorer {scorer!r}: choose from {', '.join(SCORERS)}")
    takers = {
        "column": ("column", "file"), "labels": ("file",), "judge-model": ("judge", "auto"),
    }  # fmt: skip
    for name, value in given.items():
        if value is None and scorer == takers[name][0]:
            raise InputError(f"--scorer {scorer}: needs --{name}")
        if value is not None and scorer not in takers[name]:
            raise InputError(
                f"--{name}: cannot be used with --scorer {scorer}; give --scorer {takers[name][0]}"
            )


def _make_scorer(
    name: str,
    column: str | None,
    labels: Path | None,
    judge: Scorer | None,
    code: Code | None = None,
) -> Scorer:
    from vlmscope.score import Auto, Column, Exact, LabelFile, Vqa, YesNo

    if labels is not None:
        return LabelFile(labels, label_column=column)
    if column is not None:
        return Column(column)
    if name == "judge" and judge is not None:
        return judge
    plain: dict[str, Scorer] = {"yesno": YesNo(), "exact": Exact(), "vqa": Vqa()}
    return plain.get(name) or Auto(judge, code)


def _summary(rows: Iterable[Answered], scores: list[Score]) -> dict[str, Any]:
    """Return the summary as plain data."""
    from vlmscope.schema import ErrorKind

    kinds = Counter(score.error_kind for score in scores)
    categories: dict[str, Counter[str]] = {}
    for row, score in zip(rows, scores, strict=True):
        category = row.metadata.get("category")
        name = "–" if category in (None, "") else str(category)
        categories.setdefault(shown_text(name), Counter())[score.outcome] += 1
    return {
        "rows": len(scores),
        "all": _shares(Counter(score.outcome for score in scores)),
        "categories": {name: _shares(categories[name]) for name in sorted(categories)},
        "error_kinds": {kind: kinds[kind] for kind in get_args(ErrorKind)},
        "reasons": _reasons(scores, "unscorable"),
        "unlabelled": _reasons(scores, "unlabelled"),
        "scorers": dict(
            Counter(s.scorer for s in scores if s.hallucinated is not None).most_common()
        ),
    }


def _reasons(scores: list[Score], outcome: Outcome) -> dict[str, int]:
    """Return the reasons for an outcome and their counts, the most frequent first."""
    found = Counter(s.evidence.split(":")[0] for s in scores if s.outcome == outcome)
    return dict(found.most_common())


def _shares(outcomes: Counter[str]) -> dict[str, Any]:
    from vlmscope.metrics import share_bounds

    hallucinated, faithful = outcomes["hallucinated"], outcomes["faithful"]
    scorable = hallucinated + faithful
    return {
        "hallucinated": hallucinated,
        "faithful": faithful,
        "unscorable": outcomes["unscorable"],
        "unlabelled": outcomes["unlabelled"],
        "share": hallucinated / scorable if scorable else None,
        **share_bounds(hallucinated, faithful, outcomes["unscorable"]),
    }


def _largest(categories: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the categories that are shown: those of most rows, in the order of all."""
    size = {name: sum(found[o] for o in OUTCOMES) for name, found in categories.items()}
    largest = set(sorted(size, key=lambda name: -size[name])[:SHOWN_CATEGORIES])
    return {name: found for name, found in categories.items() if name in largest}


def _show(record: dict[str, Any]) -> None:
    """Print the summary."""
    table = Table(box=None, pad_edge=False)
    table.add_column("category", header_style="dim", overflow="fold")
    outcomes = [o for o in OUTCOMES if record["all"][o] or o != "unlabelled"]
    for heading in (*outcomes, "share"):
        table.add_column(heading, header_style="dim", justify="right")
    rows = record["categories"] if list(record["categories"]) != ["–"] else {}
    shown = _largest(rows)
    for name, found in (*shown.items(), ("all", record["all"])):
        share = "–" if found["share"] is None else f"{found['share']:.1%}"
        counts = (f"{found[outcome]:,}" for outcome in outcomes)
        table.add_row(name, *counts, share, style="bold" if name == "all" and rows else "")
    show(table)
    if more := len(rows) - len(shown):
        stdout.print(f"and {more:,} more categories, of as many rows or fewer; --json lists all")
    stdout.print("share: hallucinated / (hallucinated + faithful)")
    kinds = record["error_kinds"]
    if any(kinds.values()):
        other = f", {kinds['other']:,} neither" if kinds["other"] else ""
        stdout.print(
            f"of the hallucinated answers to yes/no questions {kinds['affirms']:,} affirm "
            f"something false, {kinds['denies']:,} deny something true{other}"
        )
    if record.get("truth_read"):
        stdout.print(f"read: {record['truth_read']}")
    if record["all"]["unscorable"]:
        low, high = (
            record["all"][f"share_if_unscorable_{word}"] for word in ("faithful", "hallucinated")
        )
        stdout.print(
            f"if every unscorable row were hallucinated {high:.1%}, if none were {low:.1%}"
        )
    decided = ", ".join(f"{name} {number:,}" for name, number in record["scorers"].items())
    stdout.print(f"decided by: {decided or 'none'}")
    for reason, number in record["unlabelled"].items():
        stdout.print(f"unlabelled {number:,}: {reason}")
    for reason, number in list(record["reasons"].items())[:SHOWN_REASONS]:
        stdout.print(f"unscorable {number:,}: {reason}")
    if (more := len(record["reasons"]) - SHOWN_REASONS) > 0:
        stdout.print(f"… and {count(more, 'more reason')}")
