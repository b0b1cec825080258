"""Label sets of a run: one label per row, and the settings that they were made with.

Labels are made repeatedly while captures stay, so they are in a separate file, which is replaced
completely. The settings of the command are stored in the file's schema, under the key ``vlmscope``.

A run may have several label sets with different names: the default set is ``labels.parquet``, the
set ``human`` is ``labels-human.parquet``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from vlmscope.errors import InputError, StoreError, join_names, one_line, shortened
from vlmscope.jsontext import load_json
from vlmscope.regular import PointerError
from vlmscope.schema import ErrorKind, Score
from vlmscope.store.format.batch import clean_text
from vlmscope.store.format.manifest import read_manifest
from vlmscope.store.ground_truths import hash_ground_truths, read_ground_truths
from vlmscope.store.storage.atomic import publishing
from vlmscope.store.storage.object_store import reading
from vlmscope.store.storage.paths import LABEL_SET, path_of
from vlmscope.version import __version__

if TYPE_CHECKING:
    from vlmscope.store.run import AnyRun

LABELS = "labels.parquet"
"""The default set's file in a run folder."""

DEFAULT = "default"
"""Name of the set that commands use by default."""

_NAME = re.compile(LABEL_SET, re.ASCII)
_FILE = re.compile(rf"labels-({LABEL_SET})\.parquet", re.ASCII)
_KEY = b"vlmscope"
_REMEDY = "run 'vlmscope label' with --overwrite to replace it"
_READ = ("column", "file")
"""Scorers that read existing labels and do not use the ground truth."""

_KINDS = (None, *get_args(ErrorKind))
_COLUMNS = ("id", "outcome", "hallucinated", "scorer", "evidence", "error_kind")


def labels_file(name: str = DEFAULT) -> str:
    """Return the file name of a label set in a run folder.

    >>> labels_file(), labels_file("human")
    ('labels.parquet', 'labels-human.parquet')

    Raises:
        InputError: The name is not valid for a label set.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"label set {shortened(str(name))!r}: expected 1 to 64 letters (a to z), digits, - and "
            "_, not - at the beginning; give another name"
        )
    return LABELS if name == DEFAULT else f"labels-{name}.parquet"


def label_sets(run: AnyRun) -> tuple[str, ...]:
    """Return the names of the label sets of a run, the default set first, then by name.

    The files are not read: a listed set may be damaged.
    """
    files = {path.name for path in path_of(run).glob("labels*.parquet")}
    named = sorted(found[1] for file in files if (found := _FILE.fullmatch(file)))
    return (*((DEFAULT,) if LABELS in files else ()), *(n for n in named if n != DEFAULT))


def write_labels(
    run: AnyRun,
    scores: Iterable[Score],
    settings: Mapping[str, Any],
    name: str = DEFAULT,
    *,
    ground_truths: Mapping[str, str] | None = None,
) -> Path:
    """Write a label set of a run, replacing an existing one, and return the file.

    Args:
        run: The run, or its folder.
        scores: One label per row.
        settings: The settings that they were made with: any JSON value.
        name: The label set.
        ground_truths: Changed ground truths that the answers were compared with, as in
            ``Run.changed_ground_truths``; by default the current ones of the run.

    Raises:
        InputError: The name is not valid for a label set.
        StoreError: The file cannot be written, or an id occurs twice. An existing set is kept.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = path_of(run)
    path = folder / labels_file(name)
    kept = list(scores)
    if len({score.id for score in kept}) != len(kept):
        raise StoreError(f"{folder}: two labels for the same question, expected one per row")
    record = {
        "settings": dict(settings),
        "truths": hash_ground_truths(
            read_ground_truths(folder) if ground_truths is None else ground_truths
        ),
        "vlmscope_version": __version__,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    columns = {
        "id": pa.array([score.id for score in kept], pa.string()),
        "outcome": pa.array([score.outcome for score in kept], pa.string()),
        "hallucinated": pa.array([score.hallucinated for score in kept], pa.bool_()),
        "scorer": pa.array([score.scorer for score in kept], pa.string()),
        "evidence": pa.array([clean_text(score.evidence) for score in kept], pa.string()),
        "error_kind": pa.array([score.error_kind for score in kept], pa.string()),
    }
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(record, default=str)})
    # Arrow itself cannot open a file whose path is not UTF-8.
    with publishing(path) as temporary, temporary.open("wb") as file:
        pq.write_table(table, file)
    return path


