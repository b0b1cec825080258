"""Questions about one image in a batch: the part of the prompt up to the image is run once.

In a chat prompt the images come first. If the decoder is causal, everything up to the image depends
on the image alone: its states, and its keys and values in every layer. So a batch with several
questions about an image is run in two passes: the distinct beginnings, through ``generate`` like
any prefill, and then the ends of all prompts, which attend to the keys of their own beginning.
Preparing and encoding an image, and the decoder over its tokens, are done once per image and not
once per question.

    beginnings   [padding | template, image]               one row per distinct image
    ends                                     [padding | question, template]    one row per question

The tokens of the batch are laid out in the same way, so that every position is found as in any
other batch; the padding in between is hidden by the mask like that on the left.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmscope.engine.decoding.slots import STEP_OF_LENGTH
from vlmscope.engine.decoding.support import why_not_in_slots
from vlmscope.model import Preprocessing, ResolvedSpec, VisionLanguageModel

SLIDING = "sliding_attention"
"""The library's name for a layer with a sliding window."""

MOST_DISTINCT_SHARE = 0.75
"""Distinct images per row below which a batch is run in two passes."""

_PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""Inputs with one value per token, which are cut with the prompt."""


@dataclass(frozen=True, slots=True, eq=False)
class SharedPrefix:
    """The beginnings of a batch's prompts."""

    inputs: Mapping[str, Tensor]
    """Inputs of the distinct beginnings, on the CPU, padded on the left."""
    entries: tuple[int, ...]
    """Index of each row's beginning."""

    @property
    def length(self) -> int:
        """Number of tokens, with padding."""
        return int(self.inputs["input_ids"].shape[1])

    @property
    def first_rows(self) -> list[int]:
        """The first row of each beginning."""
        return [self.entries.index(entry) for entry in range(len(self.inputs["input_ids"]))]


@dataclass(frozen=True, slots=True, eq=False)
class SharedTokens:
    """The tokens of a batch whose prompts share beginnings."""

    input_ids: Tensor
    """``[batch, length]``, padded on the left and between the beginning and the end."""
    attention_mask: Tensor
    """1 where a token is real."""
    prefix: SharedPrefix
    """The beginnings."""


def why_not_shared(vlm: VisionLanguageModel) -> str:
    """Return why each prompt is run as a whole; empty if beginnings may be shared."""
    if vlm.family.cross_attention:
        return "images are not in its prompt"
    return why_not_continued(vlm)


def why_not_continued(vlm: VisionLanguageModel) -> str:
    """Return why the keys of a prompt's beginning depend on its end; empty if they do not."""
    config = vlm.model.config.get_text_config(decoder=True)
    layers = set(getattr(config, "layer_types", None) or ()) - {"full_attention", SLIDING}
    if vlm.family.prefix_sees_question:
        return "image tokens attend to the question"
    if layers:
        return "not all of its layers attend to the complete prompt"
    if not hasattr(vlm.processor.tokenizer, "backend_tokenizer"):
        return "its tokenizer does not return the tokens of a text alone"
    if vlm.lengths.switches or vlm.lengths.why:
        return "its rotary frequencies depend on the length of the prompt"
    return why_not_in_slots(vlm)


def window_of(vlm: VisionLanguageModel) -> int | None:
    """Return the tokens that a layer with a sliding window attends to; None without such a layer.

    Within it, every token attends to all before it.
    """
    config = vlm.model.config.get_text_config(decoder=True)
    layers = getattr(config, "layer_types", None)
    window: int | None = getattr(config, "sliding_window", None)
    return window if layers is None or SLIDING in layers else None


def preprocessing_of(vlm: VisionLanguageModel, spec: ResolvedSpec) -> Preprocessing:
    """Return what preparing a batch needs; rows share beginnings if the model allows it."""
    longest, new = window_of(vlm), spec.decoded_tokens
    if longest is not None and new:  # the slots' keys have no window
        longest = longest // STEP_OF_LENGTH * STEP_OF_LENGTH - new - 1
    return replace(vlm.preprocessing, shares_prefix=not why_not_shared(vlm), longest_shared=longest)


def distinct_enough(entries: Sequence[int]) -> bool:
    """Return whether rows repeat images so often that two passes are faster than one."""
    return len(set(entries)) < MOST_DISTINCT_SHARE * len(entries)


def with_shared_prefix(
    inputs: Mapping[str, Tensor],
    entries: Sequence[int],
    plain: Sequence[Sequence[int]],
    vlm: Preprocessing,
) -> SharedTokens | None:
    """Lay out the tokens of rows whose images were prepared once.

    Args:
        inputs: The model's inputs for the first row of each image, padded on the left.
        entries: Index of each row's images, numbered in the order of first use.
        plain: Tokens of each prompt before the image is expanded.
        vlm: The model.

    Returns:
        None if a prompt does not consist of a beginning that ends after the images, shared by all
        questions about them, and an end without images; or if the batch is too long.
    """
    firsts = _unpadded(inputs)
    rows: list[list[int]] = []
    control = set(vlm.processor.tokenizer.added_tokens_decoder)
    lengths = [image_end(tokens, vlm.image_token_id, control) for tokens in firsts]
    for row, entry in enumerate(entries):
        tokens = expanded(plain[row], plain[entries.index(entry)], firsts[entry], control)
        end = lengths[entry]
        if tokens is None or len(tokens) <= end or tokens[:end] != firsts[entry][:end]:
            return None
        rows.append(tokens)
    pad = int(vlm.processor.tokenizer.pad_token_id or 0)
    prefix = _cut(inputs, lengths, pad)
    if prefix is None:
        _remember(vlm.processor, agrees=False)  # it will return that input for every batch
    if prefix is None or not all(lengths):
        return None
    ids, mask = _laid_out(rows, [lengths[entry] for entry in entries], pad)
    if vlm.longest_shared is not None and ids.shape[1] > vlm.longest_shared:
        return None
    return SharedTokens(ids, mask, SharedPrefix(prefix, tuple(entries)))


