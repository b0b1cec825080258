"""``BinaryProbe``: the base class of probes, a binary classifier with scikit-learn's interface."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import expit  # type: ignore[import-untyped,unused-ignore]
from sklearn.base import (  # type: ignore[import-untyped,unused-ignore]
    BaseEstimator,
    ClassifierMixin,
)
from sklearn.utils.multiclass import (  # type: ignore[import-untyped,unused-ignore]
    check_classification_targets,
    type_of_target,
)
from sklearn.utils.validation import (  # type: ignore[import-untyped,unused-ignore]
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from vlmscope.probes.blocks import CHUNK
from vlmscope.probes.folds import Fold, FoldError, grouped_folds, largest_count


class BinaryProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A probe: a classifier from a vector to the probability of the second class.

    Attributes:
        classes_: The two labels seen in ``fit``; the second is the positive one.
        n_features_in_: Width of the vectors seen in ``fit``.
    """

    classes_: Shaped[np.ndarray, 2]
    n_features_in_: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def _begin(
        self, vectors: Any, labels: Any, groups: Any
    ) -> tuple[
        Float[np.ndarray, "rows width"], Bool[np.ndarray, " rows"], Shaped[np.ndarray, " rows"]
    ]:
        """Check the arguments of ``fit``; return vectors, truth and groups (or one per row)."""
        vectors, labels = validate_data(self, vectors, labels, dtype=[np.float32, np.float64])
        check_classification_targets(labels)
        classes, encoded = np.unique(labels, return_inverse=True)
        if len(classes) > 2:
            kind = type_of_target(labels)
            raise ValueError(f"Only binary classification is supported. The target is {kind}.")
        if len(classes) < 2:
            raise FoldError(f"probe: the labels have one class, {classes}; label rows of both")
        self.classes_ = classes
        groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
        check_consistent_length(vectors, groups)
        return vectors, encoded.astype(bool), groups

    def decision_function(self, X: Any) -> Float[np.ndarray, " rows"]:  # noqa: N803
        """Return the log-odds of the positive class for each vector, float64.

        Args:
            X: [rows, width], float32 or float64.
        """
        check_is_fitted(self)
        vectors = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        chunks = range(0, len(vectors), CHUNK)
        return np.concatenate([self._logits(vectors[start : start + CHUNK]) for start in chunks])

    def _logits(self, vectors: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, " rows"]:
        """Return the log-odds of validated vectors."""
        raise NotImplementedError

    def predict_proba(self, X: Any) -> Float[np.ndarray, "rows 2"]:  # noqa: N803
        """Return the probability of each class for each vector, float64 [rows, 2]."""
        risk = expit(self.decision_function(X))
        return np.stack([1 - risk, risk], axis=1)

    def predict(self, X: Any) -> Shaped[np.ndarray, " rows"]:  # noqa: N803
        """Return the most probable class of each vector."""
        positive = self.decision_function(X) > 0
        return self.classes_[positive.astype(np.int64)]


def split_inside(
    truth: Bool[np.ndarray, " rows"],
    groups: Shaped[np.ndarray, " rows"],
    wanted: int,
    seed: int = 0,
) -> list[Fold]:
    """Return folds of the training rows: ``wanted``, or fewer if there are too few groups.

    Also fewer if the greedy splitter leaves a fold with one class, as it may if the groups are few
    and of different sizes. At least two.

    Raises:
        FoldError: Two are too many.
    """
    count = max(2, min(wanted, largest_count(truth, groups)))
    while True:
        try:
            return grouped_folds(truth, groups, count=count, seed=seed)
        except FoldError:
            if count == 2:
                raise
            count -= 1


def block_numbers(folds: Any, rows: int) -> Int[np.ndarray, " rows"]:
    """Return the number of the fold that tests each row."""
    block = np.empty(rows, dtype=np.int64)
    for number, fold in enumerate(folds):
        block[fold.test] = number
    return block
