"""From risks to results: the metrics, their intervals, and the test against the best baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlmscope.metrics import Difference, WithinKinds, bootstrap, measure, paired, within_kinds
from vlmscope.probing.data import ProbeData
from vlmscope.probing.results import ProbeResult, ResultKind

QUESTION_ONLY = "question_words"
"""The baseline that a probe must beat to have learnt more than the question gives away."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A risk on its way to becoming a result; the fields are those of ``ProbeResult``."""

    title: str
    kind: ResultKind
    risk: NDArray[np.float64]
    known: Literal["before", "after"] = "before"
    representation: str | None = None
    layer: int | None = None
    estimator: str | None = None
    truth: NDArray[np.bool_] | None = None
    """Of a control: the labels that it was trained and is judged on."""


def judge(
    entries: Mapping[str, Entry], data: ProbeData, *, draws: int, seed: int
) -> tuple[tuple[ProbeResult, ...], str]:
    """Return a result for each entry, and the name of the best baseline known before the answer.

    Args:
        entries: Name → risk.
        data: Truth and images of the rows.
        draws: Resamples of the images.
        seed: Decides them.
    """
    best = max(
        (name for name, entry in entries.items() if _is_baseline_before(entry)),
        key=lambda name: measure(data.truth, entries[name].risk).auroc,
    )
    plain = {name: entry.risk for name, entry in entries.items() if entry.truth is None}
    intervals = dict(bootstrap(data.truth, plain, data.groups, draws=draws, seed=seed))
    for name, entry in entries.items():
        if entry.truth is not None:
            own = bootstrap(entry.truth, {name: entry.risk}, data.groups, draws=draws, seed=seed)
            intervals |= own

    def difference(entry: Entry, other: str) -> Difference | None:
        if entry.kind in ("baseline", "control"):
            return None
        rival = entries[other].risk
        return paired(data.truth, entry.risk, rival, data.groups, draws=draws, seed=seed)

    def result(name: str, entry: Entry) -> ProbeResult:
        against = difference(entry, best)
        return ProbeResult(
            name=name,
            title=entry.title,
            kind=entry.kind,
            known=entry.known,
            representation=entry.representation,
            layer=entry.layer,
            estimator=entry.estimator,
            metrics=measure(data.truth if entry.truth is None else entry.truth, entry.risk),
            intervals=intervals[name],
            against=against,
            over_question=against if best == QUESTION_ONLY else difference(entry, QUESTION_ONLY),
        )

    return tuple(result(name, entry) for name, entry in entries.items()), best


def _is_baseline_before(entry: Entry) -> bool:
    return entry.kind == "baseline" and entry.known == "before"


def within_category(
    data: ProbeData, risk: NDArray[np.float64], *, draws: int, seed: int
) -> WithinKinds | None:
    """Return how well a risk orders answers of one category; None where there are no two.

    Rows without a category are no category, and left out.
    """
    named = np.array([bool(name) for name in data.categories or ()], dtype=bool)
    kinds = np.array(data.categories or ())[named]
    if len(np.unique(kinds)) < 2 or len(np.unique(data.groups[named])) < 2:
        return None
    found = within_kinds(
        data.truth[named], risk[named], kinds, data.groups[named], draws=draws, seed=seed
    )
    return found if found.share > 0 else None
