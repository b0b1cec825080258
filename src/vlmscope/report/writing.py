"""A report on disk: one page that holds all it shows, and the figures as files beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vlmscope.errors import InputError, StoreError
from vlmscope.plots import plot_files
from vlmscope.report.document import Document
from vlmscope.report.figures import NAMES
from vlmscope.report.gathering import Gathered, gather
from vlmscope.report.page import render
from vlmscope.report.pictures import FORMAT, too_many
from vlmscope.report.spec import MOST_BYTES, Progress, ReportSpec
from vlmscope.store import Run, make_folder, publish

REPORT, PLOTS = "report.html", "plots"
"""The page in a run folder, and the folder of figures beside it."""


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """A report and where it is."""

    page: Path
    """The page."""
    size: int
    """Its bytes."""
    plots: tuple[Path, ...]
    """The files of its figures."""
    document: Document
    """What it says."""


def write_report(
    run: Run,
    spec: ReportSpec | None = None,
    *,
    out: Path | None = None,
    progress: Progress = lambda _: None,
) -> WrittenReport:
    """Write the report of a run, replacing the one that is there.

    Args:
        run: The run, with or without labels and probes.
        spec: What to show, and where model, table and pictures are now.
        out: The page; ``report.html`` in the run's folder if None. Its figures go to ``plots``
            beside it, those of a page of another name to ``<name>-plots``.
        progress: Told what is being done.

    Raises:
        InputError: The run has no row of the id asked for, or the page cannot be put there.
        StoreError: Rows, labels or probes are damaged, or the disk refuses.
    """
    page = out or run.path / REPORT
    if page.is_dir():
        raise InputError(f"--out {page}: is a folder; name a file in it")
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {page}: name it .html")
    if not page.parent.is_dir():
        raise InputError(f"--out {page}: the folder {page.parent} does not exist; make it first")
    gathered = gather(run, spec or ReportSpec(), progress)
    progress("plots")
    folder = page.with_name(PLOTS if page.name == REPORT else f"{page.stem}-{PLOTS}")
    saved = _save_plots(gathered, folder)
    _remove_older(folder, keep=saved)
    progress("page")
    document = with_pictures(gathered)
    data = render(document).encode()
    publish(page, data)
    return WrittenReport(page, len(data), tuple(saved), document)


def _save_plots(gathered: Gathered, folder: Path) -> list[Path]:
    """Publish the files of every figure; the folder is made if need be."""
    try:
        make_folder(folder)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be made: {error.strerror or error}; give another --out"
        ) from error
    saved = []
    for plot in gathered.plots:
        for name, data in plot_files(plot).items():
            publish(folder / name, data)
            saved.append(folder / name)
    return saved


def with_pictures(gathered: Gathered, limit: int = MOST_BYTES) -> Document:
    """Return the document with its pictures, as large as the page may hold.

    Args:
        gathered: The document, and the pictures in several sizes.
        limit: Most bytes of the page.
    """
    document, sizes = gathered.document, gathered.thumbnails.sizes
    if not sizes or not sizes[-1]:
        return document
    bare = replace(document, pictures=dict.fromkeys(sizes[-1], ""))
    room = limit - len(render(bare).encode())
    for files in sizes:
        pictures = {sha256: _uri(file) for sha256, file in files.items()}
        if sum(map(len, pictures.values())) <= room:
            return replace(document, pictures=pictures)
    return _without_pictures(document, sizes[-1])


def _without_pictures(document: Document, pictures: Mapping[str, bytes]) -> Document:
    cards = tuple(replace(card, pictures=()) for card in document.cards)
    return replace(document, cards=cards, pictures_note=too_many(len(pictures)))


def _uri(file: bytes) -> str:
    return f"data:image/{FORMAT};base64,{base64.b64encode(file).decode()}"


def _remove_older(folder: Path, keep: list[Path]) -> None:
    """Remove figures of an older report that this one does not have: they may be wrong by now."""
    for name in NAMES:
        for suffix in (".svg", ".png", ".csv"):
            path = folder / f"{name}{suffix}"
            if path not in keep:
                path.unlink(missing_ok=True)
