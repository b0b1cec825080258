"""``vlmscope demo``: extract, label, probe and report on the bundled model and questions."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vlmscope.cli.extract import run_extract
from vlmscope.cli.output import command_line, quiet_libraries, show, status, stderr, stdout
from vlmscope.cli.verdict import show_verdict
from vlmscope.errors import InputError
from vlmscope.model_options import ModelOptions
from vlmscope.schema import CaptureSpec, Progress

if TYPE_CHECKING:
    from vlmscope.store import Run

DETECTED = CaptureSpec(
    positions=("last_image_token", "last_prompt_token", "last_answer_token"),
    signals="detectors",
    samples=3,
)
"""What detectors read."""

SHOWN = 1
"""Number of answers shown per category."""

SHOWN_ROW = "demo_1500"
"""A question about a clear image, with a false premise."""

SHOWN_QUESTION = ("demo_0449.jpg", "What colour is the tree?")
"""A question about another image, for the suggested command: its image and text."""


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Run folder (default: runs/demo, runs/demo-detectors with --detectors, which "
            "records more of the same questions).",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", help="Only the first N of 2,000 questions.", show_default=False),
    ] = None,
    detectors: Annotated[
        bool,
        typer.Option(
            "--detectors",
            help="Also record what detectors of hallucinations read, with 3 sampled answers to "
            "each question, and evaluate them as vlmscope detect does. Takes three times as long.",
        ),
    ] = False,
) -> None:
    """Extract, label, probe and report the bundled questions.

    These are 2,000 questions about 600 images. Model and images are included in vlmscope. The
    architecture is that of Llama-3.2-Vision; the model has 4.8 million parameters, answers most
    questions correctly, and sometimes hallucinates.
    """
    quiet_libraries()
    if out is None:
        out = Path("runs/demo-detectors" if detectors else "runs/demo")
    with as_file(files("vlmscope") / "demo") as bundled:
        table, images, model = bundled / "questions.csv", bundled / "images", bundled / "model"
        code = run_extract({
            "data": str(table),
            "images": str(images),
            "model": str(model),
            "out": out,
            "spec": DETECTED if detectors else CaptureSpec(),
            "loading": ModelOptions(device="cpu"),
            "limit": limit,
        })  # fmt: skip
    if code not in (0, 3):  # stopped: there may be no results
        raise typer.Exit(code)
    probed = _evaluate(out, detectors=detectors)
    _show_answers(out)
    stdout.print(f"\nThe run is in {out}, its report in {out / 'report.html'}. Next:")
    source = [str(table), "--images", str(images), "--model", str(model)]
    image, question = SHOWN_QUESTION
    asked = [str(images / image), question, "--model", str(model), "--probe", str(out)]
    for command in (
        ["info", str(out)],
        ["verify", str(out), "--sample", "8"],
        ["inspect", *source, "--id", SHOWN_ROW],
        *([["score", *asked]] if probed else []),
    ):
        stdout.print("  " + command_line(*command))
    if code:
        raise typer.Exit(code)


def _evaluate(folder: Path, *, detectors: bool) -> bool:
    """Label, probe and report; print the verdict. Return whether there were rows to probe.

    Args:
        folder: The run.
        detectors: Whether to evaluate detectors too.
    """
    from vlmscope.labelling import label
    from vlmscope.report import write_report
    from vlmscope.store import open_run
    from vlmscope.sweeps import save_sweep, sweep
    from vlmscope.sweeps.verdict import verdict_of

    run = open_run(folder)
    label(run)
    with status("probing") as update:
        result = None
        try:
            result = sweep(run, progress=lambda doing: update(f"probing: {doing}"))
            save_sweep(run, result)
        except InputError as error:  # too few questions for a limit this low
            stderr.print(f"not probed: {error}")
        findings: tuple[str, ...] = ()
        if detectors and result is not None:
            findings = _detect(run, lambda doing: update(f"detectors: {doing}"))
        write_report(run, progress=lambda doing: update(f"report: {doing}"))
    if result is not None:
        show_verdict(verdict_of(result))
    for line in findings:
        show(Text(line))
    return result is not None


def _detect(run: Run, progress: Progress) -> tuple[str, ...]:
    """Evaluate and save the detectors; return the findings."""
    from vlmscope.detectors import detect, save_detection
    from vlmscope.detectors.verdict import verdict

    found = detect(run, progress=progress)
    save_detection(run, found)
    return verdict(found.results, found.best_model_free, found.best_single, found.dropped)


def _show_answers(folder: Path) -> None:
    """Print a few questions of each category with answer, ground truth and label."""
    from vlmscope.store import open_run, read_labels

    labels = read_labels(folder)
    answers = open_run(folder).to_pandas().groupby("category", sort=True).head(SHOWN)
    table = Table("image", "question", "answer", "truth", "label", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for row in answers.sort_values("category", kind="stable").itertuples():
        truth = row.ground_truth_answer.split("; ")[0]
        outcome = labels[row.question_id].outcome
        table.add_row(row.image_id, row.question, row.answer, truth, outcome)
    stdout.print()
    show(table)
