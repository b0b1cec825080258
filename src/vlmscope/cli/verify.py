"""``vlmscope verify``: compare stored rows with the reference method."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.progress import track
from rich.table import Table

from vlmscope.cli import options
from vlmscope.cli.output import count, quiet_libraries, show, show_note, status, stderr, stdout
from vlmscope.cli.verified_run import open_verified_run


def verify(
    run: options.RunFolder,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Rows to recompute.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the drawn rows.")] = 0,
    files: Annotated[
        bool, typer.Option("--files", help="Check the files only: no model, no table.")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            help="Largest relative error (default: float32 3e-5, float16 2e-2, bfloat16 1e-1).",
            show_default=False,
        ),
    ] = None,
    model: options.ModelNow = None,
    adapter: options.Adapter = None,
    data: options.DataNow = None,
    images: options.Images = None,
    device: options.Device = "auto",
    attention: options.AttentionNow = None,
    allow_absolute_paths: options.AllowAbsolutePaths = False,
    allow_pickle_weights: options.AllowPickleWeights = False,
    as_json: options.Json = False,
) -> None:
    """Check every checksum, and recompute some rows for comparison.

    The rows are recomputed with the slow reference method.
    """
    from vlmscope.api.checking import draw_samples, judge, model_of_run
    from vlmscope.row_identity import table_of_run
    from vlmscope.verification import check_tolerance, tolerance_of

    quiet_libraries()
    check_tolerance(tolerance)
    opened = open_verified_run(run)
    stderr.print(f"checksums of {count(len(opened), 'row')} are correct")
    if files:
        return
    limit = tolerance_of(opened.manifest) if tolerance is None else tolerance
    table = table_of_run(opened, data, images=images, allow_absolute_paths=allow_absolute_paths)
    samples = draw_samples(opened, table, sample, seed, show_note)
    with status("loading the model"):
        vlm = model_of_run(
            opened, model, adapter=adapter, device=device, attention=attention,
            allow_pickle_weights=allow_pickle_weights,
        )  # fmt: skip
    checks = _compare(opened, samples, vlm)
    if as_json:
        records = [asdict(check) | {"same_answer": check.same_answer} for check in checks]
        stdout.print_json(json.dumps(records))
    else:
        _show(opened, checks, limit)
    judge(opened, checks, limit)


def _compare(run: Any, samples: Any, vlm: Any) -> list[Any]:
    from vlmscope.verification import check_rows

    rows = check_rows(run, samples, vlm)
    return list(
        track(rows, "recomputing", len(samples), console=stderr, transient=True,
              disable=not stderr.is_terminal)
    )  # fmt: skip


def _show(run: Any, checks: list[Any], limit: float) -> None:
    """Print the largest error of each representation, in red beyond its tolerance."""
    from vlmscope.verification import limit_of

    table = Table(box=None, pad_edge=False)
    for heading in ("vector", "largest relative error", "mean"):
        table.add_column(heading, header_style="dim")
    names = dict.fromkeys(name for check in checks for name in check.errors)
    limits = {name: limit_of(name, limit, run.manifest.states_dtype) for name in names}
    for name in names:
        errors = [check.errors[name] for check in checks if name in check.errors]
        style = "" if max(errors) <= limits[name] else "red"
        table.add_row(name, f"{max(errors):.1e}", f"{sum(errors) / len(errors):.1e}", style=style)
    show(table)
    equal = {
        name: sum(name not in check.differing for check in checks)
        for name in ("answer", "boundaries", "image_sha256")
    }
    loosest = max(limits.values(), default=limit)
    tokens = f" ({loosest:.0e} for arrays of several tokens)" if loosest > limit else ""
    stdout.print(
        f"{count(len(checks), 'row')}, tolerance {limit:.0e}{tokens}, {run.manifest.dtype}; "
        f"same answers: {equal['answer']}, same boundaries: {equal['boundaries']}, "
        f"same images: {equal['image_sha256']}"
    )
