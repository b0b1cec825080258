"""``MlpProbe``: HALP's network, 512-256-128, as a probe for comparison.

Three hidden layers of rectified units, as in HALP's code, but with standardised features, early
stopping on held-out images, and a seed, which that code lacks. Batch normalisation and dropout are
left out; scikit-learn's ``MLPClassifier`` has an L2 penalty (``alpha``) instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Float32
from sklearn.metrics import log_loss  # type: ignore[import-untyped,unused-ignore]
from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped,unused-ignore]

from vlmscope.probes.base import BinaryProbe, block_numbers, split_inside
from vlmscope.probes.blocks import block_rows


class MlpProbe(BinaryProbe):
    """A network of rectified layers on standardised features, with early stopping.

    One tenth of the images is held out in ``fit``; training ends when their log-loss has not
    fallen for ``patience`` epochs, and the weights of the best epoch are kept. scikit-learn's own
    early stopping holds out rows, so an image would be on both sides.

    Args:
        hidden: Units of each hidden layer.
        alpha: L2 penalty.
        learning_rate: Learning rate of Adam.
        batch: Rows per step.
        epochs: Maximum number of epochs.
        patience: Epochs without a lower loss before training stops.
        seed: Seed of the weights, the order of the rows and the held-out images.

    Attributes:
        mean_: Mean of each feature in training, float64 [width].
        scale_: Deviation of each feature in training, float64 [width]; 1 if constant.
        coefs_: Weights of each layer, float32 [inputs, outputs].
        intercepts_: Biases of each layer, float32 [outputs].
        n_iter_: Epochs until the best one.
    """

    mean_: Float[np.ndarray, " width"]
    scale_: Float[np.ndarray, " width"]
    coefs_: list[Float32[np.ndarray, "inputs outputs"]]
    intercepts_: list[Float32[np.ndarray, " outputs"]]
    n_iter_: int

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (512, 256, 128),
        alpha: float = 1e-4,
        learning_rate: float = 1e-3,
        batch: int = 200,
        epochs: int = 50,
        patience: int = 5,
        seed: int = 0,
    ) -> None:
        self.hidden = hidden
        self.alpha = alpha
        self.learning_rate = learning_rate
        self.batch = batch
        self.epochs = epochs
        self.patience = patience
        self.seed = seed

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:  # noqa: N803
        """Fit on vectors [rows, width] and labels [rows]; see ``LogisticProbe.fit``.

        Rows of one of ``groups`` (images) are held out together.
        """
        vectors, truth, groups = self._begin(X, y, groups)
        folds = split_inside(truth, groups, 10, self.seed)
        # Block 1 is held out; the standardisation is that of block 0 only.
        held_out = block_numbers(folds, len(truth)) == 0
        rows = block_rows(vectors, held_out.astype(np.int64))
        mean, deviation = rows.moments(np.array([[True, False]]))
        self.mean_ = rows.shift + rows.scale * mean[:, 0]
        self.scale_ = rows.scale * deviation[:, 0]
        values = rows.values
        values -= mean[:, 0].astype(np.float32)
        values /= deviation[:, 0].astype(np.float32)
        cut = int(rows.starts[1])
        self._train(values, truth[rows.order], cut)
        return self

    def _train(
        self,
        values: Float32[np.ndarray, "rows width"],
        label: Bool[np.ndarray, " rows"],
        cut: int,
    ) -> None:
        """Train on the rows before ``cut``; keep the epoch with the lowest loss on the others."""
        network = MLPClassifier(
            hidden_layer_sizes=tuple(self.hidden),
            alpha=self.alpha,
            learning_rate_init=self.learning_rate,
            batch_size=min(self.batch, cut),
            random_state=self.seed,
        )
        best = np.inf
        for epoch in range(1, self.epochs + 1):
            network.partial_fit(values[:cut], label[:cut], classes=[False, True])
            loss = log_loss(label[cut:], network.predict_proba(values[cut:])[:, 1])
            if loss < best:
                best, self.n_iter_ = loss, epoch
                self.coefs_ = [weights.copy() for weights in network.coefs_]
                self.intercepts_ = [bias.copy() for bias in network.intercepts_]
            elif epoch - self.n_iter_ >= self.patience:
                break

    def _logits(self, vectors: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, " rows"]:
        """Run the network, in float64 so that the risk of a row does not depend on its batch."""
        values = (vectors - self.mean_) / self.scale_
        for weights, bias in zip(self.coefs_[:-1], self.intercepts_[:-1], strict=True):
            values = np.maximum(values @ weights.astype(np.float64) + bias, 0)
        return np.asarray(
            (values @ self.coefs_[-1].astype(np.float64) + self.intercepts_[-1])[:, 0]
        )
