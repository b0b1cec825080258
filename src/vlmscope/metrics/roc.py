"""The ROC curve: what every threshold of an alarm would find, and what it would cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_curve  # type: ignore[import-untyped,unused-ignore]

from vlmscope.metrics.answers import Floats, answers


@dataclass(frozen=True, slots=True, eq=False)
class RocCurve:
    """Recall against false alarms, from no alarm to an alarm for every answer.

    All arrays have one element a threshold, of shape ``(threshold,)``. Thresholds between two
    points of a straight piece are left out: they change neither the line nor the area under it.
    """

    false_alarms: Floats
    """Share of the faithful answers that are flagged, from 0 to 1, never falling."""
    recall: Floats
    """Share of the hallucinated answers that are flagged, from 0 to 1, never falling."""
    threshold: Floats
    """Flagged are the answers of at least this risk; falling, from infinity, which flags none."""


def roc(truth: ArrayLike, risk: ArrayLike) -> RocCurve:
    """Return the ROC curve of a risk. Answers of equal risk are flagged together.

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        risk: Numbers from 0 to 1, one an answer.

    Raises:
        ValueError: The arrays are wrong, or hold one class only.

    >>> curve = roc([False, False, True, True], [0.1, 0.4, 0.4, 0.8])
    >>> curve.false_alarms.tolist(), curve.recall.tolist(), curve.threshold.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0], [inf, 0.8, 0.4, 0.1])
    """
    flags, risks = answers(truth, risk)
    hallucinated = int(flags.sum())
    faithful = flags.size - hallucinated
    if not hallucinated or not faithful:
        raise ValueError(
            f"a ROC curve needs both classes, found {hallucinated} hallucinated "
            f"and {faithful} faithful answers"
        )
    false_alarms, recall, threshold = roc_curve(flags, risks)
    return RocCurve(*(np.asarray(part, np.float64) for part in (false_alarms, recall, threshold)))
