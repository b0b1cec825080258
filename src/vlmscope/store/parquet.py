"""Export to Parquet: a row per question, a fixed-size list of float32 per vector.

A question without a picture has null where others have the image's vectors and boundaries.

A Parquet file has one schema from its first byte, and metadata may hold anything, so the texts are
read once to learn the columns and once more to write them.
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vlmscope.store.block import NO_BOUNDARY, Block, metadata_of
from vlmscope.store.naming import boundary_position, is_of_image
from vlmscope.store.run import Run
from vlmscope.store.table import metadata_name, scalar_columns

_ROW_GROUP = 256  # rows: about 50 MB at the seed's sizes


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
            # A shard that begins with a question without a picture has another order of columns.
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

    scalars = scalar_columns(block)
    columns: dict[str, Any] = {name: pa.array(values) for name, values in scalars.items()}
    for name, arrays in block.ragged.items():
        kind = pa.from_numpy_dtype(arrays[0].dtype)
        columns[name] = pa.array(arrays, type=pa.list_(kind))
    for name, numbers in block.numbers.items():
        if numbers.ndim > 1:
            columns[name] = _fixed(numbers)
    for name, numbers in block.numbers.items():
        if boundary_position(name) is not None:
            columns[name] = pa.array(numbers, mask=numbers == NO_BOUNDARY)
    bare = np.array([not has_picture for has_picture in block.has_picture])
    for path, matrix in block.vectors.items():
        absent = bare if is_of_image(path) and bare.any() else None
        columns[path.replace("/", ".")] = _fixed(matrix, absent)
    metadata = [metadata_of(text) for text in block.texts["metadata"]]
    for key, kind in kinds.items():
        values = [_as_kind(row.get(key), kind) for row in metadata]
        columns[metadata_name(key, columns)] = pa.array(values, type=_arrow_type(kind))
    return pa.table(columns)


def _fixed(matrix: NDArray[Any], absent: NDArray[np.bool_] | None = None) -> Any:
    """Return a matrix as an Arrow column of fixed-size lists, without copying it.

    Rows that are absent are null.
    """
    import pyarrow as pa

    values, mask = pa.array(matrix.ravel()), None if absent is None else pa.array(absent)
    return pa.FixedSizeListArray.from_arrays(values, matrix.shape[1], mask=mask)


def _metadata_kinds(run: Run) -> dict[str, type]:
    """Return each metadata key's type: bool, int, float or str; anything else is kept as JSON."""
    seen: dict[str, set[type]] = {}
    for block in run.blocks(vectors=False):
        for text in block.texts["metadata"]:
            for key, value in metadata_of(text).items():
                seen.setdefault(key, set()).update([_kind_of(value)] if value is not None else [])
    return {key: _common(kinds) for key, kinds in seen.items()}


def _kind_of(value: Any) -> type:
    """Return a value's type; ``object`` for one that Arrow's own type cannot hold."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return object
    if isinstance(value, str) and not value.isascii():
        return str if value.encode("utf-8", "ignore").decode() == value else object
    return type(value)


def _common(kinds: set[type]) -> type:
    """Return the type that holds all of these; ``object`` stands for JSON text."""
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
