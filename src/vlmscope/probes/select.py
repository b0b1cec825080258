"""Selection and combination of representations and layers without using the test rows.

The best of eleven candidates on the test rows is an optimistic estimate: the HALP research chose
its "best layer" that way. Here each outer fold chooses by the inner AUROC of its training rows, and
uses the chosen candidate's outer prediction, so the result includes the cost of choosing.
``combine`` stacks all candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from scipy.special import expit  # type: ignore[import-untyped,unused-ignore]

from vlmscope.probes.base import block_numbers
from vlmscope.probes.candidates import OutOfFold
from vlmscope.probes.crossfit import CrossFit
from vlmscope.probes.folds import Fold, FoldError
from vlmscope.probes.linear import LogisticProbe

COMBINING_GRID = (1e-3, 1e-2, 1e-1, 1.0)
"""Values of ``C`` for the combination, which has few features, each a logit."""


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """The out-of-fold predictions of "the best candidate, chosen in training"."""

    logit: Float[np.ndarray, " rows"]
    chosen: tuple[str, ...]
    """The candidate of each fold."""
    inner_auroc: Float[np.ndarray, " folds"]
    """Its inner AUROC; optimistic, as the largest of many: report the AUROC of ``risk``."""
    inner_logit: Float[np.ndarray, "folds rows"]
    """For each fold, the inner out-of-fold log-odds of its training rows by its candidate; NaN for
    the rows that it tests."""

    @property
    def risk(self) -> Float[np.ndarray, " rows"]:
        """Out-of-fold probability that each row is positive."""
        return np.asarray(expit(self.logit))


@dataclass(frozen=True, slots=True, eq=False)
class Combined:
    """The out-of-fold predictions of all candidates together."""

    logit: Float[np.ndarray, " rows"]
    candidates: tuple[str, ...]
    weights: Float[np.ndarray, "folds candidates"]
    """Weight of each candidate's standardised logit, for each fold."""

    @property
    def risk(self) -> Float[np.ndarray, " rows"]:
        """Out-of-fold probability that each row is positive."""
        return np.asarray(expit(self.logit))


def crossfit_select(candidates: Mapping[str, CrossFit], folds: Sequence[Fold]) -> Selected:
    """Choose a candidate for each fold by its inner AUROC, the first in a tie.

    Args:
        candidates: Name → ``crossfit_logistic`` of its vectors, all on the same folds. Only the
            results are needed, so one matrix at a time is in memory.
        folds: Those folds.

    Raises:
        FoldError: No candidates, or they were made on other folds.
    """
    names = _checked(candidates, folds)
    inner = np.stack([candidates[name].inner_auroc for name in names])
    best = inner.argmax(axis=0)
    logit = np.empty_like(candidates[names[0]].logit)
    for fold, choice in zip(folds, best, strict=True):
        logit[fold.test] = candidates[names[choice]].logit[fold.test]
    return Selected(
        logit=logit,
        chosen=tuple(names[choice] for choice in best),
        inner_auroc=inner.max(axis=0),
        inner_logit=np.stack(
            [candidates[names[choice]].inner_logit[number] for number, choice in enumerate(best)]
        ),
    )


def combine(
    candidates: Mapping[str, OutOfFold],
    truth: Shaped[np.ndarray, " rows"],
    folds: Sequence[Fold],
    *,
    grid: Sequence[float] = COMBINING_GRID,
) -> Combined:
    """Predict from all candidates at once: stacking (D. Wolpert, "Stacked generalization", 1992).

    For each fold, a logistic probe learns from the candidates' inner out-of-fold logits of the
    training rows, and is applied to their outer logits of the test rows. The label of a row never
    influences its own prediction.

    Args:
        candidates: As in ``crossfit_select``; or anything with outer and inner log-odds, such as a
            joint baseline and the selected probe.
        truth: Whether each row is positive (hallucinated).
        folds: The folds of the candidates.
        grid: Values of ``C``.

    Raises:
        FoldError: No candidates, or they were made on other folds.
    """
    names = _checked(candidates, folds)
    truth = np.asarray(truth, dtype=bool)
    outer = np.stack([candidates[name].logit for name in names], axis=1)
    block = block_numbers(folds, len(truth))
    logit = np.empty(len(truth))
    weights = np.empty((len(folds), len(names)))
    for number, fold in enumerate(folds):
        inner = np.stack([candidates[name].inner_logit[number] for name in names], axis=1)
        probe = LogisticProbe(grid=grid)
        # The other folds are the inner ones, as in ``crossfit_logistic``.
        others = block[fold.train] - (block[fold.train] > number)
        probe.fit(inner[fold.train], truth[fold.train], inner_folds=others)
        logit[fold.test] = probe.decision_function(outer[fold.test])
        weights[number] = probe.coef_[0]
    return Combined(logit, tuple(names), weights)


def _checked(candidates: Mapping[str, OutOfFold], folds: Sequence[Fold]) -> list[str]:
    """Check that every candidate was made on these folds, and return the names."""
    if not candidates:
        raise FoldError("probe: no candidates to choose from; give one or more")
    for name, candidate in candidates.items():
        blank = [np.flatnonzero(np.isnan(row)) for row in candidate.inner_logit]
        same = len(blank) == len(folds) and all(
            np.array_equal(rows, np.sort(fold.test))
            for rows, fold in zip(blank, folds, strict=True)
        )
        if not same:
            raise FoldError(f"probe: candidate {name!r} was made on other folds; use the same")
    return list(candidates)
