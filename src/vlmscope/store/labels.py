"""``labels.parquet``: one verdict a row, and how it was come by.

Labels are made again and again while captures stay, so they are a file of their own, replaced as a
whole. A copy of the command's settings travels in the file's schema, under the key ``vlmscope``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlmscope.errors import InputError, StoreError
from vlmscope.jsontext import load_json
from vlmscope.schema import Score
from vlmscope.store.block import clean_text
from vlmscope.store.place import place
from vlmscope.store.publish import publishing
from vlmscope.store.remote import reading
from vlmscope.version import __version__

LABELS = "labels.parquet"
"""Name of the file in a run folder."""

_KEY = b"vlmscope"
_REMEDY = "run 'vlmscope label' with --overwrite to replace it"
_COLUMNS = ("id", "outcome", "hallucinated", "scorer", "evidence")


def write_labels(run: Path, scores: Iterable[Score], settings: Mapping[str, Any]) -> Path:
    """Write the labels of a run, replacing those that are there, and return the file.

    Args:
        run: The run folder.
        scores: One verdict a row.
        settings: How they were made: anything that JSON can hold.

    Raises:
        StoreError: The disk refuses, or an id comes twice. What was there stays.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kept = list(scores)
    if len({score.id for score in kept}) != len(kept):
        raise StoreError(f"{run}: two labels for the same question; a scorer gives one a row")
    record = {
        "settings": dict(settings),
        "vlmscope_version": __version__,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    columns = {
        "id": pa.array([score.id for score in kept], pa.string()),
        "outcome": pa.array([score.outcome for score in kept], pa.string()),
        "hallucinated": pa.array([score.hallucinated for score in kept], pa.bool_()),
        "scorer": pa.array([score.scorer for score in kept], pa.string()),
        "evidence": pa.array([clean_text(score.evidence) for score in kept], pa.string()),
    }
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(record, default=str)})
    path = place(run) / LABELS
    # By its name Arrow opens no file whose path is not UTF-8.
    with publishing(path) as temporary, temporary.open("wb") as file:
        pq.write_table(table, file)
    return path


def read_labels(run: Path) -> dict[str, Score]:
    """Return the labels of a run by question id, in the order of the file.

    Raises:
        InputError: The run has no labels yet.
        StoreError: The file is damaged.
    """
    table = _read(run)
    rows = zip(*(table[name].to_pylist() for name in _COLUMNS), strict=True)
    return {
        id_: Score(id_, hallucinated, scorer, evidence)
        for id_, _, hallucinated, scorer, evidence in rows
    }


def label_settings(run: Path) -> dict[str, Any]:
    """Return how the labels were made: ``settings``, ``vlmscope_version``, ``created_at``.

    Raises:
        InputError: The run has no labels yet.
        StoreError: The file is damaged.
    """
    try:
        record: dict[str, Any] = load_json(_read(run).schema.metadata[_KEY].decode())
    except ValueError as error:
        raise StoreError(f"{run}: the settings in {LABELS} are no JSON; {_REMEDY}") from error
    return record


def _read(run: Path) -> Any:
    """Return the file as an Arrow table that has all that we wrote."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = place(run) / LABELS
    try:
        with reading(path) as file:
            table = pq.read_table(file)
    except FileNotFoundError:
        raise InputError(f"{run}: no labels yet; run 'vlmscope label {run}' first") from None
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read: {_line(error)}; {_REMEDY}") from error
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing or _KEY not in (table.schema.metadata or {}):
        lack = f"column {missing[0]}" if missing else "record of its settings"
        raise StoreError(f"{path}: not a label file, it has no {lack}; {_REMEDY}")
    return table


def _line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
