"""Reader of Parquet, with pyarrow, a few rows at a time.

Batches are small because a row may contain an image: 64 images are some megabytes, a row group of
them may be gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vlmscope.dataset.images.cells import FEATURES
from vlmscope.dataset.source import FileSource, Row
from vlmscope.dataset.tables.text import COMPRESSED
from vlmscope.dataset.values import Unreadable
from vlmscope.errors import InputError, named_line
from vlmscope.jsontext import load_json
from vlmscope.regular import open_regular

_NOT_DECLARED = (LookupError, TypeError, ValueError, AttributeError)
_NO_VALUE = (ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError)

BATCH_ROWS = 64
"""Rows converted to Python values at a time."""


@dataclass(frozen=True)
class ParquetSource(FileSource):
    """A Parquet file. Rows are counted from 1."""

    def columns(self) -> tuple[str, ...]:
        """Return the columns of the schema.

        Raises:
            InputError: the file is not Parquet, or pyarrow is missing.
        """
        return tuple(self._schema().names)

    def media(self) -> dict[str, str]:
        """Return the columns of sounds and videos, if the ``datasets`` library wrote the file.

        Raises:
            InputError: as ``columns``.
        """
        try:
            record = load_json((self._schema().metadata or {})[b"huggingface"].decode())
            return declared_media(record["info"]["features"])
        except _NOT_DECLARED:  # other writers may store anything there
            return {}

    def _schema(self) -> Any:
        pyarrow, parquet = pyarrow_and_parquet()
        try:
            with open_regular(self.path) as opened, parquet.ParquetFile(opened) as file:
                return file.schema_arrow
        except (pyarrow.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def rows(self) -> Iterator[Row]:
        """Yield the rows; values are Python types, images are bytes or ``{bytes, path}``.

        Raises:
            InputError: the file is damaged, or pyarrow is missing.
        """
        pyarrow, parquet = pyarrow_and_parquet()
        damaged = pyarrow.ArrowException  # also where this is closed while the interpreter ends
        number = 0
        try:
            with open_regular(self.path) as opened, parquet.ParquetFile(opened) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS):
                    for values in plain_rows(batch):
                        number += 1
                        yield Row(number, values)
        except (damaged, OSError) as error:
            raise self._unreadable(error, after=number) from error

    def _unreadable(self, error: Exception, after: int = 0) -> InputError:
        position = f"{self.name} after row {after}" if after else self.name
        if self.path.suffix.lower() in COMPRESSED:
            return InputError(f"{position}: is a compressed file; decompress it once")
        return InputError(
            f"{position}: cannot be read as Parquet ({named_line(error)}); write the file again, "
            "or give it the extension of its format"
        )


def plain_rows(batch: Any) -> list[dict[str, Any]]:
    """Return the rows of an Arrow batch as Python values.

    Arrow has values that Python lacks: dates after the year 9999, structs with two fields of one
    name, text that is not UTF-8. Such a cell is ``Unreadable``, and all others are read.
    """
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except _NO_VALUE:
        columns = [[_plain_cell(cell) for cell in column] for column in batch.columns]
        names = batch.schema.names
        return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return rows


def _plain_cell(cell: Any) -> Any:
    try:
        return cell.as_py()
    except _NO_VALUE as error:
        return Unreadable(named_line(error))


def declared_media(features: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns of sounds or videos, or lists of them, by their declared features.

    Args:
        features: column → feature, as the ``datasets`` library writes it to JSON.

    >>> declared_media({"clip": {"feature": {"_type": "Video"}, "_type": "List"}, "id": {}})
    {'clip': 'Video'}
    """
    found = {}
    for column, feature in features.items():
        while isinstance(feature, list) or (isinstance(feature, Mapping) and "feature" in feature):
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
        kind = feature.get("_type") if isinstance(feature, Mapping) else None
        if kind in FEATURES:
            found[column] = str(kind)
    return found


def pyarrow_and_parquet() -> tuple[Any, Any]:
    """Return the two modules.

    Raises:
        InputError: they are not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "reading Parquet needs pyarrow, which is not installed; pip install pyarrow"
        ) from error
    return pyarrow, pyarrow.parquet
