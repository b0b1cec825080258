"""Every detector equals a plain computation from its paper's formula, written here."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.covariance import LedoitWolf

from detector_worlds import HEADS, LAYERS, noise_rows, with_signal
from vlmscope.dataset.images.thumbnail import image_thumbnail
from vlmscope.detectors import DETECTORS, BestHeads, Distance, Probe, Rows, Score, states
from vlmscope.detectors.attention import image_attention, lookback, lookback_ratio, rauq, svar
from vlmscope.detectors.lens import contextual_lens, glsim
from vlmscope.detectors.meaning import meaning_sets
from vlmscope.detectors.methods import Baseline
from vlmscope.detectors.no_model import STATISTICS, image_statistics
from vlmscope.detectors.samples import (
    discrete_semantic_entropy,
    eigenscore,
    rouge_l,
    semantic_entropy,
)
from vlmscope.detectors.states import haloscope, mahalanobis, principal

ROWS = noise_rows(3)
MIDDLE = range(1, 2)
"""Layers 5 to 18 of 32 are layers 0.6 to 2.4 of 4: SVAR sums over layer 1."""

Naive = Callable[[Rows, int], float]
"""Rows and the number of one → its score."""


def sets_of(rows: Rows, row: int) -> list[int]:
    found: list[list[str]] = []
    numbers = []
    for text in rows.signals["samples/texts"][row]:
        for number, members in enumerate(found):
            if rows.same_meaning(rows.table["question"][row], members[0], str(text)):
                members.append(str(text))
                numbers.append(number)
                break
        else:
            numbers.append(len(found))
            found.append([str(text)])
    return numbers


def naive_entropy(weights: dict[int, float]) -> float:
    total = sum(weights.values())
    return -sum(w / total * math.log(w / total) for w in weights.values())


def naive_weighted(rows: Rows, row: int) -> float:
    weights: dict[int, float] = {}
    logprobs = rows.signals["samples/logprobs"][row]
    for number, each in zip(sets_of(rows, row), logprobs, strict=True):
        weight = math.exp(sum(each) / len(each))
        weights[number] = weights.get(number, 0) + weight
    return naive_entropy(weights)


def naive_rauq(rows: Rows, row: int) -> float:
    p = [math.exp(value) for value in rows.signals["answer_logprobs"][row]]
    best = -math.inf
    for layer in (1, 2, 3):  # floor(4/3) to ceil(8/3), both included
        confidence, total = p[0], -math.log(p[0])
        for i in range(1, len(p)):
            attention = rows.signals["attention_previous"][row][i][layer]
            confidence = 0.2 * p[i] + 0.8 * attention * confidence
            total -= math.log(confidence)
        best = max(best, total / len(p))
    return best


def naive_svar(shares: NDArray[np.float64]) -> float:
    return -sum(sum(shares[l][h][0] for h in range(HEADS)) / HEADS for l in MIDDLE)  # noqa: E741


def of_answer(rows: Rows, row: int, name: str) -> list[float]:
    """Return one value per token of the answer, without the end-of-turn token."""
    values = [float(value) for value in rows.signals[name][row]]
    return values[:-1] if rows.table["finish_reason"][row] == "stop" else values


def naive_confidence(rows: Rows, row: int) -> float:
    layers = [of_answer(rows, row, f"internal_confidence/layer_{layer}") for layer in (1, 2)]
    each = [max(values) for values in zip(*layers, strict=True)]
    return 1 - sum(each) / len(each)


def naive_glsim(rows: Rows, row: int) -> float:
    near, local = (
        of_answer(rows, row, f"similarity/{kind}/layer_2")  # the last recorded layer
        for kind in ("last_prompt_token", "image_lens_top")
    )
    each = [0.6 * a + 0.4 * b for a, b in zip(near, local, strict=True)]
    return -sum(each) / len(each)


def naive_contextual(rows: Rows, row: int) -> float:
    largest = of_answer(rows, row, "similarity/image_max/layer_2")  # the middle of four
    return -sum(largest) / len(largest)


def naive_eigenscore(rows: Rows, row: int) -> float:
    states = rows.signals["samples/last_token/layer_2"][row]
    k, d = states.shape
    centring = np.eye(d) - np.ones((d, d)) / d  # J of the paper
    sigma = states @ centring @ states.T
    return float(np.linalg.slogdet(sigma + 1e-3 * np.eye(k))[1] / k)


def naive_lexical(rows: Rows, row: int) -> float:
    pairs = list(itertools.combinations(rows.signals["samples/texts"][row], 2))
    return -sum(naive_rouge(str(a), str(b)) for a, b in pairs) / len(pairs)


def naive_rouge(one: str, other: str) -> float:
    a, b = ([word for word in text.split() if word not in ("a", "the")] for text in (one, other))
    longest = max(
        (len(part) for size in range(len(a) + 1) for part in itertools.combinations(a, size)
         if list(part) in [list(other) for other in itertools.combinations(b, size)]),
        default=0,
    )  # fmt: skip
    precision, recall = longest / len(a), longest / len(b)
    return 2 * precision * recall / (precision + recall) if longest else 0.0


def logprob(rows: Rows, row: int) -> list[float]:
    return [float(value) for value in rows.signals["answer_logprobs"][row]]


def entropies(rows: Rows, row: int) -> list[float]:
    return [float(value) for value in rows.signals["entropy"][row]]


def exact(rows: Rows, row: int) -> float:
    plain = [str(t).removeprefix("a ").removeprefix("the ") for t in
             rows.signals["samples/texts"][row]]  # fmt: skip
    return -max(Counter(plain).values()) / len(plain)


def disagreement(rows: Rows, row: int) -> float:
    question, answer = rows.table["question"][row], rows.table["answer"][row]
    texts = rows.signals["samples/texts"][row]
    other = sum(not rows.same_meaning(question, answer, str(text)) for text in texts)
    return other / len(texts)


FORMULAS: dict[str, Naive] = {
    "perplexity": lambda r, i: math.exp(-sum(logprob(r, i)) / len(logprob(r, i))),
    "mean_logprob": lambda r, i: -sum(logprob(r, i)) / len(logprob(r, i)),
    "min_logprob": lambda r, i: max(-value for value in logprob(r, i)),
    "sequence_probability": lambda r, i: -math.log(math.prod(map(math.exp, logprob(r, i)))),
    "mean_entropy": lambda r, i: sum(entropies(r, i)) / len(entropies(r, i)),
    "max_entropy": lambda r, i: max(entropies(r, i)),
    "first_token_entropy": lambda r, i: r.table["first_token_entropy"][i],
    "first_token_margin": lambda r, i: -(r.inputs.first_token_logprobs[i][0]
                                         - r.inputs.first_token_logprobs[i][1]),
    "svar_prompt": lambda r, i: naive_svar(r.signals["attention_prompt"][i]),
    "svar": lambda r, i: naive_svar(r.signals["attention_answer"][i][0]),
    "rauq": naive_rauq,
    "internal_confidence": naive_confidence,
    "glsim": naive_glsim,
    "contextual_lens": naive_contextual,
    "lexical_similarity": naive_lexical,
    "exact_match": exact,
    "semantic_sets": lambda r, i: len(set(sets_of(r, i))),
    "semantic_entropy_discrete": lambda r, i: naive_entropy(dict(Counter(sets_of(r, i)))),
    "semantic_entropy": naive_weighted,
    "selfcheck": disagreement,
    "eigenscore": naive_eigenscore,
    "p_true": lambda r, i: -r.signals["p_true"][i],
    "verbalised": lambda r, i: 1 - r.table["verbalised_confidence"][i] / 100,
}  # fmt: skip
"""Name of every detector that is a score → its formula, for one row."""


def test_every_detector_has_a_formula_here() -> None:
    """A detector that is added without one fails."""
    scores = {name for name, each in DETECTORS.items() if isinstance(each.method, Score)}
    assert scores == set(FORMULAS)
    others = {type(each.method) for name, each in DETECTORS.items() if name not in scores}
    assert others == {Probe, BestHeads, Distance, Baseline}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_score_is_its_formula(name: str) -> None:
    method = DETECTORS[name].method
    assert isinstance(method, Score)
    expected = [FORMULAS[name](ROWS, row) for row in range(len(ROWS))]
    found = method.compute(ROWS)
    assert found.shape == (len(ROWS),)
    assert found == pytest.approx(expected, rel=1e-6)
    assert len(set(np.round(found, 9))) > 1, "a constant would equal another formula too"


@pytest.mark.parametrize("name", FORMULAS)
def test_a_row_does_not_depend_on_the_others(name: str) -> None:
    method = DETECTORS[name].method
    assert isinstance(method, Score)
    some = np.array([7, 2, 19])
    assert method.compute(ROWS.take(some)) == pytest.approx(method.compute(ROWS)[some], rel=1e-9)


def test_lookback_features_are_the_ratio_of_mean_weights() -> None:
    [read] = lookback(ROWS).values()
    found = read().reshape(len(ROWS), LAYERS, HEADS)
    ends = [reason == "stop" for reason in ROWS.table["finish_reason"]]
    picked = (ends.index(False), ends.index(True))
    for row, layer, head in itertools.product(picked, range(LAYERS), range(HEADS)):
        image, text, answer, first = ROWS.signals["attention_answer"][row][0][layer][head]
        count = len(ROWS.signals["answer_logprobs"][row]) - ends[row]  # without the end of turn
        attended = sum(range(1, count + 1)) / count  # tokens up to the one that attends
        context = (image + text + first) / ROWS.table["num_prompt_tokens"][row]
        new = answer / attended
        assert found[row, layer, head] == pytest.approx(context / (context + new))


def test_features_of_the_image_are_every_head_and_tile() -> None:
    tiles = np.random.default_rng(0).random((len(ROWS), 2, HEADS, 3))
    tiles[4] = np.nan  # a question without an image skips the layers
    [plain] = image_attention(ROWS).values()
    [crossed] = image_attention(with_signal(ROWS, cross_attention_prompt=tiles)).values()
    expected = ROWS.signals["attention_prompt"][..., 0].reshape(len(ROWS), -1)
    assert np.array_equal(plain(), expected)
    assert np.array_equal(crossed()[:, : expected.shape[1]], expected)
    assert np.array_equal(crossed()[3, expected.shape[1] :], tiles[3].ravel())
    assert not crossed()[4, expected.shape[1] :].any()


def test_mahalanobis_is_the_distance_to_the_faithful() -> None:
    rng = np.random.default_rng(1)
    train, test = rng.standard_normal((60, 5)), rng.standard_normal((9, 5))
    truth = rng.random(60) < 0.4
    faithful = train[~truth]
    centre = faithful.mean(axis=0)
    inverse = np.linalg.inv(LedoitWolf().fit(faithful).covariance_)
    expected = [(row - centre) @ inverse @ (row - centre) for row in test]
    assert mahalanobis(train, truth, test) == pytest.approx(expected, rel=1e-6)
    moved = train.copy()
    moved[truth] += 100  # hallucinated training answers do not count
    assert mahalanobis(moved, truth, test) == pytest.approx(expected, rel=1e-6)


def test_haloscope_is_the_weighted_squared_projection() -> None:
    rng = np.random.default_rng(2)
    train, test = rng.standard_normal((40, 6)), rng.standard_normal((7, 6))
    centred = train - train.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(-values)[:3]
    expected = [
        sum(math.sqrt(values[j]) * ((row - train.mean(axis=0)) @ vectors[:, j]) ** 2 for j in order)
        / 3
        for row in test
    ]
    assert haloscope(train, None, test, directions=3) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(50, 9), (9, 50), (20, 20)])
def test_principal_directions_are_those_of_the_complete_decomposition(
    rows: int, columns: int
) -> None:
    matrix = np.random.default_rng(3).standard_normal((rows, columns))
    matrix -= matrix.mean(axis=0)
    _, values, directions = np.linalg.svd(matrix, full_matrices=False)
    centre = matrix.mean(axis=0)
    found, shown = principal(matrix + 3, centre + 3, 4)
    assert found == pytest.approx(values[:4])
    assert np.abs((shown * directions[:4]).sum(axis=1)) == pytest.approx(np.ones(4))
    complete, _ = principal(matrix, centre, 64)
    assert len(complete) == min(rows - 1, columns), "a centred matrix has one direction less"
    assert len(principal(np.zeros((5, 3)), np.zeros(3), 2)[0]) == 1, "of a matrix of zeros"


def test_distances_convert_a_block_of_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of float32 states; a copy of all in float64 is twice as large as they are."""
    rng = np.random.default_rng(4)
    train, test = (rng.standard_normal((count, 400), np.float32) + 5 for count in (3000, 200))
    truth = rng.random(3000) < 0.4
    expected = [score(train, truth, test) for score in (haloscope, mahalanobis)]
    monkeypatch.setattr(states, "BLOCK", 77)
    for score, known in zip((haloscope, mahalanobis), expected, strict=True):
        tracemalloc.start()
        found = score(train, truth, test)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.dtype == np.float64
        assert found == pytest.approx(known, rel=1e-9)
        assert peak < 2 * train.nbytes


