"""The greedy answer: how it is asked for, and what is kept of it.

``generate`` does the decoding, with the checkpoint's own generation settings except for what is not
greedy (``model/greedy.py``). Log-probabilities come from the model's unprocessed logits, one number
a step, so that no ``[steps, batch, vocabulary]`` tensor is ever kept.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from vlmscope.engine.answer_states import AnswerStates
from vlmscope.engine.taps import Taps
from vlmscope.model import VisionLanguageModel
from vlmscope.schema import TOP_FIRST_TOKENS


@dataclass(frozen=True, slots=True)
class Answer:
    """One row's generated tokens."""

    text: str
    """Decoded, special tokens skipped."""
    token_ids: NDArray[np.int64]
    """``[T]``, the end-of-turn token included where one was generated."""
    logprobs: NDArray[np.float32]
    """``[T]``, natural logarithm."""
    finish_reason: Literal["stop", "length"]
    """Whether the model ended its turn or ran into the limit."""

    @property
    def content_length(self) -> int:
        """Tokens of the answer without the end-of-turn token, which can only be the last."""
        return len(self.token_ids) - (self.finish_reason == "stop")


def greedy_config(vlm: VisionLanguageModel, max_new_tokens: int) -> Any:
    """Return the model's ``GenerationConfig``, which ``load_model`` made greedy, with a limit."""
    config = copy.deepcopy(vlm.model.generation_config)
    config.max_new_tokens = max_new_tokens
    return config


class StepLogprobs:
    """A stopping criterion that never stops: it notes each new token's log-probability.

    ``generate`` calls it right after the token was chosen, when the taps still hold the logits it
    was chosen from.
    """

    def __init__(self, taps: Taps, states: AnswerStates | None = None) -> None:
        self._taps = taps
        self._states = states
        self.steps_: list[Float[Tensor, " batch"]] = []

    def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        """Note the step; return False for every row."""
        logits = self._taps.logits_
        if logits is None:
            raise RuntimeError("generation chose a token before the model returned logits")
        # A row that has ended is padded with a token that may not even have a logit.
        tokens = input_ids[:, -1:].to(logits.device).clamp_max(logits.shape[1] - 1)
        chosen = logits.gather(1, tokens).squeeze(1)
        self.steps_.append(chosen - logits.logsumexp(dim=1))
        if self._states is not None:
            self._states.note(input_ids[:, -1])
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def first_token_statistics(
    logits: Float[Tensor, "batch vocabulary"],
) -> tuple[Float[Tensor, " batch"], Int[Tensor, "batch top"], Float[Tensor, "batch top"]]:
    """Return the entropy in nats, the most likely first tokens, and their log-probabilities.

    >>> entropy, ids, logprobs = first_token_statistics(torch.zeros(1, 32))
    >>> round(float(entropy), 4) == round(float(np.log(32)), 4), tuple(ids.shape)
    (True, (1, 20))
    """
    logprobs = logits.log_softmax(dim=1)
    # A token of probability 0 has log-probability -inf and contributes nothing, not NaN.
    entropy = -(logprobs.exp() * logprobs.clamp_min(torch.finfo(torch.float32).min)).sum(dim=1)
    top, ids = logprobs.topk(min(TOP_FIRST_TOKENS, logits.shape[1]), dim=1)
    return entropy, ids, top


def cut_answers(
    vlm: VisionLanguageModel,
    generated: Int[np.ndarray, "batch steps"],
    logprobs: Float[np.ndarray, "batch steps"],
    eos_token_id: int | Sequence[int] | None,
) -> list[Answer]:
    """Cut each row at its first end-of-turn token, and decode what stands before it."""
    ends = np.atleast_1d([] if eos_token_id is None else eos_token_id)
    answers = []
    for ids, values in zip(generated, logprobs, strict=True):
        stops = np.flatnonzero(np.isin(ids, ends))
        length = int(stops[0]) + 1 if len(stops) else len(ids)
        answers.append(
            Answer(
                text=vlm.processor.decode(ids[:length].tolist(), skip_special_tokens=True),
                token_ids=ids[:length].astype(np.int64),
                logprobs=values[:length].astype(np.float32),
                finish_reason="stop" if len(stops) else "length",
            )
        )
    return answers
