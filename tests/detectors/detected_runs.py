"""Labelled runs on disk whose signals a test decides: no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store_support import VISION, make_capture, make_manifest
from vlmscope.detectors import DETECTORS
from vlmscope.positions import IMAGE_REPRESENTATIONS
from vlmscope.schema import Capture, Score
from vlmscope.store import Run, RunWriter, open_run, write_labels

STATE = "query_token_representation/layer_3"
"""The vectors in which a signal is planted."""

QUESTIONS = ("Is it red?", "How many are there?", "What is it?")
CATEGORIES = ("colour", "count", "existence")


def truth_of(count: int, seed: int = 1) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(count) < 0.4


def row_of(
    number: int, wrong: bool, *, tokens: int = 3, prefix: str = "q", planted: float = 2.0
) -> Capture:
    """Return a row whose wrong answers are less probable, and whose states know it."""
    rng = np.random.default_rng(number)
    row = make_capture(number, id_=f"{prefix}{number}")
    logprobs = -rng.exponential(1.0 if wrong else 0.3, tokens)
    kind = number % 3
    sample = replace(row.sample, question=QUESTIONS[kind], metadata={"category": CATEGORIES[kind]})
    return replace(
        row,
        sample=sample,
        image_dhash="",
        vectors={**row.vectors, STATE: row.vectors[STATE] + np.float32(planted * wrong)},
        answer_logprobs=logprobs.astype(np.float32),
        answer_token_ids=np.arange(tokens, dtype=np.int64),
        signals={"entropy": rng.exponential(1.0, tokens).astype(np.float32),
                 "max_logprob": logprobs.astype(np.float32),
                 "margin": np.ones(tokens, np.float32)},
    )  # fmt: skip


def detected_run(
    folder: Path,
    truth: NDArray[np.bool_],
    *,
    first: int = 0,
    empty: Sequence[int] = (),
    prefix: str = "q",
    change: Any = None,
    model: Mapping[str, Any] = MappingProxyType({}),
    capture: Mapping[str, Any] = MappingProxyType({}),
) -> Run:
    """Return a labelled run on disk.

    Args:
        folder: Where to.
        truth: Whether each answer is hallucinated.
        first: Number of the first row, which decides its image.
        empty: Rows whose answer has no token.
        prefix: Beginning of the ids.
        change: Row → row.
        model: Changes of the manifest's model.
        capture: Changes of what the manifest says of the capture.
    """
    rows = [
        row_of(first + i, bool(wrong), tokens=0 if i in empty else 3, prefix=prefix)
        for i, wrong in enumerate(truth)
    ]
    rows = [change(row) if change else row for row in rows]
    record = make_manifest(
        run_id=f"{folder.name}-{'0' * 32}"[:32], model=dict(model),
        capture={"signals": ("entropy",), **capture},
    )  # fmt: skip
    with RunWriter(folder, record) as writer:
        writer.add(rows)
    label(folder, [row.sample.id for row in rows], truth)
    return open_run(folder)


WIDER = {"weights_hash": "v" * 64, "name": "wider", "hidden_size": 10}
"""What a manifest says of a model whose decoder is wider."""


def widened(row: Capture) -> Capture:
    """Return a row of a model whose decoder is wider."""
    wide = {p: v if len(v) == VISION else np.resize(v, 10) for p, v in row.vectors.items()}
    return replace(row, vectors=wide)


def bare(row: Capture) -> Capture:
    """Return a row as a question about no image."""
    kept = {
        p: v for p, v in row.vectors.items() if p.partition("/")[0] not in IMAGE_REPRESENTATIONS
    }
    return replace(
        row,
        sample=replace(row.sample, image=None, image_id=""),
        vectors=kept,
        boundaries={"last_prompt_token": row.boundaries["last_prompt_token"]},
        image_sha256="",
        image_thumbnail="",
    )


@contextmanager
def without_trees() -> Iterator[None]:
    """Leave out the joint baseline, whose trees take most of the time."""
    complete = dict(DETECTORS)
    del DETECTORS["no_model_joint"]
    try:
        yield
    finally:  # in the same order
        DETECTORS.clear()
        DETECTORS.update(complete)


def label(folder: Path, ids: Sequence[str], truth: Sequence[Any] | NDArray[np.bool_]) -> None:
    scores = [Score(i, bool(t), "column", "") for i, t in zip(ids, truth, strict=True)]
    write_labels(folder, scores, {})
