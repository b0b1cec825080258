"""Fast metrics of one risk on thousands of resamples of the images.

A resample of images is a count for each image: how often it was drawn. Once the answers are counted
by stratum (fold), distinct risk and image, every resample takes two sparse products and a few
cumulative sums, without sorting again. The results equal those of ``measure`` on the repeated rows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array  # type: ignore[import-untyped,unused-ignore]

from vlmscope.metrics.answers import Flags, Floats, Numbers, integer_part
from vlmscope.metrics.calibration import BINS
from vlmscope.metrics.scores import FALSE_POSITIVE_RATE

NAMES = ("auroc", "auprc", "brier", "ece", "recall_at_5", "prevalence")
"""The fields of ``Metrics`` that vary between resamples: all but the count."""

SELECTIVE = ("aurc", "fpr_at_95", "accuracy_at_90")
"""Further metrics, computed only on request: the area under the risk-coverage curve, the false
positive rate at a recall of 95%, and the accuracy of the 90% of the answers with the lowest risk.
"""

RECALL = 0.95
"""Recall of ``fpr_at_95``."""

COVERAGE = 0.9
"""Share answered of ``accuracy_at_90``."""

CURVE_POINTS = 200
"""Most points of a risk-coverage curve for ``aurc``, evenly spaced; fewer answers have one each."""


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """The answers of one risk, counted by stratum, distinct risk (ascending) and image."""

    levels: Floats
    """The risk of each level, ``(level,)``: ascending within a stratum, strata one by one."""
    starts: Numbers
    """First level of each stratum, shape ``(stratum,)``."""
    sizes: Numbers
    """Levels of each stratum, shape ``(stratum,)``."""
    hallucinated: Any
    """Sparse counts of hallucinated answers, shape ``(level, image)``."""
    faithful: Any
    """Sparse counts of faithful answers, shape ``(level, image)``."""
    loss: Floats
    """Squared distance of risk and truth, summed by image, shape ``(image,)``."""
    distinct: Floats
    """The distinct risks of all strata, ascending."""
    distinct_index: Numbers
    """Index of each level's risk in ``distinct``, shape ``(level,)``."""


