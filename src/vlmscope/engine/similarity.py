"""Cosines of the answer's tokens with the last prompt token and with the image tokens, per layer.

They are computed when an answer is complete, from the states of its tokens; until then the states
of its prompt's image tokens are kept on the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlmscope.engine.device import Fetch
from vlmscope.engine.token_states import ImageTokenStates
from vlmscope.model import VisionLanguageModel
from vlmscope.model.unembedding import Unembedding, unembedding_of
from vlmscope.signals import (
    IMAGE_LENS,
    IMAGE_MAX,
    IMAGE_MEAN,
    IMAGE_TOP,
    LAST_PROMPT,
    TOP_IMAGE_TOKENS,
    RecordedSignals,
    needs_image,
    similarity_name,
)

SIMILARITIES = "similarities"
"""Name of the cosines among the tensors that are copied to the host."""


@dataclass(frozen=True, slots=True, eq=False)
class PromptStates:
    """The states of a prompt that the tokens of its answer are compared with, by layer."""

    last: Mapping[int, Float[Tensor, " hidden"]] = field(default_factory=dict)
    """The last prompt token's."""
    image: Mapping[int, Float[Tensor, "tokens hidden"]] = field(default_factory=dict)
    """Those of the image tokens; empty for a question without an image."""
    totals: Mapping[int, Float[Tensor, " tokens"]] = field(default_factory=dict)
    """The log-sums of the image tokens' logits, if the lens is recorded."""


def prompt_states(
    signals: RecordedSignals,
    last: Mapping[int, Float[Tensor, "batch hidden"]],
    image: ImageTokenStates,
    rows: int,
) -> list[PromptStates]:
    """Return what is kept of each prompt of a batch, in memory of its own.

    Prompts with the same image tokens share it. Empty if similarity is not recorded.

    Args:
        signals: The signals.
        last: Decoder layer → the states of the last prompt tokens.
        image: The states of the image tokens.
        rows: Number of prompts.
    """
    layers = signals.similarity_layers
    if not layers:
        return []
    known: dict[tuple[int, int], tuple[dict[int, Tensor], dict[int, Tensor]]] = {}
    found = []
    for row in range(rows):
        states, totals = dict[int, Tensor](), dict[int, Tensor]()
        if image.spans:
            start, stop = span = image.spans[row]
            if span not in known:
                known[span] = (
                    {layer: image.layers[layer][start:stop].clone() for layer in layers},
                    {layer: each[start:stop].clone() for layer, each in image.totals.items()},
                )
            states, totals = known[span]
        own = {layer: last[layer][row].clone() for layer in layers}
        found.append(PromptStates(own, states, totals))
    return found


def similarities(
    vlm: VisionLanguageModel,
    signals: RecordedSignals,
    prompts: Sequence[PromptStates],
    answers: Mapping[int, Float[Tensor, "chosen processed hidden"]],
    tokens: Int[Tensor, "chosen steps"],
) -> Float[Tensor, "chosen names _both"]:
    """Return the cosines of the tokens of some answers, in the order of the signals' names.

    Args:
        vlm: The model.
        signals: The signals.
        prompts: The prompt of each answer.
        answers: Decoder layer → states of the answers' tokens, as far as they were processed.
        tokens: The tokens; states and tokens after the end of an answer may be anything. If all
            answers have ended, ``generate`` does not process the last one.
    """
    unembedding = unembedding_of(vlm) if signals.lens_layers else None
    names = signals.similarity_names
    steps = min(tokens.shape[1], next(iter(answers.values())).shape[1])
    result = torch.full((len(prompts), len(names), steps), torch.nan, device=tokens.device)
    for row, prompt in enumerate(prompts):
        for layer in signals.similarity_layers:
            states = answers[layer][row, :steps]
            found = _of_layer(unembedding, prompt, layer, states, tokens[row, :steps])
            for kind, values in found.items():
                result[row, names.index(similarity_name(kind, layer))] = values
    return result


def _of_layer(
    unembedding: Unembedding | None,
    prompt: PromptStates,
    layer: int,
    states: Float[Tensor, "steps hidden"],
    tokens: Int[Tensor, " steps"],
) -> dict[str, Float[Tensor, " steps"]]:
    """Return the cosines of an answer's tokens at a layer, by kind."""
    own = _directions(states)
    found = {LAST_PROMPT: own @ _directions(prompt.last[layer])}
    if layer not in prompt.image:
        return found
    cosines = own @ _directions(prompt.image[layer]).T
    count = min(TOP_IMAGE_TOKENS, cosines.shape[1])
    top = cosines.topk(count, dim=1).values
    found |= {IMAGE_MEAN: cosines.mean(dim=1), IMAGE_TOP: top.mean(dim=1), IMAGE_MAX: top[:, 0]}
    if unembedding is not None:
        logits = unembedding.logits_of(prompt.image[layer], layer, tokens)
        logprobs = (logits - prompt.totals[layer].unsqueeze(1)).T
        chosen = logprobs.topk(count, dim=1).indices.to(cosines.device)
        found[IMAGE_LENS] = cosines.gather(1, chosen).mean(dim=1)
    return found


def _directions(states: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
    """Return vectors of length 1, float32."""
    return nn.functional.normalize(states.float(), dim=-1, eps=torch.finfo(torch.float32).tiny)


def similarity_arrays(
    signals: RecordedSignals, numbers: Fetch, row: int, length: int, *, imaged: bool
) -> dict[str, np.ndarray]:
    """Return the arrays of the first tokens of an answer, from what was copied to the host."""
    if not signals.similarity_layers:
        return {}
    values = numbers[SIMILARITIES][row, :, :length].copy()
    return {
        name: array
        for name, array in zip(signals.similarity_names, values, strict=True)
        if imaged or not needs_image(name)
    }
