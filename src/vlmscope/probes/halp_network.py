"""The network of the HALP research code, trained in the same way.

Three hidden layers of 512, 256 and 128 units with batch normalisation and dropout, a sigmoid,
binary cross-entropy, Adam, batches of 32 and 50 epochs on unscaled vectors; no validation rows, no
early stopping, no class weights (``alliedbrother/HALP_EACL``, arXiv 2603.05465). It exists to
reproduce published numbers; use ``MlpProbe`` otherwise.

HALP's scripts differ in one detail: for six models batch normalisation follows the rectifier, for
Llama 3.2 and Phi-4 it precedes it. They set no seed; here one seed determines all randomness. If
the last batch of an epoch is a single row, their code fails; here that batch is left out.

Written in NumPy: steps of 32 rows are so small that torch spends more time on overhead than on
arithmetic, on a CPU half of it. A test compares it with the same network in torch, step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from numpy.typing import NDArray
from scipy.special import expit  # type: ignore[import-untyped,unused-ignore]

CHUNK = 4096
"""Rows predicted at once."""

MOMENTUM, EPSILON = 0.1, 1e-5
"""Parameters of batch normalisation: torch's defaults."""

DECAY, ADAM_EPSILON = (0.9, 0.999), 1e-8
"""Parameters of Adam: torch's defaults."""

Rows = Float32[np.ndarray, "rows units"]
Units = Float32[np.ndarray, " units"]

Memory = tuple[Rows, Units, Bool[np.ndarray, "rows units"]]
"""Standardised values, inverse deviations, and the rectifier's mask."""


@dataclass(frozen=True, slots=True)
class HalpNetwork:
    """Architecture and training, with the values of HALP's scripts."""

    hidden: tuple[int, ...] = (512, 256, 128)
    """Units of each hidden layer."""
    norm_first: bool = False
    """Whether batch normalisation precedes the rectifier, as for Llama 3.2 and Phi-4."""
    dropout: float = 0.3
    """Share of units dropped after each hidden layer."""
    learning_rate: float = 1e-3
    """Learning rate of Adam."""
    batch: int = 32
    """Rows per step."""
    epochs: int = 50
    """Passes over the training rows; the last weights are kept."""


def halp_risk(
    vectors: Float32[np.ndarray, "rows width"],
    truth: Bool[np.ndarray, " rows"],
    train: Int[np.ndarray, " train"],
    network: HalpNetwork,
    seed: int | Sequence[int],
    stopped: Callable[[], bool] = lambda: False,
) -> Float[np.ndarray, " rows"] | None:
    """Train a network on some rows and return the risk of every row.

    Args:
        vectors: One vector for each row, as stored: the scripts do not scale them.
        truth: Whether each row is positive (hallucinated).
        train: Numbers of the training rows.
        network: Architecture and training.
        seed: Seed or seeds of initial weights, order of the rows and dropout.
        stopped: Called before every epoch; true stops the training.

    Returns:
        Probabilities, float64 [rows]; None if training diverged or was stopped.
    """
    generator = np.random.default_rng(seed)
    model = Model(vectors.shape[1], network, generator)
    label = truth.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # divergence is detected by the result
        for _ in range(network.epochs):
            if stopped():
                return None
            order = generator.permutation(train)
            for start in range(0, len(order), network.batch):
                rows = order[start : start + network.batch]
                if len(rows) < 2:
                    continue  # batch normalisation needs more than one row
                model.step(vectors[rows], label[rows], model.masks(len(rows), generator))
        starts = range(0, len(vectors), CHUNK)
        risk = np.concatenate([model.predict(vectors[s : s + CHUNK]) for s in starts])
    return risk.astype(np.float64) if np.isfinite(risk).all() else None


