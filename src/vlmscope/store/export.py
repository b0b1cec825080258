"""Exports a run to one file: ``.h5`` in the HALP layout, ``.parquet``, or ``.npz``.

HDF5 writes to a ``Spool``, a file object that hides write errors from it. When a write fails (the
disk is full), HDF5 cannot close its file; h5py then prints hundreds of lines and may crash the
process. The spool stores the first error and discards further writes, so HDF5 closes normally and
we raise the error ourselves. Shards avoid the problem because they are built in memory; an export
may be larger than memory.

Parquet has a row per question, and a fixed-size list of float32 per vector. A question without an
image has null for the vectors and boundaries of the image.

The schema of a Parquet file is fixed before the first row, and metadata may contain anything, so
the texts are read once to find the columns and once more to write them.

Exports contain copies, never links or virtual datasets, so they can be moved and split freely.
HDF5 and Parquet are written a shard at a time, NumPy's archive a matrix at a time.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError
from vlmscope.sampling import LENGTHS, is_of_samples
from vlmscope.signals import ATTENTION_MAP, IMAGE_TOKENS, PREVIOUS, needs_image
from vlmscope.store.format.batch import NO_BOUNDARY, Block, by_layer, metadata_of, texts_in
from vlmscope.store.format.columns import final_norm_leaves
from vlmscope.store.format.naming import (
    boundary_position,
    is_of_image,
    is_signal,
    may_be_absent,
    signal_path,
    vector_path,
)
from vlmscope.store.format.row_groups import RowWriter
from vlmscope.store.format.shard import LIBVER, root_attributes
from vlmscope.store.run import AnyRun, Run, as_run
from vlmscope.store.storage.atomic import publishing
from vlmscope.store.storage.paths import check_output_file
from vlmscope.store.table import metadata_name, scalar_columns


class Spool:
    """A file object for h5py's ``fileobj`` driver that stores write errors instead of raising them.

    Call ``check`` after every row: it raises the first write error. Until then, reads of lost bytes
    return zeros, so no more than one row should be written between two checks.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def check(self) -> None:
        """Re-raise the first write error, if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, data: memoryview) -> int:
        """Write all of the data, or discard it after an error."""
        left = memoryview(data)
        size = left.nbytes
        while left.nbytes and self._error is None:
            try:
                left = left[self._file.write(left) :]
            except OSError as error:
                self._error = error
        return size

    def read(self, size: int) -> bytes:
        """Read a number of bytes; h5py detects a file by this method, but calls ``readinto``."""
        buffer = bytearray(size)
        self.readinto(memoryview(buffer))
        return bytes(buffer)

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer, with zeros beyond the end of the file."""
        read = self._file.readinto(buffer) or 0
        memoryview(buffer)[read:] = bytes(len(buffer) - read)
        return len(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in the file."""
        return self._file.tell()

    def truncate(self, size: int) -> int:
        """Set the length of the file; an error is stored."""
        try:
            self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
        return size

    def flush(self) -> None:
        """Do nothing: nothing is buffered, and publishing flushes to the disk."""


_ROW_GROUP = 256  # rows: about 50 MB at the specification's sizes


def export_parquet(run: Run, file: BinaryIO) -> None:
    """Write the run as one Parquet file, a shard at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = _metadata_kinds(run)
    writer = None
    try:
        for block in run.blocks():
            table = _table(block, kinds)
            if writer is None:
                writer = pq.ParquetWriter(file, table.schema)
            # A shard whose first question has no image orders its columns differently.
            table = table.select(writer.schema.names)
            writer.write_table(table, row_group_size=_ROW_GROUP)
        if writer is None:
            pq.write_table(pa.table({"question_id": pa.array([], pa.string())}), file)
    finally:
        if writer is not None:
            writer.close()


def _table(block: Block, kinds: dict[str, type]) -> Any:
    """Turn a block into an Arrow table."""
    import pyarrow as pa

    scalars, bare = scalar_columns(block), ~np.array(block.has_image, bool)
    columns: dict[str, Any] = {name: pa.array(values) for name, values in scalars.items()}
    for name, arrays in block.ragged.items():
        if is_of_samples(name.partition("/")[2]):
            continue
        kind = pa.list_(pa.from_numpy_dtype(arrays[0].dtype))
        lacking = bare if needs_image(name.partition("/")[2]) else None
        columns[name.replace("/", ".")] = pa.array(arrays, type=kind, mask=lacking)
    columns |= _sample_lists(block)
    for name, numbers in block.numbers.items():
        if numbers.ndim > 1:
            columns[name.replace("/", ".")] = _fixed(numbers.reshape(len(numbers), -1))
    for name, numbers in block.numbers.items():
        if boundary_position(name) is not None:
            columns[name] = pa.array(numbers, mask=numbers == NO_BOUNDARY)
    columns |= _token_lists(block, bare)
    for path, matrix in block.vectors.items():
        absent = bare if is_of_image(path) and bare.any() else None
        if absent is None and may_be_absent(path):
            absent = np.isnan(matrix[:, 0])
        columns[path.replace("/", ".")] = _fixed(matrix, absent)
    metadata = [metadata_of(text) for text in block.texts["metadata"]]
    for key, kind in kinds.items():
        values = [_as_kind(row.get(key), kind) for row in metadata]
        columns[metadata_name(key, columns)] = pa.array(values, type=_arrow_type(kind))
    return pa.table(columns)


def _token_lists(block: Block, bare: NDArray[np.bool_]) -> dict[str, Any]:
    """Return arrays with a vector for each of several tokens, each as one list of float32."""
    import pyarrow as pa

    found = {}
    for path, rows in block.tokens.items():
        values = pa.array(rows.values.astype(np.float32).ravel())
        offsets = pa.array(rows.offsets * rows.values.shape[1])
        mask = pa.array(bare) if needs_image(path.partition("/")[2]) else None
        lists = pa.LargeListArray.from_arrays(offsets, values, mask=mask)
        found[path.replace("/", ".")] = lists
    return found


def _sample_lists(block: Block) -> dict[str, Any]:
    """Return the texts of the samples as lists, their tokens and the like as lists of lists."""
    import pyarrow as pa

    found: dict[str, Any] = {}
    for name in filter(is_signal, block.texts):
        texts = [texts_in(text) for text in block.texts[name]]
        found[name.replace("/", ".")] = pa.array(texts, type=pa.list_(pa.string()))
    lengths = block.ragged.get(signal_path(LENGTHS), ())
    ends = [np.cumsum(each)[:-1] for each in lengths]
    for name, arrays in block.ragged.items():
        if is_of_samples(leaf := name.partition("/")[2]) and leaf != LENGTHS:
            lists = [np.split(flat, at) for flat, at in zip(arrays, ends, strict=True)]
            kind = pa.list_(pa.list_(pa.from_numpy_dtype(arrays[0].dtype)))
            found[name.replace("/", ".")] = pa.array(lists, type=kind)
    return found


def _fixed(matrix: NDArray[Any], absent: NDArray[np.bool_] | None = None) -> Any:
    """Return a matrix as an Arrow column of fixed-size lists, without copying it.

    Rows that are absent are null.
    """
    import pyarrow as pa

    values, mask = pa.array(matrix.ravel()), None if absent is None else pa.array(absent)
    return pa.FixedSizeListArray.from_arrays(values, matrix.shape[1], mask=mask)


def _metadata_kinds(run: Run) -> dict[str, type]:
    """Return each metadata key's type: bool, int, float or str; anything else is stored as JSON."""
    seen: dict[str, set[type]] = {}
    for block in run.blocks(vectors=False):
        for text in block.texts["metadata"]:
            for key, value in metadata_of(text).items():
                seen.setdefault(key, set()).update([_kind_of(value)] if value is not None else [])
    return {key: _common(kinds) for key, kinds in seen.items()}


def _kind_of(value: Any) -> type:
    """Return a value's type; ``object`` if Arrow's corresponding type cannot represent it."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return object
    if isinstance(value, str) and not value.isascii():
        return str if value.encode("utf-8", "ignore").decode() == value else object
    return type(value)


def _common(kinds: set[type]) -> type:
    """Return the type that represents all of these; ``object`` means JSON text."""
    if kinds == {int, float}:
        return float
    if len(kinds) == 1 and kinds <= {bool, int, float, str}:
        return next(iter(kinds))
    return object if kinds else str


def _as_kind(value: Any, kind: type) -> Any:
    if value is None:
        return None
    return json.dumps(value) if kind is object else kind(value)


def _arrow_type(kind: type) -> Any:
    import pyarrow as pa

    known = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    return known.get(kind, pa.string())


def export_run(run: AnyRun, out: str | PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a run to one file, atomically; the suffix selects the format.

    Args:
        run: The run, or its folder.
        out: The file.
        overwrite: Replace an existing file.

    Raises:
        InputError: There is no run, or the file cannot be put there.
    """
    opened = as_run(run)
    target = Path(out)
    export = _EXPORTS.get(target.suffix.lower())
    if export is None:
        raise InputError(
            f"{target}: unknown suffix {target.suffix!r}; name it {', '.join(_EXPORTS)}"
        )
    check_output_file(target)
    if target.exists() and not overwrite:
        raise InputError(f"{target}: already there; give another name, or pass --overwrite")
    with publishing(target) as temporary:
        export(opened, temporary)
    return target


def _export_h5(run: Run, path: Path) -> None:
    """Write the HALP layout with real datasets."""
    final_norm = final_norm_leaves(run.manifest)
    with Spool(path) as spool:
        with h5py.File(spool, "w", libver=LIBVER) as file:
            for block in run.blocks():
                rows = RowWriter(file, block, final_norm=final_norm, virtual=False)
                for _ in rows.write():
                    spool.check()
            file.attrs.update(root_attributes(run.manifest, rows=len(run)))
        spool.check()


_LONGEST_TEXT = 4096  # characters


def _export_npz(run: Run, path: Path) -> None:
    """Write arrays named like the HDF5 paths; ragged lists are flat, with offsets."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, layers in run.manifest.representations().items():
            for layer in layers or (None,):
                _add(archive, vector_path(name, layer), run.matrix(name, layer))
        for name, shape in run.manifest.signals().items():
            if shape is not None and name in run.signals:
                _add(archive, signal_path(name), np.asarray(run.signal(name)))
        _add_token_rows(archive, run)
        blocks = list(run.blocks(vectors=False))
        attended = len(run.manifest.capture.attention_layers)
        for name, array in _plain_arrays(blocks, attended).items():
            _add(archive, name, array)


_OFFSETS = {IMAGE_TOKENS: "image_token_offsets", ATTENTION_MAP: "attention_map_offsets"}
"""Signal → the name of the offsets of its rows; those of the answer's tokens have their own."""


def _add_token_rows(archive: zipfile.ZipFile, run: Run) -> None:
    """Write arrays with a vector for each of several tokens, a shard at a time.

    ``_OFFSETS`` has the names of their offsets; those of the answer's tokens have
    ``answer_offsets``, like every list of the answer's tokens.
    """
    for name, width in run.manifest.token_widths().items():
        if name not in run.signals:
            continue
        kinds, lengths = set[np.dtype[Any]](), list[int]()
        for found in run.token_parts(name):
            kinds.add(found.values.dtype)
            lengths += np.diff(found.offsets).tolist()
        kind, shape = np.result_type(*kinds, np.float16), (sum(lengths), width)
        descr = np.lib.format.dtype_to_descr(kind)
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        with archive.open(f"{signal_path(name)}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_2_0(member, header)
            for found in run.token_parts(name):
                member.write(np.ascontiguousarray(found.values.astype(kind)).data)
        offsets = np.cumsum([0, *lengths], dtype=np.int64)
        group = _OFFSETS.get(name.partition("/")[0])
        if group is not None and f"{group}.npy" not in archive.namelist():
            _add(archive, group, offsets)


def _plain_arrays(blocks: list[Block], layers: int) -> dict[str, NDArray[Any]]:
    """Return everything but the vectors as arrays that need no pickle.

    Args:
        blocks: The rows.
        layers: Number of layers whose attention is recorded.
    """
    arrays: dict[str, NDArray[Any]] = {}
    if not blocks:
        return {"question_id": np.array([], dtype=np.str_)}
    for name in blocks[0].texts:
        texts = [text for block in blocks for text in block.texts[name]]
        if is_signal(name):  # several of each row
            texts = [each for text in texts for each in texts_in(text)]
        arrays |= _text_arrays(name, texts)
    for name in [name for name in blocks[0].numbers if not is_signal(name)]:
        arrays[name] = np.concatenate([block.numbers[name] for block in blocks])
    for name in blocks[0].ragged:
        lists = [values for block in blocks for values in block.ragged[name]]
        arrays[name] = np.concatenate(lists)
        if name == signal_path(PREVIOUS):
            arrays[name] = by_layer(arrays[name], layers)
            arrays["attention_previous_offsets"] = _offsets(lists) // layers
        elif not is_of_samples(name.partition("/")[2]):
            arrays["answer_offsets"] = _offsets(lists)
    if signal_path(LENGTHS) in arrays:
        lengths = arrays.pop(signal_path(LENGTHS))
        arrays["sample_offsets"] = np.cumsum([0, *lengths], dtype=np.int64)
    return arrays


def _text_arrays(name: str, texts: list[str]) -> dict[str, NDArray[Any]]:
    """Return texts as one array of NumPy strings; long ones as UTF-8 bytes with offsets.

    A NumPy string array allocates the length of the longest text for every element.
    """
    if max(map(len, texts)) <= _LONGEST_TEXT:
        return {name: np.array(texts, np.str_)}
    encoded = [np.frombuffer(text.encode(), np.uint8) for text in texts]
    return {f"{name}.utf8": np.concatenate(encoded), f"{name}.offsets": _offsets(encoded)}


def _offsets(lists: Iterable[NDArray[Any]]) -> NDArray[np.int64]:
    """Return where each list starts in the flat array, and the end."""
    return np.cumsum([0, *(len(values) for values in lists)], dtype=np.int64)


def _add(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def _export_parquet(run: Run, path: Path) -> None:
    with path.open("wb") as file:  # Arrow itself cannot open a path that is not UTF-8
        export_parquet(run, file)


_EXPORTS: dict[str, Callable[[Run, Path], None]] = {
    ".h5": _export_h5,
    ".parquet": _export_parquet,
    ".npz": _export_npz,
}
