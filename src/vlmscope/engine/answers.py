"""The greedy answer: how it is generated, and what is recorded of it.

The checkpoint's own generation settings apply, except those that are not greedy
(``model/loading/generation.py``). Log-probabilities are computed from the model's unprocessed
logits, one number per step, so that no ``[steps, batch, vocabulary]`` tensor is ever stored.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from vlmscope.engine.answer_states import AnswerStates
from vlmscope.engine.attention_maps import MAPS, copied_maps_of_answers
from vlmscope.engine.device import Fetch
from vlmscope.engine.hooks import PrefillHooks
from vlmscope.engine.lens import (
    confidence_arrays,
    confidence_of,
    lens_arrays,
    with_lens_of_answer,
)
from vlmscope.engine.pooling import entropy_of, log_probabilities
from vlmscope.engine.prefill import ARRAYS, Prefilled, arrays_in
from vlmscope.engine.similarity import (
    SIMILARITIES,
    PromptStates,
    similarities,
    similarity_arrays,
)
from vlmscope.engine.token_states import TOKENS as TOKEN_STATES
from vlmscope.engine.token_states import answer_token_arrays, copied_answer_tokens
from vlmscope.model import ResolvedSpec, VisionLanguageModel
from vlmscope.sampling import SampledAnswer, arrays_of, layer_name
from vlmscope.schema import Capture, Failure, failure_of
from vlmscope.signals import PREVIOUS, TOKEN_STATISTICS, is_token_states


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One row's generated tokens."""

    text: str
    """Decoded, special tokens skipped."""
    token_ids: NDArray[np.int64]
    """``[T]``, including the end-of-turn token if one was generated."""
    logprobs: NDArray[np.float32]
    """``[T]``, natural logarithm."""
    arrays: Mapping[str, NDArray[np.float32]]
    """Array of a signal → one value per token, ``[T]``."""
    finish_reason: Literal["stop", "length"]
    """Whether the model ended its turn or reached the limit."""

    @property
    def content_length(self) -> int:
        """Number of tokens without the end-of-turn token, which can only be the last."""
        return len(self.token_ids) - (self.finish_reason == "stop")


def greedy_config(vlm: VisionLanguageModel, max_new_tokens: int) -> Any:
    """Return the model's ``GenerationConfig``, which ``load_model`` made greedy, with a limit."""
    config = copy.deepcopy(vlm.model.generation_config)
    config.max_new_tokens = max_new_tokens
    if config.min_new_tokens:  # the library warns of a minimum above the maximum
        config.min_new_tokens = min(config.min_new_tokens, max_new_tokens)
    return config


def token_statistics(
    logits: Float[Tensor, "rows vocabulary"], tokens: Int[Tensor, " rows"]
) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows three"]]:
    """Return the log-probability of each row's token, and ``signals.TOKEN_STATISTICS``.

    >>> logits = torch.tensor([[1.0, 1.0, -torch.inf]])
    >>> own, statistics = token_statistics(logits, torch.tensor([1]))
    >>> [round(value, 4) for value in (*own.tolist(), *statistics[0].tolist())]
    [-0.6931, 0.6931, -0.6931, 0.0]
    """
    logprobs = log_probabilities(logits)
    own = logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1)
    top = logprobs.topk(min(2, logits.shape[1]), dim=1).values
    entropy = entropy_of(logprobs)
    return own, torch.stack([entropy, top[:, 0], top[:, 0] - top[:, -1]], dim=1)


NO_END = 2**31 - 1
"""A token that no model has, in place of those that end an answer."""


def config_feeding_end(vlm: VisionLanguageModel, max_new_tokens: int) -> Any:
    """Return the settings of ``greedy_config``, but with a token that no answer ends with.

    ``StepLogprobs`` ends the answers one step later, so that the end-of-turn token is processed.
    """
    config = greedy_config(vlm, max_new_tokens)
    if config.pad_token_id is None:
        config.pad_token_id = (end_tokens(vlm) or [0])[0]
    config.eos_token_id = [NO_END]
    return config


