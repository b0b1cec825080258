"""The division of attention among the tokens, recorded in a prefill and in decoding steps.

See ``model.attention.shares`` for how the weights are computed, ``signals.ATTENDED`` for the groups
of tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vlmscope.engine.answer_states import AnswerStates, State
from vlmscope.engine.batch import Batch
from vlmscope.model import VisionLanguageModel
from vlmscope.model.attention.shares import (
    LastQuery,
    Weights,
    members_of,
    shares,
    weights_of_keys,
)
from vlmscope.model.device_copies import to_device
from vlmscope.model.image_grids import TILES, groups_of_patches
from vlmscope.model.sublayers import sublayers_of
from vlmscope.signals import (
    ATTENDED,
    ATTENTION,
    ATTENTION_MAP,
    CROSS_ATTENTION,
    CROSS_PATCHES,
    OF_CROSS_ATTENTION,
    PATCHES,
    PREVIOUS,
    RecordedSignals,
)

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


def patch_members(
    batch: Batch, vlm: VisionLanguageModel, signals: RecordedSignals
) -> Float[Tensor, "batch keys groups"] | None:
    """Return for each patch of a batch's images 1 in the column of its group: ``PATCHES``.

    NaN if it is unknown. None if no layer attends to images alone, or there are no images.
    """
    if not signals.cross_attention_layers or not any(batch.images):
        return None
    groups = [
        groups_of_patches(vlm, batch.shown_sizes[row], batch.inputs_of(row)[TILES])
        for row in range(len(batch.samples))
    ]
    numbers = torch.from_numpy(np.stack(groups)).unsqueeze(2)
    members = (numbers == torch.arange(len(PATCHES))).float()
    return to_device(members.masked_fill(numbers < 0, torch.nan), vlm.device)


def observed_layers(
    vlm: VisionLanguageModel, signals: RecordedSignals
) -> dict[torch.nn.Module, int]:
    """Return attention module → decoder layer, of the layers whose attention is recorded."""
    found = {}
    divided = (*signals.attention_layers, *signals.cross_attention_layers)
    for layer in dict.fromkeys((*divided, *signals.map_layers)):
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
        self._divided = self._cross.union(signals.attention_layers)
        self._mapped = frozenset(signals.map_layers)
        self._of_patches = self._mapped & vlm.skipped_without_image
        self._tiles = signals.tiles
        encoder: Any = vlm.vision_encoder
        self._patches = int(encoder.num_patches) if self._cross else 0

    def divide(
        self, layer: int, weights: Weights, members: Tensor, prompt: int, patches: Tensor | None
    ) -> Iterator[tuple[State, Tensor]]:
        """Yield what is computed, and its values.

        These are the shares of each head, ``[rows, heads, parts]``; and the mean over the heads of
        the attention to each token of the prompt, or to each patch, ``[rows, keys]``.

        Args:
            layer: The decoder layer.
            weights: Its attention weights.
            members: The group of each token.
            prompt: Number of tokens that are of the prompt, of those that are attended to.
            patches: The group of each patch of the images, from ``patch_members``.
        """
        if layer in self._mapped:
            mean = weights.mean(dim=1)
            if layer not in self._of_patches:
                dropped = members.shape[1] - mean.shape[1]  # by a sliding window
                mean = nn.functional.pad(mean, (dropped, 0))[:, :prompt]
            yield (ATTENTION_MAP, layer), mean
        if layer not in self._divided:
            return
        if layer not in self._cross:
            yield (ATTENTION, layer), shares(weights, members.to(weights.device))
            return
        rows, heads, _ = weights.shape
        by_tile = weights.view(rows, heads, -1, self._tiles, self._patches)
        yield (CROSS_ATTENTION, layer), by_tile.sum(dim=(2, 4))
        if patches is None:
            raise RuntimeError(f"layer {layer} attends to images, and their patches are unknown")
        yield (CROSS_PATCHES, layer), weights @ patches.to(weights.device)

    def add_token(
        self,
        states: AnswerStates,
        layer: int,
        weights: Weights,
        members: Tensor,
        previous: Int[Tensor, " batch"],
        prompt: int,
        patches: Tensor | None,
    ) -> None:
        """Add the attention of a token of each answer to what is recorded of the answers.

        Args:
            states: What is recorded of the answers.
            layer: The decoder layer.
            weights: Its attention weights.
            members: The group of each token.
            previous: The index of the token before this one.
            prompt: Number of tokens that are of the prompt, of those that are attended to.
            patches: The group of each patch of the images.
        """
        for state, values in self.divide(layer, weights, members, prompt, patches):
            states.add(state, values.flatten(1))
        if layer in self._divided and layer not in self._cross:
            attended = weights_of_keys(weights, previous, members.shape[1])
            states.add((PREVIOUS, layer), attended)


class AttentionRecorder:
    """Records the division of the last prompt token's attention, and of steps of ``generate``.

    Args:
        vlm: The model.
        signals: The signals.
        members: The group of each token of the prompts, from ``members_of``.
        answer: Collects the division for the answer's tokens, if ``generate`` decodes them.
        patches: The group of each patch of the images, from ``patch_members``, for layers that
            attend to images alone.

    Attributes:
        observer: What the attention of the decoder is to call.
        members: As given.
        patches: As given.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        signals: RecordedSignals,
        members: Float[Tensor, "batch length four"],
        answer: AnswerStates | None = None,
        patches: Float[Tensor, "batch keys groups"] | None = None,
    ) -> None:
        self.observer = LastQuery(observed_layers(vlm, signals), self._record)
        self.members = members
        self.patches = patches
        self._signals = signals
        self._divider = Divider(vlm, signals)
        self._answer = answer
        self._calls: Counter[int] = Counter()
        self._prompt: dict[State, Tensor] = {}

    def _record(self, layer: int, weights: Weights) -> None:
        steps = self._calls[layer]
        self._calls[layer] += 1
        length = self.members.shape[1] + steps
        members = members_in_slots(self.members, length) if steps else self.members
        prompt = self.members.shape[1]
        if not steps:
            divided = self._divider.divide(layer, weights, members, prompt, self.patches)
            self._prompt |= dict(divided)
        elif self._answer is not None:
            previous = torch.full((len(weights),), length - 2, device=weights.device)
            self._divider.add_token(
                self._answer, layer, weights, members, previous, prompt, self.patches
            )

    def arrays(self) -> dict[str, Float[Tensor, "batch layers heads parts"]]:
        """Return how the last prompt token's attention is divided.

        Raises:
            RuntimeError: A layer was not observed: the model took an unknown path.
        """
        rows, device = len(self.members), self.members.device
        found = {}
        for name, (layers, parts) in self._signals.divisions.items():
            known = [self._prompt.get((name, layer)) for layer in layers]
            if name in OF_CROSS_ATTENTION and not any(each is not None for each in known):
                shape = (rows, self._signals.attention_heads, parts)  # a question about no image
                known = [torch.full(shape, torch.nan, device=device) for _ in layers]
            divided = [each.to(device) for each in known if each is not None]
            if len(divided) < len(layers):
                missing = len(layers) - len(divided)
                raise RuntimeError(f"{name} was not observed in {missing} layers")
            found[f"{name}_prompt"] = torch.stack(divided, dim=1)
        return found

    def maps(self) -> dict[int, Float[Tensor, "batch keys"]]:
        """Return decoder layer → the last prompt token's attention to each token, or each patch."""
        return {k: each for (name, k), each in self._prompt.items() if name == ATTENTION_MAP}


def recorder_for(
    vlm: VisionLanguageModel,
    signals: RecordedSignals,
    ids: Int[Tensor, "batch length"],
    mask: Tensor,
    answer: AnswerStates | None = None,
    patches: Float[Tensor, "batch keys groups"] | None = None,
) -> AttentionRecorder | None:
    """Return what records the attention of some prompts; None if it is not recorded.

    Args:
        vlm: The model.
        signals: The signals.
        ids: Token ids of the prompts, padded on the left.
        mask: 1 where a token is real.
        answer: As in ``AttentionRecorder``.
        patches: As in ``AttentionRecorder``.
    """
    if not (signals.divisions or signals.map_layers):
        return None
    members = members_of(groups_of_prompt(ids, mask, vlm.image_token_id))
    return AttentionRecorder(vlm, signals, members, answer, patches)
