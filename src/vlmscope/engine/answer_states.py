"""What is recorded of the answer's own tokens, collected while it is generated.

A token's hidden states exist once it has been fed to the model: one step after it was chosen. So
the hooks see the first answer token in the first decoding step, and the last one only if generation
takes one step more than the answer is long, which the engine requests. End-of-turn tokens and the
padding of a finished row are not part of the answer.

Everything is stored in tensors that are changed in place, so that a step can be replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlmscope.positions import position_group
from vlmscope.signals import ATTENTION_MAP, OBSERVED, OF_ANSWER, RecordedSignals

State = tuple[str, int]
"""What is recorded of a decoder layer, and the layer: its hidden state (``""``), a sub-layer from
``signals.SUBLAYERS``, or what is computed of its attention, from ``signals.OBSERVED``."""


@dataclass(slots=True, eq=False)
class _Running:
    """Running statistics of one state over the tokens of each answer, one row per answer."""

    first: Float[Tensor, "rows width"]
    total: Float[Tensor, "rows width"]
    extreme: Float[Tensor, "rows width"]
    """The last token's vector; of a division of attention the largest values."""
    count: Int[Tensor, " rows"]

    def tensors(self) -> Iterator[Tensor]:
        """Yield all of them."""
        yield from (self.first, self.total, self.extreme, self.count)

    def mean(self) -> Float[Tensor, "rows width"]:
        """Return the mean over the tokens; 0 for an empty answer."""
        return self.total / self.count.clamp_min(1).unsqueeze(1)


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
        self._states: dict[State, _Running] = {}
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

    def add(self, state: State, values: Float[Tensor, "batch width"]) -> None:
        """Add one state of the tokens last registered."""
        if self._alive is None:
            raise RuntimeError("a decoding step came before any token was chosen")
        if state not in self._states:
            self.expect(state, values.shape[1], values.device)
        if self.paused:
            return
        values, now, running = values.float(), slice(len(values)), self._states[state]
        alive = self._alive[now].to(values.device)
        first, count = running.first[now], running.count[now]
        # ``where`` and not a product: the states of padding may be anything, NaN included.
        fresh = (alive & (count == 0)).unsqueeze(1)
        added = torch.where(alive.unsqueeze(1), values, 0)
        first.copy_(torch.where(fresh, values, first))
        extreme = running.extreme[now]
        if state[0] in OBSERVED:  # shares are not negative
            extreme.copy_(torch.maximum(extreme, added))
        else:
            extreme.copy_(torch.where(alive.unsqueeze(1), values, extreme))
        running.total[now] += added
        count.add_(alive)

    def expect(self, state: State, width: int, device: torch.device) -> None:
        """Allocate the tensors of a state."""
        first, total, extreme = (torch.zeros(self._rows, width, device=device) for _ in range(3))
        count = torch.zeros(self._rows, dtype=torch.int64, device=device)
        self._states[state] = _Running(first, total, extreme, count)

    def begin(self, tokens: Int[Tensor, " chosen"], first: int) -> None:
        """Reset these rows for new answers, and register their first tokens."""
        rows = slice(first, first + len(tokens))
        if self._alive is not None:
            self._alive[rows] = True
        for running in self._states.values():
            for tensor in running.tensors():
                tensor[rows] = 0
        self.note(tokens, first)

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors with one leading entry per row."""
        if self._alive is not None:
            yield self._alive
        for running in self._states.values():
            yield from running.tensors()

    def vectors(self, positions: Sequence[str]) -> dict[str, Float[Tensor, "rows width"]]:
        """Return HDF5 path → vectors at some of ``ANSWER_POSITIONS``; undefined if empty."""
        return {
            f"{position_group(position, part)}/layer_{layer}": _at(position, running)
            for position in positions
            for (part, layer), running in self._states.items()
            if part not in OBSERVED
        }

    def last_states(self) -> dict[int, Float[Tensor, "rows width"]]:
        """Return decoder layer → hidden states of the last tokens; NaN for an empty answer."""
        return {
            layer: running.extreme.masked_fill((running.count == 0).unsqueeze(1), torch.nan)
            for (part, layer), running in self._states.items()
            if not part
        }

    def arrays(
        self, signals: RecordedSignals, rows: Int[Tensor, " chosen"]
    ) -> dict[str, Float[Tensor, "chosen ..."]]:
        """Return the arrays of signals over some answers; NaN for an empty answer.

        Args:
            signals: The signals.
            rows: The rows of these answers.
        """
        found = {}
        for name, (layers, parts) in signals.divisions.items():
            for layer in layers:
                if (name, layer) not in self._states:  # all answers are empty, or without an image
                    self.expect((name, layer), signals.attention_heads * parts, self._ends.device)
            running = [self._states[name, layer] for layer in layers]
            device = running[0].total.device
            statistics = [
                torch.stack([values[rows.to(values.device)].to(device) for values in each], dim=1)
                for each in zip(*((x.mean(), x.extreme, x.first) for x in running), strict=True)
            ]
            shape = (len(rows), len(OF_ANSWER), len(layers), signals.attention_heads, parts)
            values = torch.stack(statistics, dim=1).view(shape)
            empty = (running[0].count[rows.to(device)] == 0).view(-1, 1, 1, 1, 1)
            found[f"{name}_answer"] = values.masked_fill(empty, torch.nan)
        return found

    def mean_attention(
        self, layer: int, rows: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "chosen keys"] | None:
        """Return the mean attention of some answers' tokens to the prompt; NaN for an empty answer.

        None if no answer has a token, or the layer was skipped.
        """
        running = self._states.get((ATTENTION_MAP, layer))
        if running is None:
            return None
        rows = rows.to(running.total.device)
        empty = (running.count[rows] == 0).unsqueeze(1)
        return running.mean()[rows].masked_fill(empty, torch.nan)


def _at(position: str, running: _Running) -> Tensor:
    if position == "first_answer_token":
        return running.first
    return running.extreme if position == "last_answer_token" else running.mean()
