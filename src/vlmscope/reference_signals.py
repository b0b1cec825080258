"""The signals by the reference method: plain hooks, eager attention, complete weights.

Part of the oracle (``reference``), as slow and as literal. It shares with the capture which modules
of a block are its sub-layers, and the names of the arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from vlmscope.model import VisionLanguageModel
from vlmscope.model.computing import removing_hooks
from vlmscope.model.p_true import question_about, reply_tokens
from vlmscope.model.sublayers import sublayers_of
from vlmscope.model.unembedding import unembedding_of
from vlmscope.sampling import SAMPLES, SampledAnswer, arrays_of
from vlmscope.schema import Sample
from vlmscope.signals import (
    ANSWER_TOKENS,
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


def exactly(logits: Tensor) -> Tensor:
    """Return logits in float64, as float32 is too coarse to sum a large vocabulary on a CPU."""
    return (logits.cpu() if logits.device.type == "mps" else logits).double()


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
            float(exactly(step).log_softmax(dim=-1)[token])
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
    probs = exactly(vlm.model(**inputs).logits[0, -1]).softmax(dim=-1)
    yes, no = (float(probs[ids].sum()) for ids in reply_tokens(vlm.processor.tokenizer))
    return {
        P_TRUE: np.array(np.log(yes) - np.log(no), np.float32),
        P_TRUE_MASS: np.array(yes + no, np.float32),
    }


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
    return exactly(finished(logits)).softmax(dim=-1).float()
