"""Detection on disk, in the run's folder ``detectors`` or another.

detectors.json      everything: settings, results, what was left out and why, findings, transfer
detectors.parquet   the results as a table, a row for each detector
risks.parquet       a row for each question: label, image group, fold, and the risk of each detector
detectors_by_*      the figures as SVG, PNG and CSV

A selection of detectors is written into the folder ``selected`` there, if it would replace results
of others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from vlmscope.detectors.figures import figures
from vlmscope.detectors.results import (
    METRICS,
    Detection,
    DetectorResult,
    Dropped,
    Unavailable,
)
from vlmscope.detectors.transfer import DetectionTransfer
from vlmscope.detectors.verdict import verdict
from vlmscope.errors import InputError, StoreError, naming_arguments, one_line
from vlmscope.plots import plot_files
from vlmscope.store import (
    DEFAULT,
    AnyRun,
    Run,
    alone,
    as_path,
    as_run,
    is_remote,
    make_folder,
    parquet_bytes,
    publish_together,
    read_labels,
)
from vlmscope.sweeps.load import of_another, saved_document
from vlmscope.sweeps.results import read_count, read_share, without_nan
from vlmscope.sweeps.save import is_document, risk_columns
from vlmscope.sweeps.source import LABEL_SET, is_run
from vlmscope.version import __version__

DETECTORS, SELECTED = "detectors", "selected"
"""Folder in a run, and in it that of a selection of fewer detectors than it has results of."""

DOCUMENT, TABLE, RISKS = "detectors.json", "detectors.parquet", "risks.parquet"
"""The files, of which the document is written last."""

KIND = "vlmscope detectors"
"""Kind of the document."""

LONGEST_TEXT, MOST_ITEMS = 10_000, 1_000
"""Most characters of a text of the document, and most items of a list or an object."""

SCHEMA_VERSION = 1
"""Increased when a reader of the older version would misread the document."""


def detectors_folder(labels: str = DEFAULT) -> str:
    """Return the name of a run's folder for the detectors of a label set.

    >>> detectors_folder(), detectors_folder("human")
    ('detectors', 'detectors-human')
    """
    return DETECTORS if labels == DEFAULT else f"{DETECTORS}-{labels}"


def folder_of(run: Run, evaluated: Iterable[str], labels: str = DEFAULT) -> Path:
    """Return the run's folder for the results of a selection of detectors.

    If the run has current results of detectors that are not in the selection, these are kept, and
    the selection has a folder of its own.

    Args:
        run: The run.
        evaluated: Names of the evaluated detectors.
        labels: The label set.
    """
    own = run.path / detectors_folder(labels)
    try:
        saved = read_detection(run, labels)
    except StoreError:
        return own
    if saved is None or saved.stale or {row.name for row in saved.results} <= set(evaluated):
        return own
    return own / SELECTED


@naming_arguments(out="folder")
def save_detection(
    run: AnyRun,
    found: Detection,
    folder: str | PathLike[str] | None = None,
    *,
    transfers: Iterable[DetectionTransfer] = (),
) -> Path:
    """Write all files and return the folder; older ones are replaced.

    A selection, which ``detect`` returns if detectors were named, does not replace results of
    others in the run's folder: it is written to ``selected`` in it, which the report does not read.
    Stale results, and those of no other detector, are replaced. ``vlmscope detect`` does the same.

    Args:
        run: The run, or its folder.
        found: The results.
        folder: The folder; by default ``detectors`` in the run, ``detectors-<name>`` for a named
            label set.
        transfers: Results on other runs.

    Raises:
        InputError: The folder is a part of a run, or contains files that no detection wrote.
        StoreError: Writing fails.
    """
    opened = as_run(run)
    labels = str(found.data.origin.get(LABEL_SET, DEFAULT))
    own = opened.path / detectors_folder(labels)
    target = own if folder is None else as_path(folder)
    if target == own and not found.complete:
        target = folder_of(opened, found.detectors, labels)
    check_folder(target, opened.path, labels)
    try:
        make_folder(target, parents=True)
    except OSError as error:
        raise StoreError(
            f"{target}: cannot be created: {error.strerror or error}; give another --out"
        ) from error
    document = detection_document(opened, found, transfers)
    files = {
        target / TABLE: parquet_bytes(_table(found)),
        target / RISKS: parquet_bytes(risk_columns(found.data, found.fold_of, found.risks)),
    }
    for plot in figures(found.results, found.best_model_free):
        files |= {target / name: data for name, data in plot_files(plot).items()}
    text = json.dumps(without_nan(document), indent=2, allow_nan=False) + "\n"
    with alone(target, "detectors", "saving detectors here"):
        publish_together(files | {target / DOCUMENT: text.encode()})
    return target


def check_folder(folder: Path, run: Path, labels: str = DEFAULT) -> None:
    """Raise for a folder that is used for something else.

    Args:
        folder: The folder to write to; it need not exist.
        run: The run.
        labels: The label set.

    Raises:
        InputError: It is a run, a part of one, or has files of these names that no detection wrote.
        StoreError: It is a symbolic link in the run.
    """
    own = run / detectors_folder(labels)
    if folder in (own, own / SELECTED):
        for each in (own, folder):
            if not is_remote(each) and each.is_symlink():
                raise StoreError(
                    f"{each}: is a symbolic link, where a folder is expected; remove the link, or "
                    "give --out"
                )
        return
    resolved = folder if is_remote(folder) else folder.resolve()
    inside = next((each for each in (resolved, *resolved.parents) if is_run(each)), None)
    if inside is not None:
        what = "is a run" if inside == resolved else f"is a part of the run {inside}"
        raise InputError(f"--out {folder}: {what}; give another folder")
    if (folder / DOCUMENT).exists():
        if not is_document(folder / DOCUMENT, KIND):
            raise InputError(
                f"{folder / DOCUMENT}: is not a result of vlmscope detect; give another --out"
            )
    elif taken := next((name for name in (TABLE, RISKS) if (folder / name).exists()), None):
        raise InputError(
            f"{folder / taken}: exists without a {DOCUMENT} in the same folder; give another --out"
        )


def detection_document(
    run: Run, found: Detection, transfers: Iterable[DetectionTransfer] = ()
) -> dict[str, Any]:
    """Return the document of a detection."""
    data = found.data
    labels = str(data.origin.get(LABEL_SET, DEFAULT))
    return {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "vlmscope_version": __version__,
        "run_id": run.manifest.run_id,
        LABEL_SET: labels,
        "labels_sha256": hash_labels(run, labels),
        "rows": len(data.truth),
        "hallucinated": int(data.truth.sum()),
        "images": data.grouping.images,
        "groups": len(set(data.groups.tolist())),
        "settings": dict(found.settings),
        "best_model_free": found.best_model_free,
        "best_single": found.best_single,
        "results": [asdict(row) for row in found.results],
        "unavailable": [asdict(each) for each in found.unavailable],
        "dropped": [asdict(each) for each in found.dropped],
        "left_out": [asdict(each) for each in data.left_out],
        "verdict": list(
            verdict(found.results, found.best_model_free, found.best_single, found.dropped)
        ),
        "transfer": [each.document() for each in transfers],
    }


def hash_labels(run: Run, labels: str) -> str:
    """Return the SHA-256 of the run's rows and their labels, to notice when they change."""
    scores = read_labels(run.path, labels)
    digest = hashlib.sha256()
    for id_ in run.ids:
        outcome = scores[id_].outcome if id_ in scores else ""
        digest.update(f"{id_}\0{outcome}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _table(found: Detection) -> dict[str, list[Any]]:
    """Return the results as columns."""
    flat = [asdict(row) for row in found.results]
    return {name: [row[name] for row in flat] for name in flat[0]}


@dataclass(frozen=True, slots=True, eq=False)
class SavedTransfer:
    """The AUROCs on another run."""

    run: str
    """Its folder."""
    relation: str
    """How its model is related to that of the training run, as text."""
    rows: int
    auroc: Mapping[str, float | None]
    """Name of each tested detector → its AUROC; None if its risk is constant."""


@dataclass(frozen=True, slots=True, eq=False)
class SavedDetection:
    """A detection written by ``save_detection``."""

    summary: Mapping[str, Any]
    """The document."""
    results: tuple[DetectorResult, ...]
    unavailable: tuple[Unavailable, ...]
    dropped: tuple[Dropped, ...]
    verdict: tuple[str, ...]
    """The findings, a sentence each."""
    best_model_free: str
    """Name of the best baseline that needs no model."""
    rows: int
    """Rows that all detectors were evaluated on."""
    transfers: tuple[SavedTransfer, ...]
    """The results on other runs."""
    stale: str
    """Why it is stale, as a phrase; empty if it is current."""


def read_detection(run: AnyRun, labels: str = DEFAULT) -> SavedDetection | None:
    """Return the detection saved in a run, or None.

    Args:
        run: The run, or its folder.
        labels: The label set.

    Raises:
        StoreError: The document is damaged.
    """
    opened = as_run(run)
    path = opened.path / detectors_folder(labels) / DOCUMENT
    found = saved_document(path, lambda finding: _damaged(path, finding, opened))
    if found is None:
        return None
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise _damaged(path, "not a result of vlmscope detect", opened)
    if found.get("schema_version") != SCHEMA_VERSION:
        raise _damaged(path, "from another version of vlmscope", opened)
    try:
        _check_extent(found)
        return SavedDetection(
            found,
            tuple(map(_result_in, found["results"])),
            tuple(Unavailable(**_texts(each)) for each in found["unavailable"]),
            tuple(Dropped(int(each["count"]), str(each["reason"])) for each in found["dropped"]),
            tuple(map(str, found["verdict"])),
            str(found["best_model_free"]),
            int(found["rows"]),
            tuple(map(_transfer_in, found["transfer"])),
            _stale(found, opened, labels),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(path, f"it has something unreadable ({one_line(error)})", opened) from error


def _check_extent(found: Any) -> None:
    """Raise ``ValueError`` for a text or a list that is longer than any that detection writes."""
    if isinstance(found, str) and len(found) > LONGEST_TEXT:
        raise ValueError(f"a text has {len(found):,} characters, expected at most {LONGEST_TEXT:,}")
    if not isinstance(found, Mapping | list):
        return
    if len(found) > MOST_ITEMS:
        raise ValueError(f"a list has {len(found):,} items, expected at most {MOST_ITEMS:,}")
    for each in (*found, *found.values()) if isinstance(found, Mapping) else found:
        _check_extent(each)


def _result_in(saved: Any) -> DetectorResult:
    """Return a result of a document.

    Raises:
        ValueError: A value is missing, of another type, or out of range.
    """
    if not isinstance(saved, Mapping):
        raise ValueError("a result is not an object")
    row = DetectorResult.from_dict(saved)
    for name in METRICS:
        for end in ("", "_low", "_high"):
            value = getattr(row, f"{name}{end}")
            if not (value != value or 0 <= value <= 1):
                raise ValueError(f"{name}{end} is {value:g}, expected 0 to 1")
    return row


def _transfer_in(saved: Mapping[str, Any]) -> SavedTransfer:
    """Return the results on another run in a document.

    Raises:
        ValueError: A value is of another type, or out of range.
    """
    run, rows = str(saved["run"]), read_count("rows of a transfer", saved["rows"])
    auroc: dict[str, float | None] = {}
    for row in saved["results"]:
        name, constant = str(row["name"]), row["found_nothing"]
        if not isinstance(constant, bool):
            raise ValueError(f"found_nothing of {name!r}, transferred, is {constant!r}")
        what = f"auroc of {name!r}, transferred,"
        auroc[name] = None if constant else read_share(what, row["auroc"])
    return SavedTransfer(run, str(saved["relation"]), rows, auroc)


def _texts(saved: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(text) for name, text in saved.items()}


def _stale(found: Mapping[str, Any], run: Run, labels: str) -> str:
    """Return why a detection is stale, or an empty text."""
    if why := of_another(found, run, labels):
        return why
    try:
        now = hash_labels(run, labels)
    except InputError:
        return "the labels that they were evaluated on no longer exist"
    return "" if now == found["labels_sha256"] else "the rows or their labels have changed since"


def _damaged(path: Path, finding: str, run: Run) -> StoreError:
    return StoreError(f"{path}: damaged, {finding}; run 'vlmscope detect {run.path}' again")
