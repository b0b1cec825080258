"""The rows of a run by number, as pandas selects them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np

from vlmscope.errors import RowNumberError
from vlmscope.schema import Capture

if TYPE_CHECKING:
    from vlmscope.store.run import Run


class RowsByNumber:
    """The rows of a run by number, like ``pandas.DataFrame.iloc``."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @overload
    def __getitem__(self, number: SupportsIndex) -> Capture: ...

    @overload
    def __getitem__(self, number: slice | Iterable[SupportsIndex]) -> list[Capture]: ...

    def __getitem__(
        self, number: SupportsIndex | slice | Iterable[SupportsIndex]
    ) -> Capture | list[Capture]:
        """Return one row, or the rows selected by a slice, a list of numbers or a boolean mask.

        Raises:
            RowNumberError: There is no such row. A subclass of ``IndexError``.
        """
        if isinstance(number, slice):
            return list(self._run.captures(range(len(self._run))[number]))
        if isinstance(number, Iterable):
            return list(self._run.captures(map(self._checked, self._chosen(number))))
        return next(self._run.captures([self._checked(number)]))

    def _chosen(self, numbers: Iterable[Any]) -> Sequence[Any]:
        chosen = np.asarray(list(numbers))
        if chosen.dtype == bool:
            if len(chosen) != len(self._run):
                raise RowNumberError(
                    f"iloc: a boolean mask of {len(chosen):,} values, expected one for each of "
                    f"the {len(self._run):,} rows"
                )
            return np.flatnonzero(chosen).tolist()
        found: list[Any] = chosen.tolist()
        return found

    def _checked(self, number: SupportsIndex) -> int:
        """Return the number of a row, counted from the first one."""
        count = len(self._run)
        try:
            plain = index(number)
        except TypeError:
            raise RowNumberError(
                f"iloc[{number!r}]: expected a number, a slice or a list of numbers; use run[id] "
                "to select a question by id"
            ) from None
        if not -count <= plain < count:
            raise RowNumberError(f"iloc[{plain}]: the run has {count:,} rows")
        return plain + count if plain < 0 else plain
