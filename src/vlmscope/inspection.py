"""``inspect``: show how one sample is run through the model.

The specification explains the extraction with the data of one example: the prompt, the token table
with its two boundaries, the shapes of all tensors. Here the same is produced for any sample, from
the real capture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vlmscope.engine import CaptureSession, prepare
from vlmscope.engine.row_errors import row_errors
from vlmscope.errors import RowError
from vlmscope.model import ResolvedSpec, VisionLanguageModel
from vlmscope.schema import Capture, Failure, Sample
from vlmscope.shown import count


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the prompt."""

    position: int
    """Index in the prompt, from 0."""
    id: int
    """Token id."""
    text: str
    """The decoded token."""
    marks: tuple[str, ...]
    """Names of the boundaries at this token."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """One sample, its inputs, and its capture."""

    sample: Sample
    """The sample."""
    chat_text: str
    """The rendered prompt."""
    tokens: tuple[Token, ...]
    """The expanded prompt."""
    num_image_tokens: int
    """Number of image tokens in it."""
    tiles: tuple[int, int] | None
    """Rows and columns of tiles that the image was split into, if the family defines them."""
    inputs: Mapping[str, tuple[int, ...]]
    """Model input → shape."""
    outputs: Mapping[str, tuple[int, ...]]
    """Module → shape of its output in the prefill."""
    capture: Capture
    """What was recorded."""

    def __repr__(self) -> str:
        return (
            f"Inspection({self.sample.id!r}, {count(len(self.tokens), 'token')}, "
            f"{self.num_image_tokens:,} of them image tokens, {self.capture!r})"
        )

    @property
    def norms(self) -> dict[str, float]:
        """HDF5 path → Euclidean norm of the vector."""
        return {name: float(np.linalg.norm(v)) for name, v in self.capture.vectors.items()}


def inspect_sample(sample: Sample, vlm: VisionLanguageModel, spec: ResolvedSpec) -> Inspection:
    """Run one sample and return its inputs, shapes and capture.

    Raises:
        RowError: The sample cannot be captured.
    """
    with row_errors(sample):
        batches, failures = prepare([sample], vlm, spec)
    if failures:
        raise RowError(failures[0].stage, failures[0].error)
    [batch] = batches
    session = CaptureSession(vlm, spec, 1)
    with row_errors(sample):
        results = [*session.submit(batch), *session.drain()]
        if session.pop_failed():  # after a failed step ``generate`` decodes the answer
            results = [*session.submit(batch), *session.drain()]
        [result] = results
    if isinstance(result, Failure):
        raise RowError(result.stage, result.error)
    layout = vlm.family.tile_layout
    tokens = tuple(
        Token(
            position=position,
            id=int(token),
            text=vlm.processor.tokenizer.decode([int(token)]),
            marks=tuple(name for name, index in result.boundaries.items() if index == position),
        )
        for position, token in enumerate(batch.input_ids[0])
    )
    return Inspection(
        sample=sample,
        chat_text=batch.chat_texts[0],
        tokens=tokens,
        num_image_tokens=int((batch.input_ids == vlm.image_token_id).sum()),
        tiles=layout(batch.inputs, vlm.model.config) if layout and any(batch.images) else None,
        inputs={name: tuple(tensor.shape) for name, tensor in batch.inputs.items()},
        outputs=session.shapes_,
        capture=result,
    )
