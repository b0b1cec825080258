"""How well a risk predicts hallucinations, and how sure we are of it.

``truth`` is true where an answer is hallucinated; ``risk`` is a number from 0 to 1 for each answer.
Questions share images, so everything uncertain is resampled by image, never by row. Out-of-fold
risks come from as many fits as there are folds: what ranks answers takes the ``folds`` and compares
within them only.

- ``answers``: what is accepted as truth and risk
- ``scores``: the numbers of one risk on one set of answers, and its threshold
- ``curves``: ROC and risk-coverage curves
- ``calibration``: is a risk of 0.3 wrong three times in ten? and the map that makes it so
- ``weighted``: the same numbers of a resample, without sorting again
- ``resampling``: intervals, simultaneous bands, and the paired test of two risks
- ``small_samples``: intervals of the AUROC where images are few
- ``rates``: how often something happens, and the paired difference of two rates
- ``abstention``: what abstaining changes, and how sure that is
- ``agreement``: how far two labelings agree beyond chance
- ``within``: how well a risk orders answers of the same kind
"""

from vlmscope.metrics.abstention import Abstention, CoverageBand, abstention, coverage_band
from vlmscope.metrics.agreement import Agreement, agreement
from vlmscope.metrics.calibration import Platt, ReliabilityCurve, fit_platt, reliability, wilson
from vlmscope.metrics.curves import RiskCoverage, RocCurve, abstain, risk_coverage, roc
from vlmscope.metrics.rates import Rate, rate, rate_difference
from vlmscope.metrics.resampling import (
    Difference,
    Interval,
    Judged,
    Resamples,
    bootstrap,
    holm,
    paired,
    resample,
    resample_sides,
    simultaneous,
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
    "Judged",
    "KindAuroc",
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
    "wilson",
    "within_kinds",
]
