"""What of a run a probe may learn from: scorable rows, their truth, images and outside facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError
from vlmscope.probes.baselines import Facts
from vlmscope.schema import Score
from vlmscope.score.column import lacks_label
from vlmscope.store import DEFAULT, Run, read_labels
from vlmscope.sweeps.grouping import (
    NO_PICTURE,
    Grouping,
    comparable,
    group_by_content,
    has_picture,
    without_image_places,
)
from vlmscope.sweeps.source import LABEL_SET, Place, of_set, places
from vlmscope.sweeps.table_columns import columns_of_run, kind_of

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]


UNSCORABLE = "the answer could not be scored"
"""Why a row is left out that a scorer looked at in vain."""

TOKENS, LOGPROBS = "first_token_ids", "first_token_logprobs"
"""The likeliest first tokens of a row and their log-probabilities, as a run's columns."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that the sweep does without."""

    what: str
    """``row``, ``label``, ``copy`` (of a row), or the path of a vector."""
    count: int
    """How many; of a vector, the rows that lack it."""
    reason: str
    """Why, as a person reads it."""


@dataclass(frozen=True, slots=True, eq=False)
class ProbeData:
    """The rows that probes learn from, aligned, ``[N]``."""

    rows: NDArray[np.int64]
    """Their numbers in the source."""
    ids: tuple[str, ...]
    """Question ids."""
    truth: NDArray[np.bool_]
    """True where the answer is a hallucination."""
    grouping: Grouping
    """Which rows are about the same image; copies and near-copies of an image count as one."""
    facts: Facts
    """What is known of them from outside."""
    categories: tuple[str, ...] | None
    """Category of each, where the table has one."""
    unscorable: int
    """Rows left out because they have no verdict: none can be said, or nobody labelled them."""
    places: tuple[Place, ...] = ()
    """The vectors to probe; every row has them all."""
    left_out: tuple[LeftOut, ...] = ()
    """What is left out, the unscorable rows among it."""
    origin: Mapping[str, Any] = field(default_factory=lambda: {"source": "run"})
    """Where rows and labels come from, as results.json says it."""
    metadata: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further columns of a label file, by name, each ``[N]``."""
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Columns of the table, by name, each ``[N]``; empty texts where a row has none."""
    by: tuple[str, ...] = ()
    """Names of those that results are broken down by: see ``columns.with_columns``."""
    split: NDArray[np.int64] | None = None
    """Number of each row's group where rows are not grouped by image, ``[N]``."""
    split_by: str = "image"
    """What rows are grouped by: ``image``, ``question``, or a column of the table."""

    @property
    def groups(self) -> NDArray[np.int64]:
        """Number of each row's group, ``[N]``: what no fold may separate."""
        return self.grouping.groups if self.split is None else self.split

    @property
    def grouped_by(self) -> str:
        """How images are told apart: see ``Grouping.by``."""
        return self.grouping.by


def probe_data(run: Run, copies: str = "near", *, labels: str = DEFAULT) -> ProbeData:
    """Join a run with one of its label sets.

    Rows without a picture are left out, as all places are compared on equal rows; unless no row
    of the run has one: then all are probed, on the places that are not of the image.

    Args:
        run: The run.
        copies: Which images are one: of ``grouping.COPIES``.
        labels: The label set.

    Raises:
        InputError: The run has no labels, none of one kind, or no vectors that its questions
            have: nothing can be learnt.
    """
    scores = _scores(run, labels)
    verdicts = [score.hallucinated for score in scores]
    table = run.to_pandas()
    scorable = np.array([verdict is not None for verdict in verdicts], dtype=bool)
    fit = comparable(has_picture(table))
    rows = np.flatnonzero(scorable & fit)
    bare = int((scorable & ~fit).sum())
    if bare and not len(rows):
        raise InputError(
            f"{run.path}: none of the {bare} scorable questions has a picture, though other rows "
            "of the run have; label some of those, or extract these into a run of their own"
        )
    truth = np.array([verdicts[i] for i in rows], dtype=bool)
    check_truth(run.path, truth)
    kept = table.iloc[rows]
    grouping = group_by_content(kept, copies)
    unscorable = int((~scorable).sum())
    return ProbeData(
        rows=rows,
        ids=tuple(run.ids[i] for i in rows),
        truth=truth,
        grouping=grouping,
        facts=_facts(run, kept, rows),
        categories=_texts(kept, "category"),
        unscorable=unscorable,
        places=_places(run, grouping),
        columns=columns_of_run(run, kept),
        left_out=(
            *_unlabelled(scores),
            *some_left_out("row", bare, NO_PICTURE),
        ),
        origin={"source": "run", LABEL_SET: labels},
    )


def _unlabelled(scores: Sequence[Score]) -> Iterator[LeftOut]:
    """Yield the rows without a verdict: those that nobody labelled, and those that none can be."""
    without = (score for score in scores if score.hallucinated is None)
    reasons = Counter(lacks_label(score) or UNSCORABLE for score in without)
    for reason, count in reasons.most_common():
        yield LeftOut("row", count, reason)


def _scores(run: Run, labels: str) -> list[Score]:
    """Return the label of every row, in the order of the run.

    Raises:
        InputError: There are no labels, no rows, or rows without a label.
    """
    scores = read_labels(run.path, labels)
    if not len(run):
        raise InputError(f"{run.path}: has no rows to learn from; run vlmscope extract again")
    found = [scores.get(id_) for id_ in run.ids]
    missing = sum(score is None for score in found)
    if missing:
        raise InputError(
            f"{run.path}: {missing} of {len(run)} rows have no label, as they came after the "
            f"labelling; run vlmscope label{of_set('--name', labels)} again"
        )
    return [score for score in found if score is not None]


def _places(run: Run, grouping: Grouping) -> tuple[Place, ...]:
    """Return the places that every row has."""
    if grouping.pictures:
        return tuple(places(run))
    found = tuple(without_image_places(places(run)))
    if not found:
        raise InputError(
            f"{run.path}: no question has a picture, and the run holds only vectors of pictures; "
            "extract again into another folder with --positions last_prompt_token"
        )
    return found


def some_left_out(what: str, count: int, reason: str) -> Iterator[LeftOut]:
    """Yield what is left out, where it is any."""
    if count:
        yield LeftOut(what, count, reason)


def check_truth(path: Path, truth: NDArray[np.bool_]) -> None:
    """Refuse labels that are all of one kind.

    Raises:
        InputError: They are; nothing can be learnt.
    """
    if truth.all() or not truth.any():
        raise InputError(
            f"{path}: of {len(truth)} scorable answers {int(truth.sum())} are hallucinated; "
            "a probe needs some that are and some that are not"
        )


def _facts(run: Run, table: pd.DataFrame, rows: NDArray[np.int64]) -> Facts:
    """Return what the run knows of some rows, from outside and of the first token."""
    likeliest: dict[str, list[NDArray[Any]]] = {name: [] for name in (TOKENS, LOGPROBS)}
    for block in run.blocks(vectors=False):
        for name, parts in likeliest.items():
            parts.append(block.numbers[name])
    return Facts(
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
    """Return how many images a row's hashes are of.

    >>> images_of("ab+cd"), images_of("")
    (2, 0)
    """
    return hashes.count("+") + 1 if hashes else 0


def _texts(table: pd.DataFrame, name: str) -> tuple[str, ...] | None:
    return tuple(map(kind_of, table[name])) if name in table else None


def _numbers(table: pd.DataFrame, name: str) -> NDArray[Any] | None:
    return table[name].to_numpy(np.float64) if name in table else None
