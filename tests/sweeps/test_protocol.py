"""Repeats, permutations, other groups than images, and corrections for many comparisons."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks import calibration_of_verdicts as benchmark
from vlmscope.errors import InputError
from vlmscope.metrics import Difference, Interval, measure
from vlmscope.probes import FoldError, LogisticProbe, grouped_folds
from vlmscope.sweeps import SweepResult, SweepSpec, chance
from vlmscope.sweeps.calibration import scale_of
from vlmscope.sweeps.chance import Permutations
from vlmscope.sweeps.grouping import group_by_content
from vlmscope.sweeps.results import PlannedTest, difference_fields
from vlmscope.sweeps.run import sweep_rows
from vlmscope.sweeps.splitting import grouped_by, novelty, repeated_splits, split_rows
from vlmscope.sweeps.verdict import verdict


def swept(name: str, seed: int = 0, **spec: object) -> SweepResult:
    """The sweep of a world of the benchmark."""
    made = benchmark.made_for(name, seed)
    asked = SweepSpec(**{"repeats": 1, "permutations": 100, "draws": 100, **spec})  # type: ignore[arg-type]
    data = grouped_by(benchmark.probe_data_of(made), None, asked.group_by)
    return sweep_rows(data, lambda _, layer: made.vectors if layer else made.noise, asked)


@pytest.fixture(scope="module")
def repeated() -> SweepResult:
    return swept("signal, 60 images × 2", repeats=3, draws=200)


@pytest.mark.exhaustive
def test_what_is_told_is_of_all_pairs_of_all_repeats(repeated: SweepResult) -> None:
    assert repeated.settings["repeats"] == 3
    assert repeated.fold_of.shape == (3, 120)
    assert len(repeated.chosen["selected"]) == 15
    truth, wins, pairs = repeated.data.truth, 0.0, 0
    for fold_of, risk in zip(repeated.fold_of, repeated.risks["selected"], strict=True):
        for fold in range(5):
            rows = fold_of == fold
            count = int(truth[rows].sum() * (~truth[rows]).sum())
            wins += measure(truth[rows], risk[rows]).auroc * count
            pairs += count
    assert repeated["selected"].auroc == pytest.approx(wins / pairs)
    assert repeated["selected"].count == 120
    splits = {fold_of.tobytes() for fold_of in repeated.fold_of}
    assert len(splits) == 3


@pytest.mark.exhaustive
def test_repeats_do_not_pretend_that_there_are_more_images(repeated: SweepResult) -> None:
    once = swept("signal, 60 images × 2", draws=200)
    one, three = (r["category"].auroc_high - r["category"].auroc_low for r in (once, repeated))
    assert three > 0.75 * one


def test_a_repeat_that_cannot_be_split_anew_is_none() -> None:
    data = benchmark.probe_data_of(benchmark.made_for("null, 80 images × 4", 0))
    grouped = grouped_by(data, None, "category")
    assert len(repeated_splits(grouped, 5, 0, 3)) == 1, "five categories, each left out once"
    assert len(repeated_splits(data, 5, 0, 3)) == 3


@pytest.mark.first(1)
@pytest.mark.parametrize("seeds", [range(8), range(20)], ids=len)
def test_permutations_find_nothing_where_there_is_nothing(seeds: range) -> None:
    p_values = []
    for seed in seeds:
        made = benchmark.made_for("null, 60 images × 2", seed)
        folds = grouped_folds(made.truth, made.groups, seed=seed)
        null = Permutations(made.truth, made.groups, folds, count=100, seed=seed)
        for name, matrix in (("noise", made.noise), ("more", made.vectors)):
            null.add(name, matrix)
        found = null.chance()
        p_values.append(found.p_value)
        assert 0.5 < found.median < found.high < 0.75, "the best of two"
        assert min(each.p_value for each in found.by_layer.values()) == found.p_value
    assert sum(p <= 0.05 for p in p_values) <= len(seeds) // 6
    assert sum(p <= 0.5 for p in p_values) >= len(seeds) // 4


def test_an_image_under_two_names_is_seen() -> None:
    result = swept("images under two names", permutations=100)
    assert result.recognition is not None
    assert result.recognition.suspicious
    assert result.recognition.auroc > 0.52
    text = " ".join(verdict(result))
    assert "Warning: groups whose vectors are each other's nearest" in text
    assert "it recognises images across folds. Is one there under two names" in text


def test_of_too_many_rows_a_part_is_permuted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are drawn with each other: a random part of the images would hold few of both."""
    monkeypatch.setattr(chance, "MOST_ROWS", 150)
    made = benchmark.made_for("images under two names", 1)
    folds = grouped_folds(made.truth, made.groups)
    null = Permutations(made.truth, made.groups, folds, count=100, seed=0)
    null.add("noise", made.noise)
    assert 100 < null.chance().rows <= 150
    found = null.recognition(made.vectors)
    assert found is not None
    assert found.pairs >= 15
    assert found.auroc > 0.52


