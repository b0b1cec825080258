"""Comparison of two label sets of a run: agreement, and questions with different labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmscope.errors import InputError
from vlmscope.metrics import Agreement, agreement
from vlmscope.schema import Outcome, Score
from vlmscope.store import AnyRun, as_run, read_labels
from vlmscope.sweeps.grouping import group_by_content
from vlmscope.sweeps.source import check_seed

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

DECIDED: tuple[Outcome, ...] = ("hallucinated", "faithful")
OUTCOMES: tuple[Outcome, ...] = (*DECIDED, "unscorable")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A question to which two label sets give different labels."""

    id: str
    one: Outcome
    other: Outcome
    question: str = ""
    truth: str = ""
    """The ground truth in the run."""
    answer: str | None = None
    """None after a prefill-only run."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelAgreement:
    """The agreement of two label sets of a run. Made by ``compare_labels``."""

    one: str
    """Name of a label set."""
    other: str
    """Name of the other."""
    decided: Agreement
    """On the questions that both label hallucinated or faithful."""
    every: Agreement
    """On all questions that both label, with ``unscorable`` as a third label."""
    disagreements: tuple[Disagreement, ...]
    """In the order of the run."""
    only_one: int
    """Questions of the run that only the one labels: in the other they are missing, or unlabelled
    because its label file lacks them.
    """
    only_other: int
    """Questions of the run that only the other labels."""
    neither: int
    """Questions of the run that neither labels."""
    image_groups: int
    """Groups of questions about the same image, which the intervals resample."""

    def record(self) -> dict[str, Any]:
        """Return the agreement as plain data."""
        return {
            "one": self.one,
            "other": self.other,
            "decided": _record(self.decided),
            "every": _record(self.every),
            "only_in_one": self.only_one,
            "only_in_other": self.only_other,
            "in_neither": self.neither,
            "image_groups": self.image_groups,
            "disagreements": [asdict(each) for each in self.disagreements],
        }


def compare_labels(
    run: AnyRun, one: str, other: str, *, draws: int = 2000, seed: int = 0
) -> LabelAgreement:
    """Compare two label sets of a run, on the questions that both label.

    A question missing from a label file is unlabelled, which does not count as a disagreement.

    Args:
        run: The run, or its folder.
        one: Name of a label set.
        other: Name of another.
        draws: Resamples of the images for the intervals.
        seed: Seed of the draws.

    Raises:
        InputError: The run lacks one of them, or no question is labelled in both.
        StoreError: A label file is damaged.
    """
    check_seed(seed)
    run = as_run(run)
    first, second = read_labels(run.path, one), read_labels(run.path, other)
    sides = [(_labelled(first.get(id_)), _labelled(second.get(id_))) for id_ in run.ids]
    both = [all(side) for side in sides]
    ids = [id_ for id_, shared in zip(run.ids, both, strict=True) if shared]
    if not ids:
        raise InputError(
            f"{run.path}: the label sets {one!r} and {other!r} have no question of the run in "
            f"common: {sides.count((True, False)):,} are labelled in {one!r} only, "
            f"{sides.count((False, True)):,} in {other!r} only; label the same rows"
        )
    table = run.to_pandas(thumbnails=True)
    groups = np.asarray(group_by_content(table).groups)[np.array(both)]
    a = [first[id_].outcome for id_ in ids]
    b = [second[id_].outcome for id_ in ids]
    fit = [i for i in range(len(ids)) if a[i] in DECIDED and b[i] in DECIDED]
    return LabelAgreement(
        one,
        other,
        decided=agreement(
            [a[i] for i in fit], [b[i] for i in fit], groups[fit],
            classes=DECIDED, draws=draws, seed=seed,
        ),
        every=agreement(a, b, groups, classes=OUTCOMES, draws=draws, seed=seed),
        disagreements=_disagreements(table[both], ids, a, b),
        only_one=sides.count((True, False)),
        only_other=sides.count((False, True)),
        neither=sides.count((False, False)),
        image_groups=len(np.unique(groups)),
    )  # fmt: skip


def _labelled(score: Score | None) -> bool:
    return score is not None and score.labelled


def _disagreements(
    table: pd.DataFrame, ids: Sequence[str], one: Sequence[Outcome], other: Sequence[Outcome]
) -> tuple[Disagreement, ...]:
    """Return the rows with different labels, with questions and answers.

    Args:
        table: The rows of ``ids``.
        ids: Question ids.
        one: Labels of the one set.
        other: Labels of the other.
    """
    differ = [i for i in range(len(ids)) if one[i] != other[i]]
    texts = table.iloc[differ]
    answers = texts["answer"] if "answer" in texts else [None] * len(texts)
    return tuple(
        Disagreement(
            ids[i], one[i], other[i], question, truth, answer if isinstance(answer, str) else None
        )
        for i, question, truth, answer in zip(
            differ, texts["question"], texts["ground_truth_answer"], answers, strict=True
        )
    )


def _record(found: Agreement) -> Mapping[str, Any]:
    interval = found.interval
    return {
        "rows": int(found.confusion.sum()),
        "agreed": found.agreed,
        "kappa": found.kappa,
        "kappa_low": None if interval is None else interval.low,
        "kappa_high": None if interval is None else interval.high,
        "confusion": {
            name: dict(zip(found.classes, map(int, row), strict=True))
            for name, row in zip(found.classes, found.confusion, strict=True)
        },
    }
