"""``vlmscope verify``: stored rows against the seed's own method."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track
from rich.table import Table

from vlmscope.cli import options
from vlmscope.cli.output import quiet_libraries, show, stderr, stdout
from vlmscope.cli.sound import open_sound_run
from vlmscope.errors import (
    InputError,
    ModelError,
    RunMismatchError,
    ToleranceError,
)


def verify(
    run: options.RunFolder,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Rows to recompute.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Which rows are drawn.")] = 0,
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
    """Check every checksum, then recompute some rows with the seed's method and show the error."""
    from vlmscope.row_identity import ids_text
    from vlmscope.verification import choose_samples, tolerance_of

    quiet_libraries()
    opened = open_sound_run(run)
    stderr.print(f"checksums of {len(opened):,} rows are right")
    if files:
        return
    limit = tolerance_of(opened.manifest) if tolerance is None else tolerance
    table = _table(opened, data, images, allow_absolute_paths=allow_absolute_paths)
    samples, gone = choose_samples(opened, table, sample, seed)
    if gone:
        are = "row of the run is" if len(gone) == 1 else "rows of the run are"
        stderr.print(
            f"note: {len(gone):,} {are} not in the table any more, and cannot be recomputed: "
            f"{ids_text(gone)}",
            style="yellow",
        )
    vlm = _load(
        opened, model, adapter, device, attention, allow_pickle_weights=allow_pickle_weights
    )
    checks = _compare(opened, samples, vlm)
    if as_json:
        records = [asdict(check) | {"same_answer": check.same_answer} for check in checks]
        stdout.print_json(json.dumps(records))
    else:
        _show(opened, checks, limit)
    _judge(opened, checks, limit, _undated(opened, vlm))


def _table(run: Any, data: str | None, images: str | None, *, allow_absolute_paths: bool) -> Any:
    from vlmscope.dataset import open_table
    from vlmscope.schema import FieldSpec

    record = run.manifest.data
    try:
        return open_table(
            data or record.path,
            images=images or record.images,
            fields=FieldSpec(**record.fields),
            text_only=record.text_only,
            allow_absolute_paths=allow_absolute_paths,
        )
    except InputError as error:
        raise InputError(f"{error}; if it has moved, give --data and --images") from error


def _load(
    run: Any,
    model: str | None,
    adapter: Path | None,
    device: str,
    attention: str | None,
    *,
    allow_pickle_weights: bool,
) -> Any:
    """Load the run's model, and refuse another one."""
    from vlmscope.executors import describe_model
    from vlmscope.model import load_model
    from vlmscope.model.attention.implementations import requested_by
    from vlmscope.store import other_weights

    manifest = run.manifest
    name = model or manifest.model.name
    record = manifest.model
    with stderr.status("loading the model"):
        try:
            vlm = load_model(
                name,
                dtype=manifest.dtype,
                device=device,
                revision=record.revision,
                attention=attention or requested_by(manifest.attention),
                family=record.description,
                adapter=adapter or record.adapter,
                quantize=record.quantization or None,
                allow_pickle_weights=allow_pickle_weights,
            )
        except ModelError as error:
            moved = "no such folder" in str(error)
            more = "; if it has moved, give --model or --adapter" if moved else ""
            raise ModelError(f"{error}{more}") from error
    found, expected = describe_model(vlm), manifest.model
    for part in (field.name for field in fields(found) if field.name.endswith("_hash")):
        if getattr(found, part) != getattr(expected, part):
            how = "give the one it was made with with --model"
            if adapter is not None and record.adapter is None:
                how = "it was made without an adapter: leave --adapter out"
            more = other_weights(asdict(expected), asdict(found)) if part == "weights_hash" else ""
            raise RunMismatchError(
                f"{vlm.name}: not the model of this run, its {part} differs{more}; {how}"
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
    for name in dict.fromkeys(name for check in checks for name in check.errors):
        errors = [check.errors[name] for check in checks if name in check.errors]
        style = "red" if max(errors) > limit else ""
        table.add_row(name, f"{max(errors):.1e}", f"{sum(errors) / len(errors):.1e}", style=style)
    show(table)
    equal = {
        name: sum(name not in check.differing for check in checks)
        for name in ("answer", "boundaries", "image_sha256")
    }
    stdout.print(
        f"{len(checks)} rows, tolerance {limit:.0e}, {run.manifest.dtype}; same answers: "
        f"{equal['answer']}, same boundaries: {equal['boundaries']}, "
        f"same pictures: {equal['image_sha256']}"
    )


def _undated(run: Any, vlm: Any) -> str:
    """Return what to say of a run whose prompts hold a date that it does not name."""
    from vlmscope.prompt import reads_clock

    if run.manifest.model.prompt_time is not None or not reads_clock(vlm.processor):
        return ""
    return (
        "; the chat template writes the date, and this run does not say which: rows of other days "
        "than its first cannot be made again"
    )


def _judge(run: Any, checks: list[Any], limit: float, undated: str) -> None:
    """Raise where a row is not what the seed's method gives."""
    for check in checks:
        if faults := check.faults(limit, run.manifest.dtype):
            raise ToleranceError(f"{check.id}: {'; '.join(faults)}{undated}")