@pytest.mark.first(1)
@pytest.mark.parametrize(
    "name", ["signal, 80 images × 4", "category only", "one giant image", "null, 40 images × 15"]
)
def test_images_under_one_name_are_not_suspected(name: str) -> None:
    for seed in range(6):
        made = benchmark.made_for(name, seed)
        folds = grouped_folds(made.truth, made.groups, seed=seed)
        null = Permutations(made.truth, made.groups, folds, count=100, seed=seed)
        found = null.recognition(made.vectors)
        assert found is not None
        assert not found.suspicious, (seed, found)


@pytest.mark.exhaustive
def test_questions_that_were_seen_count_for_less_when_they_are_kept_together() -> None:
    seen = swept("shared questions")
    new = swept("shared questions", group_by="question")
    assert seen["selected"].auroc > 0.6
    assert new["selected"].auroc < seen["selected"].auroc - 0.05
    assert seen.novelty is not None
    assert new.novelty is not None
    assert (seen.novelty.images, new.novelty.questions) == (0, 0)
    assert seen.novelty.questions > 0.95
    assert new.novelty.images > 0.95
    text = " ".join(verdict(seen))
    assert "These numbers are of new images only: " in text
    assert "of the answers are to a question that is, word for word, in training too" in text
    assert "(--group-by question keeps equal questions together)." in text
    text = " ".join(verdict(new))
    assert "held-out answers to 30 questions" in text
    assert "These numbers are of new questions only: " in text
    assert "of the answers are about an image that is in training too" in text


def test_new_images_with_new_questions_are_said_to_be_both() -> None:
    made = benchmark.made_for("signal, 60 images × 2", 0)
    data = benchmark.probe_data_of(made)
    questions = [f"Question {number}?" for number in range(len(data.truth))]
    data = replace(data, baseline_inputs=replace(data.baseline_inputs, question=questions))
    found = novelty(data, split_rows(data, 5, 0))
    assert (found.images, found.questions) == (0, 0)


def test_each_category_is_left_out_once() -> None:
    result = swept("category only", group_by="category")
    assert result.fold_of.shape == (1, 320)
    categories = np.array(result.data.categories)
    for fold in range(5):
        assert len(set(categories[result.fold_of[0] == fold])) == 1
    assert result["category"].auroc == pytest.approx(0.5), "a new category says nothing"
    text = " ".join(verdict(result))
    assert "held-out answers of 5 values of category" in text
    assert "new values of category" in text


def test_a_column_that_cannot_group_is_refused_in_a_line() -> None:
    data = benchmark.probe_data_of(benchmark.made_for("null, 60 images × 2", 0))
    with pytest.raises(InputError, match=r"^group_by colour: no such column"):
        grouped_by(data, None, "colour")
    same = replace(data, categories=("one",) * len(data.truth))
    with pytest.raises(InputError, match=r"^group_by category: all 120 rows have the same"):
        grouped_by(same, None, "category")
    two = replace(data, categories=tuple("ab"[int(t)] for t in data.truth))
    with pytest.raises(FoldError, match=r"^group_by category: folds: "):
        split_rows(grouped_by(two, None, "category"), 5, 0)