def test_statistics_of_an_image_with_known_pixels() -> None:
    grey = image_thumbnail(Image.new("RGB", (48, 48), (100, 100, 100)))
    half = Image.new("RGB", (48, 48), (0, 0, 0))
    half.paste((200, 200, 200), (24, 0, 48, 48))
    found = image_statistics([grey, image_thumbnail(half), f"{grey}+{grey}", ""])
    named = dict(zip(STATISTICS, found.T, strict=True))
    assert named["mean"][:2] == pytest.approx([100, 100], abs=1)
    assert named["deviation"][:2] == pytest.approx([0, 100], abs=1)
    assert named["edges"][1] == pytest.approx(200 / 23, abs=0.2)  # one of 23 steps across
    assert named["images"][:3].tolist() == [1, 1, 2]
    assert np.array_equal(found[0, :-1], found[2, :-1])
    assert np.isnan(found[3]).all()


def test_a_baseline_of_images_leaves_no_question_out() -> None:
    shades = [image_thumbnail(Image.new("RGB", (48, 48), (v, v, v))) for v in (50, 150)]
    few = ROWS.take(np.arange(4))
    some = replace(few, table=few.table.assign(image_thumbnail=[*shades, "", None]))
    method = DETECTORS["image_statistics"].method
    assert isinstance(method, Probe)
    assert not method.undefined(some).any()
    [read] = method.features(some).values()
    named = dict(zip(STATISTICS, read().T, strict=True))
    assert named["mean"] == pytest.approx([50, 150, 100, 100], abs=1)
    assert named["images"].tolist() == [1, 1, 0, 0]
    assert method.undefined(few).all(), "no row has an image"


