"""Calibration of log-odds across folds, and of a final probe.

Each fold chooses its own form and penalty, so its log-odds have their own scale. Rank metrics
compare answers of one fold and are not affected; a risk that is read as a probability is. Platt's
sigmoid, fitted on the fold's inner out-of-fold log-odds, corrects that without using the test rows;
it is applied to probes and baselines alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vlmscope.metrics import Platt, fit_platt
from vlmscope.probes import CrossFit, Fold, LogisticProbe
from vlmscope.probes.base import split_inside
from vlmscope.probes.candidates import ChosenFit

Fit = TypeVar("Fit", CrossFit, ChosenFit)


def calibrated(fit: Fit, truth: NDArray[np.bool_], folds: Sequence[Fold]) -> Fit:
    """Return a cross-fit whose log-odds have the same scale in every fold.

    Args:
        fit: As ``crossfit_logistic`` or ``crossfit_candidates`` returns it.
        truth: True where the answer is a hallucination, ``[N]``.
        folds: The folds of the fit.
    """
    logit, inner = fit.logit.copy(), fit.inner_logit.copy()
    for number, fold in enumerate(folds):
        platt = rising_platt(truth[fold.train], fit.inner_logit[number, fold.train])
        logit[fold.test] = platt.a * fit.logit[fold.test] + platt.b
        inner[number] = platt.a * fit.inner_logit[number] + platt.b
    return replace(fit, logit=logit, inner_logit=inner)


def rising_platt(truth: NDArray[np.bool_], logit: NDArray[np.float64]) -> Platt:
    """Return Platt's sigmoid, or the constant training share if the sigmoid would decrease.

    Log-odds without a signal are anticorrelated with the label as often as correlated; inverting
    them would create a signal from noise.
    """
    platt = fit_platt(truth, logit)
    if platt.a > 0:
        return platt
    share = truth.mean()
    return Platt(0.0, float(np.log(share / (1 - share))))


def scale_of(
    probe: LogisticProbe,
    matrix: NDArray[np.float32],
    truth: NDArray[np.bool_],
    groups: NDArray[np.int64],
    folds: int,
) -> tuple[Platt, NDArray[np.float64]]:
    """Return the sigmoid for a probe fitted on all rows, and the out-of-fold risks it is based on.

    It is fitted on out-of-fold log-odds from fits with the probe's own penalty.
    """
    logit = np.empty(len(truth))
    for fold in split_inside(truth, groups, folds):
        fitted = LogisticProbe(C=probe.C_).fit(matrix[fold.train], truth[fold.train])
        logit[fold.test] = fitted.decision_function(matrix[fold.test])
    platt = rising_platt(truth, logit)
    return platt, platt.apply(logit)
