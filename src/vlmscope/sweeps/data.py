"""The data of a sweep: scorable rows of a run, labels, images, inputs of the baselines, columns.

Results are broken down by columns of the table that describe the kind of a question and are known
before the answer: its category, source, domain. Columns with these names are used if they have a
few values; others only on request, because they may contain information from after the answer, such
as the label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError, StoreError, UnreachableError
from vlmscope.probes.baselines import BaselineInputs
from vlmscope.schema import Score
from vlmscope.score.column import LABEL_COLUMNS, lacks_label
from vlmscope.store import DEFAULT, Run, label_sets, label_settings, read_labels
from vlmscope.store.table import scalar_columns
from vlmscope.sweeps.grouping import (
    NO_IMAGE,
    Grouping,
    comparable,
    group_by_content,
    has_image,
    without_image_layers,
)
from vlmscope.sweeps.source import LABEL_SET, LayerKey, layer_keys, option_of_set

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

EXCLUDED_COLUMNS = frozenset(
    {"question_id", "id", "question", "image", "image_id", "image_name", "answer", "model_answer",
     "ground_truth_answer", "gt_answer", "truth", "target", *LABEL_COLUMNS}
)  # fmt: skip
"""Names of columns that are not kinds of questions, or contain the answer or the label."""


def kind_of(cell: Any) -> str:
    """Return a cell with a kind of question as text, empty for none.

    >>> kind_of("count"), kind_of(None), kind_of(float("nan")), kind_of(3)
    ('count', '', '', '3')
    """
    return "" if cell is None or cell != cell else str(cell)


def shown(name: str) -> str:
    r"""Return a column's name for a message, with unprintable characters escaped.

    >>> shown("source"), shown("a\x1b[31m")
    ('source', "'a\\x1b[31m'")
    """
    return name if name.isprintable() and name else repr(name)


def columns_of_run(run: Run, table: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Return the columns that came with the run's table, as texts, for some of its rows.

    Args:
        run: The run; its own columns and those that labels were read from are left out.
        table: The rows, from ``Run.to_pandas``.
    """
    own = {name for block in _first(run) for name in scalar_columns(block)} | _label_columns(run)
    found = (name for name in table.columns if name not in own)
    return usable_columns({name: table[name] for name in found})


def usable_columns(table: Mapping[str, Iterable[Any]]) -> dict[str, tuple[str, ...]]:
    """Return columns as texts, without those of ``EXCLUDED_COLUMNS``."""
    return {
        str(name): tuple(map(kind_of, cells))
        for name, cells in table.items()
        if name not in EXCLUDED_COLUMNS
    }


def _first(run: Run) -> Iterator[Any]:
    for block in run.blocks(vectors=False):
        yield block
        return


def _label_columns(run: Run) -> set[str]:
    """Return the columns that label sets were read from."""
    found = set()
    for name in label_sets(run.path):
        try:
            settings = label_settings(run.path, name).get("settings")
        except UnreachableError:
            raise
        except StoreError:  # damaged: reported by the command that uses the set
            continue
        if isinstance(settings, Mapping) and isinstance(settings.get("column"), str):
            found.add(settings["column"])
    return found


UNSCORABLE = "the answer could not be scored"
"""Reason for leaving out an unscorable row."""

TOKENS, LOGPROBS = "first_token_ids", "first_token_logprobs"
"""Columns of a run with the likeliest first tokens and their log-probabilities."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows or vectors left out of a sweep."""

    what: str
    """``row``, ``label``, ``copy`` (of a row), or the path of a vector."""
    count: int
    """How many; for a vector, the number of rows without it."""
    reason: str
    """The reason, as text."""


@dataclass(frozen=True, slots=True, eq=False)
class ProbeData:
    """The rows that probes are trained and tested on, aligned, ``[N]``."""

    rows: NDArray[np.int64]
    """Their numbers in the source."""
    ids: tuple[str, ...]
    """Question ids."""
    truth: NDArray[np.bool_]
    """True where the answer is a hallucination."""
    grouping: Grouping
    """Which rows are about the same image; copies and near-copies of an image count as one."""
    baseline_inputs: BaselineInputs
    """What is known of them without hidden states."""
    categories: tuple[str, ...] | None
    """Category of each, if the table has one."""
    unscorable: int
    """Number of rows left out without a verdict: unscorable or unlabelled."""
    unlabelled: int = 0
    """How many of these are unlabelled, so that it is unknown whether they are scorable."""
    layer_keys: tuple[LayerKey, ...] = ()
    """The vectors to probe; every row has all of them."""
    left_out: tuple[LeftOut, ...] = ()
    """What is left out, including the unscorable rows."""
    origin: Mapping[str, Any] = field(default_factory=lambda: {"source": "run"})
    """Source of rows and labels, as in results.json."""
    metadata: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further columns of a label file, by name, each ``[N]``."""
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Columns of the table, by name, each ``[N]``; empty texts for missing values."""
    by: tuple[str, ...] = ()
    """Names of the columns that results are broken down by: see ``with_columns``."""
    split: NDArray[np.int64] | None = None
    """Number of each row's group if rows are not grouped by image, ``[N]``."""
    split_by: str = "image"
    """What rows are grouped by: ``image``, ``question``, or a column of the table."""
    without_value: NDArray[np.bool_] | None = None
    """Rows without a value in that column, which are grouped by image, ``[N]``."""

    @property
    def groups(self) -> NDArray[np.int64]:
        """Number of each row's group, ``[N]``: folds keep groups together."""
        return self.grouping.groups if self.split is None else self.split

    @property
    def grouped_by(self) -> str:
        """How images are identified: see ``Grouping.by``."""
        return self.grouping.by