def test_attention_to_the_previous_token_may_be_flat() -> None:
    flat = [each.ravel() for each in ROWS.signals["attention_previous"]]
    rauq_of = DETECTORS["rauq"].method
    assert isinstance(rauq_of, Score)
    found = rauq_of.compute(with_signal(ROWS, attention_previous=flat))
    assert np.array_equal(found, rauq_of.compute(ROWS))


# Worked by hand.


def test_semantic_entropy_by_hand() -> None:
    """Ten samples: five mean one thing, three another, two a third."""
    sets = [0] * 5 + [1] * 3 + [2] * 2
    expected = -(0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2))
    assert expected == pytest.approx(1.0297, abs=1e-4)
    assert discrete_semantic_entropy(sets) == pytest.approx(expected)
    # Probabilities 0.4, 0.1, 0.5 per token, whatever the length: sets of 0.5 and 0.5.
    logprobs = [np.log([0.4, 0.4]), np.log([0.1]), np.log([0.5, 0.5, 0.5])]
    assert semantic_entropy([0, 0, 1], logprobs) == pytest.approx(math.log(2))
    assert discrete_semantic_entropy([0, 0, 0]) == 0


def test_sets_of_the_same_meaning_by_hand() -> None:
    same = ["Yes.", "No", "yes, there is a dog", "There is no dog."]
    assert meaning_sets("Is there a dog?", same, noise_rows().same_meaning) == [0, 1, 0, 1]
    by_letter = lambda _, one, other: one[0] == other[0]  # noqa: E731 - a scorer of one's own
    assert meaning_sets("?", ["ab", "ac", "b"], by_letter) == [0, 0, 1]


