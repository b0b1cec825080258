"""``vlmscope export``: a run as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlmscope.cli import options
from vlmscope.cli.output import count, human_size, status, stdout
from vlmscope.cli.verified_run import open_verified_run


def export(
    run: options.RunFolder,
    out: Annotated[
        Path,
        typer.Argument(
            help="File to write: .h5 (the HALP layout, self-contained), .parquet or .npz.",
            show_default=False,
        ),
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it exists.")
    ] = False,
) -> None:
    """Write a run as one self-contained file.

    Every checksum is verified first. Labels and results of probes and detectors are not included:
    labels.parquet in the run has the labels, by question id.
    """
    from vlmscope.store import export_run

    opened = open_verified_run(run)
    with status(f"writing {count(len(opened), 'row')}"):
        path = export_run(opened, out, overwrite=overwrite)
    stdout.print(f"{path}: {count(len(opened), 'row')}, {human_size(path.stat().st_size)}")
