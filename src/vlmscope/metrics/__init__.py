"""Metrics of a risk as a predictor of hallucinations, with their uncertainty.

``truth`` is true where an answer is hallucinated; ``risk`` is a number from 0 to 1 for each answer.
Questions share images, so all uncertainty is estimated by resampling images, never rows.
Out-of-fold risks come from one fit per fold: functions that rank answers take the ``folds`` and
compare within them only.

- ``answers``: validation of truth and risk
- ``scores``: the metrics of one risk on one set of answers, and its threshold
- ``curves``: ROC and risk-coverage curves
- ``calibration``: reliability of a risk, and Platt scaling
- ``weighted``: the same metrics on a resample, without sorting again
- ``resampling``: intervals, simultaneous bands, and the paired test of two risks
- ``small_samples``: intervals of the AUROC where images are few
- ``rates``: a rate, and the paired difference of two rates
- ``abstention``: change of the hallucination rate by abstaining, with its interval
- ``agreement``: agreement of two labelings beyond chance
- ``within``: AUROC among answers of the same kind
"""

from vlmscope.metrics.abstention import Abstention, CoverageBand, abstention, coverage_band
from vlmscope.metrics.agreement import Agreement, agreement
from vlmscope.metrics.calibration import Platt, ReliabilityCurve, fit_platt, reliability, wilson
from vlmscope.metrics.curves import RiskCoverage, RocCurve, abstain, risk_coverage, roc
from vlmscope.metrics.rates import Rate, rate, rate_difference
from vlmscope.metrics.resampling import (
    Difference,
    Interval,
    LabelledRisk,
    Resamples,
    bootstrap,
    holm,
    paired,
    resample,
    resample_sides,
    simultaneous,
    widened,
)
from vlmscope.metrics.scores import Metrics, constant_pairs, measure, share_bounds, threshold_at
from vlmscope.metrics.within import (
    KindAuroc,
    WithinKinds,
    each_kind,
    resample_within,
    share_of_pairs,
    within_kinds,
)

__all__ = [
    "Abstention",
    "Agreement",
    "CoverageBand",
    "Difference",
    "Interval",
    "KindAuroc",
    "LabelledRisk",
    "Metrics",
    "Platt",
    "Rate",
    "ReliabilityCurve",
    "Resamples",
    "RiskCoverage",
    "RocCurve",
    "WithinKinds",
    "abstain",
    "abstention",
    "agreement",
    "bootstrap",
    "constant_pairs",
    "coverage_band",
    "each_kind",
    "fit_platt",
    "holm",
    "measure",
    "paired",
    "rate",
    "rate_difference",
    "reliability",
    "resample",
    "resample_sides",
    "resample_within",
    "risk_coverage",
    "roc",
    "share_bounds",
    "share_of_pairs",
    "simultaneous",
    "threshold_at",
    "widened",
    "wilson",
    "within_kinds",
]
