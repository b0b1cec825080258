"""A sweep on disk, in the run's folder ``probes``: tables, a summary, and probes to score with.

results.parquet      a row for each probe, selection, baseline and control
predictions.parquet  a row for each question: truth, fold, image group, every out-of-fold risk
results.json         the same numbers as the table, the settings, the choices, in one document
<place>/             the best layer of each representation, trained on all rows and calibrated
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vlmscope.metrics import risk_coverage, threshold_at
from vlmscope.probe import LogisticProbe, ProbeInfo, save_probe
from vlmscope.schema import VISION_ONLY
from vlmscope.store import Run, publish, write_table
from vlmscope.sweep.calibrating import scale_of
from vlmscope.sweep.grid import known_of, vectors
from vlmscope.sweep.results import ProbeResult, SweepResult
from vlmscope.sweep.verdict import verdict
from vlmscope.version import __version__

PROBES = "probes"
"""Folder in a run."""


def save_sweep(run: Run, result: SweepResult) -> Path:
    """Write everything and return the folder.

    Raises:
        StoreError: The disk refuses.
    """
    folder = run.path / PROBES
    folder.mkdir(exist_ok=True)
    write_table(folder / "results.parquet", _table(result))
    write_table(folder / "predictions.parquet", _predictions(result))
    saved = [_save_probe(run, result, row) for row in _best_layers(result)]
    summary = (
        _summary(result)
        | {"verdict": verdict(result)}
        | {"run_id": run.manifest.run_id, "probes": saved}
    )
    publish(folder / "results.json", (json.dumps(summary, indent=2) + "\n").encode())
    return folder


def _table(result: SweepResult) -> dict[str, list[Any]]:
    """Return the results as columns."""
    flat = [_flat(row) for row in result.rows]
    return {name: [row[name] for row in flat] for name in flat[0]}


def _flat(row: ProbeResult) -> dict[str, Any]:
    """Return one result as one level of names."""
    names = ("name", "title", "kind", "known", "representation", "layer", "estimator")
    flat: dict[str, Any] = {name: getattr(row, name) for name in names}
    for name, value in asdict(row.metrics).items():
        flat[name] = value
        if name in row.intervals:
            flat[f"{name}_low"] = row.intervals[name].low
            flat[f"{name}_high"] = row.intervals[name].high
    for name, gap in (("above_baseline", row.against), ("above_question", row.over_question)):
        flat[name] = None if gap is None else gap.value
        flat[f"{name}_low"] = None if gap is None else gap.interval.low
        flat[f"{name}_high"] = None if gap is None else gap.interval.high
        flat[f"{name}_p"] = None if gap is None else gap.p_value
    return flat


def _predictions(result: SweepResult) -> dict[str, list[Any]]:
    """Return each question's truth and risks as columns."""
    data = result.data
    return {
        "id": list(data.ids),
        "hallucinated": data.truth.tolist(),
        "image_group": data.groups.tolist(),
        "fold": result.fold_of.tolist(),
        **{f"risk/{name}": risk.tolist() for name, risk in result.risks.items()},
    }


def _summary(result: SweepResult) -> dict[str, Any]:
    """Return the document of the whole sweep."""
    data = result.data
    return {
        "vlmscope_version": __version__,
        "rows": len(data.truth),
        "unscorable": data.unscorable,
        "images": len(np.unique(data.groups)),
        "hallucinated": int(data.truth.sum()),
        "settings": dict(result.settings),
        "best_baseline": result.best_baseline,
        "chosen": {name: list(places) for name, places in result.chosen.items()},
        "aurc": risk_coverage(data.truth, result.risks["selected"]).aurc,
        "results": [_flat(row) for row in result.rows],
    }


def _best_layers(result: SweepResult) -> Iterator[ProbeResult]:
    """Yield the logistic probe of the best layer of each representation, best one first."""
    probes = [row for row in result.rows if row.kind == "probe" and row.estimator == "logistic"]
    ranked = sorted(probes, key=lambda row: -row.metrics.auroc)
    seen: set[str | None] = set()
    for row in ranked:
        if row.representation not in seen:
            seen.add(row.representation)
            yield row


def _save_probe(run: Run, result: SweepResult, row: ProbeResult) -> dict[str, Any]:
    """Train on all rows, calibrate on rows that fits of its kind have not seen, and save."""
    data, representation = result.data, row.representation or VISION_ONLY
    matrix = vectors(run, data, representation, row.layer)
    probe = LogisticProbe().fit(matrix, data.truth, groups=data.groups)
    folds = int(result.settings["folds"])
    platt, risk = scale_of(probe, matrix, data.truth, data.groups, folds)
    info = ProbeInfo(
        representation=representation,
        layer=row.layer,
        width=matrix.shape[1],
        estimator="LogisticProbe",
        rows=len(data.truth),
        model=asdict(run.manifest.model) | {"vision_pooling": run.manifest.capture.vision_pooling},
        calibration=(platt.a, platt.b),
        threshold=float(threshold_at(data.truth, risk)),
        metrics={"auroc": row.metrics.auroc, "prevalence": row.metrics.prevalence},
    )
    name = row.name.replace("/", "-")
    save_probe(run.path / PROBES / name, probe, info)
    return {"folder": name, "known": known_of(representation)}