def forcing_end(config: Any, tokens: int, vlm: VisionLanguageModel) -> Any:
    """Return what forces the end of answers at their last token, if the checkpoint asks for it.

    The library forces it at the last token that is decoded, which may be one more than is kept.

    Args:
        config: Settings of ``generate``, which are changed.
        tokens: Maximum number of tokens of a padded prompt and its answer.
        vlm: The model.
    """
    from transformers.generation.logits_process import (
        ForcedEOSTokenLogitsProcessor,
        LogitsProcessorList,
    )

    end, config.forced_eos_token_id = config.forced_eos_token_id, None
    forced = [] if end is None else [ForcedEOSTokenLogitsProcessor(tokens, end, str(vlm.device))]
    return LogitsProcessorList(forced)


class StepLogprobs:
    """A stopping criterion that records numbers of each new token.

    ``generate`` calls it right after the token was chosen, when the hooks still have the logits it
    was chosen from. It does not stop, unless it is given tokens: a row stops when one of them was
    processed.

    Args:
        hooks: The hooks of the pass.
        states: Collects the states of the answers' tokens, if they are recorded.
        fed: End-of-turn tokens that are to be processed.
    """

    def __init__(
        self,
        hooks: PrefillHooks,
        states: AnswerStates | None = None,
        fed: Sequence[int] = (),
    ) -> None:
        self._hooks = hooks
        self._states = states
        self._fed = torch.tensor(fed, dtype=torch.int64)
        self.steps_: list[Float[Tensor, " batch"]] = []
        self.statistics_: list[Float[Tensor, "batch three"]] = []

    def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        """Record the step; return whether each row stops."""
        logits = self._hooks.logits_
        if logits is None:
            raise RuntimeError("generation chose a token before the model returned logits")
        # A row that has ended is padded with a token that may have no logit.
        tokens = input_ids[:, -1].to(logits.device).clamp_max(logits.shape[1] - 1)
        logprobs, statistics = token_statistics(logits, tokens)
        self.steps_.append(logprobs)
        self.statistics_.append(statistics)
        if self._states is not None:
            self._states.note(input_ids[:, -1])
        if len(self.steps_) < 2:  # the token before is one of the prompt
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        return torch.isin(input_ids[:, -2], self._fed.to(input_ids.device))


COUNT, CHOSEN, LOGPROBS = "count", "chosen", "logprobs"
STATISTICS, CONFIDENCE = "statistics", "confidence"

TOKENS = (COUNT, CHOSEN, LOGPROBS, STATISTICS, CONFIDENCE, SIMILARITIES)
"""Names of the tensors about the tokens of answers, among those that are copied to the host."""


def of_answers(
    vlm: VisionLanguageModel,
    spec: ResolvedSpec,
    states: AnswerStates | None,
    rows: Int[Tensor, " chosen"],
    tokens: Mapping[str, Tensor],
    image_lens: Float[Tensor, "rows layers vocabulary"] | None,
    answer_tokens: Mapping[int, Float[Tensor, "rows steps hidden"]],
    prompts: Sequence[PromptStates],
) -> dict[str, Tensor]:
    """Return everything that is recorded of some answers, one row per answer.

    Args:
        vlm: The model.
        spec: What to record.
        states: What was recorded of the answers' tokens, if anything was.
        rows: The rows of these answers there, in ``image_lens`` and in ``answer_tokens``.
        tokens: Some of ``TOKENS``, among them their ids, ``[chosen, steps]``.
        image_lens: The lens of the image tokens, if it was recorded.
        answer_tokens: Decoder layer → states of the answers' tokens, if they were recorded.
        prompts: The prompt of each of these answers, if their tokens are compared with it.
    """
    found = dict(tokens) | copied_answer_tokens(spec, answer_tokens, rows)
    if prompts:
        chosen = {k: each[rows.to(each.device)] for k, each in answer_tokens.items()}
        found[SIMILARITIES] = similarities(vlm, spec.signals, prompts, chosen, tokens[CHOSEN])
    if image_lens is not None:
        found[CONFIDENCE] = confidence_of(image_lens, tokens[CHOSEN], rows)
    if states is None:
        return found
    vectors = states.vectors(spec.answer_positions)
    vectors = {name: values[rows.to(values.device)] for name, values in vectors.items()}
    found |= copied_maps_of_answers(spec.signals, states, rows)
    arrays = states.arrays(spec.signals, rows)
    if vectors:
        arrays |= lens_arrays(vlm, spec.signals, vectors, tokens[CHOSEN][:, 0])
    return found | vectors | {ARRAYS + name: values for name, values in arrays.items()}


