"""The prefill of prompts that share beginnings, in two passes (``shared_prefix``)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from vlmscope.engine.attention import recorder_for
from vlmscope.engine.batch import Batch
from vlmscope.engine.hooks import PrefillHooks, RecordedTensors
from vlmscope.engine.lens import image_lens_for
from vlmscope.engine.prefill import DeviceBatch, make_hooks, prefilling, tokens_of
from vlmscope.engine.prompt_pass import run_prompts
from vlmscope.engine.shared_prefix import SharedPrefix
from vlmscope.engine.token_states import image_tokens_for
from vlmscope.model import ResolvedSpec, VisionLanguageModel
from vlmscope.model.attention.kv_cache import (
    Recurrent,
    cache_argument,
    cache_of,
    cache_over,
    keys_and_values,
    layer_with,
)
from vlmscope.model.device_copies import to_device
from vlmscope.model.host_positions import HostCopies

Located = Mapping[str, Bool[np.ndarray, "batch length"]]
"""Position → the tokens it refers to in each row."""


@dataclass(frozen=True, slots=True, eq=False)
class BothPasses:
    """What was recorded in the two passes."""

    both: RecordedTensors
    """The recorded tensors of every row."""
    shapes_: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Module → shape of its output."""

    def tensors(self) -> RecordedTensors:
        """Return the recorded tensors."""
        return self.both


def run_shared(
    batch: Batch, vlm: VisionLanguageModel, spec: ResolvedSpec, config: Any
) -> tuple[DeviceBatch, Any] | None:
    """Run the beginnings and then the ends of a batch's prompts.

    Args:
        batch: A batch with ``prefix``.
        vlm: The model.
        spec: What to record.
        config: Settings of ``generate`` for one token.

    Returns:
        The batch on the device with everything that was recorded, and its cache of keys and values.
        None if the beginnings cannot be shared: because of their cache, or because a position is
        not at the same token of the same part in all rows.
    """
    prefix = batch.prefix
    if prefix is None:
        raise RuntimeError("the prompts of this batch share no beginnings")
    vlm = spec.with_encoder(vlm)
    located = tokens_of(batch, vlm, spec)
    if not _is_separable(located, prefix):
        return None
    inputs = {name: to_device(tensor, vlm.device) for name, tensor in batch.inputs.items()}
    first, cache = _beginnings(batch, prefix, vlm, spec, config, _part(located, prefix, end=False))
    layers = keys_and_values(cache, inputs["input_ids"].shape[1])
    if layers is None or any(isinstance(pair, Recurrent) for pair in layers):
        return None  # padding between a beginning and an end would change a state
    recorded, shapes = first.tensors(), first.shapes_
    del first, cache  # their inputs and keys: the second pass needs the memory
    index = to_device(torch.tensor(prefix.entries), vlm.device)
    cache = cache_over([_for_each_row(keys, values, index) for keys, values in layers])
    del layers
    last = _ends(batch, prefix, vlm, spec, inputs, recorded, cache, located)
    tokens = recorded.image_tokens.of_rows(prefix.entries)
    joined = replace(_joined(recorded, last.tensors(), index), image_tokens=tokens)
    hooks = BothPasses(joined, shapes | last.shapes_)
    return DeviceBatch(batch, inputs, batch.inputs, None, located, hooks), cache


def _is_separable(located: Located, prefix: SharedPrefix) -> bool:
    """Return whether every position is in one part, and if in a beginning, the same for its rows.

    The last token of a question that ends with an image may be in the beginning, and that of
    another question about the image in its end.
    """
    first = [prefix.first_rows[entry] for entry in prefix.entries]
    for tokens in located.values():
        before, after = tokens[:, : prefix.length], tokens[:, prefix.length :]
        if before.any() and (after.any() or not (before == before[first]).all()):
            return False
    return True


def _part(located: Located, prefix: SharedPrefix, *, end: bool) -> dict[str, Any]:
    """Return the positions of one part of the prompts, with the tokens of that part."""
    found = {}
    for name, tokens in located.items():
        if tokens[:, prefix.length :].any() == end:
            part = tokens[:, prefix.length :] if end else tokens[prefix.first_rows, : prefix.length]
            found[name] = part
    return found


