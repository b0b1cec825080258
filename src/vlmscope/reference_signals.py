"""The signals by the reference method: plain hooks, eager attention, complete weights.

Part of the oracle (``reference``), as slow and as literal. It shares with the capture which modules
of a block are its sub-layers, and the names of the arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlmscope.model import VisionLanguageModel
from vlmscope.model.attention.switch import attending_eagerly
from vlmscope.model.computing import removing_hooks
from vlmscope.model.p_true import question_about, reply_tokens
from vlmscope.model.sublayers import sublayers_of
from vlmscope.model.unembedding import unembedding_of
from vlmscope.sampling import SAMPLES, SampledAnswer, arrays_of
from vlmscope.schema import Sample
from vlmscope.signals import (
    ANSWER_TOKENS,
    ATTENDED,
    ATTENTION_MAP,
    CROSS_ATTENTION,
    IMAGE_LENS,
    IMAGE_MAX,
    IMAGE_MEAN,
    IMAGE_TOKENS,
    IMAGE_TOP,
    INTEGERS,
    LAST_PROMPT,
    LENS_ENTROPY,
    LENS_PROB,
    LENS_PROBS,
    LENS_RANK,
    LENS_TOKENS,
    LENS_TOP,
    NO_TOKEN,
    P_TRUE,
    P_TRUE_MASS,
    PREVIOUS,
    PREVIOUS_HEAD,
    SUBLAYERS,
    TOKEN_STATISTICS,
    TOP_IMAGE_TOKENS,
    RecordedSignals,
    confidence_name,
    similarity_name,
    token_states_name,
)

Passes = Mapping[tuple[str, int], list[Tensor]]
"""Sub-layer and decoder layer → its tensor ``[1, tokens, width]`` in each forward pass."""

Weights = Mapping[int, list[Tensor]]
"""Decoder layer → its attention weights ``[1, heads, tokens, keys]`` in each forward pass."""

NEAR = {torch.float32: 3e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Relative difference of the mean attention of two heads to the previous token, by the model's
dtype, below which either may be the one that attends most."""


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
    """
    divided = (*signals.attention_layers, *signals.cross_attention_layers)
    observed = tuple(dict.fromkeys((*divided, *signals.map_layers)))
    if not observed:
        return {}
    with eager_weights(vlm, observed) as seen:
        run_prompt()
    last = len(prompt) - 1
    found = {
        f"{name}_prompt": _divided(vlm, signals, name, prompt, seen, last)
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
            [_divided(vlm, signals, name, prompt, seen, last + 1 + i) for i in range(len(answer))]
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


def asked_about(
    vlm: VisionLanguageModel,
    sample: Sample,
    answer: np.ndarray,
    prompt: Callable[[str], dict[str, Tensor]],
) -> dict[str, np.ndarray]:
    """Return the log-odds that the model says yes when it is asked whether an answer is true.

    Args:
        vlm: The model.
        sample: The question.
        answer: The answer's tokens.
        prompt: Returns the model's inputs for a question about the same images.
    """
    text = vlm.processor.decode(answer.tolist(), skip_special_tokens=True)
    question = question_about(vlm.processor, sample.question, text, len(sample.images))
    inputs = {} if question is None else prompt(question)
    if not inputs or inputs["input_ids"].shape[1] > vlm.preprocessing.max_prompt_tokens:
        return {name: np.array(np.nan, np.float32) for name in (P_TRUE, P_TRUE_MASS)}
    probs = vlm.model(**inputs).logits[0, -1].double().softmax(dim=-1)
    yes, no = (float(probs[ids].sum()) for ids in reply_tokens(vlm.processor.tokenizer))
    return {
        P_TRUE: np.array(np.log(yes) - np.log(no), np.float32),
        P_TRUE_MASS: np.array(yes + no, np.float32),
    }


def _divided(
    vlm: VisionLanguageModel,
    signals: RecordedSignals,
    name: str,
    prompt: Sequence[int],
    seen: Weights,
    index: int,
) -> np.ndarray:
    """Return ``[layers, heads, parts]``: how the attention of a token is divided."""
    layers, parts = signals.divisions[name]
    result = np.full((len(layers), signals.attention_heads, parts), np.nan, np.float32)
    for at, layer in enumerate(layers):
        if not seen[layer]:
            continue  # a prompt without an image skips the layer
        if name == CROSS_ATTENTION:
            weights = _row(seen[layer], index, grows=False).double().cpu().numpy()
            encoder: Any = vlm.vision_encoder
            tiles = weights.reshape(len(weights), -1, parts, encoder.num_patches)
            result[at] = tiles.sum(axis=(1, 3))
            continue
        weights = _row(seen[layer], index, grows=True).double().cpu().numpy()
        groups = np.array([_group(vlm, prompt, key) for key in range(weights.shape[1])])
        for column, group in enumerate(ATTENDED):
            result[at, :, column] = weights[:, groups == group].sum(axis=1)
    return result


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


def logit_lens(
    vlm: VisionLanguageModel,
    signals: RecordedSignals,
    states: Mapping[str, Sequence[Tensor]],
    first: int,
) -> dict[str, np.ndarray]:
    """Return the logit lens at single positions, one state after the other.

    Args:
        vlm: The model.
        signals: The signals.
        states: Position → its state in every layer, ``[hidden]``; a prompt without an image lacks
            the image's positions.
        first: The first token of the answer.
    """
    found: dict[str, np.ndarray] = {}
    finished = unembedding_of(vlm).finished
    for name, shape in signals.shapes().items():
        if name.startswith("lens_"):
            missing = (NO_TOKEN, np.int32) if name in INTEGERS else (np.nan, np.float32)
            found[name] = np.full(shape, *missing)
    for i, position in enumerate(signals.lens_positions):
        for j, layer in enumerate(signals.lens_layers):
            if position in states:
                probs = _distribution(vlm, finished, states[position][layer], layer)
                top = probs.sort(descending=True)
                found[LENS_TOKENS][i, j] = top.indices[:LENS_TOP].cpu().numpy()
                found[LENS_PROBS][i, j] = top.values[:LENS_TOP].cpu().numpy()
                found[LENS_ENTROPY][i, j] = float(-(probs * probs.log()).nansum())
                found[LENS_RANK][i, j] = int((probs > probs[first]).sum())
                found[LENS_PROB][i, j] = float(probs[first])
    return found


def internal_confidence(
    vlm: VisionLanguageModel,
    signals: RecordedSignals,
    layers: Sequence[Tensor],
    image_tokens: Sequence[int],
    answer: Sequence[int],
) -> dict[str, np.ndarray]:
    """Return the largest probability that an image token gives to each token of the answer.

    Args:
        vlm: The model.
        signals: The signals.
        layers: Every layer's states of the prompt, ``[1, tokens, hidden]``.
        image_tokens: The image tokens; without one there is no such array.
        answer: The answer's tokens.
    """
    if not image_tokens:
        return {}
    found, finished = {}, unembedding_of(vlm).finished
    for layer in signals.lens_layers:
        largest = np.zeros(len(answer), np.float32)
        for token in image_tokens:
            probs = _distribution(vlm, finished, layers[layer][0, token], layer)
            largest = np.maximum(largest, probs[list(answer)].cpu().numpy())
        found[confidence_name(layer)] = largest
    return found


def token_states(
    signals: RecordedSignals,
    prompt: Sequence[Tensor],
    image_tokens: Sequence[int],
    both: Sequence[Tensor],
    answer: Sequence[int],
) -> dict[str, np.ndarray]:
    """Return the hidden states of the image tokens, and of the tokens of the answer.

    Args:
        signals: The signals.
        prompt: Every layer's states of the prompt, ``[1, tokens, hidden]``.
        image_tokens: The image tokens; without one there is no such array.
        both: Every layer's states of prompt and answer.
        answer: The tokens of the answer.
    """
    found = {}
    for name, layers, tokens in (
        (IMAGE_TOKENS, prompt, image_tokens),
        (ANSWER_TOKENS, both, answer),
    ):
        for k in signals.layers(name) if tokens else ():
            states = [layers[k][0, token].float().cpu().numpy() for token in tokens]
            found[token_states_name(name, k)] = np.stack(states)
    return found


def similarity(
    vlm: VisionLanguageModel,
    signals: RecordedSignals,
    prompt: Sequence[Tensor],
    image_tokens: Sequence[int],
    both: Sequence[Tensor],
    answer: Sequence[int],
) -> dict[str, np.ndarray]:
    """Return cosines of the answer's tokens with the last prompt token and the image tokens.

    Args:
        vlm: The model.
        signals: The signals.
        prompt: Every layer's states of the prompt, ``[1, tokens, hidden]``.
        image_tokens: The image tokens; without one only the last prompt token is compared.
        both: Every layer's states of prompt and answer.
        answer: The answer's tokens.
    """
    found: dict[str, list[float]] = {name: [] for name in signals.similarity_names}
    finished = unembedding_of(vlm).finished
    for k in signals.similarity_layers:
        states, length = prompt[k][0].double().cpu().numpy(), prompt[k].shape[1]
        images = [states[i] for i in image_tokens]
        probs = [
            _distribution(vlm, finished, prompt[k][0, i], k)[list(answer)].cpu().numpy()
            for i in (image_tokens if signals.lens_layers else ())
        ]
        for at, own in enumerate(both[k][0, length:].double().cpu().numpy()):
            values = {LAST_PROMPT: _cosine(own, states[-1])}
            if images:
                cosines = np.array([_cosine(own, image) for image in images])
                largest = np.sort(cosines)[::-1][:TOP_IMAGE_TOKENS]
                values |= {IMAGE_MEAN: cosines.mean(), IMAGE_TOP: largest.mean()}
                values[IMAGE_MAX] = cosines.max()
            if probs:
                order = np.argsort([-each[at] for each in probs], kind="stable")
                values[IMAGE_LENS] = cosines[order[:TOP_IMAGE_TOKENS]].mean()
            for kind, value in values.items():
                found[similarity_name(kind, k)].append(float(value))
    return {name: np.array(each, np.float32) for name, each in found.items() if each}


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def _distribution(
    vlm: VisionLanguageModel, finished: Callable[[Tensor], Tensor], state: Tensor, layer: int
) -> Tensor:
    """Return the probabilities of the next token after a state, ``[vocabulary]``.

    Args:
        vlm: The model.
        finished: Turns the head's output into the model's logits.
        state: The state.
        layer: Its layer; the last one's states are already after the norm.
    """
    normed = state if layer == vlm.num_layers - 1 else vlm.final_norm(state[None, None])[0, 0]
    logits = vlm.lm_head(normed.to(next(vlm.lm_head.parameters()).device))
    return finished(logits).float().softmax(dim=-1)
