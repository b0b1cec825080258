"""The division of attention among the tokens, recorded in a prefill and in decoding steps.

See ``model.attention.shares`` for how the weights are computed, ``signals.ATTENDED`` for the groups
of tokens.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlmscope.engine.answer_states import AnswerStates, State
from vlmscope.model import VisionLanguageModel
from vlmscope.model.attention.shares import (
    LastQuery,
    Weights,
    members_of,
    shares,
    weights_of_keys,
)
from vlmscope.model.sublayers import sublayers_of
from vlmscope.signals import ATTENDED, ATTENTION, CROSS_ATTENTION, PREVIOUS, RecordedSignals

_IMAGE, _TEXT, _ANSWER, _FIRST = range(len(ATTENDED))


def groups_of_prompt(
    ids: Int[Tensor, "batch length"], mask: Tensor, image_token_id: int
) -> Int[Tensor, "batch length"]:
    """Return the group of each token of the prompts; -1 for padding.

    >>> ids, mask = torch.tensor([[0, 7, 9, 9, 5]]), torch.tensor([[0, 1, 1, 1, 1]])
    >>> groups_of_prompt(ids, mask, 9)
    tensor([[-1,  3,  0,  0,  1]])
    """
    real: Bool[Tensor, "batch length"] = mask.bool()
    first = real & (real.cumsum(dim=1) == 1)
    groups = torch.full_like(ids, _TEXT)
    groups[first] = _FIRST
    groups[ids == image_token_id] = _IMAGE
    return groups.masked_fill(~real, -1)


def members_in_slots(
    members: Float[Tensor, "batch length four"], length: int
) -> Float[Tensor, "batch slots four"]:
    """Return the groups of the tokens in slots: those of a prompt, and then of its answer."""
    rows, tokens, groups = members.shape
    found = members.new_zeros(rows, length, groups)
    found[:, :tokens] = members
    found[:, tokens:, _ANSWER] = 1
    return found


def observed_layers(
    vlm: VisionLanguageModel, signals: RecordedSignals
) -> dict[torch.nn.Module, int]:
    """Return attention module → decoder layer, of the layers whose attention is recorded."""
    found = {}
    for layer in (*signals.attention_layers, *signals.cross_attention_layers):
        module = sublayers_of(vlm.layers[layer]).attention
        if module is None:
            raise RuntimeError(f"layer {layer} has no attention")
        found[module] = layer
    return found


class Divider:
    """Divides the attention weights of a decoder's layers: among groups of tokens, or tiles.

    Args:
        vlm: The model.
        signals: The signals.
    """

    def __init__(self, vlm: VisionLanguageModel, signals: RecordedSignals) -> None:
        self._cross = frozenset(signals.cross_attention_layers)
        self._tiles = signals.tiles
        encoder: Any = vlm.vision_encoder
        self._patches = int(encoder.num_patches) if self._cross else 0

    def divide(self, layer: int, weights: Weights, members: Tensor) -> tuple[State, Tensor]:
        """Return what is divided, and the shares of each head, ``[rows, heads, parts]``.

        Args:
            layer: The decoder layer.
            weights: Its attention weights.
            members: The group of each token.
        """
        if layer not in self._cross:
            return (ATTENTION, layer), shares(weights, members.to(weights.device))
        rows, heads, _ = weights.shape
        patches = weights.view(rows, heads, -1, self._tiles, self._patches)
        return (CROSS_ATTENTION, layer), patches.sum(dim=(2, 4))

    def add_token(
        self,
        states: AnswerStates,
        layer: int,
        weights: Weights,
        members: Tensor,
        previous: Int[Tensor, " batch"],
    ) -> None:
        """Add the attention of a token of each answer to what is recorded of the answers.

        Args:
            states: What is recorded of the answers.
            layer: The decoder layer.
            weights: Its attention weights.
            members: The group of each token.
            previous: The index of the token before this one.
        """
        state, divided = self.divide(layer, weights, members)
        states.add(state, divided.flatten(1))
        if layer not in self._cross:
            attended = weights_of_keys(weights, previous, members.shape[1])
            states.add((PREVIOUS, layer), attended)


class AttentionRecorder:
    """Records the division of the last prompt token's attention, and of steps of ``generate``.

    Args:
        vlm: The model.
        signals: The signals.
        members: The group of each token of the prompts, from ``members_of``.
        answer: Collects the division for the answer's tokens, if ``generate`` decodes them.

    Attributes:
        observer: What the attention of the decoder is to call.
        members: As given.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        signals: RecordedSignals,
        members: Float[Tensor, "batch length four"],
        answer: AnswerStates | None = None,
    ) -> None:
        self.observer = LastQuery(observed_layers(vlm, signals), self._record)
        self.members = members
        self._signals = signals
        self._divider = Divider(vlm, signals)
        self._answer = answer
        self._calls: Counter[int] = Counter()
        self._prompt: dict[State, Tensor] = {}

    def _record(self, layer: int, weights: Weights) -> None:
        steps = self._calls[layer]
        self._calls[layer] += 1
        if not steps:
            state, divided = self._divider.divide(layer, weights, self.members)
            self._prompt[state] = divided
        elif self._answer is not None:
            length = self.members.shape[1] + steps
            members = members_in_slots(self.members, length)
            previous = torch.full((len(weights),), length - 2, device=weights.device)
            self._divider.add_token(self._answer, layer, weights, members, previous)

    def arrays(self) -> dict[str, Float[Tensor, "batch layers heads parts"]]:
        """Return how the last prompt token's attention is divided.

        Raises:
            RuntimeError: A layer was not observed: the model took an unknown path.
        """
        rows, device = len(self.members), self.members.device
        found = {}
        for name, (layers, parts) in self._signals.divisions.items():
            known = [self._prompt.get((name, layer)) for layer in layers]
            if name == CROSS_ATTENTION and not any(each is not None for each in known):
                shape = (rows, self._signals.attention_heads, parts)  # a question about no image
                known = [torch.full(shape, torch.nan, device=device) for _ in layers]
            divided = [each.to(device) for each in known if each is not None]
            if len(divided) < len(layers):
                missing = len(layers) - len(divided)
                raise RuntimeError(f"{name} was not observed in {missing} layers")
            found[f"{name}_prompt"] = torch.stack(divided, dim=1)
        return found


def recorder_for(
    vlm: VisionLanguageModel,
    signals: RecordedSignals,
    ids: Int[Tensor, "batch length"],
    mask: Tensor,
    answer: AnswerStates | None = None,
) -> AttentionRecorder | None:
    """Return what records the attention of some prompts; None if it is not recorded.

    Args:
        vlm: The model.
        signals: The signals.
        ids: Token ids of the prompts, padded on the left.
        mask: 1 where a token is real.
        answer: As in ``AttentionRecorder``.
    """
    if not signals.divisions:
        return None
    members = members_of(groups_of_prompt(ids, mask, vlm.image_token_id))
    return AttentionRecorder(vlm, signals, members, answer)