@pytest.mark.exhaustive
@pytest.mark.parametrize("gap", ["", "  ", "nan", "<NA>"])
def test_rows_without_a_value_are_grouped_by_image(gap: str) -> None:
    """They were one group of the value "": a fifth of the rows in one fold, whatever they are."""
    data = benchmark.probe_data_of(benchmark.made_for("category only", 0))
    assert data.categories is not None
    names = tuple(gap if n % 4 == 0 else name for n, name in enumerate(data.categories))
    empty = np.array([name == gap for name in names])
    found = grouped_by(replace(data, categories=names), None, "category")
    assert found.without_value is not None
    assert found.without_value.tolist() == empty.tolist()
    images = data.grouping.groups
    for one in np.flatnonzero(empty)[:20]:
        same = found.groups == found.groups[one]
        assert same.tolist() == (empty & (images == images[one])).tolist()
    assert len(np.unique(found.groups[~empty])) == len(set(data.categories))
    result = sweep_rows(
        found, lambda _, layer: np.random.default_rng(layer or 0).random((len(names), 4)),
        SweepSpec(repeats=1, permutations=100, draws=100, estimators=("logistic",)),
    )  # fmt: skip
    text = " ".join(verdict(result))
    assert (
        f"of 5 values of category, and {empty.sum()} without one that are grouped by image" in text
    )


def test_a_column_without_any_value_is_refused() -> None:
    data = benchmark.probe_data_of(benchmark.made_for("null, 60 images × 2", 0))
    bare = replace(data, categories=("",) * len(data.truth))
    with pytest.raises(InputError, match=r"^group_by category: no row has a value"):
        grouped_by(bare, None, "category")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_is_none_is_refused(seed: int) -> None:
    with pytest.raises(InputError, match=r"^seed -?\d+: give a number from 0"):
        SweepSpec(seed=seed)


@pytest.mark.parametrize("spec", [{"repeats": 0}, {"permutations": 99}])
def test_too_few_are_refused(spec: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"permutations \d+, repeats"):
        SweepSpec(**spec)  # type: ignore[arg-type]


@pytest.mark.exhaustive
def test_layers_have_a_band_that_holds_all_of_them(repeated: SweepResult) -> None:
    for row in repeated.rows:
        assert (row.auroc_band_low is not None) == (row.kind == "probe"), row.name
        if row.auroc_band_low is not None:
            assert row.auroc_band_low <= row.auroc_low
            assert row.auroc_band_high >= row.auroc_high


