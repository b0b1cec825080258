"""The two figures of detection: quality against cost, and against when a detector is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vlmscope.detectors.detector import KNOWN, PASSES
from vlmscope.detectors.results import DetectorResult
from vlmscope.plots import DetectorPoint, Plot, detector_quality

FIGURES = ("detectors_by_cost", "detectors_by_time")
"""Stems of their files."""


def figures(results: Sequence[DetectorResult], best_model_free: str) -> Iterator[Plot]:
    """Yield both figures.

    Args:
        results: The results of ``detect``.
        best_model_free: Name of the best baseline that needs no model.
    """
    nan = float("nan")
    found = {row.name: nan if row.found_nothing else row.auroc for row in results}
    baseline = found.get(best_model_free, nan)
    titles = "Quality of detectors against their cost", "Quality against when they are known"
    for name, title, column, categories in zip(
        FIGURES, titles, ("passes", "known"), (PASSES, KNOWN), strict=True
    ):
        points = [
            DetectorPoint(
                row.title, row.group, getattr(row, column), found[row.name],
                row.auroc_low, row.auroc_high,
            )
            for row in results
        ]  # fmt: skip
        yield detector_quality(points, categories, name=name, title=title, baseline=baseline)
