"""P(True) of answers whose prompts are still in slots: neither image nor prompt is run again.

The question whether an answer is true is another question about the same images, so it begins with
the tokens of the row's own prompt: the images and almost all of the question. Their keys and values
are in the row's slot, before those of the answer. So a row whose greedy answer has ended keeps its
slot until there are several such rows. Then the keys are gathered, and only the ends are run:

    in the slot     [padding | template, images, question | template, answer]
    end             [         template, images, question |] Proposed answer: … yes or no. | template

It is the same for decoders with cross-attention, whose slots hold the images' keys. Where the
tokens or the model do not allow it, or if it fails, rows are asked about in ``p_true``.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from vlmscope.engine.batch import Batch, prepare
from vlmscope.engine.decoding.slots import Slots
from vlmscope.engine.device import Fetch, is_dead_device, is_out_of_memory
from vlmscope.engine.p_true import spec_of_questions
from vlmscope.engine.prefill import make_hooks, prefilling
from vlmscope.engine.shared_prefill import run_ends
from vlmscope.engine.shared_prefix import expanded, image_end, why_not_continued, window_of
from vlmscope.errors import one_line
from vlmscope.model import ResolvedSpec, VisionLanguageModel
from vlmscope.model.attention.kv_cache import FixedLayer, cache_over, layer_with
from vlmscope.model.attention.switch import masking_keys
from vlmscope.model.device_copies import to_device
from vlmscope.model.lengths import ALONE, unscaled
from vlmscope.model.p_true import log_odds, question_about
from vlmscope.prompt import control_tokens, plain_tokens, render
from vlmscope.schema import Capture, Sample
from vlmscope.shown_once import warn
from vlmscope.signals import P_TRUE

ROWS_AT_ONCE = 16
"""Rows that are asked about together: with some 60 tokens each, they keep a GPU busy."""


@dataclass(frozen=True, slots=True, eq=False)
class OwnPrompt:
    """The prompt of a row in a slot."""

    sample: Sample
    """The row."""
    chat_text: str
    """Its rendered prompt."""
    image_sha256: str
    """SHA-256 of its images, as in ``Batch.image_hashes``."""
    tokens: list[int]
    """Its tokens, without padding."""
    columns: Int[np.ndarray, " tokens"]
    """The columns of the slot where their keys and values are."""
    length: int
    """Columns of all prompts of its batch; the answer's follow."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """A question about an answer, as the continuation of a prompt in a slot."""

    kept: int
    """Number of tokens that the question and the prompt begin with."""
    end: list[int]
    """Tokens of the question after them."""


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A row that keeps its slot until the model was asked about its answer."""

    own: OwnPrompt
    """Its prompt."""
    question: Future[Continuation | None]
    """The question; None if it does not begin as the prompt does."""


Reply = tuple[Fetch, int]
"""Log-odds and mass of some rows as they arrive, and the index of one of them."""

_checked: weakref.WeakKeyDictionary[Any, dict[bool, bool]] = weakref.WeakKeyDictionary()
"""Processor → whether the tokens of the first such question with an image, and of the first without
one, were those of the processor itself."""


class SlotAsker:
    """Asks about answers from the slots of their rows.

    Args:
        vlm: The model.
        spec: What is recorded of the rows.
        words: The tokens of the replies, from ``reply_tokens``.

    Attributes:
        at_once: Maximum number of rows that are asked about together; 0 if none are.
    """

    def __init__(
        self, vlm: VisionLanguageModel, spec: ResolvedSpec, words: tuple[list[int], list[int]]
    ) -> None:
        self._vlm = vlm
        self._spec = spec_of_questions(spec)
        self._words = words
        self._preparing = ThreadPoolExecutor(1, "vlmscope-ask-in-slots")
        added = vlm.processor.tokenizer.added_tokens_decoder
        self._added = set(added)
        self._control = control_tokens(vlm.processor.tokenizer)
        # An added token that is a line break or spaces is text.
        self._marks = {number for number, token in added.items() if token.content.strip()}
        self.at_once = 0 if why_not_continued(vlm) else ROWS_AT_ONCE

    def prompts(self, batch: Batch) -> list[OwnPrompt] | None:
        """Return the prompts of a batch that goes into slots; None if it is not asked from them."""
        if not self.at_once:
            return None
        length = batch.input_ids.shape[1]
        return [
            OwnPrompt(sample, text, sha256, ids[mask].tolist(), np.flatnonzero(mask), length)
            for sample, text, sha256, ids, mask in zip(
                batch.samples, batch.chat_texts, batch.image_hashes,
                batch.input_ids, batch.attention_mask.astype(bool), strict=True,
            )
        ]  # fmt: skip

    def begin(self, own: OwnPrompt, row: Capture) -> Held:
        """Start to prepare the question about the answer of a row, in a thread."""
        return Held(own, self._preparing.submit(self._continuation, own, row.answer or ""))

    def ask(self, slots: Slots, held: Mapping[int, Held]) -> list[Reply | None]:
        """Start to ask about some rows; None for each that has to be asked about in another way.

        If that fails, all of them are, and fewer rows are asked about from now on, or none.

        Args:
            slots: The slots.
            held: Slot → the row there.
        """
        if not self.at_once:
            return [None] * len(held)
        try:
            return self._ask(slots, held)
        except Exception as error:
            if is_dead_device(error):
                raise
            self.at_once = min(self.at_once, len(held)) // 2 if is_out_of_memory(error) else 0
            if not is_out_of_memory(error):
                warn(
                    f"asking about answers on the keys of their prompts failed "
                    f"({type(error).__name__}: {one_line(error)}); complete prompts are run from "
                    "now on, which is slower",
                    stacklevel=2,
                )
        return [None] * len(held)

    def _ask(self, slots: Slots, held: Mapping[int, Held]) -> list[Reply | None]:
        questions = {slot: row.question.result() for slot, row in held.items()}
        asked = {
            slot: (held[slot].own, question)
            for slot, question in questions.items()
            if question is not None
        }
        if not asked:
            return [None] * len(held)
        ends = _laid_out(list(asked.values()), self._vlm.processor.tokenizer.pad_token_id or 0)
        window = window_of(self._vlm)
        if window is not None and ends.mask.shape[1] > window:
            return [None] * len(held)
        fetch = self._replies(slots, torch.tensor(list(asked)), ends)
        index = {slot: i for i, slot in enumerate(asked)}
        return [(fetch, index[slot]) if slot in asked else None for slot in held]

    def _replies(self, slots: Slots, rows: Tensor, ends: _Ends) -> Fetch:
        """Run the ends of the questions about some slots; return log-odds and mass of each."""
        vlm, device = self._vlm, self._vlm.device
        index, ids, mask, steps = (
            to_device(each, device) for each in (rows, ends.ids, ends.mask, ends.steps)
        )
        # The next token of each row has this position, and this column.
        at = slots.positions[:, index] + (steps - slots.cache_positions[index].unsqueeze(1))
        hooks = make_hooks(vlm, self._spec, {}, {"input_ids": ids}, [0] * len(rows))
        with ExitStack() as stack:
            stack.enter_context(unscaled(vlm.model, vlm.lengths))  # rows alone are not in slots
            stack.enter_context(prefilling(vlm, hooks, ends.mask.numpy()))
            if slots.cross_attention_mask is not None:
                parts = [vlm.layers[layer] for layer in slots.fixed]
                stack.enter_context(masking_keys(parts, slots.cross_attention_mask[index]))
            cache = _beginnings(slots, index, ends.mask.shape[1] - ends.ids.shape[1])
            run_ends(vlm, ids, mask, at[0] if len(at) == 1 else at, cache)
        return Fetch({P_TRUE: log_odds(hooks.tensors().first_logits, self._words)})

    def _continuation(self, own: OwnPrompt, answer: str) -> Continuation | None:
        """Return the question about an answer, if it continues the row's own prompt."""
        vlm, sample = self._vlm, own.sample
        images = len(sample.images)
        text = question_about(vlm.processor, sample.question, answer, images, self._control)
        if text is None:
            return None
        tokens = expanded(
            plain_tokens(vlm.processor, render(vlm.processor, text, images, control=self._control)),
            plain_tokens(vlm.processor, own.chat_text),
            own.tokens,
            self._marks,
        )
        if tokens is None or len(tokens) > vlm.max_prompt_tokens:
            return None
        kept = min(_in_common(tokens, own.tokens), len(tokens) - 1)
        if kept < max(1, image_end(own.tokens, vlm.image_token_id, self._added)):
            return None
        if vlm.lengths.band(len(tokens)) == ALONE or not self._is_exact(own, text, tokens):
            return None
        return Continuation(kept, tokens[kept:])

    def _is_exact(self, own: OwnPrompt, text: str, tokens: list[int]) -> bool:
        """Return whether the processor has the same tokens, which the first question is asked."""
        known, imaged = _checked.setdefault(self._vlm.processor, {}), bool(own.sample.images)
        if imaged not in known:
            sample = replace(own.sample, question=text)
            batches, _ = prepare([sample], self._vlm.preprocessing, self._spec)
            if not batches or batches[0].image_hashes != (own.image_sha256,):
                return False  # its image is not what it was
            [ids], [mask] = batches[0].input_ids, batches[0].attention_mask.astype(bool)
            known[imaged] = ids[mask].tolist() == tokens
        return known[imaged]


