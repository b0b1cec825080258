"""The rows and the summary of a sweep: plain data, ready for a table, a file or a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlmscope.metrics import Difference, Interval, Metrics, WithinKinds
from vlmscope.probes import GRID
from vlmscope.sweeps.chance import Chance, Recognition
from vlmscope.sweeps.data import ProbeData
from vlmscope.sweeps.halp_protocol import HalpReport
from vlmscope.sweeps.splitting import Novelty, Stacked, stacked

GridEdge = Literal["low", "high"] | None
"""``low``: the strongest penalty of the grid; ``high``: the weakest; None: between them."""


def grid_edge(chosen: Sequence[float] | None, grid: Sequence[float] = GRID) -> GridEdge:
    """Return the end of the grid that more than half of the folds chose, if any.

    >>> grid_edge([1e-5, 1e-5, 1e-5, 1e-4, 1e-3]), grid_edge([1.0] * 5), grid_edge([1e-3] * 5)
    ('low', 'high', None)
    """
    if not chosen:
        return None
    most = len(chosen) / 2
    if sum(value <= min(grid) for value in chosen) > most:
        return "low"
    return "high" if sum(value >= max(grid) for value in chosen) > most else None


def penalty_sentence(chosen: Sequence[float] | None, grid: Sequence[float] = GRID) -> Iterator[str]:
    """Say that the penalty of the selected probe lies at an end of the grid, where it does.

    Args:
        chosen: The penalty ``C`` of each fold.
        grid: What it was chosen from.
    """
    edge = grid_edge(chosen, grid)
    if edge is None or chosen is None:
        return
    end = min(grid) if edge == "low" else max(grid)
    folds = f"{sum(value == end for value in chosen)} of {len(chosen)} folds"
    if edge == "low":
        yield (
            f"Its penalty is the strongest of the grid (C = {end:g}) in {folds}, as is usual where "
            "there is little for a probe to learn."
        )
    else:
        yield (
            f"Its penalty is the weakest of the grid (C = {end:g}) in {folds}: a weaker one might "
            "do better still, so its AUROC may be an underestimate."
        )


ResultKind = Literal["probe", "selected", "combined", "baseline"]
"""One layer's probe; the best layer, chosen inside training; all layers together; what is known
from outside."""

CONSTANT = 0.5
"""Share of the compared pairs in folds of one single risk from which on a risk found nothing."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """How well one probe or baseline predicts hallucinations on rows it has not seen."""

    name: str
    """Unique within the sweep."""
    title: str
    """As a person reads it."""
    kind: ResultKind
    """What it is."""
    known: Literal["before", "after"]
    """Before the first token of the answer is written, or only after."""
    representation: str | None
    """Of a probe: the representation."""
    layer: int | None
    """Of a probe: the decoder layer."""
    estimator: str | None
    """Of a probe: ``logistic``, ``mean-difference`` or ``mlp``."""
    metrics: Metrics
    """On out-of-fold risks; what ranks answers compares those of one fold."""
    intervals: Mapping[str, Interval]
    """Metric → 95% interval, from a bootstrap over images."""
    against: Difference | None
    """AUROC less that of the best single baseline known before the answer."""
    over_question: Difference | None
    """AUROC less that of the question's words alone."""
    over_joint: Difference | None = None
    """AUROC less that of the joint baseline, which knows all that is known before the answer."""
    constant: float = 0.0
    """Share of the compared pairs that lie in folds of one single risk: see ``found_nothing``."""
    band: Interval | None = None
    """Of a single layer's probe: the band of its AUROC that holds all layers' at once."""
    chosen_c: tuple[float, ...] | None = None
    """Of a logistic probe: the penalty ``C`` chosen in each fold, as in scikit-learn."""

    @property
    def grid_edge(self) -> GridEdge:
        """Which end of the grid most folds chose their penalty from: see ``penalty``."""
        return grid_edge(self.chosen_c)

    @property
    def found_nothing(self) -> bool:
        """Whether the risk is a constant in most folds: its AUROC says nothing then."""
        return not self.constant < CONSTANT


@dataclass(frozen=True, slots=True)
class WithinGap:
    """How much better one risk orders answers of one category and fold than another does."""

    of: str
    """Name of the one."""
    over: str
    """Name of the other."""
    gap: Difference
    """AUROC within categories of the one less that of the other, on the same draws."""