@pytest.mark.exhaustive
def test_what_is_told_is_corrected_for_its_number(
    repeated: SweepResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {(test.of, test.over, test.within_category) for test in repeated.tests}
    assert {("selected", "joint", False), ("joint_and_probe", "joint", False)} <= told
    assert all(test.p_holm >= test.gap.p_value for test in repeated.tests)
    gap = Difference(0.02, Interval(0.001, 0.04), 0.02)
    weak = PlannedTest("selected", "joint", False, gap, 0.12)
    inside = PlannedTest("selected", "joint", True, gap, 0.12)
    above = replace(repeated["selected"], **difference_fields("above_joint", gap, planned=True))
    rows = tuple(above if row.name == above.name else row for row in repeated.rows)
    result = replace(
        repeated, rows=rows, tests=(weak, inside), settings={**repeated.settings, "draws": 2000}
    )
    marked = "which is not significant after correction for 2 comparisons (p = 0.120)"
    joint = verdict(result)[1]
    assert joint.startswith("Joint baseline")
    assert "the probe is better by" in joint
    assert joint.endswith(f", {marked}."), "in the sentence itself"
    held = verdict(replace(result, tests=(replace(weak, p_holm=0.04), inside)))[1]
    assert "which" not in held
    assert "Differences are corrected for the 2 that are compared here" in " ".join(verdict(result))
    alone = verdict(replace(result, tests=(weak,)))[1]
    assert alone.endswith("which is not significant at 5% (p = 0.120).")
    added = PlannedTest("joint_and_probe", "joint", False, gap, 0.12)
    gained = difference_fields("above_joint", added.gap, planned=True)
    both = replace(repeated["joint_and_probe"], **gained)
    rows = tuple(both if row.name == both.name else row for row in repeated.rows)
    text = " ".join(verdict(replace(result, rows=rows, tests=(added, weak))))
    assert f"{marked}." in text
    sure = replace(added, p_holm=0.04)
    assert "know something more" in " ".join(verdict(replace(result, rows=rows, tests=(sure,))))
    tiny = replace(both, above_joint=0.004, above_joint_low=0.001, above_joint_high=0.008)
    rows = tuple(tiny if row.name == tiny.name else row for row in repeated.rows)
    text = " ".join(verdict(replace(result, rows=rows, tests=(sure,))))
    assert "less than 0.01, but not nothing" in text, "sure, and of little use"
    rows = tuple(tiny if row.name == tiny.name else row for row in repeated.rows)
    text = " ".join(verdict(replace(result, rows=rows, tests=(added,))))
    assert "less than 0.01 either way" in text, "small, and not sure"
    result = replace(result, settings={**repeated.settings, "draws": 20})
    assert not any("too few to correct" in line for line in verdict(result)), "none was drawn"
    monkeypatch.setattr("vlmscope.sweeps.verdict.too_few_to_resample", lambda *_: False)
    assert any("20 draws are too few to correct" in line for line in verdict(result))


def test_few_groups_of_another_kind_are_saved_too() -> None:
    """Four values are left out one at a time; five folds for the final scale would be too many."""
    made = benchmark.made_for("signal, 80 images × 4", 0)
    groups = made.category % 4
    probe = LogisticProbe(C=0.01).fit(made.vectors, made.truth)
    platt, risk = scale_of(probe, made.vectors, made.truth, groups, folds=5)
    assert platt.a > 0
    assert ((risk > 0) & (risk < 1)).all()


@pytest.mark.exhaustive
def test_many_different_questions_take_no_memory_of_their_own() -> None:
    made = benchmark.made_for("null, 80 images × 4", 0)
    data = benchmark.probe_data_of(made)
    many = replace(
        data,
        truth=np.tile(made.truth, 20),
        split=np.arange(6_400),
        split_by="question",
    )
    tracemalloc.start()
    try:
        split_rows(many, 2, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()  # or all further tests take twice as long
    assert peak < 20e6, "a mask for every group would take 41 MB"


@pytest.mark.exhaustive
def test_labels_of_images_of_different_sizes_keep_what_they_have_in_common() -> None:
    """One label an image, 1 to 15 rows: cut across images, the null would be too narrow."""
    rejected = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(40), rng.integers(1, 16, 40))
        truth = (rng.random(40) < 0.4)[groups]
        vectors = rng.normal(size=(40, 6))[groups] + 0.2 * rng.normal(size=(len(groups), 6))
        folds = grouped_folds(truth, groups, count=5)
        null = Permutations(truth, groups, folds, count=100, seed=seed)
        null.add("vectors", vectors.astype(np.float32))
        rejected += null.chance().p_value <= 0.05
    assert rejected <= 5


@pytest.mark.exhaustive
def test_labels_of_an_image_stay_together_where_groups_hold_several_images() -> None:
    """Four sources of twenty images, a label and a vector an image: shuffled, 35% are told."""
    rejected = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        image = np.repeat(np.arange(80), 15)
        truth = (rng.random(80) < 0.4)[image] ^ (rng.random(1200) < 0.1)
        vectors = rng.normal(size=(80, 12))[image] + 0.3 * rng.normal(size=(1200, 12))
        made = benchmark.probe_data_of(benchmark.made_for("null, 80 images × 4", 0))
        data = replace(made, truth=truth, split=image // 20, split_by="source")
        folds = split_rows(data, 5, 0)
        null = Permutations(truth, image // 20, folds, count=100, seed=seed, images=image)
        null.add("vectors", vectors.astype(np.float32))
        found = null.chance()
        assert found is not None
        rejected += found.p_value <= 0.05
    assert rejected <= 5


@pytest.mark.parametrize("group_by", ["image", "category"])
def test_a_sweep_keeps_images_together_when_it_permutes_other_groups(
    monkeypatch: pytest.MonkeyPatch, group_by: str
) -> None:
    class SeenError(Exception):
        pass

    def watched(*_: object, images: object = None, **__: object) -> None:
        raise SeenError(images)

    monkeypatch.setattr("vlmscope.sweeps.run.Permutations", watched)
    with pytest.raises(SeenError) as seen:
        swept("signal, 60 images × 2", group_by=group_by)
    [images] = seen.value.args
    assert (images is None) == (group_by == "image")
    assert images is None or len(np.unique(images)) == 60


@pytest.mark.first(2)
@pytest.mark.parametrize(
    ("sizes", "positives"),
    [
        ([400] * 5, 0.3),  # none fits whole
        ([220] * 5, 0.3),  # one fits, and nothing to learn from beside it
        ([400] * 5 + [1] * 100, 0.3),
        ([2] * 2000, 0.0015),  # next to none in a plain draw
    ],
)
def test_of_groups_of_any_size_what_is_permuted_can_be_learnt_from(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], positives: float
) -> None:
    monkeypatch.setattr(chance, "MOST_ROWS", 300)
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    truth = rng.random(len(groups)) < positives
    truth[np.array(sizes)[groups] == 1] = False
    vectors = rng.normal(size=(len(groups), 4)).astype(np.float32)
    vectors[:, 0] += 3 * truth
    folds = grouped_folds(truth, groups, count=3)
    null = Permutations(truth, groups, folds, count=100, seed=0)
    null.add("informed", vectors)
    found = null.chance()
    assert found is not None
    assert found.rows <= 300
    assert found.observed > 0.9
    assert found.p_value < 0.05


def test_where_nothing_can_be_compared_nothing_is_told_of_chance(repeated: SweepResult) -> None:
    truth = np.arange(12) < 6
    fold = grouped_folds(truth, np.arange(12) % 6, count=3)
    null = Permutations(np.zeros(12, bool), np.arange(12), fold, count=100, seed=0)
    null.add("noise", np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32))
    assert null.chance() is None
    said = " ".join(verdict(replace(repeated, chance=None)))
    assert "what the search finds by chance is not known" in said
    assert "ridge probe" not in said


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.51, 0.9, "predicts hallucinations with an AUROC of"),
        (0.5, 0.9, "not significantly better than chance"),
        (0.2, 0.6, "not significantly better than chance"),
        (0.2, 0.49, "it is worse than chance"),
    ],
)
def test_the_headline_says_no_more_than_its_interval(
    repeated: SweepResult, low: float, high: float, says: str
) -> None:
    selected = repeated["selected"]
    changed = replace(selected, auroc_low=low, auroc_high=high)
    rows = tuple(changed if row.name == "selected" else row for row in repeated.rows)
    line = verdict(replace(repeated, rows=rows))[0]
    assert says in line
    assert f"AUROC of {selected.auroc:.3f} (95% interval {low:.3f} to {high:.3f})" in line
    assert line.startswith("Before the answer is written, a linear probe ")
    assert ("predicts hallucinations with" in line) == (low > 0.5)


def test_equal_questions_without_an_image_are_one_group() -> None:
    table = pd.DataFrame({"image_sha256": [""] * 4, "question": ["A?", "a? ", "B?", "A?"]})
    assert group_by_content(table).groups.tolist() == [0, 0, 1, 0]
