"""A summary of a run, or of any single HDF5 file in the HALP layout.

Files of the HALP research are read too: they have no ``_columns``, may lack the root attributes,
and a row may lack a vector.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from vlmscope.errors import InputError, StoreError
from vlmscope.sampling import LENGTHS, is_of_samples
from vlmscope.signals import PREVIOUS, is_per_token, is_token_rows
from vlmscope.store.catalog import scan
from vlmscope.store.format.hdf5_links import is_there, member, walk
from vlmscope.store.format.hdf5_screening import screen_ahead
from vlmscope.store.format.manifest import read_manifest
from vlmscope.store.format.naming import is_of_image, is_signal, is_vector
from vlmscope.store.format.shard import opened
from vlmscope.store.format.token_rows import datasets_of
from vlmscope.store.format.validation import COLUMNS, text_column
from vlmscope.store.storage.paths import as_path, check_reachable, size_of_all


@dataclass(frozen=True, slots=True)
class RepresentationInfo:
    """One representation: its layers, width, type on disk and number of rows."""

    name: str
    layers: tuple[int, ...]
    """Empty for the vision encoder's output."""
    width: int
    dtype: str
    """As stored: ``float32``, ``float16``, or both."""
    rows: int
    """The number of rows of the layer that has the fewest."""


@dataclass(frozen=True, slots=True)
class Description:
    """What ``vlmscope info`` shows."""

    path: Path
    kind: str
    """``run`` or ``file``."""
    rows: int
    answers: int
    """Rows that have an answer."""
    without_image: int
    """Rows whose question is about no image."""
    representations: tuple[RepresentationInfo, ...]
    signals: Mapping[str, tuple[int, ...]]
    """Array of a signal → its shape in each row; empty for one value per token of the answer, and
    −1 for a number of tokens that differs."""
    attrs: Mapping[str, Any]
    """The root attributes."""
    size: int
    """Bytes on disk."""


@dataclass(slots=True)
class _Tally:
    """Counts over rows: vector path → rows, width, dtypes."""

    rows: int
    answers: int
    without_image: int
    vectors: Counter[str]
    widths: dict[str, int]
    dtypes: dict[str, set[str]]
    signals: dict[str, tuple[int, ...]]


def describe(path: str | Path) -> Description:
    """Return a summary of a run folder or an HDF5 file."""
    folder = as_path(path)
    check_reachable(folder)
    if folder.is_dir():
        manifest = read_manifest(folder)
        # A question that two writers were given counts once: ``rows`` has the rows that are used.
        files = {shard.path: shard.rows for shard in scan(folder)[0]}
        size = size_of_all(folder)
        extra = {"run_id": manifest.run_id, "model_name": manifest.model.name}
        return _summary(folder, "run", files, size, extra)
    if not folder.exists():
        raise InputError(f"{folder}: no such file or folder; give a run folder or an HDF5 file")
    try:
        return _summary(folder, "file", {folder: None}, folder.stat().st_size, {})
    except InputError:
        raise
    except StoreError as error:
        if error.__cause__ is None:  # its message already names a remedy
            raise
        raise _no_layout(folder) from error
    except (TypeError, ValueError, KeyError, AttributeError, OSError) as error:
        raise _no_layout(folder) from error


def _no_layout(path: Path) -> InputError:
    return InputError(
        f"{path}: not an HDF5 file in the HALP layout, or damaged; give a run folder or such a file"
    )


def _summary(
    path: Path,
    kind: str,
    files: Mapping[Path, Sequence[int] | None],
    size: int,
    attrs: Mapping[str, Any],
) -> Description:
    """Return the totals over files; only the given rows of a file are counted, None means all."""
    tally = _Tally(0, 0, 0, Counter(), {}, {}, {})
    found: dict[str, Any] = dict(attrs)
    screen_ahead((each, "headers") for each in files)
    for file_path, rows in files.items():
        with opened(file_path, "headers") as file:
            found.update({name: _plain(value) for name, value in file.attrs.items()})
            if is_there(file, COLUMNS):
                _add_columns(tally, file, rows)
            else:
                _add_rows(tally, file)
    if kind == "run":
        found["num_samples"] = tally.rows
        for name in ("supersedes", "writer"):
            found.pop(name, None)
    return Description(
        path=path,
        kind=kind,
        rows=tally.rows,
        answers=tally.answers,
        without_image=tally.without_image,
        representations=_representations(tally),
        signals=tally.signals,
        attrs=found,
        size=size,
    )


