"""The results of a sweep: plain data for a table, a file or a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from math import isnan, nan
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import shortened
from vlmscope.metrics import (
    Abstention,
    Difference,
    Interval,
    Resamples,
    WithinKinds,
    abstention,
)
from vlmscope.metrics.weighted import NAMES
from vlmscope.probes import GRID
from vlmscope.shown import count, rounded_difference
from vlmscope.sweeps.chance import Chance, Recognition
from vlmscope.sweeps.data import ProbeData
from vlmscope.sweeps.halp_protocol import HalpReport
from vlmscope.sweeps.named import result_named
from vlmscope.sweeps.splitting import Novelty, Stacked, stacked

GridEdge = Literal["low", "high"] | None
"""``low``: the strongest penalty of the grid; ``high``: the weakest; None: between them."""


def grid_edge(chosen: Sequence[float] | None, grid: Sequence[float] = GRID) -> GridEdge:
    """Return the end of the grid chosen by more than half of the folds, if any.

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
    """Yield a sentence if the penalty of the selected probe is at an end of the grid.

    Args:
        chosen: The penalty ``C`` of each fold.
        grid: The values it was chosen from.
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
"""One layer's probe; the best layer, chosen inside training; all layers together; a baseline
without hidden states.
"""

CONSTANT = 0.5
"""A risk counts as constant if it is so in folds with at least this share of the compared pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Metrics of one probe or baseline on rows that it was not trained on.

    The fields are the columns of ``results.parquet`` and the keys of ``results.json``, in this
    order. Metrics are of out-of-fold risks; ``_low`` and ``_high`` are the ends of a 95% interval
    from a bootstrap over images. A metric that cannot be computed is NaN.
    """

    name: str
    """Unique within the sweep."""
    title: str
    """Readable title."""
    kind: ResultKind
    """Its kind."""
    known: Literal["before", "after"]
    """Whether it is known before the first token of the answer, or only after."""
    representation: str | None
    """For a probe: the representation."""
    layer: int | None
    """For a probe: the decoder layer."""
    estimator: str | None
    """For a probe: ``logistic``, ``mean-difference`` or ``mlp``."""
    auroc: float
    """Over pairs of answers of one fold."""
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
    """Recall at a false positive rate of 5%."""
    recall_at_5_low: float = nan
    recall_at_5_high: float = nan
    prevalence: float = nan
    """Share of the answers that are hallucinated."""
    prevalence_low: float = nan
    prevalence_high: float = nan
    count: int = 0
    """Number of answers."""
    constant: float = 0.0
    """Share of the compared pairs in folds with a constant risk."""
    found_nothing: bool = False
    """Whether that is most of them: then its AUROC is meaningless."""
    chosen_c: tuple[float, ...] | None = None
    """For a logistic probe: the penalty ``C`` chosen in each fold, as in scikit-learn."""
    grid_edge: GridEdge = None
    """The end of the grid at which most folds chose their penalty."""
    auroc_band_low: float | None = None
    """For a single layer's probe: the simultaneous band of all layers' AUROCs."""
    auroc_band_high: float | None = None
    above_baseline: float | None = None
    """AUROC minus that of the best single baseline known before the answer; None for baselines."""
    above_baseline_low: float | None = None
    above_baseline_high: float | None = None
    above_baseline_p: float | None = None
    """P-value for the selected probe and combinations; for every layer it would be misleading."""
    above_question: float | None = None
    """AUROC minus that of the question's words alone."""
    above_question_low: float | None = None
    above_question_high: float | None = None
    above_question_p: float | None = None
    above_joint: float | None = None
    """AUROC minus that of the joint baseline, which uses everything known before the answer."""
    above_joint_low: float | None = None
    above_joint_high: float | None = None
    above_joint_p: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values; undefined metrics are NaN."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> ProbeResult:
        """Return the result in a document; unknown names are ignored.

        Args:
            saved: Output of ``to_dict``, with null for NaN. Missing fields have their defaults.

        Raises:
            ValueError: A value is of another type or out of range, or one without a default is
                missing.
        """
        values = read_fields(cls, saved)
        for name in _FROM_0_TO_1:
            value = values.get(name)
            if value is not None and not isnan(value):
                read_share(f"{name} of {shortened(repr(values['name']))}", value)
        return cls(**values)

    def above(self, rival: Literal["baseline", "question", "joint"]) -> Difference | None:
        """Return the AUROC minus that of a rival, with its interval; None if not compared."""
        name = f"above_{rival}"
        value, low, high, p_value = (
            getattr(self, each) for each in (name, f"{name}_low", f"{name}_high", f"{name}_p")
        )
        if value is None:
            return None
        return Difference(value, Interval(low, high), nan if p_value is None else p_value)

    @property
    def shown_auroc(self) -> str:
        """The AUROC as text, or that there is none."""
        return "constant risk" if self.found_nothing else f"AUROC {self.auroc:.3f}"

    def shown_above(self, rival: ProbeResult) -> float | None:
        """Return the difference to the AUROC of a rival, computed from the rounded values shown.

        None if either risk is constant: then there is no AUROC to compare.
        """
        if self.found_nothing or rival.found_nothing:
            return None
        return rounded_difference(self.auroc, rival.auroc)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def read_fields(kind: type, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a flat dataclass of results with the types of its fields.

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
    """Return a value of a document with the type of its field."""
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


def read_share(name: str, value: Any) -> float:
    """Return a number of a document that is between 0 and 1, as AUROCs are.

    Args:
        name: What it is, for the message.
        value: The value as read.

    Raises:
        ValueError: It is of another type, NaN or out of range.

    >>> read_share("auroc", 1), read_share("auroc", 0.25)
    (1.0, 0.25)
    >>> read_share("auroc", float("nan"))
    Traceback (most recent call last):
    ValueError: auroc is nan, expected a number from 0 to 1
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not -ROUNDING <= value <= 1 + ROUNDING:
        raise ValueError(f"{name} is {shortened(repr(value))}, expected a number from 0 to 1")
    return float(value)


def read_count(name: str, value: Any) -> int:
    """Return a number of rows of a document.

    Raises:
        ValueError: It is not a whole number, or negative.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} is {shortened(repr(value))}, expected a number of rows")
    return value


