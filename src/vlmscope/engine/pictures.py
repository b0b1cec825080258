"""Each picture through the vision encoder once, however many questions are about it.

Where the encoder takes its pictures apart from the text, its output does not depend on the
question. So the distinct pictures of a batch are encoded first, a few at a time, and of each only
two things are kept: the pooled vector, and what the projector makes of it. The prefill is then
given those. The last pictures stay: questions about one picture that come in different batches
share its encoding too. Pictures are the same if their pixels are, whatever their files are called.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmscope.engine.batch import Batch
from vlmscope.engine.fetching import to_device
from vlmscope.engine.pooling import pool_vision
from vlmscope.model import VisionLanguageModel
from vlmscope.model.split_attention import exact_split
from vlmscope.model.vision_rows import RULES, Encoded
from vlmscope.schema import VisionPooling

AT_ONCE = 8
"""Rows whose pictures go through the encoder together. More is no faster, and each takes memory:
Mllama's encoder keeps all its layers' states, 0.7 GB a picture."""

KEPT = 32
"""Encodings kept for later batches: 52 MB each for a Llama-3.2-11B-Vision."""


@dataclass(frozen=True, slots=True)
class Encodings:
    """What the vision encoder has to say about the pictures of a batch."""

    pooled: Float[Tensor, "batch vision"]
    """The vision-only representation of each row, float32."""
    projected: Tensor
    """Each row's pictures as the projector returns them, one leading entry a row."""

    @property
    def encoder_shape(self) -> tuple[int, ...]:
        """Shape that the encoder's output for this batch would have."""
        return (*self.projected.shape[:-1], self.pooled.shape[-1])


class PictureEncoder:
    """Runs the vision encoder on pictures that it has not seen lately.

    Args:
        vlm: The model.
        pooling: How the encoder's output becomes one vector.
        kept: Encodings kept for later batches.
    """

    def __init__(self, vlm: VisionLanguageModel, pooling: VisionPooling, kept: int = KEPT) -> None:
        self._vlm = vlm
        self._pooling = pooling
        self._kept = kept
        self._known: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()

    def encode(self, batch: Batch) -> Encodings:
        """Return the encodings of a batch about equally many pictures a row."""
        keys = batch.image_hashes
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        wanted = [first[key] for key in dict.fromkeys(keys) if key not in self._known]
        for rows in self._together(wanted, batch):
            self._encode(rows, keys, batch)
        for key in keys:
            self._known.move_to_end(key)
        pooled, projected = zip(*(self._known[key] for key in keys), strict=True)
        found = Encodings(torch.stack(pooled), torch.stack(projected))
        while len(self._known) > self._kept:
            self._known.popitem(last=False)
        return found

    def forget(self) -> None:
        """Let go of every encoding: when memory runs out."""
        self._known.clear()

    def _together(self, rows: Sequence[int], batch: Batch) -> Iterator[list[int]]:
        """Yield rows to encode together, those with as many tiles next to each other."""
        tiles = batch.inputs[self._vlm.family.encoder_inputs[-1]].flatten(1)
        ordered = sorted(rows, key=lambda row: (tiles[row].tolist(), row), reverse=True)
        for start in range(0, len(ordered), AT_ONCE):
            yield ordered[start : start + AT_ONCE]

    def _encode(self, rows: Sequence[int], keys: Sequence[str], batch: Batch) -> None:
        """Encode the pictures of some rows, and keep what is wanted of them."""
        vlm, index = self._vlm, torch.tensor(rows)
        chosen = {name: batch.inputs[name][index] for name in vlm.family.encoder_inputs}
        taken = {name: to_device(tensor, vlm.device) for name, tensor in chosen.items()}
        with exact_split(vlm, chosen):
            features = vlm.vision_encoder(**taken).last_hidden_state
        encoded = Encoded(
            features=features,
            inputs=taken,
            pictures=[batch.pictures[row] for row in rows],
            config=vlm.model.config,
            image_token_id=vlm.image_token_id,
        )
        pooled = pool_vision(RULES[vlm.family.vision_rows](encoded), self._pooling)
        if vlm.projector is None:
            raise RuntimeError("a family whose pictures are encoded apart needs its projector")
        projected = vlm.projector(features)
        for place, row in enumerate(rows):
            # Copies: a view would keep all that were encoded with it.
            self._known[keys[row]] = pooled[place].clone(), projected[place].clone()


@contextmanager
def answering_for(vlm: VisionLanguageModel, encodings: Encodings) -> Iterator[None]:
    """Let the model take the encodings for its own encoder's and projector's while the block runs.

    The encoder's stand-in has the shape of its output and takes no memory: nobody reads it.
    """
    projected = encodings.projected
    shape = projected.new_zeros(()).expand(encodings.encoder_shape)
    with ExitStack() as stack:
        stack.enter_context(
            _returning(vlm.vision_encoder, SimpleNamespace(last_hidden_state=shape))
        )
        if vlm.projector is not None:
            stack.enter_context(_returning(vlm.projector, projected))
        yield


@contextmanager
def _returning(module: nn.Module, output: Any) -> Iterator[None]:
    """Let a module return something prepared, whatever it is given."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = lambda *_, **__: output
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if before is not None:
            module.__dict__["forward"] = before