def read_labels(run: AnyRun, name: str = DEFAULT) -> dict[str, Score]:
    """Return a label set of a run by question id, in the order of the file.

    Args:
        run: The run, its folder, or its URL.
        name: The label set.

    Raises:
        InputError: The run has no such labels yet.
        StoreError: The file is damaged.
    """
    folder = path_of(run)
    table = _read(folder, name)
    found: dict[str, Score] = {}
    for row in zip(*(table[name].to_pylist() for name in _COLUMNS), strict=True):
        score, lack = _score_of(*row)
        if lack or score.id in found:
            lack = lack or f"two labels of the question {shortened(score.id)!r}"
            raise StoreError(f"{folder / labels_file(name)}: not a label file, {lack}; {_REMEDY}")
        found[score.id] = score
    return found


def _score_of(
    id_: Any, outcome: Any, hallucinated: Any, scorer: Any, evidence: Any, kind: Any
) -> tuple[Score, str]:
    """Return a row of a label file as a label, and what no label has; an empty text if nothing."""
    score = Score(
        id_, hallucinated, scorer, evidence, labelled=outcome != "unlabelled", error_kind=kind
    )
    if not all(isinstance(text, str) for text in (id_, scorer, evidence)):
        return score, "a cell is not text"
    if not isinstance(hallucinated, bool | None):
        return (
            score,
            f"a cell of hallucinated is {shortened(repr(hallucinated))}, not true or false",
        )
    if score.outcome != outcome:
        return score, (
            f"the outcome of {shortened(id_)!r} is {shortened(str(outcome))!r}, "
            f"its column hallucinated says {score.outcome!r}"
        )
    if kind not in _KINDS:
        return score, f"a cell of error_kind is {shortened(repr(kind))}"
    return score, ""


def label_settings(run: AnyRun, name: str = DEFAULT) -> dict[str, Any]:
    """Return the record of a label set: ``settings``, ``vlmscope_version``, ``created_at``.

    Args:
        run: The run, its folder, or its URL.
        name: The label set.

    Raises:
        InputError: The run has no such labels yet.
        StoreError: The file is damaged.
    """
    settings: bytes = _read(path_of(run), name).schema.metadata[_KEY]
    try:
        record: dict[str, Any] = load_json(settings.decode())
    except ValueError as error:
        raise StoreError(
            f"{path_of(run)}: the settings in {labels_file(name)} are not JSON; {_REMEDY}"
        ) from error
    return record


def made_from_ground_truths(run: str | Path, name: str = DEFAULT) -> bool:
    """Return whether labels were made from the ground truths of the run, and not read from a file.

    Args:
        run: The run, its folder, or its URL.
        name: The label set.
    """
    settings = label_settings(run, name).get("settings")
    made = settings if isinstance(settings, dict) else {}
    return made.get("scorer") not in _READ and not made.get("target")


def are_stale(run: str | Path, name: str = DEFAULT) -> bool:
    """Return whether ground truths of a run have changed since labels were made from them.

    Args:
        run: The run, its folder, or its URL.
        name: The label set.

    Raises:
        InputError: The run has no such labels yet.
        StoreError: The file is damaged.
    """
    made_of = label_settings(run, name).get("truths", "")
    return made_from_ground_truths(run, name) and made_of != hash_ground_truths(
        read_ground_truths(run)
    )


def _read(run: Path, name: str) -> Any:
    """Return the file as an Arrow table, after checking that it is complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run / labels_file(name)
    try:
        with reading(path) as file:
            table = pq.read_table(file)
    except FileNotFoundError:
        raise InputError(_missing(run, name)) from None
    except PointerError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read: {one_line(error)}; {_REMEDY}") from error
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing or _KEY not in (table.schema.metadata or {}):
        lack = f"column {missing[0]}" if missing else "record of its settings"
        what = "of an earlier version" if missing == ["error_kind"] else "not a label file"
        raise StoreError(f"{path}: {what}, it has no {lack}; {_REMEDY}")
    return table


LABELS_FROM_ELSEWHERE = (
    "the run stopped after the prefill and has no answers to label: read labels from elsewhere "
    "with '{command} --labels FILE', or extract again with --max-new-tokens above 0"
)
"""What to do about missing labels of a run without answers; ``command`` is that which labels."""


def _stopped_at_prefill(run: Path) -> bool:
    """Return whether a folder is a run without answers."""
    try:
        return read_manifest(run).capture.max_new_tokens == 0
    except (InputError, StoreError):  # not a run, which another check reports
        return False


def _missing(run: Path, name: str) -> str:
    """Return the message for a missing set: the existing sets, and the command that makes it."""
    sets = label_sets(run)
    asked = f"vlmscope label {run}" + (f" --name {name}" if name != DEFAULT else "")
    what = "labels" if name == DEFAULT else f"label set {name!r}"
    known = f", there are label sets {join_names(sets)}" if sets else ""
    if _stopped_at_prefill(run):
        return f"{run}: no {what} yet{known}; {LABELS_FROM_ELSEWHERE.format(command=asked)}"
    return f"{run}: no {what} yet{known}; run '{asked}' first"