_FROM_0_TO_1 = (
    *(f"{name}{end}" for name in NAMES for end in ("", "_low", "_high")),
    "constant", "above_baseline_p", "above_question_p", "above_joint_p",
)  # fmt: skip
"""Fields of a result that are shares, AUROCs or probabilities."""

ROUNDING = 1e-9
"""How far a mean of numbers from 0 to 1 may be outside, by rounding."""

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "bool": bool,
    "int": int,
    "float": (int, float),
    "tuple[float, ...]": list,
}
"""Annotation of a field → its types in JSON; the others are texts."""


def measured(drawn: Resamples, name: str, count: int) -> dict[str, Any]:
    """Return the metrics of a risk as fields, each with the ends of its interval.

    Args:
        drawn: All metrics on resamples of the images.
        name: The risk.
        count: Number of answers.
    """
    found: dict[str, Any] = {}
    for metric in NAMES:
        interval = drawn.interval(name, metric)
        found |= {
            metric: drawn.observed[name][metric],
            f"{metric}_low": interval.low,
            f"{metric}_high": interval.high,
        }
    return found | {"count": count}


def difference_fields(name: str, gap: Difference | None, *, planned: bool) -> dict[str, Any]:
    """Return a difference as fields: its value, the ends of its interval, its p-value.

    Args:
        name: Prefix of the fields.
        gap: The difference; None if nothing was compared.
        planned: Whether the comparison was planned: only those have a p-value.
    """
    return {
        name: None if gap is None else gap.value,
        f"{name}_low": None if gap is None else gap.interval.low,
        f"{name}_high": None if gap is None else gap.interval.high,
        f"{name}_p": gap.p_value if gap is not None and planned else None,
    }


def constant_fields(share: float) -> dict[str, Any]:
    """Return the share of the compared pairs with a constant risk as fields.

    >>> constant_fields(0.2), constant_fields(float("nan"))["found_nothing"]
    ({'constant': 0.2, 'found_nothing': False}, True)
    """
    return {"constant": share, "found_nothing": not share < CONSTANT}


def without_nan(value: Any) -> Any:
    """Return plain data with None for NaN, which JSON lacks."""
    if isinstance(value, dict):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and value != value else value


@dataclass(frozen=True, slots=True)
class WithinGap:
    """The difference of two risks' AUROCs within categories and folds."""

    of: str
    """Name of the one."""
    over: str
    """Name of the other."""
    gap: Difference
    """AUROC within categories of the one minus that of the other, on the same draws."""


