"""Checks of the columns of a shard before a row of it is read.

A damaged or foreign file is refused here, with one line, so that all readers can rely on names,
shapes and types.
"""

from __future__ import annotations

from typing import Any

import h5py

from vlmscope.errors import StoreError
from vlmscope.sampling import SAMPLE_LISTS, SAMPLE_TEXTS
from vlmscope.signals import P_TRUE, P_TRUE_MASS, PREVIOUS, is_per_token
from vlmscope.store.format.batch import QUESTION_ID
from vlmscope.store.format.checksums import read_column
from vlmscope.store.format.hdf5_links import file_name, member, walk
from vlmscope.store.format.naming import is_signal, is_vector, signal_path

COLUMNS = "_columns"
"""Name of the root group that contains the columns."""

TEXTS = (
    QUESTION_ID, "image_id", "question", "ground_truth_answer", "finish_reason", "image_sha256",
    "image_dhash", "image_thumbnail", "metadata",
)  # fmt: skip
"""Columns of strings that every shard has."""

NUMBERS = {
    "num_prompt_tokens": 1,
    "first_token_entropy": 1,
    "first_token_ids": 2,
    "first_token_logprobs": 2,
}
"""Columns of numbers that every shard has, and their dimensions."""


class MissingColumnError(KeyError):
    """A shard lacks a column that this version writes: it is of an earlier one, or damaged."""

    def __str__(self) -> str:
        return f"it has no {self.args[0]}"


def columns_of(file: Any, *, vectors: bool = True) -> dict[str, Any]:
    """Return the columns of an open shard by their paths, in the order of the file.

    Args:
        file: The open shard.
        vectors: Whether to return those of vectors, too; if not, they are not even opened.

    Raises:
        MissingColumnError: A column that every shard has is missing.
        KeyError: There are no columns, or a column that belongs to another one is missing.
        StoreError: A column is not a dataset, has another length than the others, or is not in the
            file itself.
    """
    columns_group = member(file, COLUMNS)
    columns = dict(walk(columns_group) if vectors else walk(columns_group, skipped=is_vector))
    rows = columns[QUESTION_ID].shape
    for path, column in columns.items():
        if flaw := _flaw(path, column, rows):
            raise StoreError(
                f"{file_name(file.id)}: damaged, column {path} {flaw}; restore the file from a copy"
            )
    for name in (*TEXTS, *NUMBERS):
        if name not in columns:
            raise MissingColumnError(name)
    of_samples = [signal_path(name) for name in (*SAMPLE_TEXTS, *SAMPLE_LISTS)]
    for path in of_samples if not columns.keys().isdisjoint(of_samples) else ():
        columns[path]
    if ("answer" in columns) != ("answer_logprobs" in columns):
        raise KeyError("answer_logprobs" if "answer" in columns else "answer")
    return columns


def text_column(file: Any, name: str) -> list[str]:
    """Return one column of strings of an open shard; or of an index, whose columns have no digest.

    Raises:
        KeyError: There is no such column.
        StoreError: It is not a column of strings, is not in the file itself, or is damaged.
    """
    column = member(file, f"{COLUMNS}/{name}")
    if flaw := _flaw(name, column, getattr(column, "shape", None)):
        raise StoreError(
            f"{file_name(file.id)}: damaged, column {name} {flaw}; restore the file from a copy"
        )
    is_index = "writer" not in file.attrs
    texts: list[str] = column.asstr()[:].tolist() if is_index else read_column(column)
    return texts


def _flaw(path: str, column: Any, rows: tuple[int, ...] | None) -> str:
    """Return the problem of a column, or an empty text."""
    shape = column.shape if isinstance(column, h5py.Dataset) else None
    if shape is None:
        return "is not a dataset"
    if rows is None or len(rows) != 1 or shape[:1] != rows:
        return f"has the shape {list(shape)}, expected {list(rows or ())} rows"
    dtype = column.dtype
    kind, dimensions = dtype.kind, len(shape)
    if is_vector(path):
        valid = kind == "f" and dimensions == 2
    elif path in TEXTS or h5py.check_string_dtype(dtype):
        valid = h5py.check_string_dtype(dtype) is not None and dimensions == 1
    elif path in NUMBERS:
        valid = kind in "iuf" and dimensions == NUMBERS[path] and 0 not in shape[1:]
    elif is_signal(path) and kind in "iuf":
        name = path.partition("/")[2]
        listed = name == PREVIOUS or name in SAMPLE_LISTS or is_per_token(name)
        one = name in (P_TRUE, P_TRUE_MASS)
        valid = not listed and (dimensions == 1) == one and 0 not in shape[1:]
    elif lists := h5py.check_vlen_dtype(dtype):
        valid = lists.kind in "iuf" and dimensions == 1
    else:
        valid = kind in "iufb" and dimensions in (1, 2)
    return "" if valid else f"has the type {dtype} and {dimensions} dimensions"
