"""Risks that mean what they say: fitted on rows that the log-odds behind them have not seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logit

from vlmscope.metrics import measure
from vlmscope.probes import LogisticProbe, crossfit_logistic, grouped_folds
from vlmscope.sweeps.calibration import calibrated, scale_of


def noise(seed: int, rows: int = 300, width: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """More features than rows can bear, and labels that none of them knows."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, width)).astype(np.float32), rng.random(rows) < 0.2


@pytest.mark.first(1)
@pytest.mark.parametrize("seed", range(3))
def test_a_probe_that_fits_its_rows_perfectly_is_not_believed(seed: int) -> None:
    matrix, truth = noise(seed)
    groups = np.arange(len(truth))
    probe = LogisticProbe(C=0.1).fit(matrix, truth)
    own = probe.predict_proba(matrix)[:, 1]
    assert measure(truth, own).auroc > 0.99, "on its own rows it knows everything"
    platt, risk = scale_of(probe, matrix, truth, groups, folds=5)
    said = platt.apply(probe.decision_function(matrix))
    assert np.abs(said - truth.mean()).max() < 0.25, "but the risk stays near the usual"
    assert np.abs(risk - truth.mean()).max() < 0.25


def test_folds_of_different_scales_are_pooled_without_loss() -> None:
    """One fold chose a weak penalty, another a strong one; each orders its own rows well."""
    rng = np.random.default_rng(3)
    truth = rng.random(400) < 0.3
    matrix = rng.standard_normal((400, 6)).astype(np.float32)
    matrix[:, 0] += 2.5 * truth
    groups = np.arange(400)
    folds = grouped_folds(truth, groups, count=5)
    fit = crossfit_logistic(matrix, truth, folds, groups)
    alone = np.mean([
        measure(truth[fold.test], fit.risk[fold.test]).auroc for fold in folds
    ])  # fmt: skip
    scales, shifts = (0.05, 4.0, 0.3, 1.0, 8.0), (3.0, -4.0, 0.0, 6.0, -2.0)
    odd, inner = fit.logit.copy(), fit.inner_logit.copy()
    for number, (fold, scale, shift) in enumerate(zip(folds, scales, shifts, strict=True)):
        odd[fold.test] = scale * odd[fold.test] + shift
        inner[number] = scale * inner[number] + shift
    stretched = replace(fit, logit=odd, inner_logit=inner)
    assert measure(truth, stretched.risk).auroc < alone - 0.1, "pooled as they are they mislead"
    mended = calibrated(stretched, truth, folds)
    assert measure(truth, mended.risk).auroc > alone - 0.02
    assert measure(truth, mended.risk).ece < 0.06
    same = calibrated(fit, truth, folds)
    np.testing.assert_allclose(mended.risk, same.risk, atol=1e-6)
    assert np.isfinite(logit(mended.risk)).all()