def test_svar_by_hand() -> None:
    """Two heads; layers 1 and 2 count: means 0.3 and 0.6."""
    share = np.array([[[0.9, 0.9], [0.2, 0.4], [0.5, 0.7]]])
    assert svar(share, [1, 2]).tolist() == pytest.approx([0.9])


def test_lookback_ratio_by_hand() -> None:
    """Share 0.6 on 30 tokens is 0.02 each, 0.4 on 2 is 0.2 each: 0.02 / 0.22."""
    found = lookback_ratio(np.array([0.6]), np.array([0.4]), np.array([30.0]), np.array([2.0]))
    assert found.tolist() == pytest.approx([1 / 11])


def test_rauq_by_hand() -> None:
    """c1 = 0.9; c2 = 0.2 * 0.5 + 0.8 * 0.5 * 0.9 = 0.46; c3 = 0.2 * 1 + 0.8 * 0.25 * 0.46."""
    previous = np.array([[0.7], [0.5], [0.25]])
    expected = -(math.log(0.9) + math.log(0.46) + math.log(0.292)) / 3
    assert rauq(np.log([0.9, 0.5, 1.0]), previous, [0]) == pytest.approx(expected)
    both = np.concatenate([previous, np.ones((3, 1))], axis=1)  # a sure layer does not count
    assert rauq(np.log([0.9, 0.5, 1.0]), both, [0, 1]) == pytest.approx(expected)


