"""Fits on one run, risks on another: probes and baselines, with all choices made in training.

A part is a set of training rows and the rows of the test run that this fit is tested on. If the two
runs share no image, there is one part with all rows. If they share their images, there is a part
for each fold, and the fit of a fold has seen none of its images.

Features of baselines are computed from both runs together, without labels, so that a column has the
same meaning in both. A category, token or word that occurs only in the test run is a column without
training data: its weight stays 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit  # type: ignore[import-untyped,unused-ignore]
from sklearn import config_context  # type: ignore[import-untyped,unused-ignore]

from vlmscope.probes import Fold, LogisticProbe
from vlmscope.probes.base import split_inside
from vlmscope.probes.baselines import (
    BASELINES,
    JOINT,
    JOINT_BASELINE,
    Baseline,
    BaselineInputs,
    joint_candidates,
)
from vlmscope.probes.candidates import Candidate, fit_candidate
from vlmscope.probes.crossfit import rank_auroc
from vlmscope.sweeps.calibration import rising_platt, scale_of
from vlmscope.sweeps.data import shown


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The training and test rows of one fit."""

    train: NDArray[np.int64]
    """Rows of the training run."""
    test: NDArray[np.int64]
    """Rows of the test run; none of their images is in ``train``."""


@dataclass(frozen=True, slots=True, eq=False)
class Transferred:
    """The risks of one predictor on the rows of the test run."""

    risk: NDArray[np.float64]
    """Risk of each row, ``[M]``."""
    inner_auroc: tuple[float, ...]
    """AUROC inside the training rows of each part, used for selection."""


def transfer_probe(
    vectors: NDArray[np.float32],
    truth: NDArray[np.bool_],
    groups: NDArray[np.int64],
    parts: Sequence[Part],
    test_vectors: NDArray[np.float32],
    *,
    folds: int,
) -> Transferred:
    """Train and calibrate a logistic probe as when it is saved, and apply it to the test run.

    Args:
        vectors: Of the training run, ``[N, D]``.
        truth: True where the answer is a hallucination, ``[N]``.
        groups: The image of each row, ``[N]``.
        parts: The training and test rows of each fit.
        test_vectors: Of the test run, ``[M, D]``.
        folds: Of the calibration.

    Raises:
        FoldError: Too few images of a class in training.
    """
    risk = np.empty(len(test_vectors))
    inner = []
    for part in parts:
        rows = vectors[part.train], truth[part.train], groups[part.train]
        probe = LogisticProbe().fit(rows[0], rows[1], groups=rows[2])
        platt, _ = scale_of(probe, *rows, folds)
        logit = probe.decision_function(test_vectors[part.test])
        risk[part.test] = platt.apply(logit)
        inner.append(float(probe.grid_auroc_[probe.grid_loss_.argmin()]))
    return Transferred(risk, tuple(inner))


def transfer_baselines(
    inputs: BaselineInputs,
    truth: NDArray[np.bool_],
    groups: NDArray[np.int64],
    parts: Sequence[Part],
    *,
    folds: int,
    seed: int,
    joint: bool = True,
) -> Iterator[tuple[Baseline, NDArray[np.float64]]]:
    """Yield every baseline known before the answer with its test risks, the joint one last.

    Args:
        inputs: Inputs of both runs, with the training rows first (``concatenate_inputs``).
        truth: Of the training run, ``[N]``.
        groups: The image of each of its rows, ``[N]``.
        parts: The training and test rows of each fit.
        folds: Number of inner folds to choose forms and penalties.
        seed: Of the inner folds.
        joint: Whether to fit the joint one too, which takes longer than all others.
    """
    single = {
        baseline.name: (baseline, found)
        for baseline in BASELINES
        if baseline.known == "before" and (found := baseline.candidates(inputs)) is not None
    }
    forms = {name: found for name, (_, found) in single.items()}
    if joint:
        forms[JOINT] = joint_candidates(inputs)
    risks = {name: np.empty(len(inputs.question) - len(truth)) for name in forms}
    with config_context(assume_finite=True, skip_parameter_validation=True):
        for part in parts:
            splits = split_inside(truth[part.train], groups[part.train], folds, seed)
            choices = {
                name: _chosen(candidates, truth, part.train, splits)
                for name, candidates in forms.items()
            }
            # As in the sweep, the joint baseline may be one that uses a single fact.
            if joint:
                choices[JOINT] = max(choices.values(), key=lambda choice: choice.auroc)
            for name, choice in choices.items():
                risks[name][part.test] = choice.risk(truth, part, len(truth))
    for name, (baseline, _) in single.items():
        yield baseline, risks[name]
    if joint:
        yield JOINT_BASELINE, risks[JOINT]


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """The best candidate of a baseline, chosen inside training."""

    candidate: Candidate
    auroc: float
    logit: NDArray[np.float64]
    """Out-of-fold log-odds of the training rows."""

    def risk(self, truth: NDArray[np.bool_], part: Part, before: int) -> NDArray[np.float64]:
        """Fit on all training rows and return the calibrated risk of the test rows."""
        platt = rising_platt(truth[part.train], self.logit)
        predict = fit_candidate(self.candidate, part.train, truth)
        return np.asarray(expit(platt.a * predict(before + part.test) + platt.b))


