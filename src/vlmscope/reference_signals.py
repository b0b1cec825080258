"""The signals by the reference method: plain hooks, eager attention, complete weights.

Part of the oracle (``reference``), as slow and as literal. It shares with the capture which modules
of a block are its sub-layers, and the names of the arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from vlmscope.model import VisionLanguageModel
from vlmscope.model.attention.switch import attending_eagerly
from vlmscope.model.computing import removing_hooks
from vlmscope.model.sublayers import sublayers_of
from vlmscope.sampling import SAMPLES, SampledAnswer, arrays_of
from vlmscope.signals import (
    ATTENDED,
    ATTENTION_ANSWER,
    ATTENTION_PROMPT,
    SUBLAYERS,
    TOKEN_STATISTICS,
    RecordedSignals,
)

Passes = Mapping[tuple[str, int], list[Tensor]]
"""Sub-layer and decoder layer → its tensor ``[1, tokens, width]`` in each forward pass."""

Weights = Mapping[int, list[Tensor]]
"""Decoder layer → its attention weights ``[1, heads, tokens, keys]`` in each forward pass."""


def token_statistics(steps: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Return the statistics of the tokens' distributions.

    Args:
        steps: Log-probabilities ``[vocabulary]`` of each token's distribution.
    """
    rows = []
    for logprobs in steps:
        top = logprobs.sort(descending=True).values
        entropy = -(logprobs.exp() * logprobs).nansum()
        rows.append([float(entropy), float(top[0]), float(top[0] - top[1])])
    columns = np.array(rows, np.float32).reshape(len(rows), len(TOKEN_STATISTICS)).T
    return dict(zip(TOKEN_STATISTICS, columns, strict=True))


@contextmanager
def sublayers_recorded(
    vlm: VisionLanguageModel, signals: RecordedSignals
) -> Iterator[dict[tuple[str, int], list[Tensor]]]:
    """Record the sub-layers in every forward pass within the context."""
    found: dict[tuple[str, int], list[Tensor]] = {}
    with removing_hooks() as handles:
        for name in SUBLAYERS:
            for layer in signals.layers(name):
                module = sublayers_of(vlm.layers[layer]).module(name)
                if module is None:
                    raise RuntimeError(f"layer {layer} has no {name}")
                passes = found.setdefault((name, layer), [])
                handles.append(_recorded(module, passes, inputs=name == "heads"))
        yield found


