"""Attention by the reference method: the library's eager attention, with complete weights.

Part of the oracle (``reference``), as slow and as literal.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import (
    ExitStack,
    contextmanager,
)
from typing import (
    Any,
)

import numpy as np
import torch
from torch import (
    Tensor,
    nn,
)

from vlmscope.model import (
    VisionLanguageModel,
)
from vlmscope.model.attention.switch import (
    attending_eagerly,
)
from vlmscope.model.computing import (
    removing_hooks,
)
from vlmscope.model.sublayers import (
    sublayers_of,
)
from vlmscope.signals import (
    ATTENDED,
    ATTENTION_MAP,
    CROSS_ATTENTION,
    NO_TOKEN,
    OF_CROSS_ATTENTION,
    PATCHES,
    PREVIOUS,
    PREVIOUS_HEAD,
    RecordedSignals,
    token_states_name,
)

Weights = Mapping[int, list[Tensor]]
"""Decoder layer → its attention weights ``[1, heads, tokens, keys]`` in each forward pass."""


NEAR = {torch.float32: 3e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Relative difference of the mean attention of two heads to the previous token, by the model's
dtype, below which either may be the one that attends most."""


@contextmanager
def eager_weights(
    vlm: VisionLanguageModel, layers: Sequence[int]
) -> Iterator[dict[int, list[Tensor]]]:
    """Let the decoder attend eagerly, and record the weights in every pass, within the context."""
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    with ExitStack() as stack:
        stack.enter_context(attending_eagerly(vlm.decoder))
        handles = stack.enter_context(removing_hooks())
        for layer, passes in found.items():
            attention = sublayers_of(vlm.layers[layer]).attention
            if attention is None:
                raise RuntimeError(f"layer {layer} has no attention")
            handles.append(attention.register_forward_hook(_keeping(passes)))
        yield found


def _keeping(passes: list[Tensor]) -> Callable[..., None]:
    """Return a hook that appends the weights that an attention returns to a list."""

    def keep(_module: nn.Module, _args: object, output: tuple[Tensor, Tensor]) -> None:
        passes.append(output[1].float())

    return keep


