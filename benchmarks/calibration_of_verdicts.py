"""How often is a verdict wrong? Sweeps of simulated rows whose truth is known, by scenario.

Every data set goes through what ``vlmscope probe`` does: folds by image, baselines, the selection
of a layer, intervals, differences. Of each scenario the table tells

bias        mean of the stated AUROC less the true one of the very fits that were judged, which is
            measured on fresh rows
coverage    share of the 95% intervals that hold that true AUROC
permuted    share in which permuted labels say that some layer knows something (p ≤ 0.05)
abstaining  share that is told that abstaining lowers the share of hallucinations
recognised  share that is warned of images that are recognised across folds
better      how often the verdict says "better": of the probe over the best single baseline, over
            the joint baseline, of both together over the joint baseline, of the probe within
            categories (over the best single and over the joint baseline), of all layers over the
            category, and within categories of both together over the joint baseline

Rows are split once (``--repeats 3`` for three splits) and permuted 100 times. Where hidden states
know nothing more than the facts, "better" over the joint baseline is false, and 2.5% of the data
sets may say it.

    python benchmarks/calibration_of_verdicts.py                      # 200 data sets each
    python benchmarks/calibration_of_verdicts.py --sets 20 --only null "entropy, both ends"
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import roc_auc_score

if TYPE_CHECKING:
    from vlmscope.sweeps import ProbeData, SweepResult

WIDTH = 12
"""Numbers in a vector: small worlds, so that hundreds fit into minutes."""

LAYER_KEYS = (("query_token_representation", 0), ("query_token_representation", 1))
"""The first layer is noise; the second holds what the scenario plants."""

FRESH = 10_000
"""Rows that the true AUROC is measured on."""

DRAWS = 200
"""Resamples of the images: coverage is told to a percent, not an interval's third digit."""

COMPARISONS = (
    "probe > best single",
    "probe > joint",
    "joint + probe > joint",
    "within: probe > best single",
    "within: probe > joint",
    "all layers > category",
    "within: joint + probe > joint",
)


SHARES = ("bias", "coverage", "constant risk", "permuted", "abstaining", "recognised")


