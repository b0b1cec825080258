"""The greedy answer: how it is generated, and what is recorded of it.

The checkpoint's own generation settings apply, except those that are not greedy
(``model/loading/generation.py``). Log-probabilities are computed from the model's unprocessed
logits, one number per step, so that no ``[steps, batch, vocabulary]`` tensor is ever stored.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from vlmscope.engine.answer_states import AnswerStates
from vlmscope.engine.hooks import PrefillHooks
from vlmscope.model import ResolvedSpec, VisionLanguageModel
from vlmscope.sampling import SampledAnswer
from vlmscope.schema import Capture, Failure, failure_of
from vlmscope.signals import TOKEN_STATISTICS


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One row's generated tokens."""

    text: str
    """Decoded, special tokens skipped."""
    token_ids: NDArray[np.int64]
    """``[T]``, including the end-of-turn token if one was generated."""
    logprobs: NDArray[np.float32]
    """``[T]``, natural logarithm."""
    statistics: NDArray[np.float32]
    """``[T, 3]``, as in ``signals.TOKEN_STATISTICS``."""
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
    return config


def token_statistics(
    logits: Float[Tensor, "rows vocabulary"],
) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows three"]]:
    """Return the log-sum of each distribution, and ``signals.TOKEN_STATISTICS`` of it.

    >>> total, statistics = token_statistics(torch.tensor([[1.0, 1.0, -torch.inf]]))
    >>> [round(value, 4) for value in (*total.tolist(), *statistics[0].tolist())]
    [1.6931, 0.6931, -0.6931, 0.0]
    """
    total = logits.logsumexp(dim=1)
    logprobs = logits - total.unsqueeze(1)
    # A token of probability 0 has log-probability -inf and contributes nothing, not NaN.
    entropy = -(logprobs.exp() * logprobs.clamp_min(torch.finfo(torch.float32).min)).sum(dim=1)
    top = logprobs.topk(min(2, logits.shape[1]), dim=1).values
    return total, torch.stack([entropy, top[:, 0], top[:, 0] - top[:, -1]], dim=1)


class StepLogprobs:
    """A stopping criterion that never stops, but records numbers of each new token.

    ``generate`` calls it right after the token was chosen, when the hooks still have the logits it
    was chosen from.
    """

    def __init__(self, hooks: PrefillHooks, states: AnswerStates | None = None) -> None:
        self._hooks = hooks
        self._states = states
        self.steps_: list[Float[Tensor, " batch"]] = []
        self.statistics_: list[Float[Tensor, "batch three"]] = []

    def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        """Record the step; return False for every row."""
        logits = self._hooks.logits_
        if logits is None:
            raise RuntimeError("generation chose a token before the model returned logits")
        # A row that has ended is padded with a token that may have no logit.
        tokens = input_ids[:, -1:].to(logits.device).clamp_max(logits.shape[1] - 1)
        chosen = logits.gather(1, tokens).squeeze(1)
        total, statistics = token_statistics(logits)
        self.steps_.append(chosen - total)
        self.statistics_.append(statistics)
        if self._states is not None:
            self._states.note(input_ids[:, -1])
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def cut_answer(
    vlm: VisionLanguageModel,
    ids: Int[np.ndarray, " steps"],
    logprobs: Float[np.ndarray, " steps"],
    statistics: Float[np.ndarray, "steps three"],
) -> Answer:
    """Cut a row after its first end-of-turn token, and decode it."""
    ends = np.atleast_1d(end_tokens(vlm))
    stops = np.flatnonzero(np.isin(ids, ends))
    length = int(stops[0]) + 1 if len(stops) else len(ids)
    return Answer(
        text=vlm.processor.decode(ids[:length].tolist(), skip_special_tokens=True),
        token_ids=ids[:length].astype(np.int64),
        logprobs=logprobs[:length].astype(np.float32),
        statistics=statistics[:length].astype(np.float32),
        finish_reason="stop" if len(stops) else "length",
    )


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
        arrays: Arrays of signals over the answer's tokens.
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
            **dict(zip(TOKEN_STATISTICS, answer.statistics.T.copy(), strict=True)),
            **item.signals,
            **arrays,
        },
        finish_reason=answer.finish_reason,
        answer=answer.text,
        answer_token_ids=answer.token_ids,
        answer_logprobs=answer.logprobs,
    )
    return check_finite(complete)


def sampled_answer(
    answer: Answer, states: Mapping[int, Float[np.ndarray, " hidden"]]
) -> SampledAnswer:
    """Return a sample, given its tokens and the hidden states of its last token by layer."""
    return SampledAnswer(
        text=answer.text,
        token_ids=answer.token_ids,
        logprobs=answer.logprobs,
        finish_reason=answer.finish_reason,
        states=states,
    )


def check_finite(item: Capture) -> Capture | Failure:
    """Return ``item``, or a ``Failure`` for the first array in it with NaN or infinity."""
    numbers = {**item.vectors, "first_token_entropy": np.array([item.first_token_entropy])}
    if item.answer_logprobs is not None:
        numbers["answer_logprobs"] = item.answer_logprobs
    for number, sample in enumerate(item.samples):
        numbers[f"the log-probabilities of sample {number}"] = sample.logprobs
        if len(sample.token_ids) > (sample.finish_reason == "stop"):  # else it is empty
            numbers |= {f"layer_{k} of sample {number}": v for k, v in sample.states.items()}
    for name, values in numbers.items():
        if not np.isfinite(values).all():
            return failure_of(
                item.sample,
                "capture",
                f"{name} contains {int((~np.isfinite(values)).sum())} values that are NaN or "
                "infinite; if the model runs in float16, try --dtype bfloat16 or float32",
            )
    return item
