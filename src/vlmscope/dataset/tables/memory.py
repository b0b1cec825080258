"""Readers of tables in memory: a data frame, a dataset, rows as dictionaries, samples.

They are read by the same rules as files. An image may be a path, the bytes of a file, a PIL image,
or an array of pixels; one in memory is identified by its content even if it has a name, because a
change would go unnoticed otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from vlmscope.dataset.images.cells import ImageCell, split_cell
from vlmscope.dataset.images.in_memory import ImageHashes, InMemoryImage
from vlmscope.dataset.source import Row, Source
from vlmscope.dataset.tables.hub import DatasetSource
from vlmscope.dataset.values import kind_name
from vlmscope.errors import InputError
from vlmscope.schema import FieldSpec, Sample

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

_CHUNK = 1024
"""Rows of a data frame converted to Python values at a time."""

_EXPECTED = (
    "expected a path, a pandas.DataFrame, a datasets.Dataset, or a list of dictionaries or samples"
)


@dataclass(frozen=True)
class InMemory:
    """A table in memory. Other processes get its name only."""

    name: str
    """Its kind: ``DataFrame``."""
    source: Source | None = field(default=None, repr=False, compare=False)
    """Its rows; None if only the name is known."""

    @property
    def has_columns(self) -> bool:
        """Whether columns can be mapped: samples have fields instead."""
        return not isinstance(self.source, SamplesSource)

    def named(self) -> InMemory:
        """Return a copy without the rows."""
        return InMemory(self.name)


@dataclass(frozen=True, eq=False)
class _MemorySource(Source):
    """Rows in memory, counted from 0 as Python counts."""

    name: str
    unit: ClassVar[str] = "position"
    by_content: ClassVar[bool] = True
    hashes: ImageHashes = field(default_factory=ImageHashes, init=False, repr=False, compare=False)

    def origin(self, row: Row) -> str:
        """Return the location of a row as text: ``list[3]``."""
        return f"{self.name}[{row.number}]"

    def plain(self, value: Any, row: int, column: str) -> Any:
        """Return a cell as a reader of files would."""
        return _plain(value, lambda image, n: InMemoryImage(image, self.hashes, (row, column, n)))


@dataclass(frozen=True, eq=False)
class FrameSource(_MemorySource):
    """A ``pandas.DataFrame``. An index that has a name is a column too."""

    frame: pd.DataFrame

    def origin(self, row: Row) -> str:
        """Return the location of a row as text: ``DataFrame.iloc[3]``."""
        return f"{self.name}.iloc[{row.number}]"

    def columns(self) -> tuple[str, ...]:
        """Return the columns."""
        return tuple(map(str, self.frame.columns))

    def rows(self) -> Iterator[Row]:
        """Yield the rows."""
        names = self.columns()
        for start in range(0, len(self.frame), _CHUNK):
            part = self.frame.iloc[start : start + _CHUNK]
            columns = [part.iloc[:, index].tolist() for index in range(len(names))]
            for number, cells in enumerate(zip(*columns, strict=True), start=start):
                named = zip(names, cells, strict=True)
                yield Row(number, {name: self.plain(cell, number, name) for name, cell in named})


@dataclass(frozen=True, eq=False)
class RecordsSource(_MemorySource):
    """Rows as dictionaries."""

    records: Sequence[Mapping[Any, Any]]

    def columns(self) -> tuple[str, ...]:
        """Return the keys of all rows, in order of appearance."""
        return self._columns

    @cached_property
    def _columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(str(key) for record in self.records for key in record))

    def rows(self) -> Iterator[Row]:
        """Yield the rows."""
        for number, record in enumerate(self.records):
            named = ((str(key), value) for key, value in record.items())
            yield Row(number, {key: self.plain(value, number, key) for key, value in named})


@dataclass(frozen=True, eq=False)
class SamplesSource(_MemorySource):
    """Samples, from ``read_samples`` or made by the caller.

    Their image paths are used unchanged: the caller chose them.
    """

    samples: Sequence[Sample]

    def origin(self, row: Row) -> str:
        """Return the location of a sample as text: that in its original table, if there is one."""
        return self.samples[row.number].origin or super().origin(row)

    def fields(self, asked: FieldSpec) -> FieldSpec:
        """Return the columns of the samples' own fields.

        Raises:
            InputError: Columns were mapped.
        """
        if asked != FieldSpec():
            raise InputError(
                f"--map: {self.name} are samples, whose fields need no columns; leave it out"
            )
        id_, image, question, target = map(self._column, _FIELDS)
        return FieldSpec(id=id_, image=image, question=question, target=target)

    def columns(self) -> tuple[str, ...]:
        """Return the columns: the fields, and all keys of metadata."""
        return (*map(self._column, _FIELDS), *self._metadata)

    @cached_property
    def _metadata(self) -> dict[str, None]:
        return dict.fromkeys(str(key) for sample in self.samples for key in sample.metadata)

    def _column(self, name: str) -> str:
        taken = self._metadata
        while name in taken:
            name = f"sample.{name}"
        return name

    def rows(self) -> Iterator[Row]:
        """Yield the samples."""
        names = [self._column(name) for name in _FIELDS]
        for number, sample in enumerate(self.samples):
            cells = (sample.id, self._images(sample, number), sample.question, sample.target)
            metadata = {str(key): value for key, value in sample.metadata.items()}
            plain = {key: self.plain(value, number, key) for key, value in metadata.items()}
            yield Row(number, {**plain, **dict(zip(names, cells, strict=True))})

    def _images(self, sample: Sample, number: int) -> list[ImageCell]:
        cells = []
        # An image without a name is named by its question's id.
        own = "" if sample.image_id == sample.id else sample.image_id
        for nth, image in enumerate(sample.images):
            name = own if not nth else ""
            if isinstance(image, str | PathLike):
                path = Path(image)
                cells.append(ImageCell(name if own else str(path), None, path=path))
            else:
                plain = self.plain(image, number, f"image {nth}")
                if isinstance(plain, np.ndarray):
                    [cell] = split_cell(plain, frozenset())
                    cells.append(replace(cell, name=name))
                    continue
                has_image = isinstance(plain, bytes | InMemoryImage)
                other = "" if has_image else kind_name(plain)
                cells.append(ImageCell(name, plain if has_image else None, other=other))
        return cells


_FIELDS = ("id", "image", "question", "target")
_PATHS = (str, PathLike)


def _plain(value: Any, wrap: Callable[[Image.Image, int], InMemoryImage], nth: int = 0) -> Any:
    """Return a plain Python value: missing values of pandas and NumPy are None."""
    if value is None or type(value) in (str, int, float, bool, bytes):
        return value
    if isinstance(value, Image.Image):
        return wrap(value, nth)
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, list | tuple):
        return [_plain(each, wrap, index) for index, each in enumerate(value)]
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return _plain_array(value, wrap)
    pandas = sys.modules.get("pandas")
    if pandas is not None and (value is pandas.NA or value is pandas.NaT):
        return None
    return value


def _plain_array(value: Any, wrap: Callable[[Image.Image, int], InMemoryImage]) -> Any:
    """Return a NumPy scalar as a Python value, a one-dimensional array as a list."""
    if value.ndim > 1:  # pixels, not a list
        return value
    if getattr(value.dtype, "kind", "") in ("m", "M"):  # torch's have no kind
        value = value.astype(f"{value.dtype.kind}8[us]")
    plain = value.tolist()
    return _plain(plain, wrap) if isinstance(plain, list) else plain


def with_listed_paths(data: Any) -> Any:
    """Return an iterator of paths, such as that of ``Path.glob``, as a list; else the data.

    ``in_memory`` reads an iterator to its end, and the paths are needed again.
    """
    if not isinstance(data, Iterator):
        return data
    items = list(data)
    return items if items and isinstance(items[0], _PATHS) else iter(items)


def in_memory(data: Any) -> InMemory | None:
    """Return a table passed as data; None for its name: paths, patterns, a hub name.

    An iterator is read to its end, as a table is read more than once.

    Args:
        data: A data frame, a dataset, or dictionaries or samples.

    Raises:
        InputError: It is none of these.
    """
    if isinstance(data, InMemory):
        return data
    if isinstance(data, str | PathLike):
        return None
    source = _frame(data) or _dataset(data)
    if source is None:
        source = _rows(data)
    return None if source is None else InMemory(source.name, source)


def _frame(data: Any) -> Source | None:
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(data, pandas.DataFrame):
        return None
    named = [name for name in data.index.names if name is not None and name not in data.columns]
    frame = data.reset_index(level=named) if named else data
    if frame.columns.nlevels > 1 or not frame.columns.map(str).is_unique:
        raise InputError(
            "DataFrame: its columns have several levels, or two have one name; give each a name of "
            "its own"
        )
    return FrameSource("DataFrame", frame)


def _dataset(data: Any) -> Source | None:
    datasets = sys.modules.get("datasets")
    if datasets is None:
        return None
    if isinstance(data, datasets.DatasetDict | datasets.IterableDatasetDict):
        splits = ", ".join(map(str, data))
        raise InputError(
            f"{type(data).__name__}: has several splits, found {splits}; give one of them"
        )
    return DatasetSource("Dataset", data) if isinstance(data, datasets.Dataset) else None


def _rows(data: Any) -> Source | None:
    """Return rows or samples; None for several paths."""
    if isinstance(data, Sample | Mapping) or not isinstance(data, Iterable):
        raise InputError(f"the table is {kind_name(data)}, {_EXPECTED}")
    name = type(data).__name__ if isinstance(data, list | tuple) else "rows"
    items = list(data)
    if not items:
        raise InputError(f"{name}: 0 rows; expected at least one")
    kinds = (Sample, Mapping, _PATHS)
    kind = next((kind for kind in kinds if isinstance(items[0], kind)), None)
    for number, item in enumerate(items):
        if kind is None or not isinstance(item, kind):
            found = f"{name}[{number}] is {kind_name(item)}"
            raise InputError(f"{found}; {_EXPECTED}, all rows of one kind")
    if kind is _PATHS:
        return None
    if kind is Sample:
        return SamplesSource(f"{name} of samples", items)
    return RecordsSource(name, items)
