"""``vlmscope info``: a summary of a run, or of any HDF5 file in the HALP layout."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from vlmscope.cli import options
from vlmscope.cli.label_sets import describe_label_sets, show_label_sets
from vlmscope.cli.output import count, human_size, show, stdout
from vlmscope.schema import Failure

if TYPE_CHECKING:
    from vlmscope.store import Description


def info(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            parser=options.path_or_url,
            help="A run folder, its URL, or an HDF5 file.",
            show_default=False,
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Show a summary of a run, or of any HDF5 file in the same layout."""
    from vlmscope.store import describe, open_run

    description = describe(run)
    sets = describe_label_sets(run) if description.kind == "run" else {}
    failures = list(open_run(run).failures.values()) if description.kind == "run" else []
    if as_json:
        record = asdict(description) | {"failures": [asdict(failure) for failure in failures]}
        record |= {"labels": sets} if description.kind == "run" else {}
        stdout.print_json(json.dumps(record, default=str))
        return
    stdout.print(
        f"{description.path}: {count(description.rows, 'row')}, "
        f"{description.answers:,} with an answer, {human_size(description.size)}"
    )
    if bare := description.without_image:
        stdout.print(f"{count(bare, 'row')} without an image, and so without vision vectors")
    _show_representations(description, run)
    if description.signals:
        _show_signals(description.signals)
    if description.kind == "run":
        show_label_sets(run, sets)
        _show_failures(run, failures)
    _show_attributes(description.attrs)


def _show_representations(description: Description, run: Path) -> None:
    from vlmscope.store import read_manifest, shown_layers

    depth = read_manifest(run).model.num_layers if description.kind == "run" else None
    table = Table(box=None, pad_edge=False)
    for heading in ("representation", "layers", "width", "stored as", "rows"):
        table.add_column(heading, header_style="dim", overflow="fold")
    for item in description.representations:
        layers = shown_layers(item.layers, depth)
        table.add_row(item.name, layers, str(item.width), item.dtype, f"{item.rows:,}")
    show(table)


def _show_signals(signals: Mapping[str, Sequence[int]]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("signal", "layers", "shape"):
        table.add_column(heading, header_style="dim", overflow="fold")
    for row in _rows_of(signals):
        table.add_row(*row)
    show(table)


def _rows_of(signals: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, str, str]]:
    """Yield name, layers and shape of each array of a signal; those of several layers as one."""
    from vlmscope.store import shown_layers

    layers: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for name, shape in sorted(signals.items()):
        stem, _, layer = name.partition("/layer_")
        found = layers.setdefault((stem, tuple(shape)), [])
        if layer.isdecimal():
            found.append(int(layer))
    for (stem, shape), numbers in layers.items():
        sizes = ["tokens" if size < 0 else str(size) for size in shape]
        at = shown_layers(sorted(numbers)) if numbers else ""
        yield stem, at, " × ".join(sizes) or "per token"


def _show_failures(run: Path, failures: Sequence[Failure]) -> None:
    """Print the number of failed rows, and the first of them."""
    from vlmscope.store import failures_shown

    if not failures:
        stdout.print("failures: none")
        return
    stages = Counter(failure.stage for failure in failures)
    counts = ", ".join(f"{stage} {number}" for stage, number in stages.items())
    stdout.print(Text(f"failures: {count(len(failures), 'row')} ({counts}):", style="red"))
    for failure in failures[:5]:
        stdout.print(Text(f"  {failure.id}: {failure.error}"))
    if len(failures) > 5:
        stdout.print(Text(f"  … all in {failures_shown(run)}"))


def _show_attributes(attributes: Any) -> None:
    grid = Table.grid(padding=(0, 2))
    for name, value in attributes.items():
        grid.add_row(Text(name, style="dim"), Text(str(value)))
    show(grid)