def finished(
    vlm: VisionLanguageModel,
    spec: ResolvedSpec,
    prefilled: Prefilled,
    numbers: Fetch,
    row: int,
    count: int,
) -> Capture | Failure:
    """Return the capture of a row whose answer is complete.

    Args:
        vlm: The model.
        spec: What to record.
        prefilled: The prefill of the row.
        numbers: What was recorded of several answers, from ``of_answers``.
        row: The row there.
        count: Number of its tokens; tokens after an end-of-turn token are dropped.
    """
    imaged = bool(prefilled.image_sha256)
    answer = _cut_answer(vlm, numbers, row, count, spec.signals.lens_layers if imaged else ())
    states = {
        name: numbers[name][row].copy()
        for name in numbers
        if name not in TOKENS and not name.startswith((ARRAYS, TOKEN_STATES, MAPS))
    }
    arrays = arrays_in(numbers, row) | prefilled.map_arrays(numbers, row)
    if PREVIOUS in arrays:
        arrays[PREVIOUS] = arrays[PREVIOUS][: answer.content_length].copy()
    length = len(answer.token_ids)
    arrays |= answer_token_arrays(numbers, row, length)
    arrays |= similarity_arrays(spec.signals, numbers, row, length, imaged=imaged)
    return with_answer(prefilled.capture(), spec, answer, states, arrays)


def finished_sample(
    vlm: VisionLanguageModel, layers: Sequence[int], numbers: Fetch, row: int, count: int
) -> SampledAnswer:
    """Return a sampled answer that is complete.

    Args:
        vlm: The model.
        layers: The layers at which the state of its last token is recorded.
        numbers: ``TOKENS`` of several answers, and the tensors of ``last_states``.
        row: The row there.
        count: As in ``finished``.
    """
    answer = _cut_answer(vlm, numbers, row, count)
    return SampledAnswer(
        text=answer.text,
        token_ids=answer.token_ids,
        logprobs=answer.logprobs,
        finish_reason=answer.finish_reason,
        states={layer: numbers[layer_name(layer)][row].copy() for layer in layers},
    )


def last_states(states: AnswerStates, rows: Int[Tensor, " chosen"]) -> dict[str, Tensor]:
    """Return the last tokens' states of some sampled answers, by the name of their array."""
    return {
        layer_name(layer): values[rows.to(values.device)]
        for layer, values in states.last_states().items()
    }


def with_samples(item: Capture | Failure, samples: Sequence[SampledAnswer]) -> Capture | Failure:
    """Return the capture of a row with its sampled answers; a ``Failure`` if one is not finite."""
    if isinstance(item, Failure) or not samples:
        return item
    numbers = {}
    for number, sample in enumerate(samples):
        numbers[f"the log-probabilities of sample {number}"] = sample.logprobs
        if len(sample.token_ids) > (sample.finish_reason == "stop"):  # else it is empty
            numbers |= {f"layer_{k} of sample {number}": v for k, v in sample.states.items()}
    complete = replace(item, signals={**item.signals, **arrays_of(samples)})
    return _check_numbers(complete, numbers)


