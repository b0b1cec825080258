"""The HALP layout: one group per question, with scalar strings and one vector per layer.

In a shard the vectors are virtual datasets: each shows one row of a column, so the layout needs no
second copy of the data. A row has no dataset and no attribute for what it lacks: the vectors and
boundaries of an image, if the question is about none.

Everything here uses h5py's low-level API with shared types and spaces, which is several times
faster than ``create_dataset``: about twenty HDF5 objects are created per question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t

from vlmscope.sampling import LENGTHS, is_of_samples
from vlmscope.signals import PREVIOUS, PREVIOUS_HEAD, needs_image
from vlmscope.store.format.batch import HALP_TEXTS, NO_BOUNDARY, Block, by_layer, texts_in
from vlmscope.store.format.naming import (
    boundary_position,
    is_signal,
    link_name,
    may_be_absent,
    signal_path,
)
from vlmscope.store.format.token_rows import TOKENS, TokenRows
from vlmscope.store.format.validation import COLUMNS

ROW_LISTS = ("answer_token_ids", "answer_logprobs", "first_token_ids", "first_token_logprobs")
"""Datasets added to those of the specification. Every other number is an attribute of the row."""

_ATTRIBUTE_TEXTS = ("finish_reason", "image_sha256", "image_dhash", "image_thumbnail")
_OBJECT = h5py.string_dtype()
_COMPACT_ATTRIBUTES = (64, 32)  # by default HDF5 builds a heap per group from 9 attributes on


class RowWriter:
    """Writes the row groups of a block into an open file.

    ``virtual`` rows refer to the columns of the same file, which must contain exactly this block;
    otherwise the values are copied.
    """

    def __init__(
        self, file: Any, block: Block, *, final_norm: tuple[str, ...], virtual: bool
    ) -> None:
        self._file = file.id
        self._block = block
        self._final_norm = final_norm
        self._virtual = virtual
        self._scalar = h5s.create(h5s.SCALAR)
        self._text = h5t.py_create(_OBJECT, logical=True)
        self._plain = h5p.create(h5p.DATASET_CREATE)
        self._plain.set_obj_track_times(False)
        self._group = h5p.create(h5p.GROUP_CREATE)
        self._group.set_attr_phase_change(*_COMPACT_ATTRIBUTES)
        arrays = {p: a for p, a in block.numbers.items() if is_signal(p) and a.ndim > 1}
        shown = {**block.vectors, **arrays}  # HDF5 has no virtual datasets of one number
        self._windows = {
            p: _Window(p, column.shape, column.dtype.kind) for p, column in shown.items() if virtual
        }
        self._token_windows = {
            p: _TokenWindow(p, found) for p, found in block.tokens.items() if virtual
        }
        self._lists = _row_lists(block)
        self._has_image = block.has_image
        columns = (*block.ragged, *block.texts, *block.numbers)
        self._signals = tuple(name for name in columns if is_signal(name))
        self._boundaries = frozenset(n for n in block.numbers if boundary_position(n) is not None)

    def write(self) -> Iterator[str]:
        """Write every row; yield each question's id when its row is written."""
        for i, question_id in enumerate(self._block.ids):
            row = h5g.create(self._file, link_name(question_id).encode(), None, self._group)
            self._write_attributes(row, i)
            for name in HALP_TEXTS:
                if name in self._block.texts:
                    self._write_text(row, name, self._block.texts[name][i])
            for name, values in self._lists.items():
                self._write_array(row, name, values[i])
            self._write_vectors(row, i)
            self._write_signals(row, i)
            yield question_id

    def _write_attributes(self, row: Any, i: int) -> None:
        for name, numbers in self._block.numbers.items():
            absent = name in self._boundaries and numbers[i] == NO_BOUNDARY
            if name not in ROW_LISTS and not absent and not is_signal(name):
                self._write_number(row, name, numbers[i])
        for name in _ATTRIBUTE_TEXTS:
            self._write_text_attribute(row, name, self._block.texts[name][i])
        if self._virtual:
            self._write_number(row, "row", np.int64(i))
        else:  # there are no columns to store it
            self._write_text_attribute(row, "metadata", self._block.texts["metadata"][i])

    def _write_text_attribute(self, owner: Any, name: str, text: str) -> None:
        value = np.array(text.encode(), dtype=_OBJECT)
        h5a.create(owner, name.encode(), self._text, self._scalar).write(value)

    def _write_number(self, owner: Any, name: str, value: Any) -> None:
        value = np.asarray(value)
        h5a.create(
            owner, name.encode(), h5t.py_create(value.dtype, logical=True), self._scalar
        ).write(value)

    def _write_text(self, row: Any, name: str, text: str) -> None:
        dataset = h5d.create(row, name.encode(), self._text, self._scalar, self._plain)
        dataset.write(h5s.ALL, h5s.ALL, np.array(text.encode(), dtype=_OBJECT))

    def _write_array(self, owner: Any, name: str, values: Any) -> Any:
        space = h5s.create_simple(values.shape)
        kind = h5t.py_create(values.dtype)
        dataset = h5d.create(owner, name.encode(), kind, space, self._plain)
        dataset.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(values))
        return dataset

    def _write_vectors(self, row: Any, i: int) -> None:
        groups: dict[str, Any] = {"": row}
        for path, matrix in self._block.vectors.items():
            if not self._has_image[i] and may_be_absent(path) and np.isnan(matrix[i][0]):
                continue
            leaf = path.rpartition("/")[2]
            dataset = self._write_row(self._parent(row, path, groups), leaf, path, matrix, i)
            if path.endswith(self._final_norm):
                self._write_number(dataset, "final_norm", np.True_)

    def _write_signals(self, row: Any, i: int) -> None:
        groups: dict[str, Any] = {"": row}
        for path in self._signals:
            name, leaf = path.partition("/")[2], path.rpartition("/")[2]
            if not self._has_image[i] and needs_image(name):
                continue
            parent = self._parent(row, path, groups)
            if path in self._block.texts:
                self._write_several(parent, leaf, texts_in(self._block.texts[path][i]), _OBJECT)
            elif path in self._block.ragged and is_of_samples(name):
                self._write_samples(parent, name, i)
            elif name == PREVIOUS:
                layers = self._block.numbers[signal_path(PREVIOUS_HEAD)].shape[1]
                self._write_array(parent, leaf, by_layer(self._block.ragged[path][i], layers))
            elif path in self._block.ragged:
                self._write_array(parent, leaf, self._block.ragged[path][i])
            else:
                self._write_row(parent, leaf, path, self._block.numbers[path], i)
        self._write_tokens(row, i, groups)

    def _write_tokens(self, row: Any, i: int, groups: dict[str, Any]) -> None:
        """Write the arrays with a vector for each of several tokens, if the row has them."""
        for path, found in self._block.tokens.items():
            leaf = path.rpartition("/")[2]
            if not self._has_image[i] and needs_image(path.partition("/")[2]):
                continue
            parent = self._parent(row, path, groups)
            own = found.row(i)
            if self._virtual and len(own):
                self._token_windows[path].create(parent, leaf, i)
            else:
                self._write_array(parent, leaf, own)

    def _parent(self, row: Any, path: str, groups: dict[str, Any]) -> Any:
        """Return the group that a path of a row is in, which is created if needed."""
        parent = path.rpartition("/")[0]
        if parent not in groups:
            self._parent(row, parent, groups)
            groups[parent] = h5g.create(row, parent.encode(), None, self._group)
        return groups[parent]

    def _write_samples(self, group: Any, name: str, i: int) -> None:
        """Write the tokens of the samples, or their log-probabilities, as one list per sample."""
        if name == LENGTHS:  # each list has its own
            return
        flat = self._block.ragged[signal_path(name)][i]
        lengths = self._block.ragged[signal_path(LENGTHS)][i]
        kind = h5py.vlen_dtype(flat.dtype)
        lists = np.split(flat, np.cumsum(lengths)[:-1])
        self._write_several(group, name.rpartition("/")[2], lists, kind)

    def _write_several(self, group: Any, leaf: str, values: Sequence[Any], kind: Any) -> None:
        """Write texts, or lists of different length, as one dataset."""
        data = np.empty(len(values), kind)
        for index, value in enumerate(values):
            data[index] = value
        dataset = h5d.create(
            group,
            leaf.encode(),
            h5t.py_create(kind, logical=True),
            h5s.create_simple(data.shape),
            self._plain,
        )
        dataset.write(h5s.ALL, h5s.ALL, data)

    def _write_row(self, owner: Any, leaf: str, path: str, column: Any, i: int) -> Any:
        """Write row ``i`` of a column: as a virtual dataset, or as a copy."""
        if self._virtual and path in self._windows:
            return self._windows[path].create(owner, leaf, i)
        return self._write_array(owner, leaf, column[i])


