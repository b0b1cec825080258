"""Hidden states of the answer's own tokens, collected while it is generated.

A token's hidden states exist once it has been fed to the model: one step after it was chosen. So
the hooks see the first answer token in the first decoding step, and the last one only if generation
takes one step more than the answer is long, which the engine requests. End-of-turn tokens and the
padding of a finished row are not part of the answer.

Everything is stored in tensors that are changed in place, so that a step can be replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlmscope.schema import REPRESENTATIONS


class AnswerStates:
    """Running first, last and sum of the answer tokens' hidden states, layer by layer.

    Args:
        ends: End-of-turn token ids.
        rows: Maximum number of rows; a step updates the first of them.
    """

    def __init__(self, ends: int | Sequence[int] | None, rows: int) -> None:
        self._ends = torch.from_numpy(np.atleast_1d([] if ends is None else ends).astype(np.int64))
        self._rows = rows
        self._alive: Tensor | None = None
        self._layers: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        self.paused = False

    def note(self, tokens: Int[Tensor, " chosen"], first: int = 0) -> None:
        """Register the tokens that were just chosen and are fed next.

        Args:
            tokens: One per row.
            first: The first of these rows.
        """
        if self._alive is None:
            self._ends = self._ends.to(tokens.device)
            self._alive = torch.ones(self._rows, dtype=torch.bool, device=tokens.device)
        continues = (tokens.unsqueeze(1) != self._ends).all(dim=1)
        self._alive[first : first + len(tokens)].logical_and_(continues)

    def stop(self, ended: Bool[Tensor, " batch"]) -> None:
        """Ignore further states of the rows that have ended: a running step may still feed them."""
        if self._alive is not None:
            self._alive[: len(ended)].logical_and_(~ended)

    def add(self, layer: int, hidden: Float[Tensor, "batch hidden"]) -> None:
        """Add one layer's states of the tokens last registered."""
        if self._alive is None:
            raise RuntimeError("a decoding step came before any token was chosen")
        if layer not in self._layers:
            self.expect([layer], hidden.shape[1], hidden.device)
        if self.paused:
            return
        states, now = hidden.float(), slice(len(hidden))
        alive = self._alive[now].to(hidden.device)
        first, last, total, count = (tensor[now] for tensor in self._layers[layer])
        # ``where`` and not a product: the states of padding may be anything, NaN included.
        fresh = (alive & (count == 0)).unsqueeze(1)
        first.copy_(torch.where(fresh, states, first))
        last.copy_(torch.where(alive.unsqueeze(1), states, last))
        total.add_(torch.where(alive.unsqueeze(1), states, 0))
        count.add_(alive)

    def expect(self, layers: Sequence[int], width: int, device: torch.device) -> None:
        """Allocate the states of these layers."""
        for layer in layers:
            first, last, total = (torch.zeros(self._rows, width, device=device) for _ in range(3))
            count = torch.zeros(self._rows, dtype=torch.int64, device=device)
            self._layers[layer] = (first, last, total, count)

    def begin(self, tokens: Int[Tensor, " chosen"], first: int) -> None:
        """Reset these rows for new answers, and register their first tokens."""
        rows = slice(first, first + len(tokens))
        if self._alive is not None:
            self._alive[rows] = True
        for tensors in self._layers.values():
            for tensor in tensors:
                tensor[rows] = 0
        self.note(tokens, first)

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors with one leading entry per row."""
        if self._alive is not None:
            yield self._alive
        for tensors in self._layers.values():
            yield from tensors

    def at(self, position: str) -> dict[int, Float[Tensor, "rows hidden"]]:
        """Return layer → states at one of ``ANSWER_POSITIONS``; undefined for an empty answer."""
        if position == "first_answer_token":
            return {layer: first for layer, (first, *_) in self._layers.items()}
        if position == "last_answer_token":
            return {layer: last for layer, (_, last, *_) in self._layers.items()}
        return {
            layer: total / count.clamp_min(1).unsqueeze(1)
            for layer, (_, _, total, count) in self._layers.items()
        }

    def vectors(self, positions: Sequence[str]) -> dict[str, Float[Tensor, "rows hidden"]]:
        """Return HDF5 path → states, for some of ``ANSWER_POSITIONS``."""
        return {
            f"{REPRESENTATIONS[position]}/layer_{layer}": states
            for position in positions
            for layer, states in self.at(position).items()
        }
