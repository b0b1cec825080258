"""``vlmscope demo``: the main job on the model and the questions that ship with vlmscope."""

from __future__ import annotations

import shutil
import sys
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vlmscope.cli.extract import run_extract
from vlmscope.cli.output import quiet_libraries, stdout
from vlmscope.schema import CaptureSpec

SHOWN = 1
"""How many answers of each category are shown."""


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")] = Path("runs/demo"),
    limit: Annotated[
        int | None,
        typer.Option("--limit", help="Only the first N of 2,000 questions.", show_default=False),
    ] = None,
) -> None:
    """Extract 2,000 questions about 600 pictures with a small trained Llama-3.2-Vision.

    Model and pictures ship with vlmscope. The architecture is the real one; the model has 4.8
    million parameters, answers most questions rightly, and hallucinates now and then.
    """
    quiet_libraries()
    with as_file(files("vlmscope") / "demo") as bundled:
        table, images, model = bundled / "questions.csv", bundled / "images", bundled / "model"
        code = run_extract({
            "data": str(table),
            "images": str(images),
            "model": str(model),
            "out": out,
            "spec": CaptureSpec(),
            "device": "cpu",
            "limit": limit,
        })  # fmt: skip
    if code not in (0, 3):  # stopped: there may be nothing to show
        raise typer.Exit(code)
    _show_answers(out)
    stdout.print(f"\nThe run is in {out}. Next:")
    # As it was called, where it is not on the path: .venv/bin/vlmscope after ``make demo``.
    program = "vlmscope" if shutil.which("vlmscope") else sys.argv[0]
    stdout.print(f"  {program} info {out}", soft_wrap=True)
    stdout.print(f"  {program} verify {out} --sample 8", soft_wrap=True)
    stdout.print(
        f"  {program} inspect {table} --images {images} --model {model} --id demo_0001",
        soft_wrap=True,
    )
    if code:
        raise typer.Exit(code)


def _show_answers(folder: Path) -> None:
    """Print a few questions of each category with what the model said and what is true."""
    from vlmscope.store import open_run

    answers = open_run(folder).to_pandas().groupby("category", sort=True).head(SHOWN)
    table = Table("question", "answer", "truth", box=None, header_style="bold", pad_edge=False)
    for row in answers.sort_values("category", kind="stable").itertuples():
        table.add_row(row.question, row.answer, row.ground_truth_answer.split("; ")[0])
    stdout.print()
    stdout.print(table)
