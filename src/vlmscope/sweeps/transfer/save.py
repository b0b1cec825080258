"""A transfer on disk, in the folder of the training run's sweep.

transfer.json
    what was trained on; of each test run how it is related, what was left out, a row for each probe
    and baseline, and the verdict
transfer_predictions.parquet
    a row for each tested question: run, label, image group, fit, risks
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from vlmscope.errors import InputError, StoreError, naming_arguments
from vlmscope.store import (
    DEFAULT,
    Run,
    alone,
    as_path,
    make_folder,
    parquet_bytes,
    publish_together,
    read_document,
)
from vlmscope.sweeps.results import without_nan
from vlmscope.sweeps.save import (
    RESULTS,
    check_folder,
    check_outside,
    default_folder,
    is_document,
)
from vlmscope.sweeps.source import LABEL_SET
from vlmscope.sweeps.transfer.run import TransferResult, TransferTest
from vlmscope.sweeps.transfer.verdict import relation_phrase, transfer_verdict, unseen_phrase
from vlmscope.version import __version__

TRANSFER, TRANSFER_PREDICTIONS = "transfer.json", "transfer_predictions.parquet"
"""The document, which is written last, and the risks."""

KIND = "vlmscope transfer"
"""Kind of the document."""

SCHEMA_VERSION = 1
"""Increased when a reader of the older version would misread the document."""


@naming_arguments(out="folder")
def save_transfer(found: TransferResult, folder: str | PathLike[str] | None = None) -> Path:
    """Write a transfer to the folder of the training run's sweep, and return the document.

    An older transfer there is replaced completely.

    Args:
        found: What was found.
        folder: Output folder; by default that of the training run's sweep with its label set.

    Raises:
        InputError: A file of that name exists that was not written by a transfer, or the folder
            contains the probes of another label set.
        StoreError: Writing fails, or the folder is a symbolic link.
    """
    labels = str(found.result.data.origin.get(LABEL_SET, DEFAULT))
    own = default_folder(found.source.path, labels)
    folder = own if folder is None else as_path(folder)
    check_outside(folder, found.source.path, labels)
    check_folder(folder, labels)
    check_replaceable(found.source, folder, labels)
    try:
        make_folder(folder, parents=True)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be made: {error.strerror or error}; give another --out"
        ) from error
    with alone(folder, "probes", "saving probes here"):
        document = transfer_document(found, folder)
        publish_together(
            {
                folder / TRANSFER_PREDICTIONS: parquet_bytes(_predictions(found)),
                folder / TRANSFER: (
                    json.dumps(document, indent=2, allow_nan=False) + "\n"
                ).encode(),
            }
        )
    return folder / TRANSFER


def check_replaceable(source: Run, folder: Path, labels: str = DEFAULT) -> None:
    """Raise if a file not written by a transfer would be replaced, or a link followed.

    In the run's own folder the two names are reserved, and existing files are replaced, never
    written through. In a folder given by the user, only a transfer is replaced.

    Args:
        source: The training run.
        folder: The folder to write the transfer to.
        labels: The label set of the training run.

    Raises:
        InputError: Such a file exists.
        StoreError: The run's folder of probes is a symbolic link, or a file cannot be read.
    """
    if folder == default_folder(source.path, labels):
        if folder.is_symlink():
            raise StoreError(
                f"{folder}: is a symbolic link, where a folder is expected; remove the link, or "
                "give --out"
            )
        return
    document = folder / TRANSFER
    if document.exists():
        if not is_document(document, KIND):
            raise InputError(f"{document}: is not a transfer of vlmscope probe; give another --out")
    elif (folder / TRANSFER_PREDICTIONS).exists():
        raise InputError(
            f"{folder / TRANSFER_PREDICTIONS}: exists without a transfer in the same folder; give "
            "another --out"
        )


def transfer_document(found: TransferResult, folder: Path | None = None) -> dict[str, Any]:
    """Return a transfer as plain JSON values.

    Args:
        found: What was found.
        folder: The folder of the sweep that it belongs to.
    """
    data = found.result.data
    return {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "vlmscope_version": __version__,
        "settings": {name: getattr(found.spec, name) for name in ("folds", "draws", "seed")},
        "results_sha256": _hash_of(folder / RESULTS) if folder else None,
        "trained_on": {
            **_run(found.source),
            "rows": len(data.truth),
            "hallucinated": int(data.truth.sum()),
            "image_groups": len(np.unique(data.grouping.groups)),
        },
        "tests": [_test(test) for test in found.tests],
    }


def _hash_of(path: Path) -> str | None:
    """Return the SHA-256 of the sweep's summary, by which a repeated sweep is detected."""
    try:
        return hashlib.sha256(read_document(path)).hexdigest()
    except OSError:
        return None


def _run(run: Run) -> dict[str, Any]:
    model = run.manifest.model
    return {
        "run": str(run.path),
        "run_id": run.manifest.run_id,
        "model": model.name,
        "weights_hash": model.weights_hash,
        "dtype": run.manifest.dtype,
    }


def _test(test: TransferTest) -> dict[str, Any]:
    """Return the results on one test run."""
    target = test.target
    overlap, kept = target.overlap, target.kept
    return {
        **_run(target.run),
        "relation": relation_phrase(target),
        "same_model": target.relation.same_model,
        "same_processor": target.relation.same_tokens,
        "judged": unseen_phrase(target),
        "paired": target.paired,
        "fits": len(test.chosen) or 1,
        "selected": list(test.chosen),
        "rows": len(kept),
        "hallucinated": int(target.truth.sum()),
        "image_groups": len(np.unique(target.groups)),
        "images_by": overlap.by,
        "rows_of_shared_images": int(overlap.shared.sum()),
        "rows_of_same_text": int(overlap.same_text.sum()),
        "rows_of_same_question": int(overlap.same_question.sum()),
        "left_out": [asdict(each) for each in target.left_out],
        "facts_left_out": list(test.inputs_left_out),
        "no_own": test.no_own,
        "verdict": transfer_verdict(test),
        "results": [without_nan(row.to_dict()) for row in test.rows],
    }


def _predictions(found: TransferResult) -> dict[str, list[Any]]:
    """Return each tested question's label and risks as columns; risks that a run lacks are null."""
    names = dict.fromkeys(name for test in found.tests for name in test.risks)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("run_id", "id", "hallucinated", "image_group", "fit")
    }
    columns |= {f"risk/{name}": [] for name in names}
    for test in found.tests:
        target = test.target
        columns["run_id"] += [target.run.manifest.run_id] * len(target.kept)
        columns["id"] += [target.data.ids[i] for i in target.kept]
        columns["hallucinated"] += target.truth.tolist()
        columns["image_group"] += target.groups.tolist()
        columns["fit"] += test.part_of.tolist()
        for name in names:
            risk = test.risks.get(name)
            columns[f"risk/{name}"] += [None] * len(target.kept) if risk is None else risk.tolist()
    return columns
