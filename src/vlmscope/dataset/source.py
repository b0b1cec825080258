"""What every reader of a table gives: its columns, and its rows as plain Python values.

A reader knows its format and nothing else; what the values mean is decided in one place for all
formats (``rows``, ``values``), so the same rows from CSV and from Parquet are the
same samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from vlmscope.errors import InputError, named_line
from vlmscope.schema import FieldSpec


class Row(NamedTuple):
    """One row of a table."""

    number: int
    """Where it stands, counted from 1 in the source's ``unit``."""
    values: Mapping[str, Any]
    """Column → value as the format gives it."""
    within: str = ""
    """Of several tables that are read as one, the one it stands in and its unit."""
    nth: int = 0
    """Which row of all it is, counted from 1; 0 where nobody asked."""


class Source(ABC):
    """A table that can be read from the start as often as wanted."""

    name: str
    """How messages call it: ``questions.csv``."""
    unit: ClassVar[str] = "row"
    """What ``Row.number`` counts: ``line``, ``row`` or ``item``."""
    missing: ClassVar[frozenset[str]] = frozenset()
    """Texts that stand for "no value" in this format, beside the empty text."""
    by_content: ClassVar[bool] = False
    """Whether images that it holds are identified by their content also where they have names."""

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Name the columns in order.

        Raises:
            InputError: the table cannot be read.
        """

    def media(self) -> Mapping[str, str]:
        """Name the columns that are declared to hold no images: column → ``Audio`` or ``Video``.

        Only tables of the ``datasets`` library declare it.
        """
        return {}

    def fields(self, asked: FieldSpec) -> FieldSpec:
        """Return the columns to use, of those that were asked for."""
        return asked

    def origin(self, row: Row) -> str:
        """Say where a row stands: ``questions.csv line 41``."""
        return f"{row.within or f'{self.name} {self.unit}'} {row.number}"

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Read the rows in order, from the first one at every call.

        Raises:
            InputError: the table cannot be read on from here.
        """


@dataclass(frozen=True)
class FileSource(Source):
    """A table in one file, named by the file."""

    path: Path
    """The file."""

    @property
    def name(self) -> str:  # type: ignore[override]  # read-only here, and never set elsewhere
        """The file's name without its folder."""
        return self.path.name


@contextmanager
def reading(source: Source) -> Iterator[None]:
    """Make what the system or the memory refuses an error of the table.

    Raises:
        InputError: the table cannot be read, or not on from here.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or named_line(error)
        raise InputError(f"{source.name}: cannot be read ({why}); check the file") from error
    except MemoryError as error:
        raise InputError(
            f"{source.name}: does not fit into memory; save it as .jsonl or .parquet, which are "
            "read a few rows at a time, and without one huge row"
        ) from error
