"""The results of detection: plain data for a table, a file or a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped,unused-ignore]
from numpy.typing import NDArray

from vlmscope.detectors.detector import Detector
from vlmscope.errors import InputError, suggest_names
from vlmscope.metrics import Difference
from vlmscope.shown import count
from vlmscope.sweeps import ProbeData
from vlmscope.sweeps.results import read_fields
from vlmscope.sweeps.splitting import Stacked, stacked

METRICS = ("auroc", "auprc", "aurc", "fpr_at_95", "accuracy_at_90")
"""The metrics of the table: each with the ends of a 95% interval."""

LACKS = "the run has no "
"""Beginning of the reason why a detector is not evaluated that requires something else."""

NO_IMAGES = "it reads images, and no question of the run has one"
"""Reason why a detector is not evaluated that requires what such a run cannot have."""

SIGNIFICANT = 0.05
"""Corrected p-value below which a difference is stated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorResult:
    """Metrics of one detector; the columns of ``detectors.parquet``, in this order.

    ``_low`` and ``_high`` are the ends of a 95% interval from a bootstrap over images. A number
    that cannot be computed is NaN.
    """

    name: str
    title: str
    group: str
    """One of ``detector.GROUPS``."""
    paper: str
    """Authors and year; empty for common practice."""
    known: str
    """When it is known: one of ``detector.KNOWN``."""
    passes: str
    """What it costs: one of ``detector.PASSES``."""
    learned: bool
    """Whether it was trained on labels, in grouped folds."""
    auroc: float
    """Over pairs of answers of one fold."""
    auroc_low: float
    auroc_high: float
    auprc: float
    auprc_low: float
    auprc_high: float
    aurc: float
    """Area under the risk-coverage curve; lower is better."""
    aurc_low: float
    aurc_high: float
    fpr_at_95: float
    """False positive rate at which 95% of the hallucinated answers are flagged; lower is better."""
    fpr_at_95_low: float
    fpr_at_95_high: float
    accuracy_at_90: float
    """Share of faithful answers among the 90% with the lowest risk."""
    accuracy_at_90_low: float
    accuracy_at_90_high: float
    found_nothing: bool = False
    """Whether its risk is constant in folds with most of the compared pairs."""
    worse_than_chance: bool = False
    """Whether it is not trained and its AUROC is below 0.5, corrected for the number of those:
    here, the direction of its paper is the wrong one."""
    better_than_chance: bool = False
    """Whether its AUROC is above 0.5, corrected for the number of all detectors."""
    above_model_free: float | None = None
    """AUROC minus that of the best baseline that needs no model; None for those."""
    above_model_free_low: float | None = None
    above_model_free_high: float | None = None
    above_model_free_p: float | None = None
    above_model_free_p_holm: float | None = None
    """Its p-value, corrected for the number of all comparisons of the table (Holm); 1 if the
    difference is not above 0, as the rival is the best of several."""
    above_single: float | None = None
    """AUROC minus that of the best detector that is a single number without training."""
    above_single_low: float | None = None
    above_single_high: float | None = None
    above_single_p: float | None = None
    above_single_p_holm: float | None = None

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> DetectorResult:
        """Return the result in a document.

        Raises:
            ValueError: A value is missing or of another type.
        """
        return cls(**read_fields(cls, saved))

    def better_than(self, rival: str) -> bool:
        """Return whether it is significantly better than a rival, ``model_free`` or ``single``."""
        gap, p = getattr(self, f"above_{rival}"), getattr(self, f"above_{rival}_p_holm")
        return gap is not None and p is not None and gap > 0 and p < SIGNIFICANT


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A detector that was not evaluated."""

    name: str
    title: str
    reason: str
    """Why, as text."""

    @property
    def missing(self) -> tuple[str, ...]:
        """What the run lacks, in the names of ``Detector.requires``; empty for another reason.

        >>> Unavailable("svar", "SVAR", f"{LACKS}signals/attention_answer").missing
        ('signals/attention_answer',)
        """
        if not self.reason.startswith(LACKS):
            return ()
        return tuple(self.reason.removeprefix(LACKS).split(", "))


@dataclass(frozen=True, slots=True)
class Dropped:
    """Labelled rows without a value of some detector, which were left out for all."""

    count: int
    reason: str
    """The detectors that have no value there, as text."""


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """All results of ``detect``."""

    results: tuple[DetectorResult, ...]
    """By group, in the order of the registry."""
    unavailable: tuple[Unavailable, ...]
    """Detectors that the run lacks something for."""
    dropped: tuple[Dropped, ...]
    """Rows left out for all detectors."""
    detectors: Mapping[str, Detector]
    """The evaluated detectors, by name."""
    risks: Mapping[str, NDArray[np.float64]]
    """Name → risk of each row in each split, ``[R, N]``: out of fold, or ranks of scores."""
    data: ProbeData
    """The rows, the same for every detector."""
    fold_of: NDArray[np.int64]
    """Fold in which each row was tested in each split, ``[R, N]``."""
    best_model_free: str
    """Name of the best baseline that needs no model."""
    best_single: str
    """Name of the best single number without training; empty if there is none."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = False
    """Whether all detectors were asked for, so that ``save_detection`` replaces older results."""

    def __repr__(self) -> str:
        best = max(self.results, key=lambda row: row.auroc)
        rows = count(len(self.data.truth), "row")
        number = count(len(self.results), "detector")
        return f"Detection({rows}, {number}, best: {best.name}: AUROC {best.auroc:.3f})"

    def __getitem__(self, name: str) -> DetectorResult:
        """Return a result by name.

        Raises:
            InputError: No result has that name; the message says why.
        """
        for row in self.results:
            if row.name == name:
                return row
        for each in self.unavailable:
            if each.name == name:
                raise InputError(f"detector {name!r}: was not evaluated: {each.reason}")
        near = suggest_names(str(name), self.detectors)
        raise InputError(f"detector {name!r}: was not asked for; {near}")

    def __iter__(self) -> Iterator[DetectorResult]:
        return iter(self.results)

    def __contains__(self, name: object) -> bool:
        return any(row.name == name for row in self.results)

    @property
    def table(self) -> pd.DataFrame:
        """The results as a table, one line a detector; the index is the name."""
        return pd.DataFrame([asdict(row) for row in self.results]).set_index("name")

    def stacked(self, *names: str) -> Stacked:
        """Return the concatenated rows of all splits, with the risks of these detectors."""
        risks = {name: self.risks[name] for name in names}
        return stacked(self.data.truth, self.data.groups, self.fold_of, risks)


def metric_fields(values: Mapping[str, tuple[float, float, float]]) -> dict[str, float]:
    """Return metrics as fields: each value and the ends of its interval."""
    found: dict[str, float] = {}
    for name, (value, low, high) in values.items():
        found |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return found


def gap_fields(name: str, gap: Difference | None, p: float | None) -> dict[str, float | None]:
    """Return a difference as fields, with its p-value and the corrected one."""
    prefix = f"above_{name}"
    if gap is None:
        return {each.name: None for each in fields(DetectorResult) if each.name.startswith(prefix)}
    return {
        prefix: gap.value,
        f"{prefix}_low": gap.interval.low,
        f"{prefix}_high": gap.interval.high,
        f"{prefix}_p": gap.p_value,
        f"{prefix}_p_holm": p,
    }