@dataclass(frozen=True, eq=False)
class World:
    """Rows with everything that a sweep wants to know of them."""

    vectors: NDArray[np.float32]
    """Of the informed layer, ``[N, WIDTH]``."""
    truth: NDArray[np.bool_]
    groups: NDArray[np.int64]
    category: NDArray[np.int64]
    entropy: NDArray[np.float64]
    question: NDArray[np.int64]
    noise: NDArray[np.float32]
    """Of the other layer."""
    known: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of ``BaselineInputs``, or other ones."""


Rng = np.random.Generator

Make = Callable[[Rng, Rng, int, int], World]
"""A generator of what all rows of the world share, one of its rows, images and rows an image."""


@dataclass(frozen=True)
class Scenario:
    """A kind of data set."""

    make: Make
    images: int
    each: int
    """Rows of an image."""
    false: frozenset[str] = frozenset()
    """Comparisons in which "better" is false."""


def facts_of(rng: Rng, images: int, each: int) -> dict[str, Any]:
    """Return what all worlds have in common: images, categories, entropies, questions."""
    rows = images * each
    return {
        "groups": np.repeat(np.arange(images), each),
        "category": rng.integers(0, 5, rows),
        "entropy": rng.gamma(2.0, size=rows),
        "question": rng.integers(0, 30, rows),
        "noise": rng.standard_normal((rows, WIDTH)).astype(np.float32),
    }


def world(facts: Mapping[str, Any], truth: NDArray, vectors: NDArray) -> World:
    """Return a world of these parts."""
    return World(vectors.astype(np.float32), truth.astype(bool), **facts)


RATES = np.array([-2.6, -1.7, -1.0, -0.3, 0.5])
"""Log-odds of each category."""


def signal(_: Rng, rng: Rng, images: int, each: int) -> World:
    """A direction of the vectors knows, beside a category and an image that decide too."""
    facts = facts_of(rng, images, each)
    knows = rng.normal(size=images * each)
    image = 0.7 * rng.normal(size=images)[facts["groups"]]
    logit = RATES[facts["category"]] + 1.2 * knows + image
    vectors = rng.normal(size=(images * each, WIDTH))
    vectors[:, 0] = knows + 0.5 * rng.normal(size=images * each)
    return world(facts, rng.random(images * each) < expit(logit), vectors)


def null(_: Rng, rng: Rng, images: int, each: int) -> World:
    """Nothing knows anything: labels are drawn by image."""
    facts = facts_of(rng, images, each)
    logit = -1 + rng.normal(size=images)[facts["groups"]]
    truth = rng.random(images * each) < expit(logit)
    return world(facts, truth, rng.normal(size=(images * each, WIDTH)))


def category_only(_: Rng, rng: Rng, images: int, each: int) -> World:
    """The category decides, and the vectors hold it."""
    facts = facts_of(rng, images, each)
    truth = rng.random(images * each) < expit(RATES[facts["category"]])
    vectors = rng.normal(size=(images * each, WIDTH)) * 0.3
    vectors[:, :5] += np.eye(5)[facts["category"]]
    return world(facts, truth, vectors)


def two_facts(_: Rng, rng: Rng, images: int, each: int) -> World:
    """Category and entropy decide, and the vectors hold both."""
    facts = facts_of(rng, images, each)
    logit = RATES[facts["category"]] + 0.9 * (facts["entropy"] - 2)
    vectors = rng.normal(size=(images * each, WIDTH)) * 0.3
    vectors[:, :5] += np.eye(5)[facts["category"]]
    vectors[:, 5] += facts["entropy"]
    return world(facts, rng.random(images * each) < expit(logit), vectors)


def two_exact_facts(_: Rng, rng: Rng, images: int, each: int) -> World:
    """Category and entropy decide strongly, and the vectors hold just these, without noise."""
    facts = facts_of(rng, images, each)
    facts["entropy"] = rng.normal(size=images * each)
    logit = 1.4 * RATES[facts["category"]] + 1.5 * (facts["entropy"] + 1)
    vectors = np.zeros((images * each, WIDTH))
    vectors[:, :5] = np.eye(5)[facts["category"]]
    vectors[:, 5] = facts["entropy"]
    return world(facts, rng.random(images * each) < expit(logit), vectors)


def words_and_entropy(fixed: Rng, rng: Rng, images: int, each: int) -> World:
    """Two words of the question and the entropy decide, and the vectors hold just these."""
    facts = facts_of(rng, images, each)
    facts["entropy"] = rng.normal(size=images * each)
    one, two = rng.integers(0, 12, (2, images * each))
    asked = [f"Is the thing{a} near the part{b}?" for a, b in zip(one, two, strict=True)]
    facts["known"] = {"question": asked}
    rates = 1.5 * fixed.normal(size=(2, 12))
    logit = rates[0][one] + rates[1][two] + 1.5 * facts["entropy"] - 0.5
    vectors = np.hstack([np.eye(12)[one], np.eye(12)[two], facts["entropy"][:, None]])
    return world(facts, rng.random(images * each) < expit(logit), vectors)


def first_tokens(_: Rng, rng: Rng, images: int, each: int) -> World:
    """The first token's log-odds of one answer over another decide, and the category."""
    facts = facts_of(rng, images, each)
    margin = 1.5 * rng.normal(size=images * each)
    others = rng.normal(size=(images * each, 3)) - 3
    logprobs = np.column_stack([margin / 2, -margin / 2, others])
    logprobs -= np.log(np.exp(logprobs).sum(axis=1))[:, None]
    facts["entropy"] = -(np.exp(logprobs) * logprobs).sum(axis=1)
    order = np.argsort(-logprobs, axis=1)
    facts["known"] = {
        "first_token": [f"t{token}" for token in order[:, 0]],
        "first_token_ids": order,
        "first_token_logprobs": np.take_along_axis(logprobs, order, axis=1),
    }
    logit = 1.5 * margin + 1.2 * RATES[facts["category"]] + 0.5
    vectors = np.hstack([logprobs[:, :2], np.eye(5)[facts["category"]]])
    return world(facts, rng.random(images * each) < expit(logit), vectors)


def logarithm(_: Rng, rng: Rng, images: int, each: int) -> World:
    """The logarithm of the prompt's length decides, and the category."""
    facts = facts_of(rng, images, each)
    length = np.ceil(np.exp(rng.normal(4, 1, images * each)))
    facts["known"] = {"num_prompt_tokens": length}
    logit = 1.5 * (np.log(length) - 4) + 1.2 * RATES[facts["category"]] + 1
    vectors = np.hstack([np.log(length)[:, None], np.eye(5)[facts["category"]]])
    return world(facts, rng.random(images * each) < expit(logit), vectors)