def _chosen(
    candidates: Mapping[str, Candidate],
    truth: NDArray[np.bool_],
    train: NDArray[np.int64],
    splits: Sequence[Fold],
) -> _Choice:
    """Return the candidate with the highest AUROC over pairs within folds, the first in a tie."""
    label = truth[train]
    sizes = [label[fold.test].sum() * (~label[fold.test]).sum() for fold in splits]

    def evaluated(candidate: Candidate) -> _Choice:
        logit = np.empty(len(train))
        for fold in splits:
            predict = fit_candidate(candidate, train[fold.train], truth)
            logit[fold.test] = predict(train[fold.test])
        scores = [rank_auroc(label[fold.test], logit[None, fold.test])[0] for fold in splits]
        return _Choice(candidate, float(np.average(scores, weights=sizes)), logit)

    return max(map(evaluated, candidates.values()), key=lambda choice: choice.auroc)


def take_rows(inputs: BaselineInputs, rows: NDArray[np.int64]) -> BaselineInputs:
    """Return the inputs of some rows."""
    taken: dict[str, Any] = {}
    for field in fields(BaselineInputs):
        values = getattr(inputs, field.name)
        if isinstance(values, np.ndarray):
            taken[field.name] = values[rows]
        elif isinstance(values, Mapping):
            taken[field.name] = {name: [of[i] for i in rows] for name, of in values.items()}
        elif values is not None:
            taken[field.name] = [values[i] for i in rows]
    return replace(inputs, **taken)


def concatenate_inputs(
    one: BaselineInputs, other: BaselineInputs, *, same_tokens: bool
) -> tuple[BaselineInputs, tuple[str, ...]]:
    """Return the concatenated inputs of two runs, and the names of those left out.

    Args:
        one: Of the training run.
        other: Of the test run.
        same_tokens: Whether token ids and prompt lengths are comparable. If not, the first token's
            probabilities are used by rank only.
    """
    known: dict[str, Any] = {}
    left_out = []
    for field in fields(BaselineInputs):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if mine is None or theirs is None:
            known[field.name] = None
            if (mine is None) != (theirs is None) and field.name in _NAMES:
                side = "training" if mine is None else "test"
                left_out.append(f"{_NAMES[field.name]}: the {side} run does not have it")
        elif isinstance(mine, np.ndarray):
            known[field.name] = _stacked(mine, theirs)
        elif isinstance(mine, Mapping):
            known[field.name] = {n: [*mine[n], *theirs[n]] for n in mine if n in theirs}
            left_out += [
                f"the column {shown(name)}: the test run does not have it"
                for name in mine if name not in theirs
            ]  # fmt: skip
        else:
            known[field.name] = [*mine, *theirs]
    inputs = BaselineInputs(**known)
    if not same_tokens:
        inputs = _without_tokens(inputs)
        left_out.append("the first token and the prompt's length: the processors differ")
    return inputs, tuple(left_out)


_NAMES = {
    "category": "the question's category",
    "answer_type": "the table's type of answer",
    "first_token_entropy": "the first token's entropy",
}
"""Readable names of inputs that a table or a run may lack."""


def _stacked(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Return two concatenated arrays, without columns that only one of them has."""
    if one.ndim == 1:
        return np.concatenate([one, other])
    width = min(one.shape[1], other.shape[1])
    return np.concatenate([one[:, :width], other[:, :width]])


def _without_tokens(inputs: BaselineInputs) -> BaselineInputs:
    """Return inputs with ranks instead of token ids."""
    ranks = inputs.first_token_logprobs
    return replace(
        inputs,
        first_token=None,
        num_prompt_tokens=None,
        first_token_ids=None
        if ranks is None
        else np.tile(np.arange(ranks.shape[1], dtype=np.int64), (len(ranks), 1)),
    )
