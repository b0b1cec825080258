"""The section of the detectors, from the detection saved by ``vlmscope detect``."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from vlmscope.detectors.figures import figures
from vlmscope.detectors.save import read_detection
from vlmscope.errors import StoreError
from vlmscope.plots import Plot
from vlmscope.report.document import DetectorsSection, DetectorTransfer
from vlmscope.report.figures import figure
from vlmscope.shown import distinct_names
from vlmscope.store import Run
from vlmscope.sweeps.source import option_of_set


@dataclass(frozen=True, slots=True, eq=False)
class Detectors:
    """The section, and its figures to be saved as files."""

    section: DetectorsSection | None = None
    plots: tuple[Plot, ...] = ()
    missing: str = ""
    """Why a saved detection is left out."""


def detectors(run: Run, labels: str) -> Detectors:
    """Return the section of the detectors, if they were evaluated and are up to date.

    Args:
        run: The run.
        labels: The label set of the report.
    """
    command = f"vlmscope detect {shlex.quote(str(run.path))}{option_of_set('--labels', labels)}"
    try:
        saved = read_detection(run, labels)
    except StoreError as error:
        return Detectors(missing=f"The saved detectors are left out: {error}.")
    if saved is None:
        return Detectors()
    if saved.stale:
        return Detectors(
            missing=f"The saved detectors are left out, {saved.stale}: `{command}` again."
        )
    drawn = tuple(figures(saved.results, saved.best_model_free))
    best = next((row for row in saved.results if row.name == saved.best_model_free), None)
    names = distinct_names([each.run for each in saved.transfers])
    section = DetectorsSection(
        sentences=saved.verdict,
        figures=tuple(map(figure, drawn)),
        results=saved.results,
        best_model_free=best,
        unavailable=saved.unavailable,
        rows=saved.rows,
        transfers=tuple(
            DetectorTransfer(name, each.relation, each.rows, each.auroc)
            for name, each in zip(names, saved.transfers, strict=True)
        ),
    )
    return Detectors(section, drawn)
