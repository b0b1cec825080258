"""``verify``: stored rows against the seed's own method, on a finished run.

Rows are drawn at random, read back from the store, and recomputed by ``reference``: three passes,
one row at a time, no padding. What is compared is therefore the whole chain: prompt, batch,
capture, and storage.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from vlmscope.dataset import Table
from vlmscope.errors import InputError, RunMismatchError
from vlmscope.model import VisionLanguageModel
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Sample
from vlmscope.store import Manifest, Run

TOLERANCES = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest relative error ‖stored − reference‖ / ‖reference‖ of one vector, by the model's dtype.

In half precision a batch of one and a batch of many take different kernels; on models measured so
far the two differ by up to 1.2e-2 in bfloat16 and 2e-3 in float16.
"""

HALF_STORAGE_TOLERANCE = 1e-3
"""The least tolerance where vectors are stored as float16, whose spacing is 5e-4."""


@dataclass(frozen=True, slots=True)
class RowCheck:
    """One row, stored against recomputed."""

    id: str
    """The question."""
    errors: Mapping[str, float]
    """HDF5 path → relative error."""
    same_answer: bool
    """Whether the answers are the same text."""
    same_boundaries: bool
    """Whether both boundaries are the same."""
    same_image: bool
    """Whether the picture is still the one that was captured."""

    @property
    def worst(self) -> tuple[str, float]:
        """The vector that differs most, and by how much."""
        return max(self.errors.items(), key=lambda item: item[1])


def tolerance_of(manifest: Manifest) -> float:
    """Return the relative error that a run with this manifest may show."""
    tolerance = TOLERANCES[manifest.dtype]
    if manifest.store_dtype == "float16":
        return max(tolerance, HALF_STORAGE_TOLERANCE)
    return tolerance


def answers_must_agree(manifest: Manifest) -> bool:
    """Return whether a differing answer is an error.

    In half precision near-ties of two tokens flip with the batch, so there it is only reported.
    """
    return manifest.dtype == "float32"


def choose_samples(run: Run, table: Table, count: int, seed: int = 0) -> list[Sample]:
    """Return ``count`` stored rows of ``run``, drawn at random, as samples of its table.

    Raises:
        InputError: The run is empty.
        RunMismatchError: The table is not the one that the run was made from.
    """
    if not len(run):
        raise InputError(f"{run.path}: the run holds no rows; run vlmscope extract first")
    if table.scan().fingerprint != run.manifest.data.fingerprint:
        raise RunMismatchError(
            f"{run.manifest.data.path}: the table has changed since the run was made; "
            "give the original with --data"
        )
    drawn = random.Random(seed).sample(run.ids, min(count, len(run)))  # noqa: S311 - a sample
    order = {id_: i for i, id_ in enumerate(drawn)}
    found = [row for row in table.rows() if isinstance(row, Sample) and row.id in order]
    return sorted(found, key=lambda sample: order[sample.id])


def check_rows(run: Run, samples: list[Sample], vlm: VisionLanguageModel) -> Iterator[RowCheck]:
    """Yield the comparison of each sample's stored row with ``reference``."""
    record = run.manifest.capture
    spec = CaptureSpec(
        layers=",".join(map(str, record.layers)),
        positions=record.positions,
        vision_pooling=record.vision_pooling,
        max_new_tokens=record.max_new_tokens,
    )
    for sample in samples:
        yield compare(run[sample.id], reference(sample, vlm, spec))


def compare(stored: Capture, expected: Capture) -> RowCheck:
    """Compare a stored row with a recomputed one; a vector that is missing counts as infinite."""
    errors = {
        name: _relative_error(stored.vectors.get(name), vector)
        for name, vector in expected.vectors.items()
    }
    return RowCheck(
        id=stored.sample.id,
        errors=errors,
        same_answer=stored.answer == storable(expected).answer,
        same_boundaries=stored.boundaries == expected.boundaries,
        same_image=stored.image_sha256 == expected.image_sha256,
    )


def storable(item: Capture) -> Capture:
    """Return ``item`` with its answer as HDF5 can hold it: a byte 0 becomes U+FFFD."""
    return replace(
        item, answer=None if item.answer is None else item.answer.replace("\0", "\ufffd")
    )


def _relative_error(found: np.ndarray | None, expected: np.ndarray) -> float:
    if found is None or found.shape != expected.shape:
        return float("inf")
    error = np.linalg.norm(found.astype(np.float64) - expected)
    return float(error / max(float(np.linalg.norm(expected)), 1e-30))