def tally(
    truth: Flags,
    risk: Floats,
    image: Numbers,
    images: int,
    stratum: Numbers | None = None,
) -> Tally:
    """Count the answers.

    Args:
        truth: True where the answer is hallucinated, shape ``(answer,)``.
        risk: Risk, shape ``(answer,)``.
        image: Number of the answer's image, below ``images``, shape ``(answer,)``.
        images: Images in all.
        stratum: Number of the stratum within which the answer is compared, from 0 without a gap,
            shape ``(answer,)``; one stratum without it.
    """
    distinct, value = np.unique(risk, return_inverse=True)
    own = np.zeros(risk.size, dtype=np.intp) if stratum is None else stratum
    keys, level = np.unique(own * distinct.size + value, return_inverse=True)
    shape = (keys.size, images)

    def counts(rows: Flags) -> Any:
        # Values at repeated positions are summed.
        return csr_array((np.ones(rows.sum()), (level[rows], image[rows])), shape=shape)

    loss = np.bincount(image, weights=(risk - truth) ** 2, minlength=images).astype(np.float64)
    sizes = np.bincount(keys // distinct.size)
    distinct_index = keys % distinct.size
    return Tally(
        levels=distinct[distinct_index],
        starts=np.cumsum(sizes) - sizes,
        sizes=sizes,
        hallucinated=counts(truth),
        faithful=counts(~truth),
        loss=loss,
        distinct=distinct,
        distinct_index=distinct_index,
    )


def measure_draw(
    counted: Tally, weights: Floats, names: Collection[str] = NAMES
) -> dict[str, float]:
    """Return the metrics of one resample, by name of ``NAMES`` or ``SELECTIVE``.

    One resample at a time: its arrays stay in the processor's cache, which was measured to be three
    times as fast as many at once. Without a stratum of both classes the rank metrics are NaN.

    Args:
        counted: The answers of one risk.
        weights: How often each image was drawn, whole numbers of shape ``(image,)``.
        names: The metrics to compute.
    """
    hits, alarms = counted.hallucinated @ weights, counted.faithful @ weights
    found = _rank_metrics(counted, hits, alarms, names)
    if "prevalence" in names:
        found["prevalence"] = float(hits.sum() / (hits.sum() + alarms.sum()))
    if "brier" in names:
        found["brier"] = float(counted.loss @ weights / (hits.sum() + alarms.sum()))
    if "ece" in names:
        found["ece"] = _calibration_error(counted, hits, alarms)
    if "fpr_at_95" in names:
        found["fpr_at_95"] = _false_positive_rate(counted, hits, alarms)
    found |= _coverage_metrics(counted, hits, alarms, names)
    return {name: found[name] for name in names}


def _rank_metrics(
    counted: Tally, hits: Floats, alarms: Floats, names: Collection[str]
) -> dict[str, float]:
    """Return the metrics that compare answers of one stratum."""
    found = dict.fromkeys(("auroc", "auprc", "recall_at_5"), float("nan"))
    all_hits, all_alarms = (np.add.reduceat(each, counted.starts) for each in (hits, alarms))
    pairs = all_hits @ all_alarms
    if not pairs:
        return found
    # Ascending by risk: element k of a cumulative sum counts the answers up to the k-th level.
    alarms_below = _running(counted, alarms, all_alarms)
    found["auroc"] = float(hits @ (alarms_below - alarms / 2) / pairs)
    if "auprc" not in names and "recall_at_5" not in names:
        return found
    # A stratum of one class has no pairs.
    kept = hits * np.repeat((all_hits > 0) & (all_alarms > 0), counted.sizes)
    # The answers at or above each level are flagged. Without any flagged, precision is 0.
    hit = np.repeat(all_hits, counted.sizes) - _running(counted, hits, all_hits) + hits
    flagged = hit + np.repeat(all_alarms, counted.sizes) - alarms_below + alarms
    found["auprc"] = float(kept @ (hit / np.maximum(flagged, 1)) / kept.sum())
    # A level is flagged if enough faithful answers are below it: all but the allowed ones.
    enough = all_alarms - np.floor(FALSE_POSITIVE_RATE * all_alarms + 1e-9)
    above = alarms_below - alarms >= np.repeat(enough, counted.sizes)
    found["recall_at_5"] = float(kept @ above / kept.sum())
    return found


def _false_positive_rate(counted: Tally, hits: Floats, alarms: Floats) -> float:
    """Return the false positive rate at which ``RECALL`` of the hallucinated answers are flagged.

    Answers of equal risk are flagged together. Strata of both classes are averaged over their
    faithful answers.
    """
    all_hits, all_alarms = (np.add.reduceat(each, counted.starts) for each in (hits, alarms))
    both = (all_hits > 0) & (all_alarms > 0)
    if not both.any():
        return float("nan")
    hit = np.repeat(all_hits, counted.sizes) - _running(counted, hits, all_hits) + hits
    alarm = np.repeat(all_alarms, counted.sizes) - _running(counted, alarms, all_alarms) + alarms
    # Fewer answers are flagged from level to level: the levels with enough hits come first.
    enough = hit >= RECALL * np.repeat(all_hits, counted.sizes) - 1e-9
    last = counted.starts + np.add.reduceat(enough.astype(np.intp), counted.starts) - 1
    return float(alarm[last][both].sum() / all_alarms[both].sum())


def _coverage_metrics(
    counted: Tally, hits: Floats, alarms: Floats, names: Collection[str]
) -> dict[str, float]:
    """Return the metrics of the answers with the lowest risk, the same share of every stratum."""
    total = hits.sum() + alarms.sum()
    points: dict[str, Any] = {}
    if "aurc" in names:
        count = int(min(round(total), CURVE_POINTS))
        points["aurc"] = np.arange(1, count + 1) / count
    if "accuracy_at_90" in names:
        kept = max(1.0, total - integer_part(1 - COVERAGE, total))
        points["accuracy_at_90"] = np.array([kept / total])
    if not points:
        return {}
    shares = np.concatenate(list(points.values()))
    errors = np.zeros(shares.size)
    for start, size in zip(counted.starts, counted.sizes, strict=True):
        own = slice(start, start + size)
        answered = np.concatenate([[0.0], np.cumsum(hits[own] + alarms[own])])
        wrong = np.concatenate([[0.0], np.cumsum(hits[own])])
        errors += np.interp(shares * answered[-1], answered, wrong)
    rates = np.split(errors / (shares * total), np.cumsum([len(p) for p in points.values()])[:-1])
    found = {name: float(each.mean()) for name, each in zip(points, rates, strict=True)}
    if "accuracy_at_90" in found:
        found["accuracy_at_90"] = 1 - found["accuracy_at_90"]
    return found


def _running(counted: Tally, values: Floats, totals: Floats) -> Floats:
    """Return cumulative sums that restart in every stratum."""
    before = np.cumsum(totals) - totals
    return np.asarray(np.cumsum(values) - np.repeat(before, counted.sizes))


def _calibration_error(counted: Tally, hits: Floats, alarms: Floats) -> float:
    """Return the calibration error over the bins that ``reliability`` makes of all strata.

    Args:
        counted: The answers of one risk.
        hits: Hallucinated answers at each level, shape ``(level,)``.
        alarms: Faithful answers at each level.
    """
    size = counted.distinct.size
    rows = np.bincount(counted.distinct_index, weights=hits + alarms, minlength=size)
    rows_below = np.cumsum(rows)
    hit = np.bincount(counted.distinct_index, weights=hits, minlength=size)
    excess_below = np.cumsum(hit - counted.distinct * rows)
    total = rows_below[-1]
    # Twice a middle rank is an integer, and an edge is an integer or at least a fifteenth from one:
    # rounding moves no answer to another bin.
    edges = 2 * total * np.arange(1, BINS) / BINS
    ends = np.searchsorted(2 * rows_below - rows, edges)
    at_ends = np.where(ends > 0, excess_below[ends - 1], 0)
    bounds = np.concatenate([[0], at_ends, excess_below[-1:]])
    return float(np.abs(np.diff(bounds)).sum() / total)
