"""How detectors are computed under the protocol: scores, probes, heads, distances, baselines.

Every method returns the risk of each row in each split into folds, ``[R, N]``, from 0 to 1 and
higher for a more likely hallucination. What is fitted is fitted on the training rows of a fold and
applied to its test rows; every choice (layer, penalty, heads) is made inside training. Risks are
compared within folds only, so a risk may be a rank within its fold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit  # type: ignore[import-untyped,unused-ignore]
from scipy.stats import rankdata  # type: ignore[import-untyped,unused-ignore]
from sklearn.base import clone  # type: ignore[import-untyped,unused-ignore]

from vlmscope.detectors.rows import Floats, Rows
from vlmscope.probes import (
    CrossFit,
    Fold,
    MeanDifferenceProbe,
    MlpProbe,
    crossfit_logistic,
    crossfit_select,
)
from vlmscope.probes.baselines import BASELINES, JOINT, BaselineInputs, baseline_fits
from vlmscope.probes.candidates import crossfit_candidates
from vlmscope.sweeps.calibration import calibrated

Flags = NDArray[np.bool_]
Matrix = NDArray[Any]

Features = Mapping[str, Callable[[], Matrix]]
"""Candidates by name, of which the best is chosen inside training: each returns ``[N, D]``.

One that is named like a path of ``Rows.vectors`` must return those vectors unchanged, as detectors
share its fits.
"""

Splits = Sequence[Sequence[Fold]]


class ReturnedError(ValueError):
    """A function of a detector returned something else than a method needs."""


def numbers(found: Any, shape: tuple[int | None, ...], of: str) -> Matrix:
    """Return what a function of a detector returned, if it is numbers of some shape.

    Args:
        found: What it returned.
        shape: The expected shape; None for any length.
        of: What it is of, for the message.

    Raises:
        ReturnedError: It is something else.

    >>> numbers([[1.0, 2.0]], (1, None), "the vectors").shape
    (1, 2)
    """
    try:
        values = np.asarray(found)
    except ValueError as error:  # rows of several lengths
        raise ReturnedError(f"{of}: returned a {type(found).__name__} of unequal rows") from error
    right = len(values.shape) == len(shape) and all(
        wanted in (None, length) for wanted, length in zip(shape, values.shape, strict=True)
    )
    if right and values.dtype.kind in "biuf":
        return values
    expected = ", ".join("any" if length is None else str(length) for length in shape)
    raise ReturnedError(
        f"{of}: returned a {type(found).__name__} of {values.dtype}, {values.shape}, expected "
        f"an array of numbers, ({expected}), where {shape[0]} is the number of rows"
    )


def candidates(found: Any) -> Features:
    """Return what the function of a probe returned, if it is candidates.

    Raises:
        ReturnedError: It is not a dictionary of functions, or an empty one.
    """
    if not isinstance(found, Mapping) or not found or not all(map(callable, found.values())):
        empty = isinstance(found, Mapping) and not found
        what = "empty" if empty else f"a {type(found).__name__}"
        raise ReturnedError(
            f"its features are {what}, expected "
            "a dictionary from a name to a function without arguments that returns the array, "
            '[N, D]: {"all": lambda: array}'
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Labelled rows, and the folds that every detector goes through."""

    rows: Rows
    truth: Flags
    """True where the answer is a hallucination, ``[N]``."""
    groups: NDArray[np.int64]
    """Number of each row's group, ``[N]``; no fold splits one."""
    splits: Splits
    """The folds of each repeat."""
    fits: dict[str, tuple[CrossFit, ...]] = field(default_factory=dict)
    """Logistic probes by the path of their vectors: several detectors share them."""

    def crossfits(self, features: Features) -> dict[str, tuple[CrossFit, ...]]:
        """Return the logistic probe of each candidate, one cross-fit for each split."""
        found = {}
        for name, read in features.items():
            if name not in self.rows.vectors:
                found[name] = self.crossfit(read())
                continue
            if name not in self.fits:
                self.fits[name] = self.crossfit(read())
            found[name] = self.fits[name]
        return found

    def crossfit(self, matrix: Matrix) -> tuple[CrossFit, ...]:
        """Return the logistic probe of a matrix, one calibrated cross-fit for each split."""
        vectors = np.ascontiguousarray(matrix, dtype=np.float32)
        return tuple(
            calibrated(
                crossfit_logistic(vectors, self.truth, folds, self.groups), self.truth, folds
            )
            for folds in self.splits
        )


