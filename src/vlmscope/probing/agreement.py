"""Two label sets of a run compared: how far they agree, and on which questions they do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vlmscope.errors import InputError
from vlmscope.metrics import Agreement, agreement
from vlmscope.probing.grouping import group_by_content
from vlmscope.probing.source import check_seed
from vlmscope.schema import Outcome
from vlmscope.store import Run, read_labels

DECIDED: tuple[Outcome, ...] = ("hallucinated", "faithful")
OUTCOMES: tuple[Outcome, ...] = (*DECIDED, "unscorable")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A question to which two label sets give different labels."""

    id: str
    one: Outcome
    other: Outcome


@dataclass(frozen=True, slots=True, eq=False)
class LabelAgreement:
    """How far two label sets of a run agree. Made by ``compare_labels``."""

    one: str
    """Name of a label set."""
    other: str
    """Name of the other."""
    decided: Agreement
    """On the questions that both call hallucinated or faithful."""
    every: Agreement
    """On all questions that both have, with ``unscorable`` as a third label."""
    disagreements: tuple[Disagreement, ...]
    """In the order of the run."""
    only_one: int
    """Questions of the run that only the one has."""
    only_other: int
    """Questions of the run that only the other has."""
    image_groups: int
    """Groups of questions about the same image, which the intervals resample."""

    def record(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "one": self.one,
            "other": self.other,
            "decided": _record(self.decided),
            "every": _record(self.every),
            "only_in_one": self.only_one,
            "only_in_other": self.only_other,
            "image_groups": self.image_groups,
            "disagreements": [asdict(each) for each in self.disagreements],
        }


def compare_labels(
    run: Run, one: str, other: str, *, draws: int = 2000, seed: int = 0
) -> LabelAgreement:
    """Compare two label sets of a run.

    Args:
        run: The run.
        one: Name of a label set.
        other: Name of another.
        draws: Resamples of the images for the intervals.
        seed: Decides the draws.

    Raises:
        InputError: The run lacks one of them, or they have no question of the run in common.
        StoreError: A label file is damaged.
    """
    check_seed(seed)
    first, second = read_labels(run.path, one), read_labels(run.path, other)
    both = [id_ in first and id_ in second for id_ in run.ids]
    ids = [id_ for id_, shared in zip(run.ids, both, strict=True) if shared]
    if not ids:
        raise InputError(
            f"{run.path}: the label sets {one!r} and {other!r} have no question of the run in "
            "common; label the run again"
        )
    table = run.to_pandas()
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
        disagreements=tuple(
            Disagreement(id_, x, y) for id_, x, y in zip(ids, a, b, strict=True) if x != y
        ),
        only_one=sum(id_ in first and id_ not in second for id_ in run.ids),
        only_other=sum(id_ in second and id_ not in first for id_ in run.ids),
        image_groups=len(np.unique(groups)),
    )  # fmt: skip


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
