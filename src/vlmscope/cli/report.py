"""``vlmscope report``: the results of a run as one HTML page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from vlmscope.cli import options
from vlmscope.cli.output import count, human_size, quiet_libraries, status, stderr, stdout

if TYPE_CHECKING:
    from vlmscope.report import WrittenReport


def report(
    run: options.RunFolder,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            parser=options.path_or_url,
            help="The page; its figures are written next to it (default: RUN/report.html, "
            "RUN/report-<name>.html for a named label set).",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str, typer.Option("--labels", metavar="NAME", help="Label set of the report.")
    ] = "default",
    samples: Annotated[
        int,
        typer.Option(
            "--samples", min=1, help="Maximum number of questions in the gallery, drawn at random."
        ),
    ] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the drawn questions.")] = 0,
    id_: Annotated[
        str | None,
        typer.Option(
            "--id",
            help="Question whose prompt is shown token by token (default: the riskiest "
            "hallucinated one).",
            show_default=False,
        ),
    ] = None,
    model: options.ModelNow = None,
    data: options.DataNow = None,
    images: Annotated[
        str | None, typer.Option("--images", help="Current image root.", show_default=False)
    ] = None,
    allow_absolute_paths: options.AllowAbsolutePaths = False,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Write one HTML page about a run, and its figures.

    The page is self-contained; the figures are also written as SVG, PNG and CSV. Parts that the
    run lacks so far (labels, probes, images, the model) are left out and listed.
    """
    from vlmscope.report import ReportSpec, write_report
    from vlmscope.store import open_run
    from vlmscope.sweeps import check_label_set

    quiet_libraries()
    spec = ReportSpec(
        labels=labels, samples=samples, seed=seed, id=id_, model=model, data=data, images=images,
        allow_absolute_paths=allow_absolute_paths,
    )  # fmt: skip
    opened = open_run(run)
    check_label_set(run, labels)
    with status("reading the run") as update:
        written = write_report(
            opened, spec, out=out, progress=lambda doing: update(f"report: {doing}")
        )
    document = written.document
    for note in filter(None, (document.images_note, document.token_view_note)):
        stderr.print(Text(f"note: {note}", style="yellow"))
    if as_json:
        stdout.print_json(json.dumps(_record(written)))
        return
    stdout.print(
        f"{written.page}: {human_size(written.size)}, "
        f"{count(len(document.cards), 'question')} in the gallery"
    )
    if written.plots:
        figures = count(len(written.plots) // 3, "figure")
        stdout.print(f"{figures} as SVG, PNG and CSV in {written.plots[0].parent}")
    for sentence in document.missing:
        stdout.print(f"missing: {sentence.replace('`', '')}")


def _record(written: WrittenReport) -> dict[str, object]:
    """Return a summary of the written report as plain JSON values."""
    document = written.document
    return {
        "page": str(written.page),
        "bytes": written.size,
        "plots": [str(path) for path in written.plots],
        "questions": len(document.cards),
        "pictures": len(document.images),
        "headline": document.headline,
        "missing": list(document.missing),
        "notes": [note for note in (document.images_note, document.token_view_note) if note],
    }