def test_eigenscore_by_hand() -> None:
    """Equal samples: eigenvalues 2 * 2 and 0. Opposite directions in the same plane: 4 and 0."""
    same = np.array([[1.0, -1.0], [1.0, -1.0]])
    expected = (math.log(4.001) + math.log(0.001)) / 2
    assert eigenscore(same) == pytest.approx(expected)
    apart = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])  # orthogonal: 2 and 6
    assert eigenscore(apart) == pytest.approx((math.log(2.001) + math.log(6.001)) / 2)
    assert eigenscore(apart) > eigenscore(same)


def test_glsim_by_hand() -> None:
    """Cosines 0.6 with the instruction, 1 and 0 with the two likeliest image tokens."""
    answer, instruction = np.array([1.0, 0.0]), np.array([3.0, 4.0])
    image = np.array([[0.0, 5.0], [2.0, 0.0], [-1.0, 0.0]])
    found = glsim(answer, instruction, image, np.array([0.3, 0.5, 0.1]), patches=2)
    assert found == pytest.approx(0.6 * 0.6 + 0.4 * 0.5)
    assert contextual_lens(np.array([[0.0, 1.0], [2.0, 1.0]]), image) == pytest.approx(2**-0.5)


def test_rouge_l_by_hand() -> None:
    assert rouge_l("one two three four", "two four five") == pytest.approx(2 * 2 / 7)


def test_an_answer_that_only_ends_says_nothing_about_the_image() -> None:
    """The end-of-turn token is no part of the answer, as for attention."""
    short = np.flatnonzero(ROWS.table["num_answer_tokens"] == 1)[:2]
    reasons = ROWS.table["finish_reason"].to_numpy(copy=True)
    reasons[short] = "stop"
    rows = replace(ROWS, table=ROWS.table.assign(finish_reason=reasons))
    for name in ("internal_confidence", "glsim", "contextual_lens"):
        lacking = DETECTORS[name].method.undefined(rows)
        assert np.flatnonzero(lacking).tolist() == short.tolist(), name


def test_what_is_undefined_is_nan_and_nothing_else() -> None:
    """An answer without tokens, a question without an image, a sample without a token."""
    empty = {
        name: [np.empty(0), *ROWS.signals[name][1:]]
        for name in (
            "answer_logprobs",
            "entropy",
            "internal_confidence/layer_1",
            "similarity/image_max/layer_2",
            "similarity/image_lens_top/layer_2",
        )
    }
    states = ROWS.signals["samples/last_token/layer_2"].copy()
    states[0, 1:] = np.nan  # one sample is left
    states[1, 1] = np.nan
    rows = with_signal(ROWS, **{n.replace("/", "__"): v for n, v in empty.items()})
    rows = with_signal(rows, samples__last_token__layer_2=states)
    rows = replace(rows, table=rows.table.assign(verbalised_confidence=["unsure", *[0.5] * 29]))
    missing = {
        "perplexity", "mean_logprob", "min_logprob", "sequence_probability", "mean_entropy",
        "max_entropy", "rauq", "internal_confidence", "glsim", "contextual_lens", "eigenscore",
        "verbalised",
    }  # fmt: skip
    for name in FORMULAS:
        bad = DETECTORS[name].method.undefined(rows)
        assert bad.tolist() == [name in missing, *[False] * 29], name
