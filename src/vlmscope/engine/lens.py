"""The logit lens: what the states of a prefill, and of an answer, predict (``model.unembedding``).

At single positions the states themselves are recorded, and their lens is computed from them. The
states of image tokens are not: in the prefill, their largest probability of every token of the
vocabulary is kept, one table for each row and layer, in which the answer's tokens are looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlmscope.engine.pooling import entropy_of
from vlmscope.model import ResolvedSpec, VisionLanguageModel
from vlmscope.model.device_copies import to_device
from vlmscope.model.unembedding import Unembedding, unembedding_of
from vlmscope.positions import ANSWER_POSITIONS, position_group
from vlmscope.signals import (
    INTEGERS,
    LENS_ARRAYS,
    LENS_ENTROPY,
    LENS_PROB,
    LENS_PROBS,
    LENS_RANK,
    LENS_TOKENS,
    LENS_TOP,
    NO_TOKEN,
    RecordedSignals,
    confidence_name,
)


class ImageLens:
    """The largest log-probabilities that the image tokens of each row give, layer by layer.

    Args:
        unembedding: How the model turns states into logits.
        layers: The layers.
        tokens: The image tokens of each row; every row has some.
        device: Where the tokens are.

    Attributes:
        totals_: Decoder layer → log-sum of the logits of each image token, row by row.
    """

    def __init__(
        self,
        unembedding: Unembedding,
        layers: Sequence[int],
        tokens: Bool[np.ndarray, "batch length"],
        device: torch.device,
    ) -> None:
        self.totals_: dict[int, Tensor] = {}
        self._unembedding = unembedding
        self._layers = layers
        self._rows, columns = np.nonzero(tokens)
        self._index = [to_device(torch.from_numpy(i), device) for i in (self._rows, columns)]
        self._count = len(tokens)
        self._table: Tensor | None = None

    def add(self, layer: int, states: Float[Tensor, "batch length hidden"]) -> None:
        """Add the states of a layer, of all tokens."""
        rows, columns = (index.to(states.device) for index in self._index)
        some = self._unembedding.logits(states[rows[:1], columns[:1]], layer)
        if self._table is None:
            shape = self._count, len(self._layers), some.shape[1]
            self._table = some.new_full(shape, -torch.inf)
        table = self._table[:, self._layers.index(layer)]
        step = self._unembedding.tokens_at_once(some.shape[1])
        totals = []
        for start in range(0, len(rows), step):
            piece = slice(start, start + step)
            logits = self._unembedding.logits(states[rows[piece], columns[piece]], layer)
            totals.append(logits.logsumexp(dim=1))
            logits = logits.sub_(totals[-1].unsqueeze(1))
            for row, first, end in _spans(self._rows[piece]):
                torch.maximum(table[row], logits[first:end].amax(dim=0), out=table[row])
        self.totals_[layer] = torch.cat(totals)

    def table(self) -> Float[Tensor, "batch layers vocabulary"]:
        """Return the tables of all layers."""
        if self._table is None:
            raise RuntimeError("no layer was added")
        return self._table


def _spans(rows: Int[np.ndarray, " tokens"]) -> Iterator[tuple[int, int, int]]:
    """Yield each row among some tokens, with the first of its tokens and the end of them.

    >>> list(_spans(np.array([4, 4, 6])))
    [(4, 0, 2), (6, 2, 3)]
    """
    changes = np.flatnonzero(np.diff(rows)) + 1
    for first, end in pairwise([0, *changes.tolist(), len(rows)]):
        yield int(rows[first]), first, end


def image_lens_for(
    vlm: VisionLanguageModel,
    spec: ResolvedSpec,
    ids: Int[np.ndarray, "batch length"],
    mask: Int[np.ndarray, "batch length"],
) -> ImageLens | None:
    """Return what records the lens of the image tokens of some prompts; None if it is not recorded.

    Args:
        vlm: The model.
        spec: What to record; without answers there are no tokens to look up.
        ids: Token ids of the prompts.
        mask: 1 where a token is real.
    """
    tokens = mask.astype(bool) & (ids == vlm.image_token_id)
    if not (spec.signals.lens_layers and spec.max_new_tokens and tokens.any()):
        return None
    return ImageLens(unembedding_of(vlm), spec.signals.lens_layers, tokens, vlm.device)


def confidence_of(
    table: Float[Tensor, "rows layers vocabulary"],
    tokens: Int[Tensor, "chosen steps"],
    rows: Int[Tensor, " chosen"],
) -> Float[Tensor, "chosen layers steps"]:
    """Return the largest probability that the image tokens of some rows give to tokens.

    Args:
        table: The tables, from ``ImageLens``.
        tokens: The tokens of each chosen row's answer.
        rows: The chosen rows.
    """
    layers = torch.arange(table.shape[1], device=table.device)[None, :, None]
    # A row that has ended is padded with a token that may have no logit.
    tokens = tokens.to(table.device).clamp_max(table.shape[2] - 1)[:, None]
    return table[rows.to(table.device)[:, None, None], layers, tokens].exp()


def confidence_arrays(
    values: Float[np.ndarray, "layers steps"], layers: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return one row's arrays by name, from ``confidence_of``."""
    names = map(confidence_name, layers)
    return dict(zip(names, values, strict=True))


