"""The hidden states of all image tokens of a prompt, and of all tokens of an answer.

They are kept in the type that the model computes in. Those of image tokens are taken out of the
prefill; those of an answer's tokens are written into tensors of the slots, step by step, or
collected while ``generate`` decodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlmscope.engine.device import Fetch
from vlmscope.model import ResolvedSpec, VisionLanguageModel
from vlmscope.model.device_copies import to_device
from vlmscope.signals import ANSWER_TOKENS, IMAGE_TOKENS, token_states_name

Span = tuple[int, int]
"""The first of a row's image tokens among those of all rows, and the end of them."""

TOKENS = "tokens/"
"""Before the name of an array with a vector for each of several tokens, among the tensors that are
copied to the host."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageTokenStates:
    """The states of the image tokens of several rows."""

    layers: Mapping[int, Float[Tensor, "tokens hidden"]] = field(default_factory=dict)
    """Decoder layer → the states of the image tokens of all rows, one row after the other."""
    spans: Sequence[Span] = ()
    """Those of each row."""
    totals: Mapping[int, Float[Tensor, " tokens"]] = field(default_factory=dict)
    """The log-sums of their logits, if their lens is recorded."""

    def of_rows(self, rows: Sequence[int]) -> ImageTokenStates:
        """Return the states of some rows, in the given order; nothing is copied."""
        return replace(self, spans=[self.spans[row] for row in rows] if self.spans else ())

    def copied(self, wanted: Sequence[int], rows: int) -> list[Fetch | None]:
        """Return the states of each row at some layers, being copied to the host.

        One copy for each row, which is freed with it; rows with the same image tokens share it.

        Args:
            wanted: The layers.
            rows: Number of rows.
        """
        if not (wanted and self.spans):
            return [None] * rows
        known = {
            span: Fetch(
                {
                    token_states_name(IMAGE_TOKENS, layer): self.layers[layer][slice(*span)]
                    for layer in wanted
                }
            )
            for span in dict.fromkeys(self.spans)
        }
        return [known[span] for span in self.spans]


class ImageTokenRecorder:
    """Records the states of the image tokens of a prefill.

    Args:
        layers: The layers.
        tokens: The image tokens of each row.
        device: Where the tokens are.
    """

    def __init__(
        self, layers: Sequence[int], tokens: Bool[np.ndarray, "batch length"], device: torch.device
    ) -> None:
        self._layers = layers
        self._index = [to_device(torch.from_numpy(i), device) for i in np.nonzero(tokens)]
        ends = np.cumsum([0, *tokens.sum(axis=1)]).tolist()
        self._spans: list[Span] = list(pairwise(ends))
        self._states: dict[int, Tensor] = {}

    def add(self, layer: int, states: Float[Tensor, "batch length hidden"]) -> None:
        """Take the states of the image tokens out of those of all tokens of a layer."""
        if layer in self._layers:
            rows, columns = (index.to(states.device) for index in self._index)
            self._states[layer] = states[rows, columns]

    def states(self) -> ImageTokenStates:
        """Return the recorded states."""
        return ImageTokenStates(self._states, self._spans)


def image_tokens_for(
    vlm: VisionLanguageModel,
    spec: ResolvedSpec,
    ids: Int[np.ndarray, "batch length"],
    mask: Int[np.ndarray, "batch length"],
) -> ImageTokenRecorder | None:
    """Return what records the image tokens of some prompts; None if they are not recorded.

    Args:
        vlm: The model.
        spec: What to record.
        ids: Token ids of the prompts.
        mask: 1 where a token is real.
    """
    layers = spec.signals.image_state_layers
    tokens = mask.astype(bool) & (ids == vlm.image_token_id)
    if not layers or not tokens.any():
        return None
    return ImageTokenRecorder(layers, tokens, vlm.device)


class AnswerTokenSteps:
    """Collects the states of the answers' tokens while ``generate`` decodes a batch.

    Args:
        layers: The layers.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self._steps: dict[int, list[Tensor]] = {layer: [] for layer in layers}

    def add(self, layer: int, states: Float[Tensor, "rows hidden"]) -> None:
        """Add the states of the tokens of a step."""
        if layer in self._steps:
            self._steps[layer].append(states.clone())

    def states(self) -> dict[int, Float[Tensor, "rows steps hidden"]]:
        """Return decoder layer → states of all steps.

        An answer of one token that was not processed has none.
        """
        return {layer: torch.stack(each, dim=1) for layer, each in self._steps.items() if each}


def copied_answer_tokens(
    spec: ResolvedSpec,
    states: Mapping[int, Float[Tensor, "rows steps hidden"]],
    rows: Int[Tensor, " chosen"],
) -> dict[str, Tensor]:
    """Return what is copied to the host of the tokens of some answers, by name.

    Args:
        spec: What to record.
        states: Decoder layer → states of the tokens of all answers.
        rows: The rows of these answers.
    """
    return {
        TOKENS + token_states_name(ANSWER_TOKENS, layer): states[layer][
            rows.to(states[layer].device)
        ]
        for layer in spec.signals.layers(ANSWER_TOKENS)
    }


def image_token_arrays(copies: Fetch | None) -> dict[str, np.ndarray]:
    """Return the arrays of the image tokens of a row, from what was copied to the host."""
    return {} if copies is None else {name: in_float32(copies.tensor(name)) for name in copies}


def answer_token_arrays(numbers: Fetch, row: int, length: int) -> dict[str, np.ndarray]:
    """Return the arrays of the first tokens of an answer, from what was copied to the host."""
    return {
        name.removeprefix(TOKENS): in_float32(numbers.tensor(name)[row, :length])
        for name in numbers
        if name.startswith(TOKENS)
    }


def in_float32(tensor: Tensor) -> np.ndarray:
    """Return a copy of a tensor of the host, as float32: NumPy has no bfloat16."""
    copy: np.ndarray = tensor.to(torch.float32, copy=True).numpy()
    return copy
