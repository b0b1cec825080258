"""CCS: two answers to one question, compared by the states that the model has of each.

A run has such pairs if two rows of its table are about the same question, each with another answer
at the end, as in "Is there a dog? Yes" and "Is there a dog? No". A row is labelled a hallucination
if its answer is wrong. Nothing else is run through the model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped,unused-ignore]
from scipy.special import expit  # type: ignore[import-untyped,unused-ignore]

from vlmscope.detectors.detector import BEFORE, Detector, Paper
from vlmscope.detectors.methods import Distance, Matrix
from vlmscope.detectors.rows import Floats, Rows
from vlmscope.detectors.states import LAST_PROMPT, WIDEST, middle, principal, projected
from vlmscope.probes.crossfit import rank_auroc

CCS = Paper(
    "Discovering Latent Knowledge in Language Models Without Supervision",
    "Burns et al.", 2023, "2212.03827", "ICLR",
)  # fmt: skip

PAIR, SIDE = "contrast_pair", "contrast_answer"
"""Columns of the table: which rows are about the same question, and with which of two answers."""

TRIES = 10
"""Number of starting points, of which the lowest loss is kept."""

PENALTY = 1e-3
"""Weight of the squared weights, which are unlimited otherwise."""


def contrast(group: str) -> Callable[[Rows], Matrix]:
    """Return the states of both rows of each row's pair, and which of them it is.

    The result is a function of rows, ``[N, 2 * D + 1]``: the state with the first answer, that with
    the second one, and 1 or −1 for a row with the first or the second. A row is NaN if its pair is
    not two rows with different answers, and all are if there are not two answers in the table.
    """
    compute = partial(_contrast, middle(group))
    return lambda rows: np.asarray(
        rows.once(compute)
    )  # pairs are complete before rows are left out


def _contrast(vectors: Callable[[Rows], Matrix], rows: Rows) -> Matrix:
    states, pairs, sides = vectors(rows), rows.text(PAIR), rows.text(SIDE)
    found = np.full((len(rows), 2 * states.shape[1] + 1), np.nan, np.float32)
    answers = sorted({side for side in sides if side})
    members: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        members.setdefault(pair, []).append(row)
    for pair, both in members.items():
        if pair and sorted(sides[row] for row in both) == answers and len(answers) == 2:
            first, second = sorted(both, key=lambda row: sides[row])
            found[both, :-1] = np.concatenate([states[first], states[second]])
            found[[first, second], -1] = 1, -1
    return found


def ccs(train: Matrix, truth: NDArray[np.bool_], test: Matrix) -> Floats:
    """Return the probability by CCS that the answer of a row is the wrong one of its pair.

    Labels decide on nothing but which of the two ends of the direction is true.

    Args:
        train: What ``contrast`` returns of the training rows, ``[N, 2 * D + 1]``.
        truth: True where their answer is a hallucination.
        test: The same of the test rows, ``[M, 2 * D + 1]``.
    """
    first, second, side = np.split(train, [train.shape[1] // 2, train.shape[1] - 1], axis=1)
    once = side[:, 0] > 0  # both rows of a pair have the states of both
    centres = [each[once].mean(axis=0, dtype=np.float64) for each in (first, second)]
    weights, bias = probe(first[once] - centres[0], second[once] - centres[1])

    def wrong(rows: Matrix) -> Floats:
        one, other, side = np.split(rows, [rows.shape[1] // 2, rows.shape[1] - 1], axis=1)
        true, false = (
            expit((each - centre) @ weights + bias)
            for each, centre in zip((one, other), centres, strict=True)
        )
        return np.asarray(0.5 - side[:, 0] * (true - false) / 2)

    right_way = rank_auroc(truth, wrong(train)[None])[0] >= 0.5
    return wrong(test) if right_way else 1 - wrong(test)


def loss(true: Floats, false: Floats) -> float:
    """Return CCS's loss: of probabilities that do not add up to 1, and that are not sure.

    >>> loss(np.array([1.0]), np.array([0.0])), loss(np.array([0.5]), np.array([0.5]))
    (0.0, 0.25)
    """
    return float(((true + false - 1) ** 2 + np.minimum(true, false) ** 2).mean())


def probe(first: Floats, second: Floats) -> tuple[Floats, float]:
    """Return the weights and the bias of the lowest loss, in the largest directions of differences.

    Args:
        first: Centred states with the first answer, ``[P, D]``.
        second: Those with the second answer.
    """
    values, directions = principal(first - second, np.zeros(first.shape[1]), WIDEST)
    unit = max(float(values[0]) / np.sqrt(len(first)), np.finfo(np.float64).tiny)
    one, other = (projected(each, np.zeros(each.shape[1]), directions / unit)
                  for each in (first, second))  # fmt: skip

    def objective(guess: Floats) -> tuple[float, Floats]:
        true, false = (expit(each @ guess[:-1] + guess[-1]) for each in (one, other))
        gap, lower = true + false - 1, true < false
        slopes = (
            (2 * gap + 2 * true * lower) * true * (1 - true) / len(true),
            (2 * gap + 2 * false * ~lower) * false * (1 - false) / len(true),
        )
        gradient = np.append(
            one.T @ slopes[0] + other.T @ slopes[1] + 2 * PENALTY * guess[:-1],
            slopes[0].sum() + slopes[1].sum(),
        )
        return loss(true, false) + PENALTY * float(guess[:-1] @ guess[:-1]), gradient

    starts = np.eye(min(TRIES, len(values)), len(values) + 1)
    tried = [minimize(objective, start, jac=True, method="L-BFGS-B") for start in starts]
    best = min(tried, key=lambda each: float(each.fun)).x
    return best[:-1] @ directions / unit, float(best[-1])


DETECTORS = (
    Detector(
        "ccs_last_prompt_token", "CCS, last prompt token", "states", CCS,
        "of two rows about one question, each with another answer in its prompt: p = "
        "sigmoid(w · x + b) of the hidden state x at the last prompt token of the middle layer, "
        "minus its mean over the rows with that answer; w and b minimise (p1 + p2 - 1)² + min(p1, "
        "p2)² over the pairs of training; one minus the mean of the row's own p and of one minus "
        "the other's",
        (LAST_PROMPT, f"column {PAIR}", f"column {SIDE}"), BEFORE, "prefill",
        "Two prompts a question. May find any property that is true of one of the two answers.",
        Distance(True, contrast(LAST_PROMPT), ccs),
        "The loss leaves open which end of the direction is true: the paper takes the one that is "
        "right more often on the test set, here the labels of the training rows decide, and "
        f"nothing else. The paper's probe has as many weights as the states; here those of the "
        f"{WIDEST} largest principal components of the differences, with a small penalty. Means "
        "are those of the training rows.",
    ),
)  # fmt: skip
"""The detectors of this module."""
