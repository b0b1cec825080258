"""Metrics of one risk on one set of answers, and the threshold above which answers are flagged.

Metrics that scikit-learn has are computed by it. A rank metric of a single class is undefined and
is NaN: 0.5 would look like a result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn import config_context  # type: ignore[import-untyped,unused-ignore]
from sklearn.metrics import (  # type: ignore[import-untyped,unused-ignore]
    average_precision_score,
    brier_score_loss,
    roc_auc_score,
)

from vlmscope.metrics.answers import Flags, Floats, Numbers, answers, integer_part, strata
from vlmscope.metrics.calibration import reliability

FALSE_POSITIVE_RATE = 0.05
"""The false positive rate of ``recall_at_5``."""


def share_bounds(hallucinated: int, faithful: int, unscorable: int) -> dict[str, float | None]:
    """Return the share of hallucinations if all unscorable answers were faithful or hallucinated.

    The true share of all answers is between the two, whatever the unscorable ones are: they are
    rarely missing at random, so the share among scorable answers may be biased.

    >>> share_bounds(1, 2, 1)
    {'share_if_unscorable_faithful': 0.25, 'share_if_unscorable_hallucinated': 0.5}
    """
    rows = hallucinated + faithful + unscorable
    return {
        "share_if_unscorable_faithful": hallucinated / rows if rows else None,
        "share_if_unscorable_hallucinated": (hallucinated + unscorable) / rows if rows else None,
    }


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of one risk on one set of answers. Hallucinated is the positive class."""

    auroc: float
    """Chance that a hallucinated answer has the higher risk; ties count half. NaN: one class."""
    auprc: float
    """Average precision, without interpolation; chance is the prevalence. NaN: one class."""
    brier: float
    """Mean squared distance of risk and truth, 0 is best."""
    ece: float
    """Expected calibration error over 15 bins of equal mass (``reliability``), 0 is best."""
    recall_at_5: float
    """Recall at a false positive rate of 5% (``threshold_at``). NaN: one class."""
    prevalence: float
    """Share of answers that are hallucinated."""
    count: int
    """Number of answers."""


def measure(truth: ArrayLike, risk: ArrayLike, folds: ArrayLike | None = None) -> Metrics:
    """Return the metrics of a risk.

    With ``folds``, the rank metrics compare answers of one fold only. Out-of-fold risks of two
    folds come from two fits: where training has more hallucinations, the test fold has fewer, so a
    risk that is only the training share would order pairs across folds wrongly and look worse than
    chance. ``auroc`` is then the share of the pairs *within a fold* in the right order; ``auprc``
    and ``recall_at_5`` are the folds' own numbers, averaged over the hallucinated answers. A fold
    of one class is left out of all three. ``brier`` and ``ece`` are pooled: they compare a risk
    with its own answer, not with another's risk, and a risk of 30% should be right whichever fit
    made it.

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        risk: Numbers from 0 to 1, one an answer.
        folds: The fold in which each answer was tested; without it all answers are compared.

    Raises:
        ValueError: The arrays are empty, of different shapes, or the risk is not within [0, 1].

    >>> found = measure([False, False, True, True], [0.1, 0.4, 0.35, 0.8])
    >>> found.auroc, round(found.auprc, 3), found.recall_at_5, found.prevalence
    (0.75, 0.833, 0.5, 0.5)
    >>> measure([False, True, False, True], [0.1, 0.2, 0.8, 0.9], folds=[0, 0, 1, 1]).auroc
    1.0
    >>> measure([True, True], [0.2, 0.9]).auroc
    nan
    """
    flags, risks = answers(truth, risk)
    auroc, auprc, recall = _ranks(flags, risks, strata(flags.size, folds))
    return Metrics(
        auroc=auroc,
        auprc=auprc,
        # As integers: scikit-learn cannot identify a single boolean class.
        brier=float(brier_score_loss(flags.astype(int), risks, pos_label=1)),
        ece=reliability(flags, risks).error,
        recall_at_5=recall,
        prevalence=float(flags.mean()),
        count=flags.size,
    )


def _ranks(truth: Flags, risk: Floats, stratum: Numbers) -> tuple[float, float, float]:
    """Return AUROC, AUPRC and recall at 5% within strata; NaN where no stratum has both classes."""
    found, weights = [], []
    for number in range(int(stratum.max()) + 1):
        flags, risks = truth[stratum == number], risk[stratum == number]
        hits = int(flags.sum())
        if not 0 < hits < flags.size:
            continue
        recall = (risks[flags] > threshold_at(flags, risks)).mean()
        with config_context(assume_finite=True, skip_parameter_validation=True):  # both checked
            auroc, auprc = roc_auc_score(flags, risks), average_precision_score(flags, risks)
        found.append((auroc, auprc, recall))
        weights.append((hits * (flags.size - hits), hits, hits))
    if not found:
        return (float("nan"),) * 3
    if len(found) == 1:  # exact
        auroc, auprc, recall = found[0]
    else:
        auroc, auprc, recall = np.multiply(found, weights).sum(axis=0) / np.sum(weights, axis=0)
    return float(auroc), float(auprc), float(recall)


def constant_pairs(truth: ArrayLike, risk: ArrayLike, folds: ArrayLike | None = None) -> float:
    """Return the share of the compared pairs in folds with a constant risk; NaN without a pair.

    A risk that is constant in a fold orders none of its pairs: its AUROC of 0.5 is not a result
    about the answers. A coarse risk differs: it orders the answers that it distinguishes.

    >>> constant_pairs([False, True, False, True], [0.2, 0.2, 0.2, 0.9], folds=[0, 0, 1, 1])
    0.5
    """
    flags, risks = answers(truth, risk)
    stratum = strata(flags.size, folds)
    constant = pairs = 0
    for number in range(int(stratum.max()) + 1):
        own = stratum == number
        compared = int(flags[own].sum()) * int((~flags[own]).sum())
        pairs += compared
        if np.ptp(risks[own]) == 0:
            constant += compared
    return constant / pairs if pairs else float("nan")


def threshold_at(
    truth: ArrayLike, risk: ArrayLike, *, false_positive_rate: float = FALSE_POSITIVE_RATE
) -> float:
    """Return the lowest risk that at most this share of the faithful answers exceeds.

    An answer is flagged where ``risk > threshold``. Answers of equal risk are flagged together or
    not at all, so the share may be smaller than asked for, and never larger. Choose the threshold
    on validation answers: on the answers it was chosen on, its false positive rate is exact.

    Args:
        truth: Booleans, one an answer; true where it is hallucinated.
        risk: Numbers from 0 to 1, one an answer.
        false_positive_rate: Share of faithful answers that may be flagged, from 0 to below 1.

    Raises:
        ValueError: No answer is faithful, the share is out of range, or the arrays are wrong.

    >>> faithful = [i / 20 for i in range(20)]
    >>> threshold_at([False] * 20 + [True], [*faithful, 0.99])
    0.9
    """
    flags, risks = answers(truth, risk)
    if not 0 <= false_positive_rate < 1:
        raise ValueError(
            f"false_positive_rate must be from 0 to below 1, found {false_positive_rate}"
        )
    faithful = np.sort(risks[~flags])[::-1]
    if not faithful.size:
        raise ValueError(
            f"all {flags.size} answers are hallucinated: no false positive is possible"
        )
    allowed = min(integer_part(false_positive_rate, faithful.size), faithful.size - 1)
    return float(faithful[allowed])
