"""Hidden states of the answer's own tokens, gathered while it is generated.

A token's hidden states exist once it has been fed back to the model: one step after it was chosen.
So the taps see the first answer token in the first decoding step, and the last one only if
generation takes one step more than the answer is long; the engine asks for that step. End-of-turn
tokens and what pads a finished row are no part of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class AnswerStates:
    """Running first, last and sum of the answer tokens' hidden states, layer by layer.

    Args:
        ends: End-of-turn token ids.
    """

    def __init__(self, ends: int | Sequence[int] | None) -> None:
        self._ends = torch.from_numpy(np.atleast_1d([] if ends is None else ends).astype(np.int64))
        self._alive: Bool[Tensor, " batch"] | None = None
        self._count: dict[int, Int[Tensor, " batch"]] = {}
        self._first: dict[int, Float[Tensor, "batch hidden"]] = {}
        self._last: dict[int, Float[Tensor, "batch hidden"]] = {}
        self._sum: dict[int, Float[Tensor, "batch hidden"]] = {}

    def note(self, tokens: Int[Tensor, " batch"]) -> None:
        """Take note of the tokens that were just chosen and are fed next."""
        goes_on = ~torch.isin(tokens, self._ends.to(tokens.device))
        self._alive = goes_on if self._alive is None else self._alive & goes_on

    def add(self, layer: int, hidden: Float[Tensor, "batch hidden"]) -> None:
        """Take in one layer's states of the tokens last noted."""
        if self._alive is None:
            raise RuntimeError("a decoding step came before any token was chosen")
        alive, states = self._alive.to(hidden.device), hidden.float()
        if layer not in self._first:
            self._first[layer] = self._last[layer] = states
            self._sum[layer] = torch.zeros_like(states)
            self._count[layer] = torch.zeros_like(alive, dtype=torch.int64)
        # ``where`` and not a product: the states of padding may be anything, NaN included.
        kept = torch.where(alive.unsqueeze(1), states, 0)
        self._last[layer] = torch.where(alive.unsqueeze(1), states, self._last[layer])
        self._sum[layer] = self._sum[layer] + kept
        self._count[layer] = self._count[layer] + alive

    def at(self, position: str) -> dict[int, Float[Tensor, "batch hidden"]]:
        """Return layer → states at one of ``ANSWER_POSITIONS``; noise where an answer is empty."""
        if position == "first_answer_token":
            return self._first
        if position == "last_answer_token":
            return self._last
        return {
            layer: total / self._count[layer].clamp_min(1).unsqueeze(1)
            for layer, total in self._sum.items()
        }
