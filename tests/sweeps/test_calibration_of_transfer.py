"""How often does a transfer's interval hold the truth? Many small worlds, with images that cluster.

The truth is the AUROC of the very fit that was carried over, on many fresh rows of the test world.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from vlmscope.metrics import Interval, LabelledRisk, resample_sides
from vlmscope.probes import grouped_folds
from vlmscope.sweeps.transfer.fits import Part, transfer_probe

WIDTH = 6
SETS = 20
FRESH = 1500
"""Rows that the truth is measured on."""
Side = tuple[np.ndarray, np.ndarray, np.ndarray]


def side(rng: np.random.Generator, images: int, each: int, strength: float) -> Side:
    """Vectors, truth and images: an image shifts its vectors, and its share of hallucinations."""
    groups = np.repeat(np.arange(images), each)
    truth = rng.random(len(groups)) < 1 / (1 + np.exp(0.6 - rng.normal(size=images)[groups]))
    vectors = rng.normal(size=(len(groups), WIDTH)) + 0.5 * rng.normal(size=(images, WIDTH))[groups]
    vectors[:, 0] += strength * truth
    return vectors.astype(np.float32), truth, groups


def one_set(
    seed: int, strength: float, *, images: int = 60, each: int = 3, paired: bool = False
) -> tuple[float, Interval]:
    """Return the true AUROC of what was carried over, and the interval that is told."""
    rng = np.random.default_rng([seed, int(10 * strength), paired])
    vectors, truth, groups = side(rng, 60, 3, strength)
    test_vectors, test_truth, test_groups = side(rng, images, each, strength)
    fresh, fresh_truth, _ = side(rng, FRESH // 3, 3, strength)
    judged = [np.arange(len(test_truth))]
    train = [np.arange(len(truth))]
    if paired:  # the test run shows the same images
        folds = grouped_folds(truth, groups, count=3, seed=seed)
        judged = [np.flatnonzero(np.isin(test_groups, groups[fold.test])) for fold in folds]
        train = [np.asarray(fold.train) for fold in folds]
    # Behind the rows of the test run, every fit judges the fresh ones too.
    behind = [len(test_truth) + FRESH * n + np.arange(FRESH) for n in range(len(train))]
    parts = [Part(*each) for each in zip(train, map(np.append, judged, behind), strict=True)]
    everything = np.concatenate([test_vectors, *[fresh] * len(parts)])
    risk = transfer_probe(vectors, truth, groups, parts, everything, folds=3).risk
    part_of = np.empty(len(test_truth), dtype=np.int64)
    for number, rows in enumerate(judged):
        part_of[rows] = number
    hits = [int(test_truth[rows].sum()) for rows in judged]
    pairs = [hit * (len(rows) - hit) for hit, rows in zip(hits, judged, strict=True)]
    true = [roc_auc_score(fresh_truth, risk[rows]) for rows in behind]
    sides = {"probe": LabelledRisk(test_truth, risk[: len(test_truth)], part_of)}
    drawn = resample_sides(
        sides, test_groups, draws=150, seed=seed, metrics=("auroc",), correct=True
    )
    return float(np.average(true, weights=pairs)), drawn.interval("probe")


def covered(strength: float, sets: int = SETS, **options: object) -> int:
    found = [one_set(seed, strength, **options) for seed in range(sets)]  # type: ignore[arg-type]
    return sum(interval.low <= true <= interval.high for true, interval in found)


@pytest.mark.exhaustive
def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """19 of 20 are expected; fewer than 17 would be a rare draw of 95%."""
    assert covered(0.0) >= 17
    assert covered(1.0, images=30) >= 17, "a small test run"


@pytest.mark.exhaustive
def test_so_it_does_where_images_are_shared() -> None:
    assert covered(1.0, 12, paired=True) >= 10