@dataclass(frozen=True, slots=True, eq=False)
class _Ends:
    """The ends of some questions, padded on the left."""

    ids: Int[Tensor, "rows end"]
    """Their tokens."""
    mask: Int[Tensor, "rows length"]
    """1 where a token of the beginnings, in columns of the slots, or of the ends is real."""
    steps: Int[Tensor, "rows end"]
    """The column of a slot in which each token would be, if the last token of the row's prompt were
    in the column that it has, and those before it next to it: columns count as positions do."""


def _laid_out(asked: Sequence[tuple[OwnPrompt, Continuation]], pad: int) -> _Ends:
    """Lay out the ends of questions that continue prompts.

    >>> own = OwnPrompt(Sample("a", None, "Why?"), "", "", [5, 6, 7, 8], np.array([1, 2, 4, 5]), 6)
    >>> ends = _laid_out([(own, Continuation(3, [9, 9])), (own, Continuation(2, [9, 9, 9]))], 0)
    >>> ends.ids.tolist(), ends.mask.tolist()
    ([[0, 9, 9], [9, 9, 9]], [[0, 1, 1, 0, 1, 0, 1, 1], [0, 1, 1, 0, 0, 1, 1, 1]])
    >>> ends.steps.tolist()  # the last token of the prompt is in column 5
    [[5, 5, 6], [4, 5, 6]]
    """
    columns = max(int(own.columns[question.kept - 1]) + 1 for own, question in asked)
    longest = max(len(question.end) for _, question in asked)
    ids = np.full((len(asked), longest), pad, np.int64)
    mask = np.zeros((len(asked), columns + longest), np.int64)
    last = np.zeros((len(asked), 1), np.int64)
    for i, (own, question) in enumerate(asked):
        start = longest - len(question.end)
        ids[i, start:] = question.end
        mask[i, own.columns[: question.kept]] = 1
        mask[i, columns + start :] = 1
        last[i] = own.length - 1 - (len(own.tokens) - question.kept)
    further = np.maximum(mask[:, columns:].cumsum(axis=1), 1)  # text: one after the other
    return _Ends(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(last + further))


def _in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of tokens with which both begin.

    >>> _in_common([1, 2, 3], [1, 2, 4, 3]), _in_common([1], [1, 2])
    (2, 1)
    """
    shorter = min(len(one), len(other))
    different = np.flatnonzero(np.asarray(one[:shorter]) != np.asarray(other[:shorter]))
    return int(different[0]) if len(different) else shorter


def _beginnings(slots: Slots, index: Tensor, columns: int) -> Any:
    """Return a cache with the first keys and values of some slots, and all of the images'."""
    layers = []
    for number, (keys, values) in enumerate(zip(slots.keys, slots.values, strict=True)):
        if number in slots.fixed:
            layers.append(FixedLayer(keys[index], values[index]))
        else:
            own = (each[:, :, :columns].index_select(0, index) for each in (keys, values))
            layers.append(layer_with(*own))
    return cache_over(layers)
