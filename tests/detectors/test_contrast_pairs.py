"""CCS on rows that are two answers to one question, each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from detected_runs import detected_run, truth_of, without_trees
from detector_worlds import data_of, noise_rows
from vlmscope.detectors import DETECTORS, Rows, detect, detect_rows, transfer_detection
from vlmscope.detectors.contrast import PENALTY, ccs, contrast, probe
from vlmscope.detectors.states import LAST_PROMPT
from vlmscope.errors import InputError
from vlmscope.schema import Capture
from vlmscope.store import Run
from vlmscope.sweeps import SweepSpec

NAME = "ccs_last_prompt_token"
SPEC = SweepSpec(folds=3, repeats=1, draws=24)
WIDTH = 6
MIDDLE = "query_token_representation/layer_2"

Flags = NDArray[np.bool_]


def paired(
    strength: float, pairs: int = 60, seed: int = 0
) -> tuple[Rows, Flags, NDArray[np.int64]]:
    """Return rows of pairs in any order, whether each is wrong, and the pair of each.

    The first numbers of the states are of the question, the fourth is of the answer yes, and the
    fifth is of the right answer.
    """
    rng = np.random.default_rng(seed)
    pair, yes = np.repeat(np.arange(pairs), 2), np.tile([True, False], pairs)
    truth = np.repeat(rng.random(pairs) < 0.5, 2) == yes  # the wrong answer of the two
    states = rng.standard_normal((2 * pairs, WIDTH)) * 0.5
    states[:, :3] += np.repeat(rng.standard_normal((pairs, 3)), 2, axis=0) * 2
    states[:, 3] += 3.0 * yes
    states[:, 4] -= strength * np.where(truth, 1, -1)
    order = rng.permutation(2 * pairs)
    rows = noise_rows(1, 2 * pairs)
    table = rows.table.assign(
        contrast_pair=[f"question {number}" for number in pair[order]],
        contrast_answer=np.where(yes[order], "yes", "no"),
    )
    vectors = {MIDDLE: states[order].astype(np.float32)}
    return replace(rows, table=table, vectors=vectors), truth[order], pair[order]


def test_a_row_has_the_states_of_its_pair() -> None:
    rows, _, pair = paired(1.0, 5)
    states = rows.vectors[MIDDLE]
    found = contrast(LAST_PROMPT)(rows)
    for row, answer in enumerate(rows.table["contrast_answer"]):
        [other] = [i for i in range(10) if pair[i] == pair[row] and i != row]
        no, yes = (row, other) if answer == "no" else (other, row)
        assert np.array_equal(found[row, :-1], np.concatenate([states[no], states[yes]]))
        assert found[row, -1] == (1 if answer == "no" else -1)


def test_a_row_without_its_pair_is_undefined() -> None:
    rows, _, pair = paired(1.0, 5)
    method = DETECTORS[NAME].method
    assert not method.undefined(rows).any()
    for column, value in (("contrast_pair", None), ("contrast_answer", ""), ("contrast_pair", "x")):
        table = rows.table.copy()
        table.loc[0, column] = value
        assert np.array_equal(method.undefined(replace(rows, table=table)), pair == pair[0])
    same = rows.table.assign(contrast_answer="yes")
    assert method.undefined(replace(rows, table=same)).all()
    three = rows.table.assign(contrast_answer=["yes", "no", "maybe", *["yes"] * 7])
    assert method.undefined(replace(rows, table=three)).all()


@pytest.mark.exhaustive
def test_the_probe_has_the_lowest_loss() -> None:
    """Of those that plain descent finds from random weights, in the loss of the paper."""
    rows, *_ = paired(0.7)
    matrix = contrast(LAST_PROMPT)(rows).astype(np.float64)
    halves = [half[matrix[:, -1] > 0] for half in np.split(matrix[:, :-1], 2, axis=1)]
    first, second = (half - half.mean(axis=0) for half in halves)
    unit = np.linalg.svd(first - second)[1][0] / np.sqrt(len(first))
    x, y = (torch.tensor(half) for half in (first, second))

    def objective(weights: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        p, q = (torch.sigmoid(half @ weights + bias) for half in (x, y))
        consistent, confident = (p - (1 - q)) ** 2, torch.minimum(p, q) ** 2
        return (consistent + confident).mean() + PENALTY * ((weights * unit) ** 2).sum()

    generator = torch.Generator().manual_seed(0)
    best = np.inf
    for _ in range(5):
        weights = torch.randn(WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        steps = torch.optim.Adam([weights, bias], lr=0.1)
        for _ in range(150):
            steps.zero_grad()
            objective(weights, bias).backward()  # type: ignore[no-untyped-call]
            steps.step()
        best = min(best, float(objective(weights, bias).detach()))
    found, offset = probe(first, second)
    lowest = float(objective(torch.tensor(found), torch.tensor([offset])))
    assert lowest == pytest.approx(best, abs=1e-4)


def test_the_score_is_the_mean_of_both_probabilities() -> None:
    rows, truth, _ = paired(1.5)
    matrix = contrast(LAST_PROMPT)(rows)
    train, test = matrix[:80], matrix[80:]
    once = train[train[:, -1] > 0].astype(np.float64)
    centres = once[:, :WIDTH].mean(axis=0), once[:, WIDTH:-1].mean(axis=0)
    weights, bias = probe(once[:, :WIDTH] - centres[0], once[:, WIDTH:-1] - centres[1])
    found = ccs(train, truth[:80], test)
    for row, score in zip(test, found, strict=True):
        p, q = (
            1 / (1 + np.exp(-((half - centre) @ weights + bias)))
            for half, centre in zip((row[:WIDTH], row[WIDTH:-1]), centres, strict=True)
        )
        own = (p + 1 - q) / 2 if row[-1] > 0 else (q + 1 - p) / 2
        assert min(abs(score - own), abs(score - (1 - own))) < 1e-6
    assert found == pytest.approx(1 - ccs(train, ~truth[:80], test)), "labels choose the direction"


@pytest.mark.parametrize(("strength", "low", "high"), [(1.5, 0.9, 1.0), (0.0, 0.35, 0.65)])
def test_it_finds_what_the_states_know_and_nothing_else(
    strength: float, low: float, high: float
) -> None:
    rows, truth, pair = paired(strength)
    found = detect_rows(
        data_of(rows, truth, pair), rows, [DETECTORS["category"], DETECTORS[NAME]], SPEC
    )
    assert low <= found[NAME].auroc <= high
    assert found[NAME].learned, "one bit of the labels"


def test_pairs_are_found_before_rows_are_left_out() -> None:
    """A row that another detector has no value for leaves its partner its states."""
    rows, truth, pair = paired(1.5)
    entropy = [np.empty(0), *rows.signals["entropy"][1:]]
    rows = replace(rows, signals={**rows.signals, "entropy": entropy})
    wanted = [DETECTORS[name] for name in ("category", "max_entropy", NAME)]
    found = detect_rows(data_of(rows, truth, pair), rows, wanted, SPEC)
    assert len(found.data.ids) == len(truth) - 1
    assert np.isfinite(found.risks[NAME]).all()
    assert found[NAME].auroc > 0.9


def paired_run(folder: Path, seed: int, first: int = 0, pairs: int = 60, **options: Any) -> Run:
    """Return a run with two rows about each image, the first of which says yes."""
    right = np.random.default_rng(seed).random(pairs) < 0.5
    truth = np.repeat(right, 2) == np.tile([True, False], pairs)

    def stated(row: Capture) -> Capture:
        number = int(row.sample.id[1:])
        pair, yes = divmod(number, 2)
        names = {"contrast_pair": f"p{pair}", "contrast_answer": "yes" if yes == 0 else "no"}
        noise = np.random.default_rng(number).standard_normal(8).astype(np.float32) * 0.3
        noise[1] += 2.0 * truth[number - first]
        return replace(
            row, sample=replace(row.sample, metadata={**row.sample.metadata, **names}),
            image_sha256=f"{pair:064x}", vectors={**row.vectors, MIDDLE: noise},
        )  # fmt: skip

    return detected_run(folder, truth, first=first, change=stated, **options)


@pytest.mark.exhaustive
def test_a_run_may_have_pairs(tmp_path: Path) -> None:
    """And another run, in which a row is left out because another detector has no value for it."""
    with without_trees():
        run = paired_run(tmp_path / "run", 2)
        found = detect(run, [NAME, "perplexity"], SPEC)
        assert found[NAME].auroc > 0.9
        deep = {"num_layers": 6}  # whose middle layer is another
        other = paired_run(
            tmp_path / "other", 3, first=600, pairs=30, prefix="o", empty=[4], model=deep
        )
        [there] = transfer_detection(run, found, other, SPEC)
        assert there.rows == 59
        assert {row.name: row.auroc for row in there.results}[NAME] > 0.9
        plain = detected_run(tmp_path / "plain", truth_of(60))
        with pytest.raises(InputError, match="has no column contrast_pair, column contrast_answer"):
            detect(plain, NAME, SPEC)
