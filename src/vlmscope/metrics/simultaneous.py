"""Bands that hold several curves at once, and tests corrected for their number.

An interval holds its truth in 95 of 100 samples; of eleven intervals one is wrong far more often. A
simultaneous band is wide enough that all of them hold at once, and never narrower than an interval:
its width is the 95% quantile of the largest standardised error over the same resamples (max-t;
Montiel Olea and Plagborg-Møller, 2019, "Simultaneous confidence bands"). Errors are taken on the
scale of log-odds, so that a band of an AUROC stays between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import expit, logit  # type: ignore[import-untyped,unused-ignore]

from vlmscope.metrics.resampling import Interval, Resamples

LEAST = 1e-3
"""Least distance of an AUROC from 0 and 1 on the scale of log-odds."""


def simultaneous(
    drawn: Resamples, names: Sequence[str], level: float = 0.95
) -> Mapping[str, Interval]:
    """Return a band of the AUROC of several risks that holds all of them at once.

    A small sample has no draws to take it from: there each interval is widened for their number
    (Bonferroni).

    Args:
        drawn: As ``resample`` returns it.
        names: The risks.
        level: Share of the samples in which the band shall hold every true AUROC.
    """
    if drawn.jackknives:
        wider = 1 - (1 - level) / max(len(names), 1)
        return {name: drawn.interval(name, level=wider) for name in names}
    centre = {name: _log_odds(np.array(drawn.whole[name]["auroc"])) for name in names}
    errors, spread = {}, {}
    for name in names:
        errors[name] = _log_odds(drawn.drawn[name]["auroc"]) - centre[name]
        spread[name] = float(np.nanstd(errors[name]))
    moving = [name for name in names if spread[name] > 0]
    if not moving:
        return {name: drawn.interval(name, level=level) for name in names}
    largest = np.max([np.abs(errors[name]) / spread[name] for name in moving], axis=0)
    width = float(np.nanquantile(largest, level))
    bands = {}
    for name in names:
        own = drawn.interval(name, level=level)
        half = width * spread[name] if spread[name] > 0 else 0.0
        low, high = (float(expit(centre[name] + side * half)) for side in (-1, 1))
        bands[name] = Interval(min(low, own.low), max(high, own.high)) if half else own
    return bands


def _log_odds(auroc: np.ndarray) -> np.ndarray:
    return np.asarray(logit(np.clip(auroc, LEAST, 1 - LEAST)))