def forty_sources(fixed: Rng, rng: Rng, images: int, each: int) -> World:
    """The source of the question decides, one of forty, and the vectors hold it."""
    facts = facts_of(rng, images, each)
    source = rng.integers(0, 40, images * each)
    facts["known"] = {"columns": {"source": [f"s{number}" for number in source]}}
    truth = rng.random(images * each) < expit(1.8 * fixed.normal(size=40)[source] - 0.5)
    return world(facts, truth, np.eye(40)[source])


def entropy_by_category(_: Rng, rng: Rng, images: int, each: int) -> World:
    """A high entropy is wrong in one category and right in another; the vectors hold just that."""
    facts = facts_of(rng, images, each)
    facts["entropy"] = rng.normal(size=images * each)
    slope = np.array([2.0, 1.0, 0.0, -1.0, -2.0])[facts["category"]]
    kind = np.eye(5)[facts["category"]]
    vectors = np.hstack([kind, kind * facts["entropy"][:, None]])
    truth = rng.random(images * each) < expit(slope * facts["entropy"] - 0.5)
    return world(facts, truth, vectors)


def threshold(_: Rng, rng: Rng, images: int, each: int) -> World:
    """Whether the entropy is above a threshold decides, and the category."""
    facts = facts_of(rng, images, each)
    facts["entropy"] = rng.normal(size=images * each)
    above = facts["entropy"] > 0.5
    logit = 1.4 * RATES[facts["category"]] + 3 * above
    vectors = np.hstack([above[:, None], np.eye(5)[facts["category"]]])
    return world(facts, rng.random(images * each) < expit(logit), vectors)


def both_ends(_: Rng, rng: Rng, images: int, each: int) -> World:
    """Far from the usual entropy is wrong, and the vectors hold how far: a line sees nothing."""
    facts = facts_of(rng, images, each)
    facts["entropy"] = rng.normal(2, 0.6, images * each)
    far = np.abs(facts["entropy"] - 2)
    vectors = rng.normal(size=(images * each, WIDTH)) * 0.3
    vectors[:, 0] += far
    return world(facts, rng.random(images * each) < expit(-2.5 + 4 * far), vectors)


def shared_questions(fixed: Rng, rng: Rng, images: int, each: int) -> World:
    """The question decides, its words say which it is, and the vectors hold it."""
    facts = facts_of(rng, images, each)
    face = fixed.normal(size=(30, WIDTH))
    vectors = face[facts["question"]] + 0.3 * rng.normal(size=(images * each, WIDTH))
    logit = -1 + 1.5 * fixed.normal(size=30)[facts["question"]]
    return world(facts, rng.random(images * each) < expit(logit), vectors)


