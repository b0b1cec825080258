"""From samples to a batch of tensors on the CPU: the part of the work that needs no model.

A row whose picture or prompt is bad becomes a ``Failure`` here and the others go on, so that a
batch which reaches the model holds good rows only. It runs ahead of the model, on other threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from PIL.Image import Image
from torch import Tensor

from vlmscope.dataset import difference_hash, hash_image, load_image
from vlmscope.errors import RowError
from vlmscope.model import VisionLanguageModel
from vlmscope.prompt import count_after_question, encode, render
from vlmscope.schema import CaptureSpec, Failure, Sample, failure_of


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples that go through the model together, and their inputs."""

    samples: tuple[Sample, ...]
    """The rows, in order."""
    inputs: dict[str, Tensor]
    """What the processor made of them, floating tensors in the model's dtype, on the CPU."""
    chat_texts: tuple[str, ...]
    """The rendered prompts."""
    image_hashes: tuple[str, ...]
    """SHA-256 of each decoded picture; rows with equal ones share a pass of the vision encoder."""
    image_dhashes: tuple[str, ...]
    """Perceptual hash of each picture."""
    after_question: tuple[int, ...] = ()
    """Tokens of each prompt that stand behind the question, where that is wanted."""

    @property
    def input_ids(self) -> Int[np.ndarray, "batch length"]:
        """Token ids, padded on the left."""
        return self.inputs["input_ids"].numpy()

    @property
    def attention_mask(self) -> Int[np.ndarray, "batch length"]:
        """1 where a token is real."""
        return self.inputs["attention_mask"].numpy()


def prepare(
    samples: Sequence[Sample], vlm: VisionLanguageModel, spec: CaptureSpec | None = None
) -> tuple[Batch | None, list[Failure]]:
    """Load the pictures, render the prompts, and make one batch of the rows that are good.

    Args:
        samples: The rows.
        vlm: The model, for its processor.
        spec: What will be recorded; some positions need more of the prompt than its tokens.

    Returns:
        The batch, None if no row is good, and the rows that are not.
    """
    wants_question = spec is not None and "last_question_token" in spec.positions
    good: list[_Row] = []
    failures = []
    for sample in samples:
        try:
            text = render(vlm.processor, sample.question)
            after = count_after_question(vlm.processor, text) if wants_question else 0
            good.append(_Row(sample, text, after, load_image(sample.image)))
        except RowError as error:
            failures.append(failure_of(sample, error.stage, str(error)))
    if not good:
        return None, failures
    batch = _encode(good, vlm)
    too_long = _too_long(batch, vlm.max_prompt_tokens)
    if too_long:
        failures += too_long
        failed = {failure.id for failure in too_long}
        good = [row for row in good if row.sample.id not in failed]
        return (_encode(good, vlm) if good else None), failures
    return batch, failures


@dataclass(frozen=True, slots=True)
class _Row:
    """A good row on its way into a batch."""

    sample: Sample
    chat_text: str
    after_question: int
    image: Image


def _encode(rows: Sequence[_Row], vlm: VisionLanguageModel) -> Batch:
    texts, images = [row.chat_text for row in rows], [row.image for row in rows]
    return Batch(
        samples=tuple(row.sample for row in rows),
        inputs=vlm.cast(encode(vlm.processor, texts, images)),
        chat_texts=tuple(texts),
        image_hashes=tuple(hash_image(image) for image in images),
        image_dhashes=tuple(difference_hash(image) for image in images),
        after_question=tuple(row.after_question for row in rows),
    )


def _too_long(batch: Batch, limit: int) -> list[Failure]:
    lengths = batch.attention_mask.sum(axis=1)
    return [
        failure_of(
            sample,
            "prompt",
            f"the prompt has {length} tokens, the model takes {limit}; shorten the question",
        )
        for sample, length in zip(batch.samples, lengths, strict=True)
        if length > limit
    ]
