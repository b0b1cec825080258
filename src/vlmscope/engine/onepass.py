"""One run through the model for each batch: four representations from one prefill.

The batch goes into ``generate`` once. Its prefill runs the vision encoder and the decoder over the
prompt; the taps copy the pooled vision vector, the wanted hidden states and the first logits out of
that very pass; generation then continues from its cache. A prefill-only run takes the same path and
stops there, because a plain ``forward`` counts padded positions differently. ``reference.py`` is
the slow method that this must equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlmscope.engine.answer_states import AnswerStates
from vlmscope.engine.answers import (
    Answer,
    StepLogprobs,
    cut_answers,
    first_token_statistics,
    greedy_config,
)
from vlmscope.engine.batch import Batch, prepare
from vlmscope.engine.pooling import TokenChoice
from vlmscope.engine.taps import Taps
from vlmscope.errors import InputError, RowError
from vlmscope.model import VisionLanguageModel
from vlmscope.model.halp import Original, original_of, place_of, states_of, with_encoder_of
from vlmscope.model.precision import full_float32
from vlmscope.schema import (
    IMAGE_POSITIONS,
    REPRESENTATIONS,
    VISION_ONLY,
    Capture,
    CaptureSpec,
    Failure,
    Sample,
    failure_of,
)
from vlmscope.selection import boundaries, locate, resolve_layers


def capture(
    samples: Iterable[Sample],
    vlm: VisionLanguageModel,
    spec: CaptureSpec | None = None,
    *,
    batch_size: int = 8,
) -> Iterator[Capture]:
    """Yield what each sample leaves behind in one run through the model, in order.

    Args:
        samples: Questions about images.
        vlm: The model, from ``load_model``.
        spec: What to record (default: the seed's choice).
        batch_size: Samples that go through the model together. The result does not depend on it,
            beyond rounding.

    Raises:
        InputError: ``batch_size`` is below 1, or the spec's ``compat`` is not for this model.
        RowError: A sample failed. ``extract`` records such rows instead, and goes on.
    """
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}: give 1 or more")
    spec = spec or CaptureSpec()
    original_of(vlm.family.model_type, spec)  # before any picture is read
    iterator = iter(samples)
    while chunk := tuple(islice(iterator, batch_size)):
        batches, failures = prepare(chunk, vlm, spec)
        found: dict[int, Capture] = {}
        for result in chain(failures, *(capture_batch(batch, vlm, spec) for batch in batches)):
            if isinstance(result, Failure):
                raise RowError(result.stage, f"{result.id}: {result.error}")
            found[id(result.sample)] = result
        yield from (found[id(sample)] for sample in chunk)


def capture_batch(
    batch: Batch,
    vlm: VisionLanguageModel,
    spec: CaptureSpec,
    *,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> list[Capture | Failure]:
    """Run one batch through the model once.

    Args:
        batch: The rows, from ``prepare``.
        vlm: The model.
        spec: What to record.
        shapes: Filled, if given, with module → shape of what it returned in the prefill.

    Returns:
        One entry for each row, in order: a ``Failure`` where the model returned NaN or infinity.

    Raises:
        InputError: The spec's ``compat`` is not for this model.
        torch.OutOfMemoryError: The batch does not fit; nothing of it is kept.
    """
    original = original_of(vlm.family.model_type, spec)
    vlm = with_encoder_of(original, vlm)
    found = _tokens(batch, vlm, spec, original)
    answer_states = _answer_states(vlm, spec)
    inputs = {name: t.to(vlm.device, non_blocking=True) for name, t in batch.inputs.items()}
    taps = _taps(batch, vlm, spec, inputs, found, answer_states)
    with torch.inference_mode(), full_float32(), taps:
        first, answers = _generate(vlm, inputs, taps, spec.max_new_tokens, answer_states)
    if shapes is not None:
        shapes |= taps.shapes_
    vectors = _vectors(taps, answer_states, spec)
    results: list[Capture | Failure] = []
    for row, sample in enumerate(batch.samples):
        answer = answers[row] if answers else None
        prompt = int(batch.attention_mask[row].sum())
        item = Capture(
            sample=sample,
            vectors={name: values[row] for name, values in vectors.items()},
            boundaries=boundaries(found, batch.attention_mask, row)
            | _answer_boundaries(spec, prompt, answer),
            num_prompt_tokens=prompt,
            image_sha256=batch.image_hashes[row],
            image_dhash=batch.image_dhashes[row],
            first_token_entropy=float(first[0][row]),
            first_token_ids=first[1][row],
            first_token_logprobs=first[2][row],
            **_answer_fields(answer),
        )
        results.append(_check_answer(item, spec, answer) or _check_finite(item))
    return results


def _tokens(
    batch: Batch, vlm: VisionLanguageModel, spec: CaptureSpec, original: Original | None
) -> dict[str, Bool[np.ndarray, "batch length"]]:
    """Return, for each position of the prompt, the tokens it means in each row."""
    pictured = any(batch.pictures)
    places = {
        name: place_of(original, name)
        for name in spec.prompt_positions
        if pictured or name not in IMAGE_POSITIONS
    }
    found = locate(
        batch.input_ids,
        batch.attention_mask,
        vlm.image_token_id,
        list(places.values()),
        batch.after_question,
    )
    return {name: found[place] for name, place in places.items()}


def _taps(
    batch: Batch,
    vlm: VisionLanguageModel,
    spec: CaptureSpec,
    inputs: Mapping[str, Tensor],
    found: Mapping[str, Bool[np.ndarray, "batch length"]],
    answer_states: AnswerStates | None,
) -> Taps:
    """Return the taps of one batch, not yet in place."""
    return Taps(
        vlm,
        resolve_layers(spec.layers, vlm.num_layers),
        {name: TokenChoice.from_mask(mask, vlm.device) for name, mask in found.items()},
        inputs,
        batch.pictures,
        batch.image_hashes,
        spec.vision_pooling,
        answer_states,
        states_of(original_of(vlm.family.model_type, spec)),
    )


def _answer_states(vlm: VisionLanguageModel, spec: CaptureSpec) -> AnswerStates | None:
    """Return what collects the hidden states of the answer, where they are wanted."""
    ends = vlm.model.generation_config.eos_token_id
    return AnswerStates(ends) if spec.answer_positions else None


def _generate(
    vlm: VisionLanguageModel,
    inputs: Mapping[str, Tensor],
    taps: Taps,
    max_new_tokens: int,
    states: AnswerStates | None,
) -> tuple[tuple[np.ndarray, ...], list[Answer]]:
    """Prefill and decode; return the first token's statistics and the answers.

    The states of the last answer token exist one step after it was chosen: where they are wanted,
    one token more is generated, and cut off again.
    """
    config = greedy_config(vlm, max(1, max_new_tokens) + (states is not None))
    steps = StepLogprobs(taps, states)
    output = vlm.model.generate(**inputs, generation_config=config, stopping_criteria=[steps])
    statistics = first_token_statistics(taps.seen().first_logits)
    first = tuple(tensor.cpu().numpy() for tensor in statistics)
    if max_new_tokens == 0:
        return first, []
    prompt = inputs["input_ids"].shape[1]
    generated = output[:, prompt : prompt + max_new_tokens].cpu().numpy()
    logprobs = torch.stack(steps.steps_[:max_new_tokens], dim=1).cpu().numpy()
    return first, cut_answers(vlm, generated, logprobs, config.eos_token_id)


def _vectors(
    taps: Taps, answer_states: AnswerStates | None, spec: CaptureSpec
) -> dict[str, Float[np.ndarray, "batch width"]]:
    """Return HDF5 path → matrix of the batch, copied off the device."""
    seen = taps.seen()
    vectors = {} if seen.vision is None else {VISION_ONLY: seen.vision.cpu().numpy()}
    for (position, layer), states in seen.states.items():
        vectors[f"{REPRESENTATIONS[position]}/layer_{layer}"] = states.cpu().numpy()
    if answer_states is not None:
        for position in spec.answer_positions:
            for layer, states in answer_states.at(position).items():
                vectors[f"{REPRESENTATIONS[position]}/layer_{layer}"] = states.cpu().numpy()
    return vectors


def _answer_boundaries(spec: CaptureSpec, prompt: int, answer: Answer | None) -> dict[str, int]:
    """Return the places of the answer's positions, counted on from the prompt."""
    if answer is None:
        return {}
    last = prompt + answer.content_length - 1
    places = {"first_answer_token": prompt, "last_answer_token": last}
    return {name: places[name] for name in spec.answer_positions if name in places}


def _check_answer(item: Capture, spec: CaptureSpec, answer: Answer | None) -> Failure | None:
    """Return the record of a row whose answer has no token where one is wanted."""
    if not spec.answer_positions or answer is None or answer.content_length:
        return None
    return failure_of(
        item.sample,
        "capture",
        f"the answer is empty, so there is no {spec.answer_positions[0]}; "
        "leave that position out to keep such rows",
    )


def _answer_fields(answer: Answer | None) -> dict[str, Any]:
    if answer is None:
        return {"finish_reason": "prefill"}
    return {
        "finish_reason": answer.finish_reason,
        "answer": answer.text,
        "answer_token_ids": answer.token_ids,
        "answer_logprobs": answer.logprobs,
    }


def _check_finite(item: Capture) -> Capture | Failure:
    """Return ``item``, or the record of the first thing in it that is NaN or infinite."""
    numbers = {**item.vectors, "first_token_entropy": np.array([item.first_token_entropy])}
    if item.answer_logprobs is not None:
        numbers["answer_logprobs"] = item.answer_logprobs
    for name, values in numbers.items():
        if not np.isfinite(values).all():
            return failure_of(
                item.sample,
                "capture",
                f"{name} holds {int((~np.isfinite(values)).sum())} values that are NaN or "
                "infinite; if the model runs in float16, try --dtype bfloat16 or float32",
            )
    return item