@dataclass(frozen=True, slots=True)
class ValueResult:
    """The rows of one value of a column."""

    value: str
    rows: int
    image_groups: int
    """Number of groups of rows about the same image."""
    hallucinated: int
    share: float
    """Hallucination rate of the rows."""
    share_interval: Interval
    """Its 95% interval (Wilson)."""
    auroc: float
    """AUROC of the selected probe, over pairs of this value and one fold; NaN without a pair."""
    interval: Interval
    """Its 95% interval, for this value alone; NaN if either outcome has fewer than two images."""
    simultaneous: Interval
    """The same, such that the intervals of all values of the column cover together in 95%."""


@dataclass(frozen=True, slots=True)
class ColumnResult:
    """The results by a column of the table."""

    within: Mapping[str, WithinKinds]
    """Metrics of risks on pairs of the same value and fold, by name; empty without a pair."""
    gaps: tuple[WithinGap, ...]
    """Their differences."""
    values: tuple[ValueResult, ...]
    """Each value, the most hallucinated first."""


@dataclass(frozen=True, slots=True)
class PlannedTest:
    """A comparison of the verdict."""

    of: str
    """Name of the one."""
    over: str
    """Name of the other."""
    within_category: bool
    """Whether only answers of one category are compared."""
    gap: Difference
    """AUROC of the one minus that of the other."""
    p_holm: float
    """Its p-value, corrected for the number of comparisons in the verdict."""


ABSTAIN = 0.10
"""Share of the answers to abstain from."""


@dataclass(frozen=True, eq=False)
class SweepResult:
    """All results of a sweep."""

    rows: tuple[ProbeResult, ...]
    """Probes, selections, baselines and controls."""
    risks: Mapping[str, NDArray[np.float64]]
    """Name → out-of-fold risk of each row in each repeat, ``[R, N]``."""
    data: ProbeData
    """The data they were trained and tested on."""
    best_baseline: str
    """Name of the best single baseline known before the answer."""
    chosen: Mapping[str, tuple[str, ...]]
    """Selection → the candidate chosen in each fold of each repeat."""
    fold_of: NDArray[np.int64]
    """Fold in which each row was tested in each repeat, ``[R, N]``."""
    settings: Mapping[str, Any]
    """Settings of the sweep."""
    within_category: Mapping[str, WithinKinds] = field(default_factory=dict)
    """Metrics of risks on pairs of the same category and fold, by name: the selected, the best
    baseline, the joint baseline and both together; empty if no category has both outcomes.
    """
    within_gaps: tuple[WithinGap, ...] = ()
    """Their differences."""
    by_column: Mapping[str, ColumnResult] = field(default_factory=dict)
    """Column of the table → results within it and for each of its values."""
    halp: HalpReport | None = None
    """Results of the HALP paper's own protocol, if requested: optimistic, and used for nothing
    else.
    """
    tests: tuple[PlannedTest, ...] = ()
    """The comparisons of the verdict."""
    chance: Chance | None = None
    """Result of the permutation test."""
    recognition: Recognition | None = None
    """Whether images are recognised in groups that the probe was not trained on."""
    novelty: Novelty | None = None
    """Overlap of the test rows with the training rows."""

    def __repr__(self) -> str:
        rows = count(len(self.data.truth), "row")
        return (
            f"SweepResult({rows}, {count(len(self.rows), 'result')}, selected "
            f"{self.selected_probe}: {self['selected'].shown_auroc})"
        )

    def __getitem__(self, name: str) -> ProbeResult:
        """Return a row by name.

        Raises:
            InputError: No row has that name.
        """
        return result_named(self.rows, name)

    def __iter__(self) -> Iterator[ProbeResult]:
        return iter(self.rows)

    def __contains__(self, name: object) -> bool:
        return any(row.name == name for row in self.rows)

    def stacked(self, *names: str) -> Stacked:
        """Return the concatenated rows of all repeats, with the risks of these names."""
        risks = {name: self.risks[name] for name in names}
        return stacked(self.data.truth, self.data.groups, self.fold_of, risks)

    @property
    def selected_probe(self) -> str:
        """Name of the probe chosen inside training in the most folds."""
        return most_chosen(self.chosen["selected"])

    @cached_property
    def abstaining(self) -> Abstention:
        """The change of the hallucination rate by abstaining by the selected probe's risk."""
        rows, seed = self.stacked("selected"), int(self.settings["seed"])
        risk = rows.risks["selected"]
        return abstention(rows.truth, risk, rows.groups, ABSTAIN, rows.folds, seed=seed)


def most_chosen(names: Sequence[str]) -> str:
    """Return the name that was chosen most often; the first in a tie.

    >>> most_chosen(["a", "b", "b"])
    'b'
    """
    return Counter(names).most_common(1)[0][0]