def giant_image(_: Rng, rng: Rng, images: int, each: int) -> World:
    """A third of all rows is about one image, with a rate of its own; nothing else knows."""
    facts = facts_of(rng, images, each)
    rows = images * each
    facts["groups"] = np.where(np.arange(rows) < rows // 3, 0, facts["groups"])
    rate = np.where(facts["groups"] == 0, 0.55, 0.25)
    return world(facts, rng.random(rows) < rate, rng.normal(size=(rows, WIDTH)))


def two_names(_: Rng, rng: Rng, images: int, each: int) -> World:
    """An image leaks, and half of its rows are about a copy that nobody recognised as one."""
    facts = facts_of(rng, images, each)
    face, mood = rng.normal(size=(images, WIDTH)), rng.normal(size=images) * 1.5
    vectors = face[facts["groups"]] + 0.2 * rng.normal(size=(images * each, WIDTH))
    truth = rng.random(images * each) < expit(-1 + mood[facts["groups"]])
    copy = np.arange(images * each) % 2
    return world({**facts, "groups": facts["groups"] + images * copy}, truth, vectors)


ADDED_WITHIN = COMPARISONS[6]

NOTHING_MORE = frozenset((*COMPARISONS[1:5], ADDED_WITHIN))
"""False where the vectors hold no more than the facts; a single fact they may beat."""

FACTS = NOTHING_MORE - {COMPARISONS[3]}
"""False where they are several facts: within categories, they may beat any single one too."""

NOTHING = frozenset(COMPARISONS)

SCENARIOS = {
    "signal, 80 images × 4": Scenario(signal, 80, 4),
    "signal, 60 images × 2": Scenario(signal, 60, 2),
    "signal, 40 images × 15": Scenario(signal, 40, 15),
    "signal, 30 rows": Scenario(signal, 30, 1),
    "null, 80 images × 4": Scenario(null, 80, 4, NOTHING),
    "null, 60 images × 2": Scenario(null, 60, 2, NOTHING),
    "null, 40 images × 15": Scenario(null, 40, 15, NOTHING),
    "null, 30 rows": Scenario(null, 30, 1, NOTHING),
    "one giant image": Scenario(giant_image, 80, 4, NOTHING),
    "category only": Scenario(category_only, 80, 4, NOTHING),
    "two facts": Scenario(two_facts, 80, 4, FACTS),
    "two facts, exactly": Scenario(two_exact_facts, 80, 3, FACTS),
    "words and entropy": Scenario(words_and_entropy, 80, 3, FACTS),
    "first tokens and category": Scenario(first_tokens, 80, 3, FACTS),
    "logarithm and category": Scenario(logarithm, 80, 3, FACTS),
    "forty sources": Scenario(forty_sources, 80, 3, FACTS),
    "entropy by category": Scenario(entropy_by_category, 80, 3, FACTS),
    "threshold and category": Scenario(threshold, 80, 3, FACTS),
    "entropy, both ends": Scenario(both_ends, 80, 4, NOTHING_MORE | {COMPARISONS[0]}),
    "shared questions": Scenario(shared_questions, 80, 4, FACTS),
    "images under two names": Scenario(two_names, 60, 8),
}
"""The last has a leak that no fold can see: its numbers are wrong on purpose."""


@dataclass(frozen=True)
class Outcome:
    """What one data set came to."""

    stated: float
    true: float
    covered: bool
    nothing: bool
    permuted: bool
    abstaining: bool
    recognised: bool
    better: Mapping[str, bool] = field(default_factory=dict)


def run_one(name: str, seed: int, repeats: int = 1) -> Outcome | None:
    """Make a data set, sweep it, and hold what is said against the truth."""
    from vlmscope.probes import FoldError
    from vlmscope.sweeps.run import SweepSpec, sweep_rows

    made = made_for(name, seed)
    spec = SweepSpec(repeats=repeats, permutations=100, draws=DRAWS, seed=seed)

    def matrix(_: str, layer: int | None) -> NDArray[np.float32]:
        return made.vectors if layer else made.noise

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = sweep_rows(
                probe_data_of(made),
                matrix,
                spec,
            )
    except FoldError:  # too few of a class for five folds
        return None
    selected = result["selected"]
    true = true_auroc(result, made, made_for(name, seed, fresh=True))
    return Outcome(
        stated=selected.auroc,
        true=true,
        covered=bool(selected.auroc_low <= true <= selected.auroc_high),
        nothing=selected.found_nothing,
        permuted=result.chance is not None and result.chance.p_value <= 0.05,
        abstaining=not selected.found_nothing and result.abstaining.interval.high < 0,
        recognised=result.recognition is not None and result.recognition.suspicious,
        better=better(result),
    )


def made_for(name: str, seed: int, *, fresh: bool = False) -> World:
    """Return a scenario's world; or fresh rows about other images of the same world."""
    scenario = SCENARIOS[name]
    key = [sum(map(ord, name)), seed]
    images = max(FRESH // scenario.each, 20) if fresh else scenario.images
    fixed, rows = np.random.default_rng([*key, 0]), np.random.default_rng([*key, 1 + fresh])
    return scenario.make(fixed, rows, images, scenario.each)


def true_auroc(result: SweepResult, made: World, fresh: World) -> float:
    """Return the AUROC on fresh rows of the fits that were judged, a fold's weight by its pairs."""
    from vlmscope.probes import Fold, LogisticProbe, crossfit_logistic

    fold_of = result.fold_of[0]
    folds = [Fold(np.flatnonzero(fold_of != f), np.flatnonzero(fold_of == f))
             for f in np.unique(fold_of)]  # fmt: skip
    fits: dict[int, NDArray[np.float64]] = {}
    values, weights = [], []
    for number, fold in enumerate(folds):
        layer = int(result.chosen["selected"][number].endswith("1"))
        vectors = made.vectors if layer else made.noise
        if layer not in fits:
            fits[layer] = crossfit_logistic(vectors, made.truth, folds, made.groups).chosen_c
        weights.append(made.truth[fold.test].sum() * (~made.truth[fold.test]).sum())
        if np.ptp(result.risks["selected"][0, fold.test]) == 0:
            values.append(0.5)
            continue
        probe = LogisticProbe(C=float(fits[layer][number]))
        probe.fit(vectors[fold.train], made.truth[fold.train])
        score = probe.decision_function(fresh.vectors if layer else fresh.noise)
        values.append(roc_auc_score(fresh.truth, score))
    return float(np.average(values, weights=weights))


def better(result: SweepResult) -> dict[str, bool]:
    """Return which comparisons come out as "better"."""
    from vlmscope.metrics import paired

    selected, both = result["selected"], result["joint_and_probe"]
    found = dict.fromkeys(COMPARISONS, False)
    for name, gap in (
        (COMPARISONS[0], selected.above("baseline")),
        (COMPARISONS[1], selected.above("joint")),
        (COMPARISONS[2], both.above("joint")),
    ):
        found[name] = gap is not None and gap.interval.low > 0
    for each in result.within_gaps:
        if each.of == "selected":
            name = COMPARISONS[4 if each.over == "joint" else 3]
            found[name] = each.gap.interval.low > 0
        elif (each.of, each.over) == ("joint_and_probe", "joint"):
            found[ADDED_WITHIN] = each.gap.interval.low > 0
    data, risks = result.data, result.risks
    layers = paired(data.truth, risks["combined"][0], risks["category"][0], data.groups,
                    folds=result.fold_of[0], draws=DRAWS)  # fmt: skip
    found[COMPARISONS[5]] = layers.interval.low > 0
    return found


def probe_data_of(made: World) -> ProbeData:
    """Return the world as the sweep takes it."""
    from vlmscope.probes.baselines import BaselineInputs
    from vlmscope.sweeps.data import ProbeData
    from vlmscope.sweeps.grouping import Grouping

    rows = len(made.truth)
    categories = tuple(f"c{kind}" for kind in made.category)
    inputs: dict[str, Any] = {
        "question": [f"Is the w{word} there?" for word in made.question],
        "category": categories,
        "answer_type": None,
        "first_token_entropy": made.entropy,
        "first_token_logprob": None,
        "num_answer_tokens": None,
        "mean_answer_logprob": None,
    }
    return ProbeData(
        rows=np.arange(rows),
        ids=tuple(map(str, range(rows))),
        truth=made.truth,
        grouping=Grouping(made.groups, "content", len(np.unique(made.groups))),
        baseline_inputs=BaselineInputs(**inputs | made.known),
        categories=categories,
        unscorable=0,
        layer_keys=LAYER_KEYS,
    )


def main() -> None:
    """Simulate, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", type=int, default=200, help="data sets of each scenario")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    options = parser.parse_args()
    started = time.monotonic()
    print(f"| scenario | {' | '.join(SHARES)} | {' | '.join(COMPARISONS)} |")
    print("| --- " * (1 + len(SHARES) + len(COMPARISONS)) + "|")
    with ProcessPoolExecutor(options.jobs) as pool:
        for name in options.only:
            each = partial(run_one, name, repeats=options.repeats)
            found = list(pool.map(each, range(options.sets)))
            print(line(name, [each for each in found if each is not None]), flush=True)
    print(f"{time.monotonic() - started:.0f} s on {options.jobs} cores", file=sys.stderr)


def line(name: str, found: Sequence[Outcome]) -> str:
    """Return a scenario's line of the table; what is false there is in bold."""
    bias = np.mean([each.stated - each.true for each in found])
    cells = [
        f"{bias:+.3f}",
        f"{np.mean([each.covered for each in found]):.1%}",
        f"{np.mean([each.nothing for each in found]):.0%}",
        f"{np.mean([each.permuted for each in found]):.1%}",
        f"{np.mean([each.abstaining for each in found]):.1%}",
        f"{np.mean([each.recognised for each in found]):.1%}",
    ]
    for comparison in COMPARISONS:
        share = f"{np.mean([each.better[comparison] for each in found]):.1%}"
        cells.append(f"**{share}**" if comparison in SCENARIOS[name].false else share)
    return f"| {name} ({len(found)}) | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    # One thread a process: as many processes as cores are busy already.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