def lens_arrays(
    vlm: VisionLanguageModel,
    signals: RecordedSignals,
    states: Mapping[str, Float[Tensor, "rows hidden"]],
    first: Int[Tensor, " rows"],
) -> dict[str, Tensor]:
    """Return the lens of recorded states; NaN or ``NO_TOKEN`` at positions that have none.

    Args:
        vlm: The model.
        signals: The signals.
        states: HDF5 path → hidden states.
        first: The first answer token of each row.
    """
    shapes = signals.shapes()
    if LENS_TOKENS not in shapes:
        return {}
    unembedding = unembedding_of(vlm)
    full = partial(torch.full, device=first.device)
    found = {
        name: full((len(first), *shapes[name]), NO_TOKEN, dtype=torch.int32)
        if name in INTEGERS
        else full((len(first), *shapes[name]), torch.nan)
        for name in LENS_ARRAYS
    }
    for column, layer in enumerate(signals.lens_layers):
        paths = [f"{position_group(name, '')}/layer_{layer}" for name in signals.lens_positions]
        there = [at for at, path in enumerate(paths) if path in states]
        if there:
            stacked = torch.cat([states[paths[at]] for at in there])
            read = _read(unembedding, stacked, layer, first.repeat(len(there)))
            for name, values in read.items():
                parts = values.to(first.device).chunk(len(there))
                for at, part in zip(there, parts, strict=True):
                    found[name][:, at, column] = part
    return found


def _read(
    unembedding: Unembedding,
    states: Float[Tensor, "tokens hidden"],
    layer: int,
    answers: Int[Tensor, " tokens"],
) -> dict[str, Tensor]:
    """Return the arrays of some states of a layer."""
    some = unembedding.logits(states[:1], layer)
    step = unembedding.tokens_at_once(some.shape[1])
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(states), step):
        logits = unembedding.logits(states[start : start + step], layer)
        logprobs = logits.sub_(logits.logsumexp(dim=1, keepdim=True))
        answer = answers[start : start + step, None].to(logits.device)
        own = logprobs.gather(1, answer)
        top = logprobs.topk(LENS_TOP, dim=1)
        parts.append(
            {
                LENS_TOKENS: top.indices.int(),
                LENS_PROBS: top.values.exp(),
                LENS_RANK: (logprobs > own).sum(dim=1, dtype=torch.int32),
                LENS_PROB: own[:, 0].exp(),
                LENS_ENTROPY: entropy_of(logprobs),
            }
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def with_lens_of_answer(
    prompt: Mapping[str, np.ndarray], answer: Mapping[str, np.ndarray], positions: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the arrays of one row, of which the lens is in two parts, by position.

    Args:
        prompt: Arrays of the prompt.
        answer: Arrays of the answer.
        positions: The positions of the lens.
    """
    found = {**prompt, **answer}
    of_prompt = [at for at, name in enumerate(positions) if name not in ANSWER_POSITIONS]
    for name in prompt.keys() & answer.keys() & {*LENS_ARRAYS}:
        found[name] = answer[name].copy()
        found[name][of_prompt] = prompt[name][of_prompt]
    return found
