"""Drawing the tokens of sampled answers, by the inverse of the cumulative distribution.

The probabilities, float32, become whole numbers in units of 2⁻³², and everything after that is
exact: the cumulative sum is the same in whatever order a device adds. So a token depends on the
logits and its random number alone. Logits themselves are rounded differently in batches of other
sizes; that changes a token if its random number is within that rounding of a boundary: about once
in a million tokens in float32, once in a hundred in bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlmscope.model.device_copies import to_device
from vlmscope.sampling import RANDOM_BITS, Sampling, random_integers

PROBABILITY_BITS = 32
"""Probabilities are rounded to multiples of 2 to the power of minus this; smaller ones are 0."""


def drawn(
    logits: Float[Tensor, "rows vocabulary"],
    temperatures: Float[Tensor, " rows"],
    integers: Int[Tensor, " rows"],
) -> Int[Tensor, " rows"]:
    """Return the tokens that random numbers select, in the order of the vocabulary.

    Args:
        logits: The logits.
        temperatures: What they are divided by.
        integers: Random numbers from 0 to ``2 ** RANDOM_BITS - 1``.

    >>> logits = torch.tensor([[0.25, 0.5, 0.25]]).log().expand(3, 3)
    >>> quarter = 2 ** (RANDOM_BITS - 2)
    >>> drawn(logits, torch.ones(3), torch.tensor([0, quarter, 3 * quarter])).tolist()
    [0, 1, 2]
    """
    probabilities = (logits / temperatures.unsqueeze(1)).softmax(dim=1)
    cumulative = (probabilities * 2.0**PROBABILITY_BITS).round().long().cumsum(dim=1)
    below = (cumulative[:, -1] * integers) >> RANDOM_BITS
    tokens = torch.searchsorted(cumulative, below.unsqueeze(1), right=True).squeeze(1)
    return tokens.clamp_max(logits.shape[1] - 1)  # NaN is reported when the row is complete


@dataclass(slots=True, eq=False)
class Draws:
    """How the tokens of the rows in slots are drawn. All tensors are changed in place."""

    temperatures: Float[Tensor, " rows"]
    """0 for greedy answers."""
    integers: Int[Tensor, "rows limit"]
    """The random number of each token; the last column is for rows that have ended."""

    def choose(
        self, logits: Float[Tensor, "some vocabulary"], first: int, columns: Int[Tensor, "some one"]
    ) -> Int[Tensor, " some"]:
        """Return the next tokens of some rows.

        Args:
            logits: Their logits.
            first: The first of these rows.
            columns: The number of each row's next token.
        """
        rows = slice(first, first + len(logits))
        temperatures = self.temperatures[rows]
        integers = self.integers[rows].gather(1, columns).squeeze(1)
        greedy = temperatures == 0
        sampled = drawn(logits, temperatures.masked_fill(greedy, 1), integers)
        return torch.where(greedy, logits.argmax(dim=1), sampled)

    def begin(self, rows: slice, ids: Sequence[str], sampling: Sampling) -> None:
        """Set the rows of new questions: for each the greedy answer, then its samples."""
        tokens = self.integers.shape[1] - 1
        integers = np.zeros((len(ids), sampling.answers, tokens), np.int64)
        integers[:, 1:] = integers_of(ids, sampling, tokens)
        temperatures = torch.full((len(ids), sampling.answers), sampling.temperature)
        temperatures[:, 0] = 0
        device = self.integers.device
        self.temperatures[rows] = to_device(temperatures.flatten(), device)
        self.integers[rows, :tokens] = to_device(torch.from_numpy(integers).flatten(0, 1), device)


def make_draws(rows: int, limit: int, device: torch.device) -> Draws:
    """Return the draws of slots, all greedy.

    Args:
        rows: Number of slots.
        limit: Maximum number of tokens of an answer.
        device: Where they are.
    """
    integers = torch.zeros(rows, limit + 1, dtype=torch.int64, device=device)
    return Draws(torch.zeros(rows, device=device), integers)


def integers_of(
    ids: Sequence[str], sampling: Sampling, tokens: int
) -> Int[np.ndarray, "questions samples tokens"]:
    """Return the random numbers of the samples of some questions."""
    return np.array(
        [
            [
                random_integers(sampling.seed, id_, number, tokens)
                for number in range(sampling.count)
            ]
            for id_ in ids
        ]
    )
