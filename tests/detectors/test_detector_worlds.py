"""Planted worlds: what a detector should find, and that none finds what is not there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, rankdata

from detector_worlds import data_of, noise_rows, with_signal
from vlmscope.detectors import DETECTORS, Detection, Detector, Probe, Rows, Score, detect_rows
from vlmscope.detectors.evaluate import better_than_chance, difference, worse_than_chance
from vlmscope.detectors.methods import is_fitted
from vlmscope.detectors.rows import Columns
from vlmscope.metrics import Resamples
from vlmscope.sweeps import SweepSpec

SPEC = SweepSpec(repeats=1, draws=40)
ROWS = 200

Flags = NDArray[np.bool_]


def labels(seed: int = 5, count: int = ROWS) -> Flags:
    return np.random.default_rng(seed).random(count) < 0.4


def shifted(values: list[Any], truth: Flags, by: float) -> list[Any]:
    """Add to the values of the hallucinated rows."""
    return [each + by * flag for each, flag in zip(values, truth, strict=True)]


def uncertain(rows: Rows, truth: Flags) -> Rows:
    return with_signal(rows, entropy=shifted(rows.signals["entropy"], truth, 2.0))


def blind(rows: Rows, truth: Flags) -> Rows:
    """Hallucinated answers attend less to the image, in the layers of SVAR."""
    shares = rows.signals["attention_answer"].copy()
    shares[truth, :, 1, :, 0] *= 0.3
    shares[truth, :, 1, :, 2] *= 3
    return with_signal(rows, attention_answer=shares)


def stateful(rows: Rows, truth: Flags) -> Rows:
    path = "query_token_representation/layer_2"
    vectors = rows.vectors[path] + 2 * truth[:, None] * np.eye(6, dtype=np.float32)[1]
    return replace(rows, vectors={**rows.vectors, path: vectors})


def scattered(rows: Rows, truth: Flags) -> Rows:
    texts = [list("abcd") if flag else ["a", "a", "a", "b"] for flag in truth]
    return with_signal(rows, samples__texts=texts)


def doubtful(rows: Rows, truth: Flags) -> Rows:
    return with_signal(rows, p_true=rows.signals["p_true"] - 2.5 * truth)


def revealing(rows: Rows, truth: Flags) -> Rows:
    """The question's category is the outcome, nine times in ten."""
    right = np.random.default_rng(2).random(len(rows)) < 0.9
    kinds = np.where(truth == right, "hard", "easy").tolist()
    assert rows.inputs is not None
    inputs = replace(rows.inputs, category=kinds)
    return replace(rows, inputs=inputs, table=rows.table.assign(category=kinds))


PLANTED: dict[str, tuple[Callable[[Rows, Flags], Rows], set[str]]] = {
    "entropies": (uncertain, {"mean_entropy", "max_entropy"}),
    "attention": (blind, {"svar", "lookback"}),
    "states": (stateful, {"halp_last_prompt_token_linear", "mean_difference_last_prompt_token"}),
    "samples": (scattered, {"lexical_similarity", "exact_match", "semantic_sets",
                            "semantic_entropy_discrete", "semantic_entropy"}),
    "asked": (doubtful, {"p_true"}),
    "category": (revealing, {"category"}),
}  # fmt: skip
"""What is planted, and the detectors that read it."""

WATCHED = (
    "category", "perplexity", "mean_entropy", "max_entropy", "first_token_entropy",
    "svar", "lookback", "rauq", "halp_last_prompt_token_linear", "saplma_linear",
    "mean_difference_last_prompt_token", "internal_confidence", "lexical_similarity",
    "exact_match", "semantic_sets", "semantic_entropy_discrete", "semantic_entropy", "eigenscore",
    "p_true", "verbalised",
)  # fmt: skip


@cache
def found_in(name: str) -> Detection:
    truth = labels()
    plant, _ = PLANTED[name]
    rows = plant(noise_rows(1, ROWS), truth)
    return detect_rows(data_of(rows, truth), rows, [DETECTORS[each] for each in WATCHED], SPEC)