def _beginnings(
    batch: Batch,
    prefix: SharedPrefix,
    vlm: VisionLanguageModel,
    spec: ResolvedSpec,
    config: Any,
    located: Located,
) -> tuple[PrefillHooks, Any]:
    """Run the distinct beginnings; return their hooks and their cache."""
    inputs = {name: to_device(tensor, vlm.device) for name, tensor in prefix.inputs.items()}
    images = [batch.images[row] for row in prefix.first_rows]
    mask = prefix.inputs["attention_mask"].numpy()
    lens = image_lens_for(vlm, spec, prefix.inputs["input_ids"].numpy(), mask)
    tokens = image_tokens_for(vlm, spec, prefix.inputs["input_ids"].numpy(), mask)
    own = prefix.inputs
    hooks = make_hooks(vlm, spec, located, inputs, images, lens=lens, image_tokens=tokens, own=own)
    with prefilling(vlm, hooks, mask, HostCopies(inputs, own)):
        output = run_prompts(vlm, inputs, own, config)
    return hooks, cache_of(output)


def _ends(
    batch: Batch,
    prefix: SharedPrefix,
    vlm: VisionLanguageModel,
    spec: ResolvedSpec,
    inputs: Mapping[str, Tensor],
    beginnings: RecordedTensors,
    cache: Any,
    located: Located,
) -> PrefillHooks:
    """Run the ends of all prompts on the cache of their beginnings; return the hooks."""
    ids = inputs["input_ids"][:, prefix.length :]
    ends = _part(located, prefix, end=True)
    images = [0] * len(ids)  # they were encoded with the beginnings
    attention = recorder_for(vlm, spec.signals, inputs["input_ids"], inputs["attention_mask"])
    hooks = make_hooks(vlm, spec, ends, {"input_ids": ids}, images, attention=attention)
    positions = _positions(batch.attention_mask, prefix, beginnings, vlm.device)
    with prefilling(vlm, hooks, batch.attention_mask):
        run_ends(vlm, ids, inputs["attention_mask"], positions, cache)
    return hooks


def run_ends(
    vlm: VisionLanguageModel,
    ids: Int[Tensor, "rows end"],
    mask: Int[Tensor, "rows length"],
    positions: Int[Tensor, "... rows end"],
    cache: Any,
) -> None:
    """Run the ends of prompts on keys and values of their beginnings.

    Args:
        vlm: The model.
        ids: Tokens of the ends, padded on the left.
        mask: 1 where a token of the beginnings or of the ends is real.
        positions: Position ids of the ends.
        cache: The keys and values, to which those of the ends are added.
    """
    one = "logits_to_keep" in inspect.signature(vlm.model.forward).parameters
    vlm.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        **{cache_argument(type(vlm.model).forward): cache},
        **({"logits_to_keep": 1} if one else {}),
    )


def _positions(
    mask: Int[np.ndarray, "batch length"],
    prefix: SharedPrefix,
    beginnings: RecordedTensors,
    device: torch.device,
) -> Tensor:
    """Return the position ids of the ends: they continue those of their beginnings."""
    index = to_device(torch.tensor(prefix.entries), device)
    further = np.maximum(mask[:, prefix.length :].cumsum(axis=1), 1)  # of text: one after the other
    if beginnings.positions is None:
        last = to_device(torch.from_numpy(mask[:, : prefix.length].sum(axis=1) - 1), device)
    else:
        last = beginnings.positions[..., -1]
        last = last.expand(*last.shape[:-1], len(prefix.first_rows))[..., index]
    return last.unsqueeze(-1) + to_device(torch.from_numpy(further), device)


def _for_each_row(keys: Tensor, values: Tensor, index: Tensor) -> DynamicLayer:
    """Return a layer of a cache with the keys and values of every row's beginning."""
    return layer_with(keys[index], values[index])


def _joined(first: RecordedTensors, last: RecordedTensors, index: Tensor) -> RecordedTensors:
    """Return what was recorded of every row in both passes."""
    states = {key: found[index] for key, found in first.states.items()}
    vision = None if first.vision is None else first.vision[index]
    lens = None if first.image_lens is None else first.image_lens[index]
    return replace(last, vision=vision, states=states | last.states, image_lens=lens)