def _row_lists(block: Block) -> Mapping[str, Any]:
    """Return the columns that become datasets of a row."""
    columns: dict[str, Any] = {**block.ragged, **block.numbers}
    return {name: columns[name] for name in ROW_LISTS if name in columns}


_MISSING: Mapping[str, tuple[Any, Any]] = {
    "f": (np.array(np.nan, np.float32), h5t.IEEE_F32LE),
    "i": (np.array(-1, np.int32), h5t.STD_I32LE),
}
"""Kind of a column → the value of a missing one, and the type of what is shown of it."""


class _TokenWindow:
    """Creates virtual datasets ``[tokens, width]``: each shows some rows of an array of the file.

    Args:
        path: The path of the array in a row.
        found: The array.
    """

    def __init__(self, path: str, found: TokenRows) -> None:
        self._found = found
        self._array = f"/{TOKENS}/{path}".encode()
        half = found.values.dtype == np.float16
        self._kind = h5t.IEEE_F16LE if half else h5t.IEEE_F32LE
        self._source = h5s.create_simple(found.values.shape)
        self._properties = h5p.create(h5p.DATASET_CREATE)
        self._properties.set_layout(h5d.VIRTUAL)
        self._properties.set_obj_track_times(False)
        self._properties.set_fill_value(np.array(np.nan, found.values.dtype))

    def create(self, owner: Any, name: str, i: int) -> None:
        """Create a dataset that shows the tokens of row ``i``."""
        start, stop = self._found.offsets[i : i + 2].tolist()
        shape = stop - start, self._found.values.shape[1]
        target = h5s.create_simple(shape)
        self._source.select_hyperslab((start, 0), shape)
        properties = self._properties.copy()
        properties.set_virtual(target, b".", self._array, self._source)
        h5d.create(owner, name.encode(), self._kind, target, properties)


class _Window:
    """Creates virtual datasets of one vector: each shows a row of a column of the same file.

    If the column is missing, HDF5 returns the fill value without an error: NaN, or −1 for integers,
    makes that visible.
    Spaces and properties are shared by all rows, which takes a third less time.
    """

    def __init__(self, path: str, shape: tuple[int, ...], kind: str) -> None:
        missing, self._kind = _MISSING["i" if kind == "i" else "f"]
        self._column = f"/{COLUMNS}/{path}".encode()
        self._shape = shape[1:]
        self._source = h5s.create_simple(shape)
        self._target = h5s.create_simple(shape[1:])
        self._properties = h5p.create(h5p.DATASET_CREATE)
        self._properties.set_layout(h5d.VIRTUAL)
        self._properties.set_obj_track_times(False)
        self._properties.set_fill_value(missing)

    def create(self, owner: Any, name: str, i: int) -> Any:
        """Create a dataset that shows row ``i``."""
        self._source.select_hyperslab((i, *(0 for _ in self._shape)), (1, *self._shape))
        properties = self._properties.copy()
        properties.set_virtual(self._target, b".", self._column, self._source)
        return h5d.create(owner, name.encode(), self._kind, self._target, properties)
