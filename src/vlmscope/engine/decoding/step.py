"""One decoding step for the rows in the slots: a CUDA graph where possible, else kernel by kernel.

A step of an eleven-billion-parameter model launches a thousand kernels that take microseconds each:
launched one by one, they leave the GPU idle most of the time. Nothing in a step depends on the host
(``kv_cache``), so it is recorded once per number of rows and replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlmscope.engine.answer_states import State
from vlmscope.engine.answers import token_statistics
from vlmscope.engine.attention import Divider, observed_layers
from vlmscope.engine.decoding.slots import Slots
from vlmscope.engine.decoding.support import why_not_as_graph
from vlmscope.engine.device import is_out_of_memory
from vlmscope.engine.hooks import hook_state, last_token
from vlmscope.errors import one_line
from vlmscope.model import ResolvedSpec, VisionLanguageModel
from vlmscope.model.attention.kv_cache import (
    FixedLayer,
    RowLayer,
    StateLayer,
    cache_argument,
    cache_over,
)
from vlmscope.model.attention.shares import LastQuery, Weights, observed
from vlmscope.model.attention.switch import (
    GROUPED,
    attending_with,
    configurations,
    grouped_attention,
    masking_keys,
)
from vlmscope.model.computing import removing_hooks
from vlmscope.model.lengths import unscaled
from vlmscope.shown_once import warn
from vlmscope.signals import OF_WEIGHTS

ROWS_OF_A_GRAPH = (16, 32, 64)
"""Graphs are recorded for these numbers of rows, and for multiples of the last: recording takes a
quarter of a second, and additional rows cost little."""


class Stepper:
    """Decodes one token for the rows of some slots.

    Args:
        vlm: The model.
        slots: The rows.
        states: What is recorded of each token of an answer.
        spec: What to record.
        imaged: Whether the questions are about images.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        slots: Slots,
        states: Sequence[State],
        spec: ResolvedSpec,
        *,
        imaged: bool,
    ) -> None:
        self._vlm = vlm
        self._slots = slots
        self._states = states
        self._layer_states = spec.layer_states
        self._attention: Any = grouped_attention
        if slots.members is not None:
            self._divider = Divider(vlm, spec.signals)
            observer = LastQuery(observed_layers(vlm, spec.signals), self._divide)
            self._attention = observed(observer, grouped_attention)
        self._imaged = imaged
        self._configs = configurations(vlm.decoder)
        self._caches: dict[int, Any] = {}
        self._graphs: dict[tuple[int, bool], Any] = {}
        self._pool: Any = None
        self.replays = not why_not_as_graph(vlm)

    def step(self, *, masked: bool) -> None:
        """Feed every active row its next token, and choose the one after.

        Args:
            masked: Whether some row does not attend to all keys of the fixed layers.
        """
        slots = self._slots
        if not self.replays:
            self._run(slots.active, masked=masked)
            return
        rows = min(rows_of_graph(slots.active), slots.rows)
        # Slots after the active ones are computed too; they have ended, or were never used. If the
        # longest row of a call affects all rows, these must be the shortest.
        slots.ended[slots.active : rows] = True
        slots.positions[:, slots.active : rows] = 0
        if (rows, masked) not in self._graphs:
            if slots.recurrent:  # a trial would change their states; this step is one itself
                self._run(rows, masked=masked)
            else:
                self._try(rows, masked=masked)
            self._graphs[rows, masked] = self._record(rows, masked=masked)
            if slots.recurrent:
                return
        graph = self._graphs[rows, masked]
        if graph is None:
            self._run(rows, masked=masked)
        else:
            graph.replay()

    def _try(self, rows: int, *, masked: bool) -> None:
        """Run the model once, which chooses and compiles kernels; the rows stay as they are."""
        slots = self._slots
        if slots.states is not None:
            slots.states.paused = True
        with self._prepared(masked=masked):
            self._logits(rows)
        if slots.states is not None:
            slots.states.paused = False

    def _record(self, rows: int, *, masked: bool) -> Any:
        """Record the step as a graph; None if the model's code synchronises with the device."""
        slots, graph = self._slots, torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(slots.tokens.device)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            # Threads that prepare images may pin memory during the recording.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
            ):
                self._run(rows, masked=masked)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            torch.cuda.synchronize()
            self.replays = False
            warn(
                f"a decoding step cannot be recorded as a CUDA graph ({one_line(error)}): its "
                "kernels are launched one by one, which is slower",
                stacklevel=2,
            )
            return None
        return graph

    def _run(self, rows: int, *, masked: bool) -> None:
        with self._prepared(masked=masked):
            self._advance(rows, self._logits(rows))

    @contextmanager
    def _prepared(self, *, masked: bool) -> Iterator[None]:
        """Set the attention of a step, and the hooks that record the answer's states."""
        slots, vlm = self._slots, self._vlm
        with ExitStack() as stack:
            stack.enter_context(attending_with(GROUPED, self._attention, self._configs))
            stack.enter_context(unscaled(vlm.model, vlm.lengths))  # rows alone are not in slots
            if masked and slots.cross_attention_mask is not None:
                parts = [vlm.layers[layer] for layer in slots.fixed]
                stack.enter_context(masking_keys(parts, slots.cross_attention_mask))
            handles = stack.enter_context(removing_hooks())
            kept = [("", layer) for layer in slots.answer_tokens]
            for state in dict.fromkeys((*self._states, *kept)):
                if state[0] not in OF_WEIGHTS:
                    add = partial(self._add, state)
                    handles.append(
                        hook_state(vlm, state, add, self._layer_states, imaged=self._imaged)
                    )
            yield

    def _add(self, state: State, tensor: Tensor) -> None:
        """Record a state of this step's tokens."""
        part, layer = state
        if self._slots.states is not None and state in self._states:
            self._slots.states.add(state, last_token(tensor))
        if not part and layer in self._slots.answer_tokens:
            self._keep(layer, last_token(tensor))

    def _keep(self, layer: int, states: Tensor) -> None:
        """Store the states of this step's tokens; ``count`` of them were chosen before."""
        slots, rows = self._slots, len(states)
        kept = slots.answer_tokens[layer][:rows]
        last = kept.shape[1] - 1
        column = torch.where(slots.ended[:rows], last, slots.count[:rows] - 1)
        index = column.clamp_min(0).view(-1, 1, 1).expand(-1, 1, states.shape[1])
        kept.scatter_(1, index, states.unsqueeze(1).to(kept.dtype))

    def _divide(self, layer: int, weights: Weights) -> None:
        """Record how the attention of this step's tokens is divided."""
        slots = self._slots
        if slots.states is not None and slots.members is not None:
            rows = slice(len(weights))
            members, previous = slots.members[rows], slots.cache_positions[rows] - 1
            patches = None if slots.patches is None else slots.patches[rows]
            self._divider.add_token(
                slots.states, layer, weights, members, previous, slots.length, patches
            )

    def _logits(self, rows: int) -> Float[Tensor, "rows vocabulary"]:
        slots = self._slots
        positions = slots.positions[:, :rows]
        output = self._vlm.model(
            input_ids=slots.tokens[:rows],
            attention_mask=slots.attention_mask[:rows],
            position_ids=positions[0] if len(positions) == 1 else positions,
            use_cache=True,
            **{cache_argument(type(self._vlm.model).forward): self._cache(rows)},
        )
        return output.logits[:, -1].float()  # type: ignore[no-any-return]

    def _cache(self, rows: int) -> Any:
        """Return a cache of the library over the first rows of the slots."""
        if rows not in self._caches:
            self._caches[rows] = cache_over(
                [self._layer(index, rows) for index in range(len(self._slots.keys))]
            )
        return self._caches[rows]

    def _layer(self, index: int, rows: int) -> Any:
        """Return a layer of that cache."""
        slots = self._slots
        pair = slots.keys[index][:rows], slots.values[index][:rows]
        if index in slots.recurrent:
            return StateLayer(*pair)
        kind = FixedLayer if index in slots.fixed else RowLayer
        return kind(*pair, slots.cache_positions[:rows])

    def _advance(self, rows: int, logits: Float[Tensor, "rows vocabulary"]) -> None:
        """Choose the next tokens and store them; rows that have ended are not changed."""
        slots = self._slots
        ended, count = slots.ended[:rows], slots.count[:rows]
        column = torch.where(ended, slots.chosen.shape[1] - 1, count).unsqueeze(1)
        if slots.draws is None:
            tokens = logits.argmax(dim=1)
        else:
            tokens = slots.draws.choose(logits, 0, column)
        logprobs, statistics = token_statistics(logits, tokens)
        slots.chosen[:rows].scatter_(1, column, tokens.unsqueeze(1))
        slots.logprobs[:rows].scatter_(1, column, logprobs.unsqueeze(1))
        index = column.unsqueeze(2).expand(-1, 1, statistics.shape[1])
        slots.statistics[:rows].scatter_(1, index, statistics.unsqueeze(1))
        count.add_(~ended)
        # An end-of-turn token whose state is recorded has to be processed first.
        last = slots.tokens[:rows] if slots.answer_tokens else tokens.unsqueeze(1)
        ended.logical_or_((last == slots.ends).any(dim=1))
        ended.logical_or_(count >= slots.chosen.shape[1] - 1)
        if slots.states is not None:
            slots.states.note(tokens)
            slots.states.stop(ended)
        continues = ~ended
        slots.tokens[:rows].copy_(tokens.unsqueeze(1))
        slots.cache_positions[:rows].add_(continues)
        slots.positions[:, :rows].add_(continues.unsqueeze(1))
        following = slots.cache_positions[:rows].unsqueeze(1)
        slots.attention_mask[:rows].scatter_(1, following, True)


def rows_of_graph(active: int) -> int:
    """Return the number of rows of the graph that is used for some active rows.

    >>> [rows_of_graph(active) for active in (1, 16, 17, 64, 65, 192)]
    [16, 16, 32, 64, 128, 192]
    """
    for rows in ROWS_OF_A_GRAPH:
        if active <= rows:
            return rows
    return -(-active // ROWS_OF_A_GRAPH[-1]) * ROWS_OF_A_GRAPH[-1]
