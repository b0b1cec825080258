"""``vlmscope verify``: stored rows against the seed's own method."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.progress import track
from rich.table import Table

from vlmscope.cli import options
from vlmscope.cli.output import quiet_libraries, stderr, stdout
from vlmscope.errors import RunMismatchError, StoreError, ToleranceError


def verify(
    run: options.RunFolder,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Rows to recompute.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Which rows are drawn.")] = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            help="Largest relative error (default: float32 1e-5, float16 1e-2, bfloat16 5e-2).",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Where the model is now.", show_default=False),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Where the table is now.", show_default=False)
    ] = None,
    images: options.Images = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Check every checksum, then recompute some rows with the seed's method and show the error."""
    from vlmscope.store import open_run
    from vlmscope.verification import choose_samples, tolerance_of

    quiet_libraries()
    opened = open_run(run)
    if damage := opened.check():
        raise StoreError(f"{run}: {len(damage)} damaged columns, {damage[0]} for example")
    stderr.print(f"checksums of {len(opened):,} rows are right")
    limit = tolerance_of(opened.manifest) if tolerance is None else tolerance
    samples = choose_samples(opened, _table(opened, data, images), sample, seed)
    vlm = _load(opened, model, device)
    checks = _compare(opened, samples, vlm)
    if as_json:
        stdout.print_json(json.dumps([asdict(check) for check in checks]))
    else:
        _show(opened, checks, limit)
    _judge(opened, checks, limit)


def _table(run: Any, data: str | None, images: str | None) -> Any:
    from vlmscope.dataset import open_table
    from vlmscope.schema import FieldSpec

    record = run.manifest.data
    return open_table(
        data or record.path, images=images or record.images, fields=FieldSpec(**record.fields)
    )


def _load(run: Any, model: str | None, device: str) -> Any:
    """Load the run's model, and refuse another one."""
    from vlmscope.executors import describe_model
    from vlmscope.model import load_model

    manifest = run.manifest
    with stderr.status("loading the model"):
        vlm = load_model(
            model or manifest.model.name,
            dtype=manifest.dtype,
            device=device,
            revision=manifest.model.revision,
            attention=manifest.attention,
        )
    found, expected = describe_model(vlm), manifest.model
    for part in ("config_hash", "weights_hash", "processor_hash", "chat_template_hash"):
        if getattr(found, part) != getattr(expected, part):
            raise RunMismatchError(
                f"{vlm.name}: not the model of this run, its {part} differs; give the one it was "
                "made with with --model"
            )
    return vlm


def _compare(run: Any, samples: Any, vlm: Any) -> list[Any]:
    from vlmscope.verification import check_rows

    rows = check_rows(run, samples, vlm)
    return list(
        track(rows, "recomputing", len(samples), console=stderr, transient=True,
              disable=not stderr.is_terminal)
    )  # fmt: skip


def _show(run: Any, checks: list[Any], limit: float) -> None:
    """Print the largest error of each representation."""
    table = Table(box=None, pad_edge=False)
    for heading in ("vector", "largest relative error", "mean"):
        table.add_column(heading, header_style="dim")
    for name in checks[0].errors:
        errors = [check.errors[name] for check in checks]
        style = "red" if max(errors) > limit else ""
        table.add_row(name, f"{max(errors):.1e}", f"{sum(errors) / len(errors):.1e}", style=style)
    stdout.print(table)
    answers = (
        "–" if run.manifest.capture.max_new_tokens == 0 else sum(c.same_answer for c in checks)
    )
    stdout.print(
        f"{len(checks)} rows, tolerance {limit:.0e}, {run.manifest.dtype}; "
        f"same answers: {answers}, same boundaries: {sum(c.same_boundaries for c in checks)}, "
        f"same pictures: {sum(c.same_image for c in checks)}"
    )


def _judge(run: Any, checks: list[Any], limit: float) -> None:
    """Raise where a row is not what the seed's method gives."""
    from vlmscope.verification import answers_must_agree

    strict = answers_must_agree(run.manifest)
    for check in checks:
        name, error = check.worst
        faults = {
            f"{name} differs by {error:.1e}, tolerance {limit:.0e}": error > limit,
            "the boundaries differ": not check.same_boundaries,
            "the picture has changed since": not check.same_image,
            "the answer differs": strict and not check.same_answer,
        }
        if found := [text for text, present in faults.items() if present]:
            raise ToleranceError(f"{check.id}: {'; '.join(found)}")
