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
from vlmscope.signals import (
    ATTENTION_MAP,
    NO_TOKEN,
    OF_ANSWER,
    OF_WEIGHTS,
    PREVIOUS,
    PREVIOUS_HEAD,
    RecordedSignals,
)

State = tuple[str, int]
"""What is recorded of a decoder layer, and the layer: its hidden state (``""``), a sub-layer from
``signals.SUBLAYERS``, or what its attention weights give, from ``signals.OF_WEIGHTS``."""


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


@dataclass(slots=True, eq=False)
class _Listed:
    """The values of every token of each answer, for what is selected when the answer is complete.

    Values after the last token are undefined.
    """

    values: Float[Tensor, "rows tokens width"]
    """The last of the tokens is for rows that have ended."""
    count: Int[Tensor, " rows"]

    def add(self, values: Float[Tensor, "batch width"], alive: Bool[Tensor, " batch"]) -> None:
        """Add the values of one token of the first rows."""
        last, count = self.values.shape[1] - 1, self.count[: len(values)]
        token = torch.where(alive, count, last).clamp_max(last)
        index = token.view(-1, 1, 1).expand(-1, 1, values.shape[1])
        self.values[: len(values)].scatter_(1, index, values.unsqueeze(1))
        count.add_(alive)


class AnswerStates:
    """Running first, last and sum of the answer tokens' hidden states, layer by layer.

    Args:
        ends: End-of-turn token ids.
        rows: Maximum number of rows; a step updates the first of them.
        tokens: Maximum number of tokens of an answer.
    """

    def __init__(self, ends: int | Sequence[int] | None, rows: int, tokens: int = 0) -> None:
        self._ends = torch.from_numpy(np.atleast_1d([] if ends is None else ends).astype(np.int64))
        self._rows = rows
        self._tokens = tokens
        self._alive: Tensor | None = None
        self._states: dict[State, _Running] = {}
        self._listed: dict[State, _Listed] = {}
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
        if state not in self._states and state not in self._listed:
            self.expect(state, values.shape[1], values.device)
        if self.paused:
            return
        values, now = values.float(), slice(len(values))
        alive = self._alive[now].to(values.device)
        if state in self._listed:
            self._listed[state].add(values, alive)
            return
        running = self._states[state]
        first, count = running.first[now], running.count[now]
        # ``where`` and not a product: the states of padding may be anything, NaN included.
        fresh = (alive & (count == 0)).unsqueeze(1)
        added = torch.where(alive.unsqueeze(1), values, 0)
        first.copy_(torch.where(fresh, values, first))
        extreme = running.extreme[now]
        if state[0] in OF_WEIGHTS:  # shares are not negative
            extreme.copy_(torch.maximum(extreme, added))
        else:
            extreme.copy_(torch.where(alive.unsqueeze(1), values, extreme))
        running.total[now] += added
        count.add_(alive)

    def expect(self, state: State, width: int, device: torch.device) -> None:
        """Allocate the tensors of a state."""
        count = torch.zeros(self._rows, dtype=torch.int64, device=device)
        if state[0] == PREVIOUS:
            values = torch.zeros(self._rows, self._tokens + 1, width, device=device)
            self._listed[state] = _Listed(values, count)
            return
        first, total, extreme = (torch.zeros(self._rows, width, device=device) for _ in range(3))
        self._states[state] = _Running(first, total, extreme, count)

    def begin(self, tokens: Int[Tensor, " chosen"], first: int) -> None:
        """Reset these rows for new answers, and register their first tokens."""
        rows = slice(first, first + len(tokens))
        if self._alive is not None:
            self._alive[rows] = True
        for running in self._states.values():
            for tensor in running.tensors():
                tensor[rows] = 0
        for listed in self._listed.values():
            listed.count[rows] = 0
        self.note(tokens, first)

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors with one leading entry per row."""
        if self._alive is not None:
            yield self._alive
        for running in self._states.values():
            yield from running.tensors()
        for listed in self._listed.values():
            yield from (listed.values, listed.count)

    def vectors(self, positions: Sequence[str]) -> dict[str, Float[Tensor, "rows width"]]:
        """Return HDF5 path → vectors at some of ``ANSWER_POSITIONS``; undefined if empty."""
        return {
            f"{position_group(position, part)}/layer_{layer}": _at(position, running)
            for position in positions
            for (part, layer), running in self._states.items()
            if part not in OF_WEIGHTS
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
        if signals.attention_layers:
            found[PREVIOUS], found[PREVIOUS_HEAD] = self._previous(signals, rows)
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

    def _previous(
        self, signals: RecordedSignals, rows: Int[Tensor, " chosen"]
    ) -> tuple[Float[Tensor, "chosen tokens layers"], Int[Tensor, "chosen layers"]]:
        """Return the attention to the previous token, and the heads, of some answers."""
        selected = []
        for layer in signals.attention_layers:
            if (PREVIOUS, layer) not in self._listed:  # all answers are empty
                self.expect((PREVIOUS, layer), signals.attention_heads, self._ends.device)
            listed = self._listed[PREVIOUS, layer]
            own = rows.to(listed.count.device)
            selected.append(most_attentive(listed.values[own], listed.count[own]))
        device = selected[0][0].device
        values, heads = ([each.to(device) for each in part] for part in zip(*selected, strict=True))
        return torch.stack(values, dim=2), torch.stack(heads, dim=1)


def most_attentive(
    values: Float[Tensor, "rows tokens heads"], count: Int[Tensor, " rows"]
) -> tuple[Float[Tensor, "rows tokens"], Int[Tensor, " rows"]]:
    """Return the values of the head with the largest mean from the second token on, and the head.

    Of an answer of one token that token decides; an empty one has ``NO_TOKEN``. The first of equal
    heads is selected.

    Args:
        values: Each token's values.
        count: Number of tokens of each answer; the values of further ones are ignored.

    >>> values = torch.tensor([[[0.9, 0.1], [0.2, 0.3], [0.0, 1.0]]])
    >>> most_attentive(values, torch.tensor([2]))[1], most_attentive(values, torch.tensor([1]))[1]
    (tensor([1], dtype=torch.int32), tensor([0], dtype=torch.int32))
    """
    token, count = torch.arange(values.shape[1], device=values.device), count.unsqueeze(1)
    decides = (token < count) & ((token > 0) | (count == 1))
    heads = torch.where(decides.unsqueeze(2), values, 0).sum(dim=1).argmax(dim=1)
    index = heads.view(-1, 1, 1).expand(-1, values.shape[1], 1)
    heads = heads.masked_fill(count.squeeze(1) == 0, NO_TOKEN)
    return values.gather(2, index).squeeze(2), heads.int()


def _at(position: str, running: _Running) -> Tensor:
    if position == "first_answer_token":
        return running.first
    return running.extreme if position == "last_answer_token" else running.mean()
