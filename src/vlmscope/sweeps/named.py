"""Results that are found by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from vlmscope.errors import InputError, shortened, suggest_names


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str:
        """The name."""
        ...


AnyNamed = TypeVar("AnyNamed", bound=Named)


def result_named(results: Sequence[AnyNamed], name: str) -> AnyNamed:
    """Return a result by its name.

    Raises:
        InputError: None has that name.
    """
    for each in results:
        if each.name == name:
            return each
    near = suggest_names(str(name), [each.name for each in results])
    raise InputError(f"result {shortened(repr(name))}: no result has that name; {near}")