def _recorded(module: nn.Module, passes: list[Tensor], *, inputs: bool) -> object:
    """Append what enters or leaves a module to a list, call by call."""

    def entering(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        passes.append(args[0])

    def leaving(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        passes.append(output if isinstance(output, Tensor) else output[0])

    if inputs:
        return module.register_forward_pre_hook(entering)
    return module.register_forward_hook(leaving)


def joined(passes: list[Tensor]) -> Tensor:
    """Return the tensors of a prompt and of the tokens decoded after it as one, ``[1, T, width]``.

    Args:
        passes: The prompt's tensor, and those of the steps; a mixture of experts may return its
            tokens without the dimension of the batch.
    """
    prompt, *steps = (each.reshape(1, -1, each.shape[-1]) for each in passes)
    return torch.cat([prompt, *(step[:, -1:] for step in steps)], dim=1)


@contextmanager
def eager_weights(
    vlm: VisionLanguageModel, signals: RecordedSignals
) -> Iterator[dict[int, list[Tensor]]]:
    """Let the model attend eagerly, and record the weights in every pass, within the context."""
    found: dict[int, list[Tensor]] = {layer: [] for layer in signals.attention_layers}
    with ExitStack() as stack:
        stack.enter_context(attending_eagerly(vlm.model))
        handles = stack.enter_context(removing_hooks())
        for layer, passes in found.items():
            attention = sublayers_of(vlm.layers[layer]).attention
            if attention is None:
                raise RuntimeError(f"layer {layer} has no attention")

            def keep(
                _module: nn.Module,
                _args: object,
                output: tuple[Tensor, Tensor],
                passes: list[Tensor] = passes,
            ) -> None:
                passes.append(output[1].float())

            handles.append(attention.register_forward_hook(keep))
        yield found


def attention_shares(
    vlm: VisionLanguageModel,
    signals: RecordedSignals,
    prompt: Sequence[int],
    answer: Sequence[int] | None,
    run_prompt: Callable[[], object],
    run_answer: Callable[[], object],
) -> dict[str, np.ndarray]:
    """Return the shares of the attention of the last prompt token and of the answer's tokens.

    Args:
        vlm: The model.
        signals: The signals.
        prompt: The prompt's tokens.
        answer: The answer's tokens without the end of turn; None if no answer was requested.
        run_prompt: Runs the prompt.
        run_answer: Runs the prompt and the answer, in one pass or step by step.
    """
    if not signals.attention_layers:
        return {}
    with eager_weights(vlm, signals) as seen:
        run_prompt()
    count = len(prompt)
    rows = {layer: passes[0][0, :, count - 1] for layer, passes in seen.items()}
    found = {ATTENTION_PROMPT: _divided(vlm, signals, prompt, rows)}
    if answer is None:
        return found
    if not answer:
        shape = (3, *signals.attention_shape)
        return found | {ATTENTION_ANSWER: np.full(shape, np.nan, np.float32)}
    with eager_weights(vlm, signals) as seen:
        run_answer()
    tokens = [
        _divided(vlm, signals, prompt, {layer: _row(seen[layer], count + i) for layer in seen})
        for i in range(len(answer))
    ]
    several = np.stack(tokens)
    return found | {
        ATTENTION_ANSWER: np.stack([several.mean(axis=0), several.max(axis=0), several[0]])
    }


def sampled_answers(
    vlm: VisionLanguageModel,
    signals: RecordedSignals,
    answers: Sequence[np.ndarray],
    run_answer: Callable[[list[int]], tuple[list[Tensor], Tensor]],
) -> dict[str, np.ndarray]:
    """Return log-probabilities and last states of given sampled answers, one pass for each.

    Args:
        vlm: The model.
        signals: The signals.
        answers: The tokens of each answer.
        run_answer: Runs the prompt and an answer without the end of turn; returns every layer's
            states ``[1, tokens, width]``, and the logits of each token and of the one after it.
    """
    ends = np.atleast_1d(vlm.model.generation_config.eos_token_id).tolist()
    samples = []
    for answer in answers:
        tokens = answer.tolist()
        stopped = tokens[-1] in ends
        content = tokens[:-1] if stopped else tokens
        layers, logits = run_answer(content)
        logprobs = [
            float(step.float().log_softmax(dim=-1)[token])
            for step, token in zip(logits, tokens, strict=False)
        ]
        last = [layer[0, -1].float().cpu().numpy() for layer in layers]
        samples.append(
            SampledAnswer(
                text=vlm.processor.decode(tokens, skip_special_tokens=True),
                token_ids=answer,
                logprobs=np.array(logprobs, np.float32),
                finish_reason="stop" if stopped else "length",
                states={
                    k: last[k] if content else np.full_like(last[k], np.nan)
                    for k in signals.layers(SAMPLES)
                },
            )
        )
    return arrays_of(samples)


def _row(passes: list[Tensor], index: int) -> Tensor:
    """Return the weights ``[heads, tokens]`` of the token at an index of prompt and answer.

    Tokens that a sliding window has dropped from the cache have weight 0.
    """
    start = 0
    for weights in passes:
        _, heads, queries, keys = weights.shape
        if index < start + queries:
            dropped = weights.new_zeros(heads, max(start + queries - keys, 0))
            return torch.cat([dropped, weights[0, :, index - start]], dim=1)
        start += queries
    raise IndexError(index)


def _divided(
    vlm: VisionLanguageModel,
    signals: RecordedSignals,
    prompt: Sequence[int],
    rows: Mapping[int, Tensor],
) -> np.ndarray:
    """Return ``[layers, heads, 4]``: the sums of weights over each group of tokens."""
    result = np.zeros(signals.attention_shape, np.float32)
    for at, layer in enumerate(signals.attention_layers):
        weights = rows[layer].double().cpu().numpy()
        groups = np.array([_group(vlm, prompt, key) for key in range(weights.shape[1])])
        for column, name in enumerate(ATTENDED):
            result[at, :, column] = weights[:, groups == name].sum(axis=1)
    return result


def _group(vlm: VisionLanguageModel, prompt: Sequence[int], key: int) -> str:
    """Return the group of a token: see ``signals.ATTENDED``."""
    if key >= len(prompt):
        return "answer"
    if prompt[key] == vlm.image_token_id:
        return "image"
    return "text" if key else "first"
