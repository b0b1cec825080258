"""From a run to a document: everything that a report says, gathered in one go.

Nothing that is missing stops it: labels, probes, the table, its pictures and the model may each be
gone, and the document says so in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vlmscope.errors import InputError
from vlmscope.plots import Plot
from vlmscope.probing import SavedSweep, read_sweep
from vlmscope.report.categories import categories
from vlmscope.report.columns import columns
from vlmscope.report.document import Document, FailureRow
from vlmscope.report.figures import figure, plots
from vlmscope.report.gallery import gallery
from vlmscope.report.held_out import held_out
from vlmscope.report.missing import missing
from vlmscope.report.numbers import label_summary, numbers, results
from vlmscope.report.pictures import Thumbnails
from vlmscope.report.provenance import provenance, title, when
from vlmscope.report.rows import draw, read_rows
from vlmscope.report.spec import Progress, ReportSpec
from vlmscope.report.transfers import Transfers, transfers
from vlmscope.schema import Score
from vlmscope.store import Run, label_settings, read_labels
from vlmscope.version import __version__


@dataclass(frozen=True, slots=True)
class Gathered:
    """A document on its way to the disk."""

    document: Document
    """All but the pictures, whose size depends on the rest."""
    thumbnails: Thumbnails
    """The pictures in every size that may fit."""
    plots: tuple[Plot, ...]
    """The figures, to be saved as files."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What labels and probes say of the run."""

    labels: Mapping[str, Score] | None
    """None before ``vlmscope label``."""
    settings: Mapping[str, Any] | None
    """How they were made."""
    saved: SavedSweep | None
    """None before ``vlmscope probe``."""

    @property
    def sweep(self) -> SavedSweep | None:
        """The probes, where they fit the run."""
        return self.saved if self.saved is not None and not self.saved.stale else None

    @property
    def risks(self) -> dict[str, float]:
        """Out-of-fold risk of each row that the probes judged."""
        if self.sweep is None:
            return {}
        risks = self.sweep.risk("selected").tolist()
        return dict(zip(self.sweep.predictions["id"], risks, strict=True))


def gather(run: Run, spec: ReportSpec, progress: Progress) -> Gathered:
    """Gather everything that the report of a run says.

    Args:
        run: The run.
        spec: What to show, and where things are now.
        progress: Told what is being done.

    Raises:
        InputError: The run has no row of the id asked for.
        StoreError: Rows, labels or probes are damaged.
    """
    shown = draw(run, spec.samples, spec.seed, spec.id)
    progress("rows")
    rows, captures = read_rows(run, shown)
    found = _find(run, spec.labels)
    sweep = found.sweep
    by_category = () if found.labels is None else categories(rows, found.labels, sweep)
    total = by_category[-1] if by_category else None
    labels = None if found.labels is None else label_summary(found.settings or {}, found.labels)
    seen = gallery(run, captures, found.labels or {}, found.risks, spec, progress)
    progress("figures")
    drawn = tuple(plots(sweep, by_category, run.manifest.model.num_layers))
    said = sweep.summary["verdict"] if sweep is not None else ()
    carried = transfers(run, spec.labels) if sweep is not None else Transfers()
    lacks = missing(run, found.labels, total, found.saved, spec.labels)
    failures = run.failures.values()
    document = Document(
        title=title(run.manifest),
        made=_made(),
        headline=said[0] if said else None,
        sentences=(*said[1:], *carried.sentences),
        missing=(*lacks, *filter(None, [carried.missing])),
        numbers=tuple(numbers(rows, total, sweep, labels, len(failures))),
        figures=tuple(figure(plot) for plot in drawn),
        results=() if sweep is None else tuple(results(sweep)),
        best_baseline=None if sweep is None else sweep.summary["best_baseline"],
        categories=by_category,
        cards=seen.cards,
        rows=len(run),
        pictures={},
        pictures_note=seen.thumbnails.note,
        token_view=seen.view,
        token_view_note=seen.view_note,
        labels=labels,
        failures=tuple(FailureRow(f.id, f.stage, f.error, f.attempt) for f in failures),
        provenance=tuple(provenance(run, found.settings, sweep, spec.labels)),
        columns=tuple(columns(sweep)),
        held_out=held_out(sweep),
    )
    return Gathered(document, seen.thumbnails, drawn)


def _find(run: Run, name: str) -> _Found:
    """Read a label set and its probes, where there are any."""
    saved = read_sweep(run, name)
    try:
        labels, settings = read_labels(run.path, name), label_settings(run.path, name)
    except InputError:
        return _Found(None, None, saved)
    return _Found({id_: labels[id_] for id_ in run.ids if id_ in labels}, settings, saved)


def _made() -> str:
    return f"Made on {when(datetime.now(UTC))} by vlmscope {__version__}."