@pytest.mark.first(2)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_signal_is_found_by_those_that_read_it_and_by_no_other(name: str) -> None:
    found, (_, readers) = found_in(name), PLANTED[name]
    assert readers < set(WATCHED)
    for row in found.results:
        if row.name in readers:
            assert row.auroc_low > 0.6, row.name
            assert row.better_than_chance, row.name
            assert row.above_model_free is None or row.better_than("model_free"), row.name
        else:
            assert row.found_nothing or row.auroc < 0.65, row.name
            assert not row.better_than_chance, row.name
            assert not row.better_than("model_free"), row.name
            assert not row.better_than("single"), row.name
    best = max((row for row in found.results if not row.found_nothing), key=lambda r: r.auroc)
    assert best.name in readers


@pytest.mark.exhaustive
def test_a_wrong_direction_is_kept_and_reported() -> None:
    """Labels are never used to turn a score around."""
    truth = labels()
    rows = noise_rows(1, ROWS)
    sure = with_signal(rows, p_true=rows.signals["p_true"] + 2.5 * truth)
    found = detect_rows(
        data_of(sure, truth), sure, [DETECTORS["category"], DETECTORS["p_true"]], SPEC
    )
    row = found["p_true"]
    assert row.worse_than_chance
    assert row.auroc < 0.1
    assert row.auroc == pytest.approx(1 - found_in("asked")["p_true"].auroc, abs=0.1)
    assert not row.better_than("model_free")
    assert row.above_model_free_high is not None
    assert row.above_model_free_high < 0
    assert row.above_model_free_p_holm == 1, "of several rivals the best exceeds it by chance"


def test_only_what_is_not_trained_has_a_wrong_direction() -> None:
    truth = labels()
    rows = noise_rows(1, ROWS)
    rows = replace(rows, table=rows.table.assign(n0=-2.5 * truth + rows.signals["p_true"]))
    scored = _noise(0, trained=False)

    class Trained(Score):
        learned = True

    assert isinstance(scored.method, Score)
    trained = replace(scored, name="trained", method=Trained(scored.method.compute))
    found = detect_rows(data_of(rows, truth), rows, [DETECTORS["category"], scored, trained], SPEC)
    assert found["n0"].auroc == found["trained"].auroc < 0.1
    assert found["n0"].worse_than_chance
    assert not found["trained"].worse_than_chance


def test_worse_and_better_than_chance_are_corrected_for_the_number_of_detectors() -> None:
    """2.5 standard errors from chance: rare for one detector, not for the furthest of fifty."""
    error = 0.02 * np.random.default_rng(0).standard_normal(200)
    names = [f"n{i}" for i in range(50)]
    for judge, side in ((worse_than_chance, -1), (better_than_chance, 1)):

        def drawn_at(distance: float, direction: int = side) -> dict[str, NDArray[np.float64]]:
            return {"auroc": 0.5 + direction * (distance + error)}

        beside = {"auroc": 0.5 + side * 0.05}
        drawn = Resamples(dict.fromkeys(names, beside), dict.fromkeys(names, drawn_at(0.05)))
        assert judge(drawn, names[:1]) == {"n0"}
        assert judge(drawn, names) == frozenset()
        sure = replace(drawn, observed=drawn.observed | {"n0": {"auroc": 0.5 + side * 0.2}},
                       drawn=drawn.drawn | {"n0": drawn_at(0.2)})  # fmt: skip
        assert judge(sure, names) == {"n0"}
        assert judge(sure, []) == frozenset()


@pytest.mark.exhaustive
def test_intervals_of_small_folds_are_not_above_their_value() -> None:
    """An image drawn twice ties with itself, which raises the AUPRC of a resample."""
    found = null_world(3, 8, 150, draws=400)
    rows = [row for row in found.results if not row.found_nothing]
    middle = np.array([(row.auprc_low + row.auprc_high) / 2 - row.auprc for row in rows])
    assert len(rows) > 5
    assert np.mean(middle) == pytest.approx(0, abs=0.02)
    assert all(row.fpr_at_95_low <= row.fpr_at_95 <= row.fpr_at_95_high for row in rows)