def divided_attention(
    vlm: VisionLanguageModel,
    signals: RecordedSignals,
    prompt: Sequence[int],
    answer: Sequence[int] | None,
    run_prompt: Callable[[], object],
    run_answer: Callable[[], object],
    heads: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return how the attention of the last prompt token and of the answer's tokens is divided.

    And how much the answer's tokens attend to the previous token.

    Args:
        vlm: The model.
        signals: The signals.
        prompt: The prompt's tokens.
        answer: The answer's tokens without the end of turn; None if no answer was requested.
        run_prompt: Runs the prompt.
        run_answer: Runs the prompt and the answer, in one pass or step by step.
        heads: The head of each layer whose attention to the previous token is returned, unless
            another one clearly attends more to it (default: the one that attends most).
        boxes: The part of an image that each patch covers, if layers attend to images alone.
    """
    divided = (*signals.attention_layers, *signals.cross_attention_layers)
    observed = tuple(dict.fromkeys((*divided, *signals.map_layers)))
    if not observed:
        return {}
    with eager_weights(vlm, observed) as seen:
        run_prompt()
    last = len(prompt) - 1
    found = {
        f"{name}_prompt": _divided(vlm, signals, name, prompt, seen, last, boxes)
        for name in signals.divisions
    }
    maps = [_maps(vlm, signals, prompt, seen, [last])]
    if answer is None:
        return found | _as_columns(maps)
    if answer:
        with eager_weights(vlm, observed) as seen:
            run_answer()
    for name in signals.divisions:
        several = np.stack(
            [
                _divided(vlm, signals, name, prompt, seen, last + 1 + i, boxes)
                for i in range(len(answer))
            ]
            or [np.full_like(found[f"{name}_prompt"], np.nan)]
        )
        statistics = [several.mean(axis=0), several.max(axis=0), several[0]]
        found[f"{name}_answer"] = np.stack(statistics)
    maps.append(_maps(vlm, signals, prompt, seen, [last + 1 + i for i in range(len(answer))]))
    found |= _as_columns(maps)
    if signals.attention_layers:
        found |= _attention_to_previous(signals, seen, last, len(answer), heads, NEAR[vlm.dtype])
    return found


def _attention_to_previous(
    signals: RecordedSignals,
    seen: Weights,
    last: int,
    tokens: int,
    heads: np.ndarray | None,
    near: float,
) -> dict[str, np.ndarray]:
    """Return how much each token of the answer attends to the one before it, and the heads.

    Args:
        signals: The signals.
        seen: The weights of prompt and answer.
        last: The index of the last prompt token.
        tokens: Number of tokens of the answer.
        heads: As in ``divided_attention``.
        near: Relative difference of two heads that counts as none.
    """
    layers = signals.attention_layers
    values = np.zeros((tokens, len(layers)), np.float32)
    chosen = np.full(len(layers), NO_TOKEN, np.int32)
    for at, layer in enumerate(layers if tokens else ()):
        rows = [_row(seen[layer], last + 1 + i, grows=True)[:, last + i] for i in range(tokens)]
        attended = torch.stack(rows).double().cpu().numpy()
        means = attended[1:].mean(axis=0) if tokens > 1 else attended[0]
        chosen[at] = means.argmax()
        given = -1 if heads is None else int(heads[at])
        if 0 <= given < len(means) and means[given] >= (1 - near) * means.max():
            chosen[at] = given
        values[:, at] = attended[:, chosen[at]]
    return {PREVIOUS: values, PREVIOUS_HEAD: chosen}


def _maps(
    vlm: VisionLanguageModel,
    signals: RecordedSignals,
    prompt: Sequence[int],
    seen: Weights,
    tokens: Sequence[int],
) -> dict[str, np.ndarray]:
    """Return the mean attention of some tokens to each image token, or patch, ``[tokens]``.

    Args:
        vlm: The model.
        signals: The signals.
        prompt: The prompt's tokens.
        seen: The weights.
        tokens: The tokens that attend; NaN if there are none.
    """
    images = [i for i, token in enumerate(prompt) if token == vlm.image_token_id]
    found = {}
    for layer in signals.map_layers if images else ():
        cross = layer in vlm.skipped_without_image
        rows = []
        for token in tokens:
            weights = _row(seen[layer], token, grows=not cross).double().mean(dim=0)
            rows.append((weights if cross else weights[images]).cpu().numpy())
        count = seen[layer][0].shape[-1] if cross else len(images)
        mean = np.mean(rows, axis=0) if rows else np.full(count, np.nan)
        found[token_states_name(ATTENTION_MAP, layer)] = mean
    return found


def _as_columns(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return arrays as columns of one, by name."""
    return {
        name: np.stack([part[name] for part in parts], axis=1).astype(np.float32)
        for name in parts[0]
    }


def _divided(
    vlm: VisionLanguageModel,
    signals: RecordedSignals,
    name: str,
    prompt: Sequence[int],
    seen: Weights,
    index: int,
    boxes: np.ndarray | None,
) -> np.ndarray:
    """Return ``[layers, heads, parts]``: how the attention of a token is divided."""
    layers, parts = signals.divisions[name]
    result = np.full((len(layers), signals.attention_heads, parts), np.nan, np.float32)
    for at, layer in enumerate(layers):
        if not seen[layer]:
            continue  # a prompt without an image skips the layer
        if name in OF_CROSS_ATTENTION:
            weights = _row(seen[layer], index, grows=False).double().cpu().numpy()
            encoder: Any = vlm.vision_encoder
            if name == CROSS_ATTENTION:
                tiles = weights.reshape(len(weights), -1, parts, encoder.num_patches)
                result[at] = tiles.sum(axis=(1, 3))
            elif boxes is not None and (boxes >= 0).any():
                result[at] = _by_patches(weights, boxes, encoder.num_patches)
            continue
        weights = _row(seen[layer], index, grows=True).double().cpu().numpy()
        groups = np.array([_group(vlm, prompt, key) for key in range(weights.shape[1])])
        for column, group in enumerate(ATTENDED):
            result[at, :, column] = weights[:, groups == group].sum(axis=1)
    return result


def _by_patches(weights: np.ndarray, boxes: np.ndarray, patches: int) -> np.ndarray:
    """Return ``[heads, 3]``: the attention to patches of images, of padding, and of whole tiles.

    Args:
        weights: The attention weights, ``[heads, keys]``.
        boxes: The part of an image that each patch covers; −1 if none.
        patches: Number of patches of a tile, of which the first is no part of the image.
    """
    shares = np.zeros((len(weights), len(PATCHES)))
    for key in range(weights.shape[1]):
        group = "tile" if key % patches == 0 else "image" if boxes[key, 0] >= 0 else "padding"
        shares[:, PATCHES.index(group)] += weights[:, key]
    return shares


def _row(passes: list[Tensor], index: int, *, grows: bool) -> Tensor:
    """Return the weights ``[heads, keys]`` of the token at an index of prompt and answer.

    Args:
        passes: The weights in each pass.
        index: The index.
        grows: Whether the keys are the tokens: those that a sliding window has dropped from the
            cache have weight 0.
    """
    start = 0
    for weights in passes:
        _, heads, queries, keys = weights.shape
        if index < start + queries:
            dropped = max(start + queries - keys, 0) if grows else 0
            return torch.cat(
                [weights.new_zeros(heads, dropped), weights[0, :, index - start]], dim=1
            )
        start += queries
    raise IndexError(index)


def _group(vlm: VisionLanguageModel, prompt: Sequence[int], key: int) -> str:
    """Return the group of a token: see ``signals.ATTENDED``."""
    if key >= len(prompt):
        return "answer"
    if prompt[key] == vlm.image_token_id:
        return "image"
    return "text" if key else "first"
