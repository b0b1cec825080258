"""From the risks of detectors to metrics, intervals over images, and corrected comparisons.

All detectors are compared on the same pairs: of answers that were tested in the same fold. Two
comparisons are made for each: with the best baseline that needs no model, and with the best single
number that needs no training. Both rivals are the best on the rows that evaluate them, which
favours them, never the detector: a detector may be called better than one, and never worse. The
p-values of all comparisons are corrected together (Holm), where a detector that is not above its
rival has a p-value of 1, as the best of several exceeds most of them by chance.

That a detector is worse than chance is stated for those without training, as only these have a
direction that can be wrong, and corrected for their number. So is, for all of them, that one is
better than chance: of fourteen that know nothing, the interval of the best excludes 0.5 in 20% of
simulated data sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri  # type: ignore[import-untyped,unused-ignore]

from vlmscope.detectors.detector import Detector
from vlmscope.detectors.methods import Score, is_fitted
from vlmscope.detectors.results import (
    METRICS,
    SIGNIFICANT,
    DetectorResult,
    gap_fields,
    metric_fields,
)
from vlmscope.metrics import Difference, Resamples, constant_pairs, holm, resample
from vlmscope.sweeps.results import constant_fields
from vlmscope.sweeps.splitting import Stacked

RIVALS = ("model_free", "single")
"""What every detector is compared with."""


def evaluate(
    detectors: Mapping[str, Detector], rows: Stacked, *, draws: int, seed: int
) -> tuple[tuple[DetectorResult, ...], dict[str, str]]:
    """Return a result for each detector, and the name of each rival.

    Args:
        detectors: The detectors, by name.
        rows: The rows of all splits with the risks of the detectors.
        draws: Resamples of the images.
        seed: Seed of the resamples.
    """
    drawn = _drawn(rows, detectors, draws, seed)
    nothing = {
        name: bool(constant_fields(constant_pairs(rows.truth, risk, rows.folds))["found_nothing"])
        for name, risk in rows.risks.items()
    }
    rivals = _rivals(detectors, drawn, nothing)
    gaps = {
        (name, rival): difference(drawn, name, rivals[rival])
        for name, detector in detectors.items()
        for rival in RIVALS
        if _is_compared(detector, name, rivals[rival], nothing)
    }
    finite = {pair: gap for pair, gap in gaps.items() if np.isfinite(gap.p_value)}
    superior = [gap.p_value if gap.value > 0 else 1.0 for gap in finite.values()]
    corrected = dict(zip(finite, holm(superior), strict=True))
    worse = worse_than_chance(
        drawn, [name for name, each in detectors.items() if not each.learned and not nothing[name]]
    )
    better = better_than_chance(drawn, [name for name in detectors if not nothing[name]])
    results = tuple(
        _result(
            detector,
            drawn,
            {rival: gaps.get((name, rival)) for rival in RIVALS},
            {rival: corrected.get((name, rival)) for rival in RIVALS},
            nothing[name],
            beside_chance=(name in worse, name in better),
        )
        for name, detector in detectors.items()
    )
    return results, rivals


def worse_than_chance(drawn: Resamples, names: Sequence[str]) -> frozenset[str]:
    """Return the risks whose AUROC is below 0.5, corrected for their number (Bonferroni)."""
    return frozenset(name for name in names if _extremes(drawn, name, len(names))[1] < 0.5)


def better_than_chance(drawn: Resamples, names: Sequence[str]) -> frozenset[str]:
    """Return the risks whose AUROC is above 0.5, corrected for their number (Bonferroni)."""
    return frozenset(name for name in names if _extremes(drawn, name, len(names))[0] > 0.5)


def _extremes(drawn: Resamples, name: str, number: int) -> tuple[float, float]:
    """Return the interval of an AUROC as one of several, not limited by the number of draws."""
    level = 1 - SIGNIFICANT / number
    found = drawn.interval(name, "auroc", level)
    if name in drawn.jackknives:
        return found.low, found.high
    spread = float(np.nanstd(drawn.drawn[name]["auroc"])) * drawn.widening(name)
    value, half = drawn.observed[name]["auroc"], float(ndtri((1 + level) / 2)) * spread
    return min(found.low, value - half), max(found.high, value + half)


def _drawn(rows: Stacked, detectors: Mapping[str, Detector], draws: int, seed: int) -> Resamples:
    """Return all metrics on resamples of the images; the AUROC on more draws, as it is tested."""
    args = rows.truth, rows.risks, rows.groups, rows.folds
    ranked = resample(*args, draws=draws, seed=seed, metrics=("auroc",), correct=True)
    rest = resample(*args, draws=max(1, draws // 4), seed=seed, metrics=METRICS[1:])
    return replace(
        ranked,
        observed={name: {**rest.observed[name], **ranked.observed[name]} for name in rows.risks},
        drawn={name: {**_centred(rest, name), **ranked.drawn[name]} for name in rows.risks},
        # A score without a fit does not depend on the other folds.
        crossfitted=frozenset(n for n, each in detectors.items() if is_fitted(each.method)),
    )


def _centred(drawn: Resamples, name: str) -> dict[str, NDArray[np.float64]]:
    """Return the resampled metrics without the bias of the resamples.

    An image that is drawn twice ties with itself, which raises the AUPRC of a small fold and lowers
    its false positive rate, once more than the smallness of the fold has done already.
    """
    return {
        metric: np.clip(values + drawn.observed[name][metric] - np.nanmean(values), 0, 1)
        if np.isfinite(values).any() else values
        for metric, values in drawn.drawn[name].items()
    }  # fmt: skip


def _rivals(
    detectors: Mapping[str, Detector], drawn: Resamples, nothing: Mapping[str, bool]
) -> dict[str, str]:
    """Return the best detector of each kind by AUROC; an empty name if there is none."""
    kinds = {
        "model_free": [name for name, each in detectors.items() if each.is_model_free],
        "single": [name for name, each in detectors.items() if isinstance(each.method, Score)],
    }
    # A constant risk has an AUROC of 0.5, and is beaten as chance is.
    return {
        kind: max(
            sorted(names, key=lambda name: nothing[name]),
            key=lambda name: drawn.observed[name]["auroc"],
            default="",
        )
        for kind, names in kinds.items()
    }


def _is_compared(detector: Detector, name: str, rival: str, nothing: Mapping[str, bool]) -> bool:
    return bool(rival) and rival != name and not detector.is_model_free and not nothing[name]


def difference(drawn: Resamples, one: str, other: str) -> Difference:
    """Return the difference of two AUROCs, with a p-value that is not limited by the draws.

    Corrected for many comparisons, the smallest p-value of a few thousand draws would never be
    significant. If no draw is on the other side of 0, the p-value is that of a normal distribution
    with the draws' deviation.
    """
    found = drawn.difference(one, other)
    if drawn.jackknives:
        return found
    gap: NDArray[np.float64] = drawn.drawn[one]["auroc"] - drawn.drawn[other]["auroc"]
    kept = gap[np.isfinite(gap)]
    least = 2 / (kept.size + 1)
    spread = float(kept.std()) * drawn.widening(one, other) if kept.size else 0.0
    if found.p_value > least * (1 + 1e-9) or not spread > 0:
        return found
    tail = float(2 * ndtr(-abs(found.value) / spread))
    return replace(found, p_value=min(found.p_value, tail))


def _result(
    detector: Detector,
    drawn: Resamples,
    gaps: Mapping[str, Difference | None],
    corrected: Mapping[str, float | None],
    nothing: bool,
    *,
    beside_chance: tuple[bool, bool],
) -> DetectorResult:
    values = {}
    for metric in METRICS:
        interval = drawn.interval(detector.name, metric)
        values[metric] = (
            float(drawn.observed[detector.name][metric]), interval.low, interval.high
        )  # fmt: skip
    compared: dict[str, Any] = {}
    for rival in RIVALS:
        compared |= gap_fields(rival, gaps[rival], corrected[rival])
    return DetectorResult(
        name=detector.name,
        title=detector.title,
        group=detector.group,
        paper=detector.paper.citation if detector.paper else "",
        known=detector.known,
        passes=detector.passes,
        learned=detector.learned,
        **metric_fields(values),
        found_nothing=nothing,
        worse_than_chance=beside_chance[0],
        better_than_chance=beside_chance[1],
        **compared,
    )
