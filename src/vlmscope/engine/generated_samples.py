"""Sampled answers by the library's ``generate``, where answers cannot be decoded in slots.

The batch is repeated, once for each sample, and its prompts are prefilled again. The same random
numbers as in slots select the tokens, so the answers are the same. They are drawn from the logits
as the checkpoint's own generation settings leave them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from vlmscope.engine.answer_states import AnswerStates
from vlmscope.engine.answers import (
    CHOSEN,
    LOGPROBS,
    STATISTICS,
    StepLogprobs,
    end_tokens,
    finished_sample,
    forcing_end,
    greedy_config,
    last_states,
)
from vlmscope.engine.batch import Batch
from vlmscope.engine.decoding.drawing import drawn, integers_of
from vlmscope.engine.device import Fetch, is_out_of_memory
from vlmscope.engine.image_cache import ImageEncoder
from vlmscope.engine.prefill import make_device_batch, run
from vlmscope.model import ResolvedSpec, VisionLanguageModel
from vlmscope.model.device_copies import to_device
from vlmscope.sampling import SampledAnswer
from vlmscope.signals import RecordedSignals


class DrawnTokens(LogitsProcessor):  # type: ignore[misc]
    """Lets ``generate`` choose the tokens that random numbers select.

    Args:
        integers: ``[rows, tokens]``, a random number for each token.
        temperature: What the logits are divided by.
    """

    def __init__(self, integers: Tensor, temperature: float) -> None:
        self._integers = integers
        self._temperatures = torch.full((len(integers),), temperature, device=integers.device)
        self._step = 0

    def __call__(self, input_ids: Any, scores: Tensor) -> Tensor:
        """Return logits that leave one token of each row."""
        del input_ids
        integers = self._integers[:, self._step].to(scores.device)
        self._step += 1
        tokens = drawn(scores.float(), self._temperatures.to(scores.device), integers)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens.unsqueeze(1), 0)


def samples_by_generate(
    batch: Batch,
    vlm: VisionLanguageModel,
    spec: ResolvedSpec,
    images: ImageEncoder | None,
    *,
    alone: bool,
) -> list[list[SampledAnswer]]:
    """Return the sampled answers of each row of a batch.

    Args:
        batch: The rows.
        vlm: The model.
        spec: What to record.
        images: Encodes the images, if that is done separately.
        alone: Whether rows may not be batched.

    Raises:
        torch.OutOfMemoryError: Not even one sample of each row fits.
    """
    count = spec.signals.sampling.count
    together = 1 if alone else count
    found: list[list[SampledAnswer]] = [[] for _ in batch.samples]
    while (first := len(found[0])) < count:
        numbers = range(first, min(first + together, count))
        try:
            samples = _generated(batch, numbers, vlm, spec, images)
        except Exception as error:
            if together == 1 or not is_out_of_memory(error):
                raise
            together //= 2
            continue
        for i, sample in enumerate(samples):
            found[i % len(found)].append(sample)
    return found


def _generated(
    batch: Batch,
    numbers: Sequence[int],
    vlm: VisionLanguageModel,
    spec: ResolvedSpec,
    images: ImageEncoder | None,
) -> list[SampledAnswer]:
    """Return some samples of each row: the first of all rows, then the second, and so on."""
    sampling, new = spec.signals.sampling, spec.max_new_tokens
    ids = [sample.id for sample in batch.samples]
    integers = integers_of(ids, sampling, spec.decoded_tokens)[:, list(numbers)]
    integers = integers.transpose(1, 0, 2).reshape(len(ids) * len(numbers), -1)
    states = AnswerStates(end_tokens(vlm), len(integers))
    for layer in spec.layers:
        states.expect(("", layer), vlm.hidden_size, vlm.device)
    # Of the samples only the last token's states are recorded.
    only = replace(spec, positions=("last_answer_token",), signals=RecordedSignals())
    device_batch, hooks = make_device_batch(
        repeated(batch, len(numbers), packs_pixels=vlm.family.packs_pixels),
        vlm,
        only,
        images,
        states,
    )
    steps = StepLogprobs(hooks, states)
    chosen = DrawnTokens(to_device(torch.from_numpy(integers), vlm.device), sampling.temperature)
    prompt, config = batch.inputs["input_ids"].shape[1], greedy_config(vlm, spec.decoded_tokens)
    forced = forcing_end(config, prompt + new, vlm)
    output = run(
        device_batch,
        hooks,
        vlm,
        config,
        stopping_criteria=[steps],
        logits_processor=LogitsProcessorList([*forced, chosen]),
    )
    tokens = output[:, prompt : prompt + new]
    copies = Fetch(
        {
            CHOSEN: tokens,
            LOGPROBS: torch.stack(steps.steps_[:new], dim=1),
            STATISTICS: torch.stack(steps.statistics_[:new], dim=1),
        }
        | last_states(states, torch.arange(len(integers)))
    )
    return [
        finished_sample(vlm, spec.layers, copies, i, tokens.shape[1]) for i in range(len(integers))
    ]


def repeated(batch: Batch, count: int, *, packs_pixels: bool = False) -> Batch:
    """Return a batch whose rows occur several times, one copy of the batch after the other.

    Args:
        batch: The rows.
        count: How many times.
        packs_pixels: As in ``Family``.
    """
    if count == 1:
        return batch
    inputs = {
        name: tensor
        if name in batch.deduplicated
        else torch.cat([tensor] * count, dim=-1 if packs_pixels and name == "pixel_values" else 0)
        for name, tensor in batch.inputs.items()
    }
    return replace(
        batch,
        samples=batch.samples * count,
        inputs=inputs,
        chat_texts=batch.chat_texts * count,
        image_hashes=batch.image_hashes * count,
        image_dhashes=batch.image_dhashes * count,
        image_thumbnails=batch.image_thumbnails * count,
        images=batch.images * count,
        shown_hashes=batch.shown_hashes * count,
        shown_sizes=batch.shown_sizes * count,
        after_question=batch.after_question * count,
        entries=batch.entries * count,
    )
