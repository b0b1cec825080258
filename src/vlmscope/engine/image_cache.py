"""Run each image through the vision encoder once, however many questions are about it.

If the encoder processes images separately from the text, its output does not depend on the
question. So the distinct images of a batch are encoded first, a few at a time, and only two things
are kept of each: the pooled vector, and the keys and values in the decoder's blocks. The prompt
finds those in its cache, and the model is not given the image. The most recent images are cached:
questions about one image in different batches share its encoding too. Images are the same if their
pixels are, whatever the names of their files.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlmscope.engine.batch import Batch
from vlmscope.engine.pooling import pool_vision
from vlmscope.model import VisionLanguageModel
from vlmscope.model.attention.kv_cache import KeysAndValues, keys_of_images
from vlmscope.model.attention.tiles import splitting_attention
from vlmscope.model.device_copies import to_device
from vlmscope.model.vision_rows import RULES, Encoded
from vlmscope.schema import VisionPooling

AT_ONCE = 8
"""Rows whose images are encoded together. More is no faster, and each takes memory: Mllama's
encoder keeps all its layers' states, 0.7 GB per image."""

KEPT = 16
"""Rows whose encodings are cached: 210 MB per image for Llama-3.2-11B-Vision."""


@dataclass(frozen=True, slots=True, eq=False)
class Encodings:
    """The encodings of a batch's images, with one leading entry per row."""

    pooled: Float[Tensor, "batch vision"]
    """The vision-only representation of each row, float32."""
    layers: Mapping[int, KeysAndValues]
    """Block → its keys and values of each row's images."""
    shapes: Mapping[str, tuple[int, ...]]
    """Module → shape that its output for this batch would have; for display."""


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    """The cached encoding of a row's images."""

    pooled: Float[Tensor, " vision"]
    layers: Mapping[int, KeysAndValues]
    shapes: Mapping[str, tuple[int, ...]]


class ImageEncoder:
    """Runs the vision encoder on images that are not cached.

    Args:
        vlm: The model.
        pooling: How the encoder's output becomes one vector.
        kept: Number of rows whose encodings are cached.
    """

    def __init__(self, vlm: VisionLanguageModel, pooling: VisionPooling, kept: int = KEPT) -> None:
        self._vlm = vlm
        self._pooling = pooling
        self._kept = kept
        self._known: OrderedDict[str, _Image] = OrderedDict()

    def encode(self, batch: Batch) -> Encodings:
        """Return the encodings of a batch whose rows have the same number of images."""
        keys = batch.shown_hashes
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        wanted = [first[key] for key in dict.fromkeys(keys) if key not in self._known]
        self._evict(frozenset(keys))
        names = self._vlm.family.encoder_inputs if wanted else ()
        taken = {name: to_device(batch.inputs[name], self._vlm.device) for name in names}
        for rows in self._groups(wanted, batch):
            self._encode(rows, taken, batch)
        for key in keys:
            self._known.move_to_end(key)
        found = [self._known[key] for key in keys]
        self._evict(frozenset())
        return Encodings(
            torch.stack([one.pooled for one in found]),
            {
                layer: (
                    torch.stack([one.layers[layer][0] for one in found]),
                    torch.stack([one.layers[layer][1] for one in found]),
                )
                for layer in found[0].layers
            },
            {name: (len(found), *shape) for name, shape in found[0].shapes.items()},
        )

    def _evict(self, wanted: Set[str]) -> None:
        """Drop the least recently used images, except those that are needed now."""
        missing = sum(key not in self._known for key in wanted)
        for key in [key for key in self._known if key not in wanted]:
            if len(self._known) + missing <= self._kept:
                return
            del self._known[key]

    def forget(self) -> None:
        """Drop all encodings, if memory runs out."""
        self._known.clear()

    def _groups(self, rows: Sequence[int], batch: Batch) -> Iterator[list[int]]:
        """Yield rows to encode together, grouped by number of tiles."""
        tiles = batch.inputs[self._vlm.family.encoder_inputs[-1]].flatten(1)
        used = (-tiles).tolist()  # largest first
        ordered = sorted(rows, key=lambda row: (used[batch.entry(row)], batch.entry(row)))
        for start in range(0, len(ordered), AT_ONCE):
            yield ordered[start : start + AT_ONCE]

    def _encode(self, rows: Sequence[int], inputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Encode the images of some rows and cache them.

        Args:
            rows: The rows.
            inputs: The encoder's inputs for the complete batch, on the device: rows with the same
                number of tiles are not contiguous, and gathering them on the host would keep the
                device waiting.
            batch: The batch.
        """
        vlm, encoded = self._vlm, self._run(rows, inputs, batch)
        pooled = pool_vision(RULES[vlm.family.vision_rows](encoded), self._pooling)
        if vlm.projector is None:
            raise RuntimeError("a family with a separate image encoder needs a projector")
        projected = vlm.projector(encoded.features)
        shapes = {
            "vision_encoder": tuple(encoded.features.shape[1:]),
            "projector": tuple(projected.shape[1:]),
        }
        layers = keys_of_images(vlm, projected)
        for index, row in enumerate(rows):
            self._known[batch.shown_hashes[row]] = _Image(
                # Copies: a view would keep the memory of all images encoded with it.
                pooled[index].clone(),
                {
                    layer: (
                        own[index].clone(memory_format=torch.contiguous_format),
                        values[index].clone(memory_format=torch.contiguous_format),
                    )
                    for layer, (own, values) in layers.items()
                },
                shapes,
            )

    def _run(self, rows: Sequence[int], inputs: Mapping[str, Tensor], batch: Batch) -> Encoded:
        """Run the vision encoder on the images of some rows; the arguments are those above."""
        vlm, entries = self._vlm, [batch.entry(row) for row in rows]
        share: list[int] | slice = entries
        if entries == list(range(entries[0], entries[0] + len(entries))):
            share = slice(entries[0], entries[0] + len(entries))  # a view: nothing is copied
        taken = {name: tensor[share] for name, tensor in inputs.items()}
        # The number of used tiles: on the host, and small.
        with splitting_attention(
            vlm, {name: batch.inputs[name][share] for name in list(inputs)[1:]}
        ):
            features = vlm.vision_encoder(**taken).last_hidden_state
        return Encoded(
            features=features,
            inputs=taken,
            images=[batch.images[row] for row in rows],
            config=vlm.model.config,
            image_token_id=vlm.image_token_id,
        )