@dataclass(frozen=True, slots=True)
class ValueResult:
    """The rows of one value of a column."""

    value: str
    rows: int
    image_groups: int
    """Groups of rows about the same image."""
    hallucinated: int
    share: float
    """Hallucinated among the rows."""
    share_interval: Interval
    """Its 95% interval (Wilson)."""
    auroc: float
    """Of the selected probe, over pairs of this value and one fold; NaN where there is none."""
    interval: Interval
    """Its 95% interval, of this value alone; NaN where either outcome has fewer than two images."""
    simultaneous: Interval
    """The same, such that those of all values of the column together hold the truth in 95%."""


@dataclass(frozen=True, slots=True)
class ColumnResult:
    """What is found by a column of the table."""

    within: Mapping[str, WithinKinds]
    """Risks on pairs of answers of the same value and fold, by name; empty where there is none."""
    gaps: tuple[WithinGap, ...]
    """Their differences."""
    values: tuple[ValueResult, ...]
    """Each value, the most hallucinated first."""


@dataclass(frozen=True, slots=True)
class PlannedTest:
    """A comparison that the verdict tells."""

    of: str
    """Name of the one."""
    over: str
    """Name of the other."""
    within_category: bool
    """Whether only answers of one category are compared."""
    gap: Difference
    """AUROC of the one less that of the other."""
    p_holm: float
    """Its p-value, corrected for the number of comparisons that are told."""


@dataclass(frozen=True, slots=True, eq=False)
class SweepResult:
    """Everything that a sweep found."""

    rows: tuple[ProbeResult, ...]
    """Probes, selections, baselines and controls."""
    risks: Mapping[str, NDArray[np.float64]]
    """Name → out-of-fold risk of each row in each repeat, ``[R, N]``."""
    data: ProbeData
    """What they were trained and judged on."""
    best_baseline: str
    """Name of the best single baseline known before the answer."""
    chosen: Mapping[str, tuple[str, ...]]
    """Selection → the candidate chosen in each fold of each repeat."""
    fold_of: NDArray[np.int64]
    """Fold in which each row was judged in each repeat, ``[R, N]``."""
    settings: Mapping[str, Any]
    """What the sweep was asked for."""
    within_category: Mapping[str, WithinKinds] = field(default_factory=dict)
    """Risks on pairs of answers of the same category and fold, by name: the selected, the best
    baseline, the joint baseline and both together; empty where no category has both outcomes."""
    within_gaps: tuple[WithinGap, ...] = ()
    """Their differences."""
    by_column: Mapping[str, ColumnResult] = field(default_factory=dict)
    """Column of the table → results within it and for each of its values."""
    halp: HalpReport | None = None
    """What the HALP paper's own protocol says, where it was asked for: optimistic, it decides
    nothing."""
    tests: tuple[PlannedTest, ...] = ()
    """The comparisons that the verdict tells."""
    chance: Chance | None = None
    """What permuted labels come to."""
    recognition: Recognition | None = None
    """Whether images are recognised in groups that the probe has not seen."""
    novelty: Novelty | None = None
    """What the judged rows share with training."""

    def __repr__(self) -> str:
        selected = self["selected"]
        auroc = f"AUROC {selected.metrics.auroc:.3f}"
        return (
            f"SweepResult({len(self.data.truth):,} rows, {len(self.rows)} results, selected "
            f"{self.selected_place}: {'finds nothing' if selected.found_nothing else auroc})"
        )

    def __getitem__(self, name: str) -> ProbeResult:
        """Return a row by its name."""
        return next(row for row in self.rows if row.name == name)

    def stacked(self, *names: str) -> Stacked:
        """Return the rows of all repeats below each other, with the risks of these names."""
        risks = {name: self.risks[name] for name in names}
        return stacked(self.data.truth, self.data.groups, self.fold_of, risks)

    @property
    def selected_place(self) -> str:
        """Name of the probe that selection inside training chose in the most folds."""
        return most_chosen(self.chosen["selected"])


def most_chosen(places: Sequence[str]) -> str:
    """Return the place that was chosen most often, the first of equals.

    >>> most_chosen(["a", "b", "b"])
    'b'
    """
    return Counter(places).most_common(1)[0][0]
