"""Writes a report: one self-contained page, and the figures as files."""

from __future__ import annotations

import base64
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmscope.arguments import listener
from vlmscope.detectors.figures import FIGURES
from vlmscope.errors import InputError
from vlmscope.plots import plot_files
from vlmscope.regular import open_regular
from vlmscope.report.attention_maps import bytes_beside
from vlmscope.report.build import Gathered, gather
from vlmscope.report.document import MOST_BYTES, Document, ReportSpec
from vlmscope.report.figures import NAMES
from vlmscope.report.render import render
from vlmscope.report.thumbnails import FORMAT, too_many
from vlmscope.schema import Progress
from vlmscope.store import (
    DEFAULT,
    AnyRun,
    alone,
    as_path,
    as_run,
    check_output_file,
    is_remote,
    make_child_folder,
    publish_together,
    remove_file,
)

REPORT, PLOTS = "report.html", "plots"
"""The page in a run folder, and the folder of figures next to it."""

_FIGURE_FILES = tuple(
    f"{name}{suffix}" for name in (*NAMES, *FIGURES) for suffix in (".svg", ".png", ".csv")
)
"""Every file that a report may write into its folder of figures."""

_MARK = b'<meta name="generator" content="vlmscope">'
"""Text at the beginning of every page that ``write_report`` wrote."""


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """A written report."""

    page: Path
    """The page."""
    size: int
    """Its size in bytes."""
    plots: tuple[Path, ...]
    """The files of its figures."""
    document: Document
    """Its content."""

    def __repr__(self) -> str:
        files = f"{len(self.plots)} files of figures"
        return f"WrittenReport({str(self.page)!r}, {self.size:,} bytes, {files})"


def write_report(
    run: AnyRun,
    spec: ReportSpec | None = None,
    *,
    out: str | Path | None = None,
    progress: Progress | bool | None = None,
) -> WrittenReport:
    """Write the report of a run, replacing an existing one.

    Args:
        run: The run, or its folder, with or without labels and probes.
        spec: The options of the report.
        out: The page; if None ``report.html`` in the run's folder, ``report-<name>.html`` of a
            named label set. Its figures are written to ``plots`` next to it, those of a page with
            another name to ``<name>-plots``.
        progress: Called with the current step; True prints it.

    Raises:
        InputError: The run has no row with the requested id, or the page would replace a page or
            figures that no report wrote.
        RunBusyError: Another process is writing a report there.
        StoreError: Rows, labels or probes are damaged, or the disk refuses.
    """
    report_step = listener("progress", progress)
    run, spec = as_run(run), _with_model_name(spec or ReportSpec())
    own = REPORT if spec.labels == DEFAULT else f"report-{spec.labels}.html"
    page = run.path / own if out is None else as_path(out)
    if page.suffix.lower() not in (".html", ".htm") and not page.is_dir():
        raise InputError(f"--out {page}: name it .html")
    check_output_file(page, "--out")
    plots = PLOTS if page.name == REPORT else f"{page.stem}-{PLOTS}"
    if page != run.path / REPORT:
        _check_ours(page, page.with_name(plots))
    gathered = gather(run, spec, report_step)
    report_step("plots")
    files = {name: data for plot in gathered.plots for name, data in plot_files(plot).items()}
    document = with_images(gathered)
    data = render(document).encode()
    folder = make_child_folder(page.parent, plots)
    with alone(folder, "report", "writing a report here"):
        saved = {folder / name: content for name, content in files.items()}
        report_step("page")
        publish_together(saved | {page: data})
        _remove_older(page.parent, plots, keep=files)
    return WrittenReport(page, len(data), tuple(saved), document)


def _with_model_name(spec: ReportSpec) -> ReportSpec:
    """Return what to show with the name of a model that is given loaded.

    Raises:
        InputError: It is no model.
    """
    given: Any = spec.model
    if given is None or isinstance(given, str):
        return spec
    from vlmscope.model import VisionLanguageModel, given_model  # torch, which few reports need

    model = given_model(given)
    return replace(spec, model=model.name if isinstance(model, VisionLanguageModel) else model)


def _check_ours(page: Path, plots: Path) -> None:
    """Refuse to replace a page, or figures, that no report wrote.

    Raises:
        InputError: There is such a page, or such a figure without a report in the same folder.
    """
    if is_remote(page) or _is_report(page):
        return
    if page.exists():
        raise InputError(f"--out {page}: exists and is not a vlmscope report; give another name")
    if found := next((name for name in _FIGURE_FILES if (plots / name).exists()), None):
        raise InputError(
            f"--out {page}: its figures would replace {plots / found}, which no report there made; "
            "give another name"
        )


def _is_report(page: Path) -> bool:
    """Return whether a file is a page that this module wrote."""
    try:
        with open_regular(page) as file:
            return _MARK in file.read(4096)
    except OSError:
        return False


def with_images(gathered: Gathered, limit: int = MOST_BYTES) -> Document:
    """Return the document with its images, as large as the page may hold.

    Args:
        gathered: The document, and the images in several sizes.
        limit: Most bytes of the page.
    """
    document, sizes = gathered.document, gathered.thumbnails.sizes
    if not sizes or not sizes[-1]:
        return document
    bare = replace(document, images=dict.fromkeys(sizes[-1], ""))
    room = limit - len(render(bare).encode())
    view = document.attention.view
    for files in sizes:
        images = {sha256: _uri(file) for sha256, file in files.items()}
        if sum(map(len, images.values())) + bytes_beside(images, view) <= room:
            return replace(document, images=images)
    return _without_images(document, sizes[-1])


def _without_images(document: Document, images: Mapping[str, bytes]) -> Document:
    cards = tuple(replace(card, images=()) for card in document.cards)
    return replace(document, cards=cards, images_note=too_many(len(images)))


def _uri(file: bytes) -> str:
    return f"data:image/{FORMAT};base64,{base64.b64encode(file).decode()}"


def _remove_older(root: Path, plots: str, keep: Container[str]) -> None:
    """Remove figures of an older report that this one does not have: they may be wrong by now."""
    for name in _FIGURE_FILES:
        if name not in keep:
            remove_file(root, plots, name)