def probe_data(run: Run, copies: str = "near", *, labels: str = DEFAULT) -> ProbeData:
    """Join a run with one of its label sets.

    Rows without an image are left out, because all representations are compared on equal rows. If
    no row of the run has an image, all are probed, on the representations that need none.

    Args:
        run: The run.
        copies: Which images count as equal: one of ``grouping.COPIES``.
        labels: The label set.

    Raises:
        InputError: The run has no labels, none of one class, or no vectors for its questions.
    """
    scores = _scores(run, labels)
    verdicts = [score.hallucinated for score in scores]
    table = run.to_pandas(thumbnails=True)
    scorable = np.array([verdict is not None for verdict in verdicts], dtype=bool)
    fit = comparable(has_image(table))
    rows = np.flatnonzero(scorable & fit)
    bare = int((scorable & ~fit).sum())
    if bare and not len(rows):
        raise InputError(
            f"{run.path}: none of the {bare} scorable questions has an image, though other rows "
            "of the run have; label some of those, or extract these into a run of their own"
        )
    truth = np.array([verdicts[i] for i in rows], dtype=bool)
    check_truth(run.path, truth)
    kept = table.iloc[rows]
    grouping = group_by_content(kept, copies)
    return ProbeData(
        rows=rows,
        ids=tuple(run.ids[i] for i in rows),
        truth=truth,
        grouping=grouping,
        baseline_inputs=_inputs(run, kept, rows),
        categories=_texts(kept, "category"),
        unscorable=int((~scorable).sum()),
        unlabelled=sum(score.outcome == "unlabelled" for score in scores),
        layer_keys=_layer_keys(run, grouping),
        columns=columns_of_run(run, kept),
        left_out=(
            *_unlabelled(scores),
            *some_left_out("row", bare, NO_IMAGE),
        ),
        origin={"source": "run", LABEL_SET: labels},
    )


def _unlabelled(scores: Sequence[Score]) -> Iterator[LeftOut]:
    """Yield the rows without a verdict: unlabelled ones and unscorable ones."""
    without = (score for score in scores if score.hallucinated is None)
    reasons = Counter(lacks_label(score) or UNSCORABLE for score in without)
    for reason, count in reasons.most_common():
        yield LeftOut("row", count, reason)


def _scores(run: Run, labels: str) -> list[Score]:
    """Return the label of every row, in the order of the run.

    Raises:
        InputError: There are no labels, no rows, or rows without a label.
    """
    if not len(run):
        raise InputError(
            f"{run.path}: has no rows to learn from; run vlmscope extract again ('vlmscope info' "
            "shows rows that failed)"
        )
    scores = read_labels(run.path, labels)
    found = [scores.get(id_) for id_ in run.ids]
    missing = sum(score is None for score in found)
    if missing:
        raise InputError(
            f"{run.path}: {missing} of {len(run)} rows have no label, as they came after the "
            f"labelling; run vlmscope label{option_of_set('--name', labels)} again"
        )
    return [score for score in found if score is not None]


def _layer_keys(run: Run, grouping: Grouping) -> tuple[LayerKey, ...]:
    """Return the representations and layers that every row has."""
    if grouping.images:
        return tuple(layer_keys(run))
    found = tuple(without_image_layers(layer_keys(run)))
    if not found:
        raise InputError(
            f"{run.path}: no question has an image, and the run contains only vectors of images; "
            "extract again into another folder with --positions last_prompt_token"
        )
    return found


def some_left_out(what: str, count: int, reason: str) -> Iterator[LeftOut]:
    """Yield what is left out, if anything."""
    if count:
        yield LeftOut(what, count, reason)


def check_truth(path: Path, truth: NDArray[np.bool_]) -> None:
    """Raise for labels of one class only.

    Raises:
        InputError: All labels are equal.
    """
    if truth.all() or not truth.any():
        raise InputError(
            f"{path}: of {len(truth)} scorable answers {int(truth.sum())} are hallucinated; "
            "a probe needs some that are and some that are not"
        )


