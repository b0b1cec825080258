"""Tables beside the captures, published as Parquet files: results, predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmscope.store.block import clean_text
from vlmscope.store.publish import publish


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    """Write columns of equal length as a Parquet file, replacing what is there, and return it.

    Raises:
        StoreError: The disk refuses. What was there stays.
    """
    publish(path, parquet_bytes(columns))
    return path


def parquet_bytes(
    columns: Mapping[str, Sequence[Any]], settings: Mapping[str, Any] | None = None
) -> bytes:
    """Return columns of equal length as the bytes of a Parquet file.

    Args:
        columns: The columns, by name.
        settings: Kept as JSON in the schema, under the key ``vlmscope``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: list(map(_valid, values)) for name, values in columns.items()})
    if settings is not None:
        table = table.replace_schema_metadata({"vlmscope": json.dumps(settings, default=str)})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    data: bytes = buffer.getvalue().to_pybytes()
    return data


def _valid(value: Any) -> Any:
    """Return a text without what Parquet cannot hold: a path may have half a surrogate pair."""
    return clean_text(value) if isinstance(value, str) else value