class Method(Protocol):
    """How a detector is computed."""

    @property
    def learned(self) -> bool:
        """Whether it is trained on labels."""
        ...

    def undefined(self, rows: Rows) -> Flags:
        """Return the rows that it has no value for, ``[N]``."""
        ...

    def risks(self, task: Task) -> Floats:
        """Return the risk of each row in each split, ``[R, N]``."""
        ...


def ranks(score: Floats) -> Floats:
    """Return scores as numbers from 0 to 1 in the same order; ties stay ties.

    >>> ranks(np.array([3.0, -1.0, 3.0, 9.0])).tolist()
    [0.625, 0.25, 0.625, 1.0]
    """
    return np.asarray(rankdata(score) / len(score))


@dataclass(frozen=True, slots=True)
class Score:
    """A number for each row, without a fit: higher where an answer is more likely hallucinated."""

    learned: ClassVar[bool] = False
    compute: Callable[[Rows], Floats]
    """Rows → the score, ``[N]``; NaN where it is undefined."""

    def undefined(self, rows: Rows) -> Flags:
        """Return the rows that it has no value for."""
        return np.asarray(~np.isfinite(self.values(rows)))

    def risks(self, task: Task) -> Floats:
        """Return the rank of each row's score, the same in every split."""
        return np.tile(ranks(self.values(task.rows)), (len(task.splits), 1))

    def values(self, rows: Rows) -> Floats:
        """Return the score, computed once for these rows and any of them."""
        return numbers(rows.once(self.compute), (len(rows),), "its score")


def is_fitted(method: Method) -> bool:
    """Return whether a method is fitted to training rows, with their labels or without."""
    return method.learned or not isinstance(method, Score)


Estimator = Literal["logistic", "mean-difference", "mlp"]

ESTIMATORS: Mapping[str, Any] = {"mean-difference": MeanDifferenceProbe(), "mlp": MlpProbe()}
"""The probes besides the logistic one, which chooses their layer."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe of features; of several candidates, the best is chosen inside each fold's training.

    The choice is by the inner AUROC of the logistic probe, whatever the estimator is.
    """

    learned: ClassVar[bool] = True
    features: Callable[[Rows], Features]
    """Rows → the candidates."""
    estimator: Estimator = "logistic"
    """The probe that is trained on the chosen one."""

    def undefined(self, rows: Rows) -> Flags:
        """Return the rows that it has no value for."""
        return undefined_features(self.features(rows), rows)

    def risks(self, task: Task) -> Floats:
        """Return the out-of-fold risk of each row in each split."""
        features = self.features(task.rows)
        fits = task.crossfits(features)
        chosen = [
            crossfit_select({name: each[number] for name, each in fits.items()}, folds)
            for number, folds in enumerate(task.splits)
        ]
        if self.estimator == "logistic":
            return np.stack([each.risk for each in chosen])
        found = np.empty((len(task.splits), len(task.truth)))
        for name, number, fold in _by_candidate(task.splits, [each.chosen for each in chosen]):
            found[number, fold.test] = self._fitted(features, name, task, fold)
        return found

    def _fitted(self, features: Features, name: str, task: Task, fold: Fold) -> Floats:
        """Return the risks of a fold's test rows by the estimator."""
        matrix = np.asarray(features[name](), dtype=np.float32)
        probe = clone(ESTIMATORS[self.estimator])
        probe.fit(matrix[fold.train], task.truth[fold.train], groups=task.groups[fold.train])
        return np.asarray(probe.predict_proba(matrix[fold.test])[:, 1])


def _by_candidate(
    splits: Splits, chosen: Sequence[Sequence[str]]
) -> Iterator[tuple[str, int, Fold]]:
    """Yield the candidate, the number of the split, and the fold, for each fold of all splits."""
    for number, (folds, names) in enumerate(zip(splits, chosen, strict=True)):
        for name, fold in zip(names, folds, strict=True):
            yield name, number, fold


def undefined_features(features: Features, rows: Rows) -> Flags:
    """Return the rows for which a candidate has a value that is not finite."""
    bad = np.zeros(len(rows), dtype=bool)
    for name, read in candidates(features).items():
        if name not in rows.undefined:
            matrix = numbers(read(), (len(rows), None), f"its feature {name!r}")
            found = np.asarray(~np.isfinite(matrix).all(axis=1))
            if name not in rows.vectors:
                bad |= found
                continue
            rows.undefined[name] = found
        bad |= rows.undefined[name]
    return bad