@pytest.mark.exhaustive
def test_a_trained_detector_does_not_learn_the_images() -> None:
    """States that only identify images, whose rows share their label, predict nothing."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 4)
    truth = np.repeat(rng.random(50) < 0.4, 4)
    rows = noise_rows(1, ROWS)
    faces = rng.standard_normal((50, 6))[groups].astype(np.float32)
    rows = replace(rows, vectors={"query_token_representation/layer_2": faces})
    kinds = ("halp_last_prompt_token_linear", "halp_last_prompt_token_mlp",
             "mean_difference_last_prompt_token", "mahalanobis_last_prompt_token")  # fmt: skip
    wanted = [DETECTORS[name] for name in ("category", *kinds)]
    found = detect_rows(data_of(rows, truth, groups), rows, wanted, SPEC)
    for name in kinds:
        row = found[name]
        assert row.found_nothing or row.auroc_low < 0.5, name


@cache
def null_worlds(count: int = 20, detectors: int = 7, rows: int = 150) -> tuple[Detection, ...]:
    """Return detections of scores that are noise, most of them without a fit."""
    return tuple(null_world(seed, detectors, rows) for seed in range(count))


def null_world(seed: int, detectors: int, rows: int, draws: int = 8) -> Detection:
    """With this few images, intervals of the AUROC are from leaving images out, not from draws."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((rows, detectors))
    made = noise_rows(seed, rows)
    made = replace(
        made, table=made.table.assign(**{f"n{i}": noise[:, i] for i in range(detectors)})
    )
    own = [_noise(i, trained=i % 4 == 0) for i in range(detectors)]
    groups = rng.integers(0, rows // 2, rows)
    truth = rng.random(rows) < 0.4
    return detect_rows(
        data_of(made, truth, groups), made, [DETECTORS["category"], *own],
        SweepSpec(repeats=1, draws=draws, seed=seed),
    )  # fmt: skip


def _noise(number: int, *, trained: bool) -> Detector:
    template = DETECTORS["halp_last_prompt_token_linear" if trained else "max_entropy"]
    name = f"n{number}"

    def column(rows: Rows) -> NDArray[np.float64]:
        return rows.table[name].to_numpy(np.float64)

    method = Probe(lambda rows: {name: lambda: column(rows)[:, None]}) if trained else Score(column)
    return replace(template, name=name, requires=(f"column {name}",), method=method)


@pytest.mark.exhaustive
def test_without_a_signal_none_is_called_better() -> None:
    """In at most 5% of data sets any of seven detectors is, up to what chance allows."""
    worlds = null_worlds()
    assert all(len(found.results) == 8 for found in worlds)
    compared = sum(row.above_model_free_p_holm is not None for f in worlds for row in f.results)
    assert compared > 100
    wrong = sum(
        any(row.better_than(rival) for row in found.results for rival in ("model_free", "single"))
        for found in worlds
    )
    assert wrong <= binom.ppf(0.995, len(worlds), 0.05)


@pytest.mark.exhaustive
def test_without_a_signal_intervals_cover_chance() -> None:
    rows = [row for found in null_worlds() for row in found.results if not row.learned]
    covered = [row.auroc_low <= 0.5 <= row.auroc_high for row in rows]
    assert np.mean(covered) > 0.9
    assert np.mean([row.auroc for row in rows]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([row.worse_than_chance for row in rows]) < 0.06


def test_scores_alone_do_not_depend_on_other_folds() -> None:
    """An unlearned method may be fitted to training rows too, which makes folds dependent."""
    fitted = {name for name, each in DETECTORS.items() if is_fitted(each.method)}
    assert {name for name, each in DETECTORS.items() if each.learned} < fitted
    assert "haloscope_last_prompt_token" in fitted
    assert not {"perplexity", "eigenscore", "p_true"} & fitted


@pytest.mark.exhaustive
def test_shuffled_labels_leave_nothing() -> None:
    truth = np.random.default_rng(9).permutation(labels())
    rows = stateful(uncertain(noise_rows(1, ROWS), labels()), labels())
    found = detect_rows(data_of(rows, truth), rows, [DETECTORS[each] for each in WATCHED], SPEC)
    for row in found.results:
        assert row.found_nothing or abs(row.auroc - 0.5) < 0.13, row.name
        assert not row.better_than("model_free")


def test_a_p_value_is_not_limited_by_the_draws() -> None:
    """Of a hundred draws the smallest is 0.02, which no correction for 40 detectors leaves."""
    rng = np.random.default_rng(0)
    high, low = 0.9 + 0.01 * rng.standard_normal(100), 0.5 + 0.01 * rng.standard_normal(100)
    drawn = Resamples(
        {"a": {"auroc": 0.9}, "b": {"auroc": 0.5}}, {"a": {"auroc": high}, "b": {"auroc": low}}
    )
    assert drawn.difference("a", "b").p_value == pytest.approx(2 / 101)
    assert difference(drawn, "a", "b").p_value < 1e-6
    near = Resamples(
        {"a": {"auroc": 0.5}, "b": {"auroc": 0.5}}, {"a": {"auroc": low}, "b": {"auroc": low[::-1]}}
    )
    assert difference(near, "a", "b") == near.difference("a", "b")


def test_answers_are_compared_and_scores_are_computed_only_once() -> None:
    """Several detectors read the same sets of answers; a model may decide on their meaning."""
    counts: Counter[str] = Counter()
    noise = noise_rows(1, ROWS)
    noise = with_signal(  # a row without a token is left out, so that all are taken again
        noise, answer_logprobs=[np.empty(0), *noise.signals["answer_logprobs"][1:]]
    )

    def same(_: str, one: str, other: str) -> bool:
        counts["compared"] += 1
        return one == other

    def read(name: str) -> Any:
        counts[name] += 1
        return noise.signals[name]

    def compared(names: Sequence[str]) -> int:
        counts.clear()
        columns = Columns(tuple(noise.signals), read, np.arange(ROWS))
        rows = replace(noise, signals=columns, same_meaning=same)
        wanted = ["category", "perplexity", "min_logprob", "sequence_probability", *names]
        found = detect_rows(data_of(rows, labels()), rows, [DETECTORS[n] for n in wanted], SPEC)
        assert len(found.data.ids) == ROWS - 1
        assert counts["answer_logprobs"] == 3, "once for each detector"
        return counts["compared"]

    one = compared(["semantic_sets"])
    assert one > ROWS
    all_three = ["semantic_sets", "semantic_entropy", "semantic_entropy_discrete"]
    assert compared(all_three) == one
    assert counts["samples/logprobs"] == 1


def test_what_is_computed_once_is_not_kept_for_other_rows() -> None:
    rows = noise_rows(1, 9)
    method = DETECTORS["p_true"].method
    assert isinstance(method, Score)
    before = method.values(rows)
    assert np.array_equal(method.values(rows.take(np.array([4, 2]))), before[[4, 2]])
    changed = with_signal(rows, p_true=rows.signals["p_true"] + 1)
    assert np.array_equal(method.values(changed), before - 1)


def test_scores_keep_their_order_and_their_ties() -> None:
    truth = labels()
    rows = scattered(noise_rows(1, ROWS), truth)
    wanted = [DETECTORS["category"], DETECTORS["semantic_sets"]]
    found = detect_rows(data_of(rows, truth), rows, wanted, SPEC)
    raw = DETECTORS["semantic_sets"].method
    assert isinstance(raw, Score)
    assert np.array_equal(rankdata(found.risks["semantic_sets"][0]), rankdata(raw.compute(rows)))