def _add_columns(tally: _Tally, file: Any, indices: Sequence[int] | None) -> None:
    """Count a file written by vlmscope, by its columns; those of an index refer to other files."""
    group = member(file, COLUMNS)
    hashes = text_column(file, "image_sha256") if is_there(group, "image_sha256") else []
    if indices is None:
        ids = text_column(file, "question_id") if is_there(group, "question_id") else []
        indices = range(len(ids))
    rows = len(indices)
    bare = sum(not hashes[i] for i in indices) if len(hashes) else 0
    tally.rows += rows
    tally.answers += rows if is_there(group, "answer") else 0
    tally.without_image += bare
    for path, column in walk(group, values=False):
        if is_vector(path):
            _add_vector(tally, path, column, rows - bare if is_of_image(path) else rows)
        elif is_signal(path):
            listed = h5py.check_vlen_dtype(column.dtype) or h5py.check_string_dtype(column.dtype)
            shape = () if listed else column.shape[1:] or (1,)
            tally.signals[path.partition("/")[2]] = shape
    for path, (values, _) in datasets_of(file, values=False).items():
        tally.signals[path.partition("/")[2]] = (-1, int(values.shape[1]))
    _set_sample_counts(tally)


def _set_sample_counts(tally: _Tally) -> None:
    """Set the number of samples as the shape of their texts and tokens, whose columns lack it."""
    tally.signals.pop(LENGTHS, None)
    of_samples = [name for name in tally.signals if is_of_samples(name)]
    counts = {tally.signals[name][0] for name in of_samples if tally.signals[name]}
    for name in of_samples:
        if not tally.signals[name]:
            tally.signals[name] = tuple(counts)


def _add_rows(tally: _Tally, file: Any) -> None:
    """Count a file without columns, row by row."""
    for name in file:
        row = member(file, name)
        if not isinstance(row, h5py.Group) or name.startswith("_"):
            continue
        tally.rows += 1
        tally.answers += is_there(row, "answer")
        tally.without_image += row.attrs.get("image_sha256") == ""
        for path, dataset in walk(row, values=False):
            if is_vector(path) and dataset.ndim == 1:
                _add_vector(tally, path, dataset, 1)
            elif is_signal(path):
                name = path.partition("/")[2]
                listed = is_per_token(name) or name == PREVIOUS
                many = is_token_rows(name) and dataset.ndim == 2
                shape = (-1, dataset.shape[1]) if many else dataset.shape or (1,)
                tally.signals[name] = () if listed else shape


def _add_vector(tally: _Tally, path: str, dataset: Any, rows: int) -> None:
    tally.vectors[path] += rows
    tally.widths[path] = int(dataset.shape[-1])
    tally.dtypes.setdefault(path, set()).add(str(dataset.dtype))


def _representations(tally: _Tally) -> tuple[RepresentationInfo, ...]:
    """Return the representations found, each with all its layers."""
    names = dict.fromkeys(path.partition("/")[0] for path in sorted(tally.vectors))
    result = []
    for name in names:
        paths = [path for path in tally.vectors if path.partition("/")[0] == name]
        digits = [path.rpartition("_")[2] for path in paths if "/" in path]
        dtypes = sorted({dtype for path in paths for dtype in tally.dtypes[path]})
        result.append(
            RepresentationInfo(
                name=name,
                layers=tuple(sorted(int(layer) for layer in digits if layer.isdecimal())),
                width=tally.widths[paths[0]],
                dtype=", ".join(dtypes),
                rows=min(tally.vectors[path] for path in paths),
            )
        )
    return tuple(result)


def _plain(value: Any) -> Any:
    """Turn an attribute into a plain Python value."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.tolist() if hasattr(value, "tolist") else value
