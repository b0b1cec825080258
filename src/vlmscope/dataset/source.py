"""``Source``: the interface of table readers, columns and rows of plain Python values.

A reader handles its format and nothing else; values are interpreted for all formats alike
(``rows``, ``values``), so the same rows from CSV and from Parquet give the same samples.
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
    """Its position, counted from 1 in the source's ``unit``."""
    values: Mapping[str, Any]
    """Column → value, in the format's own type."""
    within: str = ""
    """For several tables read as one: the table it is in and its unit."""
    nth: int = 0
    """Its number among all rows, counted from 1; 0 if not needed."""


class Source(ABC):
    """A table that can be read from the start as often as wanted."""

    name: str
    """Its name in messages: ``questions.csv``."""
    unit: ClassVar[str] = "row"
    """What ``Row.number`` counts: ``line``, ``row`` or ``item``."""
    missing: ClassVar[frozenset[str]] = frozenset()
    """Texts that mean "no value" in this format, in addition to the empty text."""
    by_content: ClassVar[bool] = False
    """Whether images it contains are identified by content even if they have names."""

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Return the columns in order.

        Raises:
            InputError: the table cannot be read.
        """

    def media(self) -> Mapping[str, str]:
        """Return the columns declared as other media than images: column → ``Audio`` or ``Video``.

        Only tables of the ``datasets`` library declare it.
        """
        return {}

    def fields(self, asked: FieldSpec) -> FieldSpec:
        """Return the mapping to use, given the one that was asked for."""
        return asked

    def origin(self, row: Row) -> str:
        """Return the location of a row as text: ``questions.csv line 41``."""
        return f"{row.within or f'{self.name} {self.unit}'} {row.number}"

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Yield the rows in order, from the first one at every call.

        Raises:
            InputError: the table cannot be read any further.
        """


@dataclass(frozen=True)
class FileSource(Source):
    """A table in one file."""

    path: Path
    """The file."""

    @property
    def name(self) -> str:  # type: ignore[override]  # read-only here, and never set elsewhere
        """The file's name without its folder."""
        return self.path.name


@contextmanager
def reading(source: Source) -> Iterator[None]:
    """Convert errors of the system, and of memory, to errors of the table.

    Raises:
        InputError: the table cannot be read, or not any further.
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