class Model:
    """The network's parameters, and one step of training.

    Args:
        width: Size of a vector.
        network: Architecture and training.
        generator: Draws the initial weights like ``torch.nn.Linear``: uniform within one over the
            square root of the inputs.
    """

    def __init__(self, width: int, network: HalpNetwork, generator: np.random.Generator) -> None:
        self.network = network
        sizes = [width, *network.hidden, 1]
        shapes: list[tuple[int, ...]] = []
        for inputs, units in pairwise(sizes):
            shapes += [(inputs, units), (units,)]
        shapes += [(units,) for units in network.hidden for _ in range(2)]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        self._flat = np.zeros(ends[-1], np.float32)
        self._gradient = np.zeros_like(self._flat)
        self.parameters = _views(self._flat, shapes, ends)
        """Weights [inputs, units] and bias of each layer; then gain and shift of each norm."""
        self._gradients = _views(self._gradient, shapes, ends)
        count = len(network.hidden)
        for layer, inputs in enumerate(sizes[:-1]):
            for each in self.parameters[2 * layer : 2 * layer + 2]:
                each[...] = generator.uniform(-1, 1, each.shape) / np.sqrt(inputs)
        for layer in range(count):
            self.parameters[2 * (count + 1 + layer)][:] = 1
        self.running = [
            (np.zeros(units, np.float32), np.ones(units, np.float32)) for units in network.hidden
        ]
        """Running mean and variance of each norm."""
        self._adam = [np.zeros_like(self._flat) for _ in range(4)]
        self._steps = 0

    def masks(self, rows: int, generator: np.random.Generator) -> list[Rows]:
        """Return the dropout masks of the hidden layers: 0, or 1/(1 - share)."""
        hidden, share = self.network.hidden, self.network.dropout
        drawn = generator.random((rows, sum(hidden)), np.float32) >= share
        kept = np.multiply(drawn, np.float32(1 / (1 - share)), dtype=np.float32)
        return np.split(kept, np.cumsum(hidden)[:-1], axis=1)

    def step(self, inputs: Rows, label: Float32[np.ndarray, " rows"], masks: list[Rows]) -> None:
        """Take one step of Adam on a batch.

        Args:
            inputs: The batch's vectors.
            label: 1 where hallucinated, else 0.
            masks: Dropout masks, a matrix for each hidden layer.
        """
        count = len(self.network.hidden)
        seen, kept = [inputs], []
        for layer, mask in enumerate(masks):
            below = seen[-1] @ self.parameters[2 * layer]
            below += self.parameters[2 * layer + 1]
            above, memory = self._activate(layer, below)
            kept.append(memory)
            above *= mask
            seen.append(above)
        logit = (seen[-1] @ self.parameters[2 * count])[:, 0] + self.parameters[2 * count + 1]
        risk = expit(logit)
        # Like BCELoss after Sigmoid in float32: a saturated risk has no gradient.
        slope = risk * (1 - risk)
        error = (risk - label) / np.maximum(slope, np.float32(1e-12)) * slope / len(label)
        upstream = error[:, None]
        for layer in range(count, -1, -1):
            if layer < count:
                upstream *= masks[layer]
                upstream = self._activate_back(layer, upstream, kept[layer])
            np.matmul(seen[layer].T, upstream, out=self._gradients[2 * layer])
            upstream.sum(axis=0, out=self._gradients[2 * layer + 1])
            if layer:
                upstream = upstream @ self.parameters[2 * layer].T
        self._descend()

    def _activate(self, layer: int, values: Rows) -> tuple[Rows, Memory]:
        """Apply rectifier and norm in order; return the result and values for backpropagation."""
        positive = values > 0
        if not self.network.norm_first:
            values *= positive
        rows = len(values)
        mean = values.mean(axis=0)
        values -= mean
        variance = np.einsum("ru,ru->u", values, values) / rows
        for running, found in zip(
            self.running[layer], (mean, variance * (rows / (rows - 1))), strict=True
        ):
            running *= 1 - MOMENTUM
            running += MOMENTUM * found
        scale = 1 / np.sqrt(variance + np.float32(EPSILON))
        values *= scale
        gain, shift = self._norm(self.parameters, layer)
        above = values * gain
        above += shift
        if self.network.norm_first:
            positive = above > 0
            above *= positive
        return above, (values, scale, positive)

    def _activate_back(self, layer: int, upstream: Rows, memory: Memory) -> Rows:
        """Return the gradient before rectifier and norm; store the gradients of gain and shift."""
        values, scale, positive = memory
        if self.network.norm_first:
            upstream *= positive
        of_gain, of_shift = self._norm(self._gradients, layer)
        np.einsum("ru,ru->u", upstream, values, out=of_gain)
        upstream.sum(axis=0, out=of_shift)
        gain, _ = self._norm(self.parameters, layer)
        rows = np.float32(len(values))
        below = upstream - of_shift / rows
        below -= values * (of_gain / rows)
        below *= gain * scale
        if not self.network.norm_first:
            below *= positive
        return below

    def _norm(self, parameters: list[NDArray[np.float32]], layer: int) -> tuple[Units, Units]:
        start = 2 * (len(self.network.hidden) + 1 + layer)
        return parameters[start], parameters[start + 1]

    def _descend(self) -> None:
        """Apply Adam to all parameters at once, in place.

        The running means are stored without their constant factors, which saves passes over the
        parameters; the factors are in ``rate`` and ``small``.
        """
        self._steps += 1
        one, two = DECAY
        first, second, below, change = self._adam
        first *= one
        first += self._gradient
        second *= two
        np.multiply(self._gradient, self._gradient, out=change)
        second += change
        scale = math.sqrt((1 - two) / (1 - two**self._steps))
        small = ADAM_EPSILON / scale
        rate = self.network.learning_rate * (1 - one) / (1 - one**self._steps) / scale
        np.sqrt(second, out=below)
        below += small
        np.divide(first, below, out=change)
        change *= rate
        self._flat -= change

    def predict(self, inputs: Rows) -> Float32[np.ndarray, " rows"]:
        """Return risks, using the running means and variances."""
        count = len(self.network.hidden)
        values = inputs
        for layer, (mean, variance) in enumerate(self.running):
            values = values @ self.parameters[2 * layer] + self.parameters[2 * layer + 1]
            gain, shift = self._norm(self.parameters, layer)
            if not self.network.norm_first:
                values = np.maximum(values, 0)
            values = (values - mean) / np.sqrt(variance + np.float32(EPSILON)) * gain + shift
            if self.network.norm_first:
                values = np.maximum(values, 0)
        logit = values @ self.parameters[2 * count] + self.parameters[2 * count + 1]
        return np.asarray(expit(logit[:, 0]))


def _views(
    flat: Float32[np.ndarray, " all"], shapes: list[tuple[int, ...]], ends: Int[np.ndarray, " n"]
) -> list[NDArray[np.float32]]:
    """Return views of one array with these shapes."""
    parts = np.split(flat, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
