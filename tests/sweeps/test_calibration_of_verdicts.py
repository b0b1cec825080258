"""The short form of ``benchmarks/calibration_of_verdicts.py``: a few of its worlds, and bounds."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from benchmarks import calibration_of_verdicts as benchmark
from vlmscope.metrics import Difference, resample_within
from vlmscope.probes import crossfit_logistic, grouped_folds
from vlmscope.probes.candidates import Candidate, crossfit_candidates
from vlmscope.probes.features import one_hot
from vlmscope.sweeps.calibration import calibrated

SETS = 12


@pytest.fixture(scope="module")
def gaps() -> dict[str, list[Difference]]:
    """Within categories, a probe of vectors that hold the category less a prior over categories.

    ``folds``: over pairs of one fold, as verdicts are made. ``pooled``: over all pairs.
    """
    found: dict[str, list[Difference]] = {"folds": [], "pooled": []}
    for seed in range(SETS):
        world = benchmark.made_for("category only", seed)
        folds = grouped_folds(world.truth, world.groups)
        fold_of = np.empty(len(world.truth), dtype=np.int64)
        for number, fold in enumerate(folds):
            fold_of[fold.test] = number
        fit = crossfit_logistic(world.vectors, world.truth, folds, world.groups)
        kinds = Candidate(
            one_hot([str(k) for k in world.category]), partial(LogisticRegression, C=10.0)
        )
        prior = crossfit_candidates({"kinds": kinds}, world.truth, folds)
        risks = {"probe": calibrated(fit, world.truth, folds).risk, "prior": prior.risk}
        for name, each in (("folds", fold_of), ("pooled", None)):
            drawn = resample_within(
                world.truth, risks, world.category, world.groups, each, draws=100
            )
            found[name].append(drawn.difference("probe", "prior"))
    return found


@pytest.mark.exhaustive
def test_what_the_category_tells_is_not_told_to_be_more_within_it(
    gaps: dict[str, list[Difference]],
) -> None:
    better = [gap.interval.low > 0 for gap in gaps["folds"]]
    assert sum(better) <= 1, "2.5% of them may be"
    assert abs(np.mean([gap.value for gap in gaps["folds"]])) < 0.03


@pytest.mark.exhaustive
def test_pairs_of_different_folds_would_tell_it(gaps: dict[str, list[Difference]]) -> None:
    """Without folds the bounds above are missed by far: they can fail."""
    better = [gap.interval.low > 0 for gap in gaps["pooled"]]
    assert sum(better) >= 3
    assert np.mean([gap.value for gap in gaps["pooled"]]) > 0.06


@pytest.mark.exhaustive
def test_a_whole_sweep_is_held_against_its_truth() -> None:
    found = benchmark.run_one("signal, 60 images × 2", 0)
    assert found is not None
    assert 0.5 < found.true < 0.9
    assert set(found.better) == set(benchmark.COMPARISONS)
    line = benchmark.line("signal, 60 images × 2", [found])
    assert line.startswith("| signal, 60 images × 2 (1) | ")
    assert line.count("|") == 2 + len(benchmark.SHARES) + len(benchmark.COMPARISONS)
