"""Labelled runs whose every vector, image, question and label a test decides: no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from store_support import make_bare, make_capture, make_manifest
from vlmscope.schema import Capture, Score
from vlmscope.store import Manifest, Run, RunWriter, open_run, vector_path, write_labels
from vlmscope.store.format.batch import Block, block_of

QUERY = "query_token_representation"
WIDTH = 8
NARROW: Mapping[str, Any] = {"positions": ("last_prompt_token",), "layers": (2, 3)}
PLACES = ("vision_only_representation", f"{QUERY}/layer_2", f"{QUERY}/layer_3")


def labelled_run(
    folder: Path,
    truth: Sequence[bool | None],
    vectors: np.ndarray,
    images: Sequence[int],
    *,
    questions: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    model: Mapping[str, Any] | None = None,
    capture: Mapping[str, Any] | None = None,
    noise: int = 0,
    labelled: bool = True,
    change: Mapping[str, Any] | None = None,
    bare: bool = False,
    on_disk: bool = False,
) -> Run:
    """Return a run. ``layer_3`` of the query token holds ``vectors``; the rest is noise.

    Args:
        folder: Where to; its name makes the run's id.
        truth: Labels; None is unscorable.
        vectors: ``[N, width]``.
        images: Number of each row's image: equal numbers are the same pixels.
        questions: Texts, by default all different and of this run alone.
        ids: Question ids, by default numbered.
        categories: Of the table, where it has any.
        model: Changes of the manifest's model.
        capture: Changes of what was captured.
        noise: Decides the vectors that know nothing.
        labelled: Whether to label it.
        change: Changes of every row.
        bare: Whether the questions are about no image.
        on_disk: Whether to write its rows too; without, a folder holds its labels alone.
    """
    sizes = {"hidden_size": vectors.shape[1], "vision_size": WIDTH, **(model or {})}
    record = make_manifest(
        run_id=f"{folder.name}-{'0' * 32}"[:32], model=sizes, capture={**NARROW, **(capture or {})}
    )
    rng = np.random.default_rng(noise)
    rows = []
    for i, vector in enumerate(vectors):
        made = make_bare if bare else make_capture
        row = made(i + 1000 * noise, id_=ids[i] if ids else f"q{i}")
        mine = {
            path: rng.standard_normal(width).astype(np.float32)
            for path, width in record.widths().items()
            if not bare or path.startswith(QUERY)
        }
        mine[f"{QUERY}/layer_3"] = vector.astype(np.float32)
        sample = replace(
            row.sample,
            question=questions[i] if questions else f"{folder.name}: what is number {i}?",
            metadata={"category": categories[i]} if categories else {},
        )
        # A likeness far from all others: its bits are those of a hash of the number.
        dhash = int(np.random.default_rng(images[i] + 7).integers(0, 2**63))
        hashes = (
            {} if bare else {"image_sha256": f"{images[i]:064x}", "image_dhash": f"{dhash:016x}"}
        )
        rows.append(replace(row, sample=sample, vectors=mine, **{**hashes, **(change or {})}))
    if on_disk:
        with RunWriter(folder, record) as writer:
            writer.add(rows)
    else:
        folder.mkdir(parents=True)
    if labelled:
        label(folder, [row.sample.id for row in rows], truth)
    return open_run(folder) if on_disk else HeldRun(folder, record, rows)


class HeldRun(Run):
    """A run whose rows are in memory: writing a row takes a millisecond or two."""

    def __init__(self, path: Path, manifest: Manifest, rows: Sequence[Capture]) -> None:
        super().__init__(path, manifest, [])
        self.ids = tuple(row.sample.id for row in rows)
        self.rows = list(rows)
        self._block = block_of(rows, manifest.widths())

    def __iter__(self) -> Iterator[Capture]:
        return iter(self.rows)

    def blocks(self, *, vectors: bool = True) -> Iterator[Block]:
        yield self._block if vectors else replace(self._block, vectors={})

    def matrix(self, representation: str, layer: int | None = None) -> np.ndarray:
        return self._block.vectors[vector_path(representation, layer)]


def label(folder: Path, ids: Sequence[str], truth: Sequence[bool | None]) -> None:
    """Write labels."""
    pairs = zip(ids, truth, strict=True)
    scores = [Score(i, None if t is None else bool(t), "column", "") for i, t in pairs]
    write_labels(folder, scores, {})


def planted(
    rng: np.random.Generator, rows: int, direction: np.ndarray, strength: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and vectors in which the hallucinated ones lie along a direction.

    The AUROC of the direction itself is that of two normal distributions ``strength`` apart.
    """
    truth = rng.random(rows) < 0.4
    unit = direction / np.linalg.norm(direction)
    vectors = rng.standard_normal((rows, len(direction))) + strength * np.outer(truth, unit)
    return truth, vectors


OTHER_MODEL: Mapping[str, Any] = {
    "name": "other", "weights_hash": "v" * 64, "config_hash": "d" * 64, "processor_hash": "q" * 64,
}  # fmt: skip
