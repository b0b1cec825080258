"""``/_tokens``: arrays of a shard with one entry for each of several tokens of a row.

A row has hundreds of image tokens, and another row has another number of them. The arrays of all
rows are stored one after the other, ``[tokens, width]``, contiguous like a column, and ``offsets``
says where each row begins. A row's group shows its part as a virtual dataset. HDF5's own lists of
variable length would need a second copy of the data, and are read element by element.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import StoreError
from vlmscope.store.format.checksums import digest, is_intact, read_column
from vlmscope.store.format.hdf5_links import file_name, is_there, member, walk

TOKENS = "_tokens"
"""Name of the root group that contains the arrays."""

OFFSETS = "offsets"
"""Name of the dataset with the beginning of each row, beside the arrays that it belongs to."""

FLOAT16_MAX = 65504.0
"""Largest finite float16. Some models have massive activations above it."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenRows:
    """An array ``[tokens, width]`` of each row, with another number of tokens in each."""

    values: NDArray[Any]
    """``[all tokens, width]``, float16 or float32."""
    offsets: NDArray[np.int64]
    """``[rows + 1]``: where each row begins, and the end."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, number: int) -> NDArray[Any]:
        """Return the array of a row; empty if the row lacks it."""
        found: NDArray[Any] = self.values[self.offsets[number] : self.offsets[number + 1]]
        return found

    def take(self, rows: Sequence[int]) -> TokenRows:
        """Return some rows, in the given order."""
        return token_rows([self.row(i) for i in rows], self.values.shape[1])


def token_rows(arrays: Sequence[NDArray[Any]], width: int) -> TokenRows:
    """Return the arrays of several rows as one.

    >>> found = token_rows([np.ones((2, 3)), np.ones((0, 3)), np.ones((1, 3))], 3)
    >>> found.values.shape, found.offsets.tolist(), len(found.row(1))
    ((3, 3), [0, 2, 2, 3], 0)
    """
    kind = np.result_type(*(array.dtype for array in arrays)) if arrays else np.float32
    values = np.concatenate([np.empty((0, width), kind), *arrays])
    lengths = [0, *(len(array) for array in arrays)]
    return TokenRows(values, np.cumsum(lengths, dtype=np.int64))


def concatenated(parts: Sequence[TokenRows]) -> TokenRows:
    """Return the rows of all parts, in order."""
    ends = np.cumsum([0, *(len(part.values) for part in parts)])
    offsets = [part.offsets[:-1] + end for part, end in zip(parts, ends, strict=False)]
    return TokenRows(
        np.concatenate([part.values for part in parts]),
        np.concatenate([*offsets, ends[-1:]]).astype(np.int64),
    )


def narrow(matrix: NDArray[Any]) -> NDArray[Any]:
    """Return a matrix as float16, or unchanged if a value would overflow; NaN is ignored."""
    if matrix.dtype == np.float16:
        return matrix
    largest = np.fmax.reduce(matrix, axis=None, initial=0)
    smallest = np.fmin.reduce(matrix, axis=None, initial=0)
    fits = max(largest, -smallest) <= FLOAT16_MAX
    return matrix.astype(np.float16) if fits else matrix


def write_token_rows(file: Any, tokens: Mapping[str, TokenRows]) -> None:
    """Write the arrays of a block, by their paths in a row; nothing if there are none."""
    if not tokens:
        return
    root = file.create_group(TOKENS, track_order=True)
    for path, found in tokens.items():
        group = root.require_group(path.rpartition("/")[0])
        if OFFSETS not in group:
            offsets = group.create_dataset(OFFSETS, data=found.offsets)
            offsets.attrs["sha256"] = digest(found.offsets)
        values = root.create_dataset(path, data=found.values)
        values.attrs["sha256"] = digest(found.values)


def read_token_rows(
    file: Any,
    count: int,
    rows: slice = slice(None),
    *,
    wanted: Callable[[str], bool] = lambda _: True,
) -> dict[str, TokenRows]:
    """Return a range of rows of every array, by path; values have the type that is stored.

    Args:
        file: The open shard.
        count: Its number of rows.
        rows: The rows.
        wanted: Which arrays are read, by their paths; by default all.

    Raises:
        StoreError: One of them is damaged.
    """
    found = {}
    first, stop, _ = rows.indices(count)
    for path, (values, offsets) in datasets_of(file).items():
        if not wanted(path):
            continue
        starts = _checked_offsets(offsets, values, count)[first : max(first, stop) + 1]
        tokens = slice(int(starts[0]), int(starts[-1]))
        found[path] = TokenRows(read_column(values, tokens), starts - starts[0])
    return found


def datasets_of(file: Any, *, values: bool = True) -> dict[str, tuple[Any, Any]]:
    """Return path → values and offsets of every array of an open shard.

    Args:
        file: The shard.
        values: Whether they will be read.

    Raises:
        StoreError: One is not what vlmscope writes.
    """
    if not is_there(file, TOKENS):
        return {}
    every = dict(walk(member(file, TOKENS), values=values))
    found = {}
    for path, array in every.items():
        group, _, leaf = path.rpartition("/")
        if leaf == OFFSETS:
            continue
        offsets = every.get(f"{group}/{OFFSETS}")
        if offsets is None or not _is_matrix(array) or not _are_offsets(offsets):
            raise _damaged(array, path)
        found[path] = array, offsets
    return found


def _checked_offsets(offsets: Any, values: Any, count: int) -> NDArray[np.int64]:
    """Return the offsets of an array of so many rows.

    Raises:
        StoreError: They are damaged, or do not match the values.
    """
    found: NDArray[np.int64] = read_column(offsets)
    if not _match(found, values, count):
        raise _damaged(offsets, offsets.name)
    return found


def _match(offsets: NDArray[np.int64], values: Any, count: int) -> bool:
    """Return whether offsets divide values among so many rows."""
    ends = len(offsets) == count + 1 and (offsets[0], offsets[-1]) == (0, values.shape[0])
    # Compared and not subtracted: the difference of two of them may overflow.
    return bool(ends and (offsets[1:] >= offsets[:-1]).all())


def damaged_token_rows(file: Any, count: int) -> list[str]:
    """Return the paths of the arrays of so many rows that differ from what was written.

    Offsets that do not match their values are among them, whatever their checksum is.
    """
    found: dict[str, bool] = {}
    for path, (values, offsets) in datasets_of(file).items():
        name = f"{path.rpartition('/')[0]}/{OFFSETS}"
        if name not in found:
            found[name] = is_intact(offsets)
        fits = offsets.shape == (count + 1,) and _match(offsets[:], values, count)
        found[name] = found[name] and fits
        found[path] = is_intact(values)
    return [path for path, intact in found.items() if not intact]


def _is_matrix(dataset: Any) -> bool:
    return (
        isinstance(dataset, h5py.Dataset)
        and dataset.shape is not None
        and len(dataset.shape) == 2
        and dataset.dtype.kind == "f"
    )


def _are_offsets(dataset: Any) -> bool:
    return (
        isinstance(dataset, h5py.Dataset)
        and dataset.shape is not None
        and len(dataset.shape) == 1
        and dataset.dtype == np.int64
    )


def _damaged(item: Any, path: str) -> StoreError:
    return StoreError(
        f"{file_name(item.id)}: damaged, {path} is not an array of several tokens of each row; "
        "restore the file from a copy"
    )
