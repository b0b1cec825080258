"""Folds never split an image; near-copies of an image are the same image."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from vlmscope.dataset import difference_hash
from vlmscope.errors import VlmscopeError
from vlmscope.probes import FoldError, grouped_folds, image_groups


def labels(rows: int = 400, images: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random(rows) < 0.2, rng.integers(0, images, rows)


def test_every_row_is_tested_once_and_no_image_is_on_both_sides() -> None:
    truth, images = labels()
    folds = grouped_folds(truth, images, count=5, seed=3)
    assert np.array_equal(np.sort(np.concatenate([fold.test for fold in folds])), np.arange(400))
    for fold in folds:
        assert not set(images[fold.train]) & set(images[fold.test])
        assert np.array_equal(np.sort(np.r_[fold.train, fold.test]), np.arange(400))


def test_positives_are_shared_out() -> None:
    truth, images = labels()
    rates = [truth[fold.test].mean() for fold in grouped_folds(truth, images)]
    assert max(rates) - min(rates) < 0.08


def test_the_seed_decides() -> None:
    truth, images = labels()
    first, same, other = (grouped_folds(truth, images, seed=seed)[0].test for seed in (0, 0, 1))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_images_may_have_names() -> None:
    truth, images = labels()
    named = grouped_folds(truth, np.array([f"{image:03}.jpg" for image in images]))
    numbered = grouped_folds(truth, images)
    assert np.array_equal(named[2].test, numbered[2].test)


def test_too_few_positives_are_said() -> None:
    truth, images = np.zeros(50, dtype=bool), np.arange(50)
    truth[[3, 9, 11]] = True
    with pytest.raises(FoldError, match=r"ask for 3 folds, .*: found 3 hallucinated answers in 3"):
        grouped_folds(truth, images)
    assert len(grouped_folds(truth, images, count=3)) == 3
    truth[[9, 11]] = False
    with pytest.raises(FoldError) as caught:
        grouped_folds(truth, images)
    assert str(caught.value) == (
        "folds: label more rows: found 1 hallucinated answer in 1 group and 49 faithful answers in "
        "49 groups; 5 folds need 5 groups of each"
    )


def test_positives_of_one_image_are_one() -> None:
    truth, images = np.arange(60) < 30, np.r_[np.zeros(30, int), np.arange(1, 31)]
    with pytest.raises(FoldError) as caught:
        grouped_folds(truth, images, count=2)
    assert str(caught.value) == (
        "folds: label questions about other images (more labels of the same images do not help): "
        "found 30 hallucinated answers in 1 group and 30 faithful answers in 30 groups; 2 folds "
        "need 2 groups of each; near-copies of an image, and images that one question shows, are "
        "one group"
    )


def test_fewer_folds_are_advised_where_a_sweep_can_use_them() -> None:
    truth, groups = np.arange(40) % 2 == 0, np.arange(40) // 10
    with pytest.raises(FoldError, match="ask for 4 folds, or label questions about other images"):
        grouped_folds(truth, groups)
    with pytest.raises(FoldError, match=r"^folds: label questions about other images"):
        grouped_folds(truth, groups // 2)


def test_groups_that_the_splitter_cannot_share_out_are_said() -> None:
    sizes, positives = (8, 6, 3, 4, 1, 1), (0, 1, 3, 3, 1, 1)
    groups = np.repeat(np.arange(6), sizes)
    truth = np.concatenate(
        [np.arange(size) < count for size, count in zip(sizes, positives, strict=True)]
    )
    said = r"^folds: label questions about .*, so that 3 folds of 6 groups left one"
    with pytest.raises(FoldError, match=said):
        grouped_folds(truth, groups, count=3)


@pytest.mark.parametrize("count", [-1, 0, 1])
def test_one_fold_is_none(count: int) -> None:
    with pytest.raises(FoldError, match="2 or more"):
        grouped_folds(*labels(), count=count)


def test_lengths_must_agree() -> None:
    with pytest.raises(FoldError, match="2 labels but 3 groups"):
        grouped_folds(np.array([True, False]), np.arange(3))


def test_the_error_is_ours_and_a_value_error() -> None:
    assert issubclass(FoldError, VlmscopeError)
    assert issubclass(FoldError, ValueError)


def test_equal_files_are_one_image() -> None:
    assert image_groups(["b", "a", "b", "c", "a"]).tolist() == [1, 0, 1, 2, 0]
    assert image_groups([]).tolist() == []
    assert image_groups([], []).tolist() == []


def test_folds_do_not_depend_on_the_order_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    names = [[f"image_{number}"] for number in rng.integers(0, 40, 200)]
    names[3] += names[7]
    truth = rng.random(200) < 0.3
    copies = [("image_1", "image_30"), ("image_2", "image_5")]

    def fold_of(order: np.ndarray) -> dict[int, int]:
        groups = image_groups([names[row] for row in order], copies=copies)
        folds = grouped_folds(truth[order], groups, seed=3)
        return {int(order[row]): k for k, fold in enumerate(folds) for row in fold.test}

    assert fold_of(np.arange(200)) == fold_of(rng.permutation(200))


def test_near_copies_are_one_image() -> None:
    base = 0x0123456789ABCDEF
    far = base ^ 0b11111
    hashes = [base, far, base ^ (1 << 63 | 1 << 40 | 1 << 20 | 1), 0xFFFF << 20]
    assert image_groups(list("abcd"), hashes).tolist() == [0, 1, 0, 2]
    assert image_groups(list("abcd"), hashes, distance=5).tolist() == [0, 0, 0, 1]
    assert image_groups(list("abcd"), hashes, distance=0).tolist() == [0, 1, 2, 3]
    assert image_groups(list("abac"), hashes, distance=0).tolist() == [0, 1, 0, 2]


def test_copies_of_copies_are_chained() -> None:
    chain = [0, 0b1111, 0b11111111, 0b111111111111]
    assert image_groups(list("abcd"), chain).tolist() == [0, 0, 0, 0]
    assert image_groups(list("acd"), [chain[0], chain[2], chain[3]]).tolist() == [0, 1, 1]


def test_bands_find_what_comparing_all_finds() -> None:
    rng = np.random.default_rng(1)
    codes = [int(code) for code in rng.integers(0, 2**63, 150, dtype=np.uint64)]
    codes += [code ^ sum(1 << int(bit) for bit in rng.integers(0, 64, rng.integers(1, 8)))
              for code in codes]  # fmt: skip
    for distance in (1, 4, 7):
        found = image_groups([str(number) for number in range(300)], codes, distance=distance)
        for one in range(150):  # distinct random codes are never near: pairs only
            near = (codes[one] ^ codes[one + 150]).bit_count() <= distance
            assert (found[one] == found[one + 150]) == near


def test_ten_thousand_images_take_seconds() -> None:
    codes = np.random.default_rng(2).integers(0, 2**63, 10_000, dtype=np.uint64).tolist()
    start = time.perf_counter()
    groups = image_groups([str(number) for number in range(10_000)], codes)
    assert groups.max() == 9_999
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("codes", "distance"), [([1], 4), ([1, 2, 3], 4), ([1, 2], -1), ([1, 2], 32), ([1, 2**64], 4)]
)
def test_odd_hashes_are_refused(codes: list[int], distance: int) -> None:
    with pytest.raises(FoldError, match="image groups"):
        image_groups(["a", "b"], codes, distance=distance)


def drawing(seed: int, size: int = 200) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    return coarse.resize((size, size), Image.Resampling.BICUBIC)


def test_a_smaller_copy_looks_the_same_and_another_image_does_not() -> None:
    original = int(difference_hash(drawing(0)), 16)
    copy = int(difference_hash(drawing(0).resize((120, 90))), 16)
    other = int(difference_hash(drawing(1)), 16)
    assert (original ^ copy).bit_count() <= 4
    assert (original ^ other).bit_count() > 16
    assert image_groups(["a", "b", "c"], [original, copy, other]).tolist() == [0, 0, 1]
    assert 0 <= original < 2**64


def test_several_images_belong_to_the_group_of_each() -> None:
    rows = ["a", ["b", "c"], "d", "c", ["d", "e"], ["f", "f"]]
    assert image_groups(rows).tolist() == [0, 1, 2, 1, 2, 3]
    bridged = [*rows, ["a", "e"]]
    assert image_groups(bridged).tolist() == [0, 1, 0, 1, 0, 2, 0]


def test_one_of_several_images_may_be_a_near_copy() -> None:
    rows = ["a", ["b", "c"], "d"]
    far, apart = 2**63 - 1, 0xFFFF << 40
    looks = [0b111, [far, apart], 0b1]
    assert image_groups(rows, looks).tolist() == [0, 1, 0]
    assert image_groups(rows, [0b111, [far, 0b11], apart]).tolist() == [0, 0, 1]
    assert image_groups(["a+b", "a"]).tolist() == [1, 0], "a name may hold a plus"
    with pytest.raises(FoldError, match="unsigned 64-bit"):
        image_groups(rows, [1, [2, -1], 3])


def test_no_rows_have_no_groups() -> None:
    assert image_groups([]).tolist() == image_groups([], []).tolist() == []