def _unpadded(inputs: Mapping[str, Tensor]) -> list[list[int]]:
    real = inputs["attention_mask"].bool()
    return [ids[own].tolist() for ids, own in zip(inputs["input_ids"], real, strict=True)]


def image_end(tokens: Sequence[int], image: int, control: set[int]) -> int:
    """Return the length of a beginning; 0 if there is no image.

    It ends after the control tokens that follow the last image token, which an architecture may
    replace by features of the image (Ovis2), or after one token of the text: its positions follow
    one another, and those of an image need not.

    >>> image_end([5, 1, 1, 2, 3, 6, 7], 1, {1, 2, 3}), image_end([5, 1, 6, 7], 1, {1})
    (5, 3)
    """
    found = np.flatnonzero(np.asarray(tokens) == image)
    if not len(found):
        return 0
    end = int(found[-1]) + 1
    while end < len(tokens) and tokens[end] in control:
        end += 1
    return max(end, int(found[-1]) + 2)


def expanded(
    plain: Sequence[int], other: Sequence[int], other_expanded: list[int], control: set[int]
) -> list[int] | None:
    """Return the expanded tokens of a prompt, from those of one about the same images.

    Args:
        plain: Its tokens before the images are expanded.
        other: Those of the other prompt.
        other_expanded: The tokens of the other prompt.
        control: Tokens that the tokenizer treats separately, placeholders of images among them.

    Returns:
        None if the prompts differ before the end of the images.

    >>> expanded([7, 1, 5, 6], [7, 1, 4], [7, 1, 1, 1, 4], {1})
    [7, 1, 1, 1, 5, 6]
    >>> expanded([1, 5], [4, 1], [4, 1, 1], {1})
    """
    same = 0
    while same < min(len(plain), len(other)) and plain[same] == other[same]:
        same += 1
    end, other_end = list(plain[same:]), list(other[same:])
    kept = len(other_expanded) - len(other_end)
    if other_expanded[kept:] != other_end:
        return None
    if [t for t in end if t in control] != [t for t in other_end if t in control]:
        return None
    return other_expanded[:kept] + end


def _cut(
    inputs: Mapping[str, Tensor], lengths: Sequence[int], pad: int
) -> dict[str, Tensor] | None:
    """Return the inputs of the beginnings, padded on the left; None for an unknown input."""
    mask = inputs["attention_mask"]
    starts = mask.shape[1] - mask.sum(dim=1)
    longest = max(lengths)
    found: dict[str, Tensor] = {}
    for name, tensor in inputs.items():
        per_token = tensor.shape[:2] == mask.shape or (
            not tensor.is_floating_point() and mask.shape[1] in tensor.shape[1:]
        )
        if not per_token:
            found[name] = tensor
        elif name not in _PER_TOKEN or tensor.dim() != 2:
            return None
        else:
            found[name] = tensor.new_full((len(tensor), longest), pad * (name == "input_ids"))
            for i, (start, length) in enumerate(zip(starts.tolist(), lengths, strict=True)):
                found[name][i, longest - length :] = tensor[i, start : start + length]
    return found


def _laid_out(rows: Sequence[list[int]], lengths: Sequence[int], pad: int) -> tuple[Tensor, Tensor]:
    """Return tokens and mask: the beginnings padded on the left, then the ends padded on theirs.

    >>> ids, mask = _laid_out([[1, 2, 7], [1, 8, 9]], [2, 1], 0)
    >>> ids.tolist(), mask.tolist()
    ([[1, 2, 0, 7], [0, 1, 8, 9]], [[1, 1, 0, 1], [0, 1, 1, 1]])
    """
    before = max(lengths)
    after = max(len(row) - length for row, length in zip(rows, lengths, strict=True))
    ids = torch.full((len(rows), before + after), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        columns = [*range(before - length, before), *range(before, ids.shape[1])]
        columns = columns[:length] + columns[len(columns) - len(row) + length :]
        ids[i, columns] = torch.tensor(row)
        mask[i, columns] = 1
    return ids, mask


_checked: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
"""Processor → whether the tokens of its first such batch were those of the processor itself."""

_checking = threading.Lock()


def is_checked(processor: Any) -> bool | None:
    """Return whether sharing was compared with the processor's own tokens; None if not yet."""
    return _checked.get(processor)


def check(processor: Any, shared: SharedTokens, inputs: Mapping[str, Tensor]) -> bool:
    """Compare shared tokens with those of the processor for the same prompts, and remember it."""
    own = _unpadded(inputs)
    ours = _unpadded({"input_ids": shared.input_ids, "attention_mask": shared.attention_mask})
    return _remember(processor, agrees=own == ours)


def _remember(processor: Any, *, agrees: bool) -> bool:
    """Record the result of a comparison; one that failed is never replaced by one that did not."""
    with _checking:  # several threads may compare their first batches
        _checked[processor] = _checked.get(processor, True) and agrees
        return _checked[processor]
