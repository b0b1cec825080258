"""Agreement of two labelings: kappa as scikit-learn has it, resampled by image."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from vlmscope.metrics import agreement
from vlmscope.metrics.agreement import _kappas

CLASSES = ("hallucinated", "faithful", "unscorable")


def labelings(seed: int = 0, rows: int = 300) -> tuple[list[str], list[str], list[int]]:
    rng = np.random.default_rng(seed)
    one = rng.choice(CLASSES, size=rows, p=[0.3, 0.6, 0.1])
    other = np.where(rng.random(rows) < 0.8, one, rng.choice(CLASSES, size=rows))
    return one.tolist(), other.tolist(), (np.arange(rows) // 3).tolist()


def test_kappa_and_confusion_are_those_of_scikit_learn() -> None:
    one, other, groups = labelings()
    found = agreement(one, other, groups, classes=CLASSES, draws=200)
    assert found.kappa == pytest.approx(cohen_kappa_score(one, other))
    wanted = confusion_matrix(one, other, labels=CLASSES)
    assert found.confusion.tolist() == wanted.tolist()
    assert _kappas(wanted[None].astype(float))[0] == pytest.approx(found.kappa)
    assert found.interval is not None
    assert found.interval.low < found.kappa < found.interval.high
    again = agreement(one, other, groups, classes=CLASSES, draws=200)
    assert again.interval == found.interval


def test_copies_within_an_image_make_it_no_surer() -> None:
    one, other, groups = labelings()
    found = agreement(one, other, groups, classes=CLASSES, draws=400)
    copied = agreement(one * 5, other * 5, groups * 5, classes=CLASSES, draws=400)
    assert copied.kappa == pytest.approx(found.kappa)
    assert copied.interval == found.interval
    as_rows = agreement(one * 5, other * 5, range(1500), classes=CLASSES, draws=400)
    assert found.interval is not None
    assert as_rows.interval is not None
    wide, narrow = (f.high - f.low for f in (found.interval, as_rows.interval))
    assert narrow < 0.7 * wide


@pytest.mark.parametrize(
    ("one", "other", "groups", "kappa", "has_interval"),
    [
        ([], [], [], None, False),
        (["faithful"] * 4, ["faithful"] * 4, [1, 2, 3, 4], None, False),
        (["faithful"] * 4, ["hallucinated"] * 4, [1, 2, 3, 4], 0.0, True),
        (["faithful", "hallucinated"], ["faithful", "hallucinated"], [1, 1], 1.0, False),
        (["faithful", "hallucinated"], ["hallucinated", "faithful"], [1, 2], -1.0, True),
    ],
)
def test_where_there_is_little_to_say(
    one: list[str], other: list[str], groups: list[int], kappa: float | None, has_interval: bool
) -> None:
    found = agreement(one, other, groups, classes=CLASSES, draws=100)
    assert found.kappa == kappa
    assert (found.interval is not None) == has_interval
    assert found.confusion.sum() == len(one)


def test_what_is_no_labeling_is_refused() -> None:
    with pytest.raises(ValueError, match="equal length, found 2 and 1"):
        agreement(["faithful"] * 2, ["faithful"], [1, 2], classes=CLASSES)
    with pytest.raises(ValueError, match="found 'maybe'"):
        agreement(["maybe"], ["faithful"], [1], classes=CLASSES)