@dataclass(frozen=True, slots=True)
class BestHeads:
    """The mean log-odds of logistic probes of single heads: those that are best inside training."""

    learned: ClassVar[bool] = True
    features: Callable[[Rows], Features]
    """Rows → the output of each head."""
    most: int = 16
    """Number of heads that are used."""

    def undefined(self, rows: Rows) -> Flags:
        """Return the rows that it has no value for."""
        return undefined_features(self.features(rows), rows)

    def risks(self, task: Task) -> Floats:
        """Return the out-of-fold risk of each row in each split."""
        # Of a thousand heads, only what is used: log-odds inside training are far more.
        fits = [
            [(fit.inner_auroc, fit.logit) for fit in task.crossfit(read())]
            for read in self.features(task.rows).values()
        ]
        found = np.empty((len(task.splits), len(task.truth)))
        for number, folds in enumerate(task.splits):
            inner = np.stack([each[number][0] for each in fits])
            logits = np.stack([each[number][1] for each in fits])
            for index, fold in enumerate(folds):
                best = np.argsort(-inner[:, index], kind="stable")[: self.most]
                found[number, fold.test] = expit(logits[best][:, fold.test].mean(axis=0))
        return found


Density = Callable[[Matrix, Flags, Matrix], Floats]
"""Training vectors, their labels, test vectors → a score of each test vector, float64.

Vectors have the type in which they are read, float32: compute in float64.
"""


@dataclass(frozen=True, slots=True)
class Distance:
    """A score of vectors that is fitted to the training rows of each fold."""

    learned: bool
    """Whether it uses their labels."""
    vectors: Callable[[Rows], Matrix]
    """Rows → the vectors, ``[N, D]``."""
    score: Density

    def undefined(self, rows: Rows) -> Flags:
        """Return the rows that it has no value for."""
        vectors = numbers(self.vectors(rows), (len(rows), None), "its vectors")
        return np.asarray(~np.isfinite(vectors).all(axis=1))

    def risks(self, task: Task) -> Floats:
        """Return the rank of each row's score among the test rows of its fold, in each split."""
        matrix = np.asarray(self.vectors(task.rows))
        found = np.empty((len(task.splits), len(task.truth)))
        for number, folds in enumerate(task.splits):
            for fold in folds:
                score = self.scores(matrix[fold.train], task.truth[fold.train], matrix[fold.test])
                found[number, fold.test] = ranks(score)
        return found

    def scores(self, train: Matrix, truth: Flags, test: Matrix) -> Floats:
        """Return the score of each test vector, ``[M]``."""
        found = numbers(self.score(train, truth, test), (len(test),), "its score of test vectors")
        if not np.isfinite(found).all():
            raise ReturnedError("its score of test vectors is not finite; expected a finite number")
        return found


def without_model(inputs: BaselineInputs) -> BaselineInputs:
    """Return the inputs without what the model computed before or in its answer."""
    return replace(
        inputs,
        first_token_entropy=None,
        first_token_logprob=None,
        first_token=None,
        first_token_ids=None,
        first_token_logprobs=None,
        mean_answer_logprob=None,
    )


@dataclass(frozen=True, slots=True)
class Baseline:
    """A baseline of ``vlmscope probe`` that needs no model."""

    learned: ClassVar[bool] = True
    name: str
    """Its name among ``probes.baselines.BASELINES``, or ``JOINT``."""

    def undefined(self, rows: Rows) -> Flags:
        """Return that it has a value for all rows."""
        return np.zeros(len(rows), dtype=bool)

    def risks(self, task: Task) -> Floats:
        """Return the out-of-fold risk of each row in each split."""
        if task.rows.inputs is None:
            raise ValueError(f"the baseline {self.name!r} needs the inputs of baselines")
        inputs = without_model(task.rows.inputs)
        return np.stack([self._risk(inputs, task.truth, folds) for folds in task.splits])

    def _risk(self, inputs: BaselineInputs, truth: Flags, folds: Sequence[Fold]) -> Floats:
        if self.name == JOINT:
            fits = {each.name: fit for each, fit in baseline_fits(inputs, truth, folds)}
            return calibrated(fits[JOINT], truth, folds).risk
        baseline = next(each for each in BASELINES if each.name == self.name)
        candidates = baseline.candidates(inputs)
        if candidates is None:  # the same for every row
            return np.full(len(truth), float(truth.mean()))
        return calibrated(crossfit_candidates(candidates, truth, folds), truth, folds).risk
