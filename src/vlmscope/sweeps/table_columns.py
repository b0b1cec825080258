"""The columns of a table that may say of what kind a question is, as texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vlmscope.score.column import LABEL_COLUMNS
from vlmscope.store import Run, label_settings
from vlmscope.store.table import scalar_columns

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

NEVER = frozenset(
    {"question_id", "id", "question", "image", "image_id", "image_name", "answer", "model_answer",
     "ground_truth_answer", "gt_answer", "truth", "target", *LABEL_COLUMNS}
)  # fmt: skip
"""Names of columns that say no kind of question, or say the answer or the label."""


def kind_of(cell: Any) -> str:
    """Return a cell that names a kind of question as text, empty where it names none.

    >>> kind_of("count"), kind_of(None), kind_of(float("nan")), kind_of(3)
    ('count', '', '', '3')
    """
    return "" if cell is None or cell != cell else str(cell)


def shown(name: str) -> str:
    r"""Return a column's name as a message may show it: what cannot be printed is escaped.

    >>> shown("source"), shown("a\x1b[31m")
    ('source', "'a\\x1b[31m'")
    """
    return name if name.isprintable() and name else repr(name)


def columns_of_run(run: Run, table: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Return the columns that came with the run's table, as texts, for some of its rows.

    Args:
        run: The run; its own columns and the one that its labels were read from are left out.
        table: The rows, of ``Run.to_pandas``.
    """
    own = {name for block in _first(run) for name in scalar_columns(block)} | _label_columns(run)
    found = (name for name in table.columns if name not in own)
    return usable_columns({name: table[name] for name in found})


def usable_columns(table: Mapping[str, Iterable[Any]]) -> dict[str, tuple[str, ...]]:
    """Return columns as texts, without those of ``NEVER``."""
    return {
        str(name): tuple(map(kind_of, cells)) for name, cells in table.items() if name not in NEVER
    }


def _first(run: Run) -> Iterator[Any]:
    for block in run.blocks(vectors=False):
        yield block
        return


def _label_columns(run: Run) -> set[str]:
    """Return the column that the labels were read from, if that is where they came from."""
    settings = label_settings(run.path).get("settings")
    column = settings.get("column") if isinstance(settings, Mapping) else None
    return {column} if isinstance(column, str) else set()
