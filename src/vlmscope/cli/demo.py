"""``vlmscope demo``: the main job on photographs and a model that ship with vlmscope."""

from __future__ import annotations

import shutil
import sys
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from vlmscope.cli.extract import run_extract
from vlmscope.cli.output import quiet_libraries, stderr, stdout
from vlmscope.schema import CaptureSpec


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")] = Path("runs/demo"),
) -> None:
    """Extract six real photographs with a tiny random-weight Llama-3.2-Vision made on the spot.

    Its architecture and processor are the real ones; its answers are noise.
    """
    from vlmscope.demo.standin import PHOTO, build_standin

    quiet_libraries()
    model = out.parent / f"{out.name}-model"
    if not (model / "config.json").exists():
        with stderr.status("building a tiny Llama-3.2-Vision with random weights"):
            build_standin(model, size=PHOTO)
    with as_file(files("vlmscope") / "demo") as bundled:
        code = run_extract({
            "data": str(bundled / "questions.csv"),
            "images": str(bundled / "photos"),
            "model": str(model),
            "out": out,
            "spec": CaptureSpec(max_new_tokens=24),
            "device": "cpu",
        })  # fmt: skip
    if code:
        raise typer.Exit(code)
    stdout.print(f"\nThe run is in {out}. The weights are random, so its answers are noise. Next:")
    # As it was called, where it is not on the path: .venv/bin/vlmscope after ``make demo``.
    program = "vlmscope" if shutil.which("vlmscope") else sys.argv[0]
    questions, photos = bundled / "questions.csv", bundled / "photos"
    stdout.print(f"  {program} info {out}")
    stdout.print(f"  {program} verify {out}")
    stdout.print(f"  {program} inspect {questions} --images {photos} --model {model} --id demo_04")
