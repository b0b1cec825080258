"""``/_columns``: the data of a shard, one dataset per column.

Matrices are contiguous, so that a column of a complete run is read at the speed of the disk. HDF5
has no checksums for contiguous data, so every column has the SHA-256 of its values as an attribute.
(HDF5's own filter requires chunks; every read of a column then takes 4 to 10 times as long,
measured.)
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vlmscope.sampling import is_of_samples
from vlmscope.signals import BOXES, is_token_states
from vlmscope.store.format.batch import QUESTION_ID, Block
from vlmscope.store.format.checksums import digest, is_intact, read_column
from vlmscope.store.format.low_level import TEXT, group_at, write_attribute, write_dataset
from vlmscope.store.format.manifest import Manifest
from vlmscope.store.format.naming import is_signal, is_vector, vector_path
from vlmscope.store.format.token_rows import (
    TokenRows,
    damaged_token_rows,
    narrow,
    read_token_rows,
    write_token_rows,
)
from vlmscope.store.format.validation import COLUMNS, columns_of


def write_columns(file: Any, block: Block, manifest: Manifest) -> None:
    """Write every column of the block under ``/_columns``, and its tokens under ``/_tokens``.

    Args:
        file: The open file.
        block: The rows, from ``with_stored_tokens``.
        manifest: The manifest of the run.
    """
    groups: dict[str, Any] = {"": file.create_group(COLUMNS, track_order=True).id}

    def write(path: str, data: NDArray[Any], sha256: str) -> Any:
        parent, _, name = path.rpartition("/")
        dataset = write_dataset(group_at(groups, parent), name, data)
        write_attribute(dataset, "sha256", sha256)
        return dataset

    for name, texts in block.texts.items():
        write(name, as_texts(texts), digest(texts))
    for name, numbers in block.numbers.items():
        narrowed = manifest.store_dtype == "float16" and is_of_samples(name.partition("/")[2])
        stored = narrow(numbers) if narrowed else numbers
        write(name, stored, digest(stored))
    for name, arrays in block.ragged.items():
        write(name, as_ragged(arrays), digest(arrays))
    normed = final_norm_leaves(manifest)
    for path, matrix in block.vectors.items():
        stored = narrow(matrix) if manifest.store_dtype == "float16" else matrix
        column = write(path, stored, digest(stored))
        write_attribute(column, "final_norm", np.bool_(path.endswith(normed)))
    write_token_rows(file, block.tokens)


def with_stored_tokens(block: Block, manifest: Manifest) -> Block:
    """Return a block with the arrays of several tokens in the type that they are stored in."""
    half = manifest.states_dtype == "float16"
    stored = {}
    for path, found in block.tokens.items():
        name = path.partition("/")[2]
        narrowed = half if is_token_states(name) else name != BOXES
        stored[path] = TokenRows(narrow(found.values), found.offsets) if narrowed else found
    return replace(block, tokens=stored)


def as_texts(texts: Sequence[str]) -> NDArray[np.object_]:
    """Return strings as h5py takes them, ``[n]``."""
    return np.array(texts, dtype=TEXT)


def as_ragged(arrays: Sequence[NDArray[Any]]) -> NDArray[np.object_]:
    """Return lists of different length as h5py takes them, ``[n]``."""
    data = np.empty(len(arrays), dtype=h5py.vlen_dtype(arrays[0].dtype))
    data[:] = list(arrays)
    return data


def read_columns(
    file: Any, rows: slice = slice(None), *, vectors: bool = True, signals: Container[str] = ()
) -> Block:
    """Read a range of rows. Vectors are returned as float32, whatever the type on disk.

    Args:
        file: The open shard.
        rows: The rows.
        vectors: Whether to read vectors, states of tokens, and the arrays of signals that have a
            fixed shape.
        signals: Names of arrays of signals that are read in any case.

    Raises:
        StoreError: A column that is read is damaged.
    """
    texts: dict[str, list[str]] = {}
    numbers: dict[str, NDArray[Any]] = {}
    ragged: dict[str, list[NDArray[Any]]] = {}
    matrices: dict[str, NDArray[np.float32]] = {}
    columns = columns_of(file, vectors=vectors)
    for path, column in columns.items():
        if is_vector(path):
            matrices[path] = read_column(column, rows).astype(np.float32, copy=False)
        elif h5py.check_string_dtype(dtype := column.dtype):
            texts[path] = read_column(column, rows)
        elif h5py.check_vlen_dtype(dtype):
            ragged[path] = read_column(column, rows)
        elif vectors or not _is_array(path, column) or path.partition("/")[2] in signals:
            values = read_column(column, rows)
            numbers[path] = values.astype(np.float32) if values.dtype == np.float16 else values
    count = columns[QUESTION_ID].shape[0]
    tokens = {}
    if vectors or signals:
        tokens = read_token_rows(
            file, count, rows, wanted=lambda path: vectors or path.partition("/")[2] in signals
        )
    return Block(texts, numbers, ragged, matrices, tokens)


def _is_array(path: str, column: Any) -> bool:
    """Return whether a column of numbers has an array of a signal in each row, not one number."""
    return is_signal(path) and column.ndim > 1


def damaged_columns(file: Any) -> list[str]:
    """Return the paths of the columns whose values differ from what was written."""
    columns = columns_of(file)
    found = [path for path, column in columns.items() if not is_intact(column)]
    return found + damaged_token_rows(file, columns[QUESTION_ID].shape[0])


def final_norm_leaves(manifest: Manifest) -> tuple[str, ...]:
    """Return the path endings of the vectors that are read after the final norm.

    They are the last layer's hidden states, as in transformers, whose last one is normalized, and
    not its sub-layers. Empty if ``layer_k`` is something else.
    """
    if manifest.capture.layer_k != "hidden_states[k+1]":
        return ()
    return (vector_path("_representation", manifest.model.num_layers - 1),)