def _cut_answer(
    vlm: VisionLanguageModel,
    numbers: Fetch,
    row: int,
    count: int,
    lens_layers: Sequence[int] = (),
) -> Answer:
    """Cut a row after its first end-of-turn token, and decode it.

    Args:
        vlm: The model.
        numbers: As in ``finished``.
        row: The row.
        count: Number of its tokens.
        lens_layers: The layers at which the lens of the image tokens was looked up.
    """
    ids, ends = numbers[CHOSEN][row, :count], end_tokens(vlm)
    stops = np.flatnonzero(np.isin(ids, ends))
    length = int(stops[0]) + 1 if len(stops) else len(ids)
    arrays = dict(zip(TOKEN_STATISTICS, numbers[STATISTICS][row, :length].T.copy(), strict=True))
    if lens_layers:
        values = numbers[CONFIDENCE][row, :, :length].copy()
        arrays |= confidence_arrays(values, lens_layers)
    return Answer(
        text=vlm.processor.decode(ids[:length].tolist(), skip_special_tokens=True),
        token_ids=ids[:length].astype(np.int64),
        logprobs=numbers[LOGPROBS][row, :length].astype(np.float32),
        arrays=arrays,
        finish_reason="stop" if len(stops) else "length",
    )


def states_of_answers(
    vlm: VisionLanguageModel, spec: ResolvedSpec, rows: int
) -> AnswerStates | None:
    """Return what collects the states of the tokens of some answers; None if none are recorded."""
    if not spec.reads_answer:
        return None
    return AnswerStates(end_tokens(vlm), rows, spec.max_new_tokens)


def end_tokens(vlm: VisionLanguageModel) -> list[int]:
    """Return the ids of the tokens that end an answer."""
    ends = vlm.model.generation_config.eos_token_id
    return [] if ends is None else np.atleast_1d(ends).tolist()


def with_answer(
    item: Capture,
    spec: ResolvedSpec,
    answer: Answer,
    states: Mapping[str, Float[np.ndarray, " hidden"]],
    arrays: Mapping[str, Float[np.ndarray, ...]],
) -> Capture | Failure:
    """Return the capture of a row with its answer; a ``Failure`` if something is missing.

    Args:
        item: The capture of the prefill.
        spec: What to record.
        answer: The answer.
        states: HDF5 path → hidden states of the answer's tokens.
        arrays: Arrays of signals over the answer.
    """
    last = item.num_prompt_tokens + answer.content_length - 1
    positions = {"first_answer_token": item.num_prompt_tokens, "last_answer_token": last}
    if spec.answer_positions and not answer.content_length:
        return failure_of(
            item.sample,
            "capture",
            f"the answer is empty, so there is no {spec.answer_positions[0]}; "
            "omit that position to keep such rows",
        )
    complete = replace(
        item,
        vectors={**item.vectors, **states},
        boundaries={
            **item.boundaries,
            **{name: positions[name] for name in spec.answer_positions if name in positions},
        },
        signals={
            **answer.arrays,
            **with_lens_of_answer(item.signals, arrays, spec.signals.lens_positions),
        },
        finish_reason=answer.finish_reason,
        answer=answer.text,
        answer_token_ids=answer.token_ids,
        answer_logprobs=answer.logprobs,
    )
    return check_finite(complete)


def check_finite(item: Capture) -> Capture | Failure:
    """Return ``item``, or a ``Failure`` for the first array in it with NaN or infinity."""
    numbers = {**item.vectors, "first_token_entropy": np.array([item.first_token_entropy])}
    if item.answer_logprobs is not None:
        numbers["answer_logprobs"] = item.answer_logprobs
    numbers |= {name: array for name, array in item.signals.items() if is_token_states(name)}
    return _check_numbers(item, numbers)


def _check_numbers(item: Capture, numbers: Mapping[str, np.ndarray]) -> Capture | Failure:
    """Return ``item``, or a ``Failure`` for the first of its arrays with NaN or infinity."""
    for name, values in numbers.items():
        if not np.isfinite(values).all():
            return failure_of(
                item.sample,
                "capture",
                f"{name} contains {int((~np.isfinite(values)).sum())} values that are NaN or "
                "infinite; if the model runs in float16, try --dtype bfloat16 or float32",
            )
    return item