def _inputs(run: Run, table: pd.DataFrame, rows: NDArray[np.int64]) -> BaselineInputs:
    """Return the inputs of the baselines for some rows, those of the first token included."""
    likeliest: dict[str, list[NDArray[Any]]] = {name: [] for name in (TOKENS, LOGPROBS)}
    for block in run.blocks(vectors=False):
        for name, parts in likeliest.items():
            parts.append(block.numbers[name])
    return BaselineInputs(
        question=list(table["question"]),
        category=_texts(table, "category"),
        answer_type=_texts(table, "answer_type"),
        first_token_entropy=table["first_token_entropy"].to_numpy(np.float64),
        first_token_logprob=table["first_token_logprob"].to_numpy(np.float64),
        num_answer_tokens=_numbers(table, "num_answer_tokens"),
        mean_answer_logprob=_numbers(table, "mean_answer_logprob"),
        first_token=_texts(table, "first_token_id"),
        first_token_ids=np.concatenate(likeliest[TOKENS])[rows].astype(np.int64),
        first_token_logprobs=np.concatenate(likeliest[LOGPROBS])[rows].astype(np.float64),
        num_prompt_tokens=_numbers(table, "num_prompt_tokens"),
        num_images=np.array([images_of(text) for text in table["image_sha256"]], np.float64),
    )


def images_of(hashes: str) -> int:
    """Return the number of images in a row's hashes.

    >>> images_of("ab+cd"), images_of("")
    (2, 0)
    """
    return hashes.count("+") + 1 if hashes else 0


def _texts(table: pd.DataFrame, name: str) -> tuple[str, ...] | None:
    return tuple(map(kind_of, table[name])) if name in table else None


def _numbers(table: pd.DataFrame, name: str) -> NDArray[Any] | None:
    return table[name].to_numpy(np.float64) if name in table else None


DEFAULT_COLUMNS = ("category", "answer_type", "source", "type", "domain")
"""Columns that are used by default."""

MOST_VALUES = 50
"""Most different values of a column."""

FEWEST_ROWS = 2
"""Fewest rows that at least two of its values must have."""


def with_columns(data: ProbeData, by: Sequence[str] | None = None) -> ProbeData:
    """Return the rows with the columns to break results down by.

    Args:
        data: The rows, with every column of their table.
        by: Names of columns; by default those of ``DEFAULT_COLUMNS`` that can be used.

    Raises:
        InputError: A column is missing or cannot be used.
    """
    if by is None:
        names = [n for n in DEFAULT_COLUMNS if n in data.columns and not _fault(data.columns[n])]
    else:
        names = list(dict.fromkeys(by))
        for name in names:
            _check(name, data)
    revealing = [n for n in names if n != "category" and _reveals_label(data.columns[n], data)]
    known = ("category", "answer_type", *revealing)
    extra = {name: data.columns[name] for name in names if name not in known}
    return replace(
        data,
        by=tuple(names),
        baseline_inputs=replace(data.baseline_inputs, columns=extra),
        left_out=(
            *data.left_out,
            *(_left_out_column(name, data) for name in revealing if name != "answer_type"),
        ),
    )


def _check(name: str, data: ProbeData) -> None:
    """Raise for a column that is missing or cannot be used."""
    usable = [other for other, cells in data.columns.items() if not _fault(cells)]
    fault = _fault(data.columns[name]) if name in data.columns else "is not a column of the table"
    if name in EXCLUDED_COLUMNS:
        fault = "is the question, its image, the answer or the label"
    if fault:
        there = ", ".join(map(shown, usable)) or "none"
        raise InputError(f"--by: {name!r} {fault}; columns that can be used: {there}")


def _fault(cells: Sequence[str]) -> str:
    """Return the reason why a column cannot be used, or an empty text.

    >>> _fault(["a", "a", "b", "b", ""]), _fault(["a", "a", "b"])
    ('', 'has 1 value with 2 rows or more, expected 2 to 50 such values')
    """
    counts = Counter(cell for cell in cells if cell)
    if len(counts) > MOST_VALUES:
        return f"has {len(counts):,} different values, expected 2 to {MOST_VALUES}"
    often = sum(count >= FEWEST_ROWS for count in counts.values())
    if often < 2:
        noun = "value" if often == 1 else "values"
        return (
            f"has {often} {noun} with {FEWEST_ROWS} rows or more, expected 2 to {MOST_VALUES} "
            "such values"
        )
    return ""


def _reveals_label(cells: Sequence[str], data: ProbeData) -> bool:
    """Return whether each value has one outcome only, as a column made of the labels would."""
    seen: dict[str, set[bool]] = {}
    for cell, truth in zip(cells, data.truth.tolist(), strict=True):
        seen.setdefault(cell, set()).add(truth)
    return all(len(outcomes) == 1 for outcomes in seen.values())


def _left_out_column(name: str, data: ProbeData) -> LeftOut:
    return LeftOut(
        f"column {shown(name)}",
        int(np.sum([bool(cell) for cell in data.columns[name]])),
        "each of its values has one outcome, so it may be made of the labels; it does not count "
        "as known before the answer",
    )
