"""The rows and the summary of a sweep: plain data, ready for a table, a file or a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from math import nan
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import shortened
from vlmscope.metrics import Difference, Interval, Resamples, WithinKinds
from vlmscope.metrics.weighted import NAMES
from vlmscope.probes import GRID
from vlmscope.shown import count, rounded_difference
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """How well one probe or baseline predicts hallucinations on rows it has not seen.

    The fields are the columns of ``results.parquet`` and the keys of ``results.json``, in this
    order. Metrics are of out-of-fold risks; ``_low`` and ``_high`` are the ends of a 95% interval
    from a bootstrap over images. A metric that cannot be computed is NaN.
    """

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
    auroc: float
    """Of pairs of answers of one fold."""
    auroc_low: float
    auroc_high: float
    auprc: float
    auprc_low: float = nan
    auprc_high: float = nan
    brier: float
    brier_low: float = nan
    brier_high: float = nan
    ece: float
    ece_low: float = nan
    ece_high: float = nan
    recall_at_5: float
    """Share of the hallucinated flagged at a threshold that flags 5% of the faithful."""
    recall_at_5_low: float = nan
    recall_at_5_high: float = nan
    prevalence: float = nan
    """Share of the answers that are hallucinated."""
    prevalence_low: float = nan
    prevalence_high: float = nan
    count: int = 0
    """Answers."""
    constant: float = 0.0
    """Share of the compared pairs that lie in folds of one single risk."""
    found_nothing: bool = False
    """Whether that is most of them: its AUROC says nothing then."""
    chosen_c: tuple[float, ...] | None = None
    """Of a logistic probe: the penalty ``C`` chosen in each fold, as in scikit-learn."""
    grid_edge: GridEdge = None
    """Which end of the grid most folds chose their penalty from."""
    auroc_band_low: float | None = None
    """Of a single layer's probe: the band of its AUROC that holds all layers' at once."""
    auroc_band_high: float | None = None
    above_baseline: float | None = None
    """AUROC less that of the best single baseline known before the answer; None of baselines."""
    above_baseline_low: float | None = None
    above_baseline_high: float | None = None
    above_baseline_p: float | None = None
    """P-value of the selected probe and of combinations; of every layer it would be misread."""
    above_question: float | None = None
    """AUROC less that of the question's words alone."""
    above_question_low: float | None = None
    above_question_high: float | None = None
    above_question_p: float | None = None
    above_joint: float | None = None
    """AUROC less that of the joint baseline, which knows all that is known before the answer."""
    above_joint_low: float | None = None
    above_joint_high: float | None = None
    above_joint_p: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values; what cannot be computed is NaN."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> ProbeResult:
        """Return the result that a document holds; names that are no fields are left out.

        Args:
            saved: What ``to_dict`` returned, with null for NaN. What it lacks has its default.

        Raises:
            ValueError: A value is of another type, or one without a default is missing.
        """
        return cls(**read_fields(cls, saved))

    def above(self, rival: Literal["baseline", "question", "joint"]) -> Difference | None:
        """Return the AUROC less that of a rival, with its interval; None where not compared."""
        name = f"above_{rival}"
        value, low, high, p_value = (
            getattr(self, each) for each in (name, f"{name}_low", f"{name}_high", f"{name}_p")
        )
        if value is None:
            return None
        return Difference(value, Interval(low, high), nan if p_value is None else p_value)

    @property
    def shown_auroc(self) -> str:
        """The AUROC as a person reads it, or that there is none."""
        return "finds nothing" if self.found_nothing else f"AUROC {self.auroc:.3f}"

    def shown_above(self, rival: ProbeResult) -> float | None:
        """Return the difference to the AUROC of a rival as a reader of both computes it.

        None where either found nothing: there is no AUROC to compare then.
        """
        if self.found_nothing or rival.found_nothing:
            return None
        return rounded_difference(self.auroc, rival.auroc)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def read_fields(kind: type, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a flat dataclass of results as its fields have them.

    Args:
        kind: The dataclass, whose fields are texts, flags, numbers and tuples of numbers.
        saved: The values by name, with null for NaN.

    Raises:
        ValueError: A value is of another type, or one without a default is missing.
    """
    values = {}
    for each in fields(kind):
        if each.name in saved:
            values[each.name] = _read(each.name, str(each.type), saved[each.name])
        elif each.default is MISSING:
            raise ValueError(f"has a result without {each.name}")
    return values


def _read(name: str, kind: str, value: Any) -> Any:
    """Return a value that a document holds as its field has it."""
    if value is None and kind == "float":
        return nan
    if value is None and (kind.endswith("None") or kind == "GridEdge"):
        return None
    wanted: Any = _TYPES.get(kind.removesuffix(" | None"), str)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"has a result whose {name} is {shortened(repr(value))}")
    if wanted is list:
        return tuple(_read(name, "float", each) for each in value)
    return float(value) if kind.startswith("float") else value


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "bool": bool,
    "int": int,
    "float": (int, float),
    "tuple[float, ...]": list,
}
"""Annotation of a field → how JSON has it; the others are texts."""


def measured(drawn: Resamples, name: str, count: int) -> dict[str, Any]:
    """Return the metrics of a risk as fields: each metric with the ends of its interval.

    Args:
        drawn: All metrics on resamples of the images.
        name: The risk.
        count: Answers.
    """
    found: dict[str, Any] = {}
    for metric in NAMES:
        interval = drawn.interval(name, metric)
        found |= {
            metric: drawn.whole[name][metric],
            f"{metric}_low": interval.low,
            f"{metric}_high": interval.high,
        }
    return found | {"count": count}


def difference_fields(name: str, gap: Difference | None, *, planned: bool) -> dict[str, Any]:
    """Return a difference as fields: its value, the ends of its interval, its p-value.

    Args:
        name: What the fields begin with.
        gap: The difference; None where nothing was compared.
        planned: Whether the comparison was planned: others have no p-value.
    """
    return {
        name: None if gap is None else gap.value,
        f"{name}_low": None if gap is None else gap.interval.low,
        f"{name}_high": None if gap is None else gap.interval.high,
        f"{name}_p": gap.p_value if gap is not None and planned else None,
    }


def constant_fields(share: float) -> dict[str, Any]:
    """Return as fields the share of the compared pairs that have one single risk.

    >>> constant_fields(0.2), constant_fields(float("nan"))["found_nothing"]
    ({'constant': 0.2, 'found_nothing': False}, True)
    """
    return {"constant": share, "found_nothing": not share < CONSTANT}


def without_nan(value: Any) -> Any:
    """Return plain data with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and value != value else value


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
        rows = count(len(self.data.truth), "row")
        return (
            f"SweepResult({rows}, {count(len(self.rows), 'result')}, selected "
            f"{self.selected_place}: {self['selected'].shown_auroc})"
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
