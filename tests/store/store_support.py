"""Synthetic rows: the specification's shapes, a hundred times smaller. No torch, no model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vlmscope.schema import Capture, Sample
from vlmscope.store import CaptureRecord, DataRecord, Manifest, ModelRecord, RunWriter

LAYERS = (0, 2, 3)
VISION, HIDDEN = 12, 8


def make_manifest(**changes: Any) -> Manifest:
    """Return a manifest; fields of the nested records are given as ``model={"name": …}``."""
    manifest = Manifest(
        run_id="5f" * 16,
        model=ModelRecord(
            "tiny", "mllama", "c" * 64, "w" * 64, "p" * 64, "t" * 64, "g" * 64, 4, HIDDEN, VISION
        ),
        capture=CaptureRecord(LAYERS, ("last_image_token", "last_prompt_token"), "all", 20),
        data=DataRecord("questions.csv", None, {"id": "question_id"}, "d" * 64),
        dtype="float32",
        store_dtype="float32",
        attention="sdpa",
        device="cpu",
        versions={"vlmscope": "0.1.0"},
        created_at="2026-01-01T00:00:00+00:00",
    )
    for name, value in changes.items():
        if name in ("model", "capture", "data"):
            value = replace(getattr(manifest, name), **value)
        manifest = replace(manifest, **{name: value})
    return manifest


def make_capture(
    i: int, id_: str | None = None, *, answered: bool = True, **changes: Any
) -> Capture:
    """Return row ``i``: always the same values for the same number."""
    rng = np.random.default_rng(i)
    paths = {"vision_only_representation": VISION}
    for name in ("vision_token_representation", "query_token_representation"):
        paths.update({f"{name}/layer_{layer}": HIDDEN for layer in LAYERS})
    tokens = i % 5  # now and then an empty answer
    sample = Sample(
        id=id_ if id_ is not None else f"question_comb_{i}",
        image=f"/data/img_{i}.png",
        question=f"Is the forest lit by {i} moons?",
        target=f"No; été {i}",
        metadata={"category": "relation", "score": i / 2},
        image_id=f"img_{i}.png",
    )
    capture = Capture(
        sample=sample,
        vectors={path: rng.standard_normal(width, np.float32) for path, width in paths.items()},
        boundaries={"last_image_token": 5, "last_prompt_token": 33 + i},
        num_prompt_tokens=34 + i,
        image_sha256=f"{i:064x}",
        image_dhash=f"{i:016x}",
        image_thumbnail="",
        first_token_entropy=float(rng.random()),
        first_token_ids=rng.integers(0, 1000, 20),
        first_token_logprobs=-np.sort(rng.random(20, np.float32)),
        finish_reason="stop" if answered else "prefill",
        answer=f"The image shows {i} 月." if answered else None,
        answer_token_ids=rng.integers(0, 1000, tokens) if answered else None,
        answer_logprobs=-rng.random(tokens, np.float32) if answered else None,
    )
    return replace(capture, **changes)


def make_bare(i: int, **options: Any) -> Capture:
    """Return row ``i`` as a question about no image."""
    whole = make_capture(i, **options)
    names = ("vision_only_representation", "vision_token_representation")
    return replace(
        whole,
        sample=replace(whole.sample, image=None, image_id=""),
        vectors={p: v for p, v in whole.vectors.items() if p.partition("/")[0] not in names},
        boundaries={"last_prompt_token": whole.boundaries["last_prompt_token"]},
        image_sha256="",
        image_dhash="",
        image_thumbnail="",
    )


def make_captures(numbers: Iterable[int], **options: Any) -> list[Capture]:
    """Return several rows."""
    return [make_capture(i, **options) for i in numbers]


def leave_parts(run: Path, numbers: range, step: int = 2) -> None:
    """Write like a session that was killed: parts, no pack."""
    try:
        with RunWriter(run, make_manifest()) as writer:
            for start in range(numbers.start, numbers.stop, step):
                writer.add(make_captures(range(start, min(start + step, numbers.stop))))
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


def assert_same(found: Capture, wanted: Capture) -> None:
    """Compare all that is stored of a capture, bit for bit."""
    names = wanted.sample.image_id.split(", ")
    several = tuple(names) if len(wanted.sample.images) > 1 else wanted.sample.image_id
    assert found.sample == replace(wanted.sample, image=several if wanted.sample.images else None)
    assert found.vectors.keys() == wanted.vectors.keys()
    for path, vector in wanted.vectors.items():
        assert found.vectors[path].dtype == np.float32
        assert np.array_equal(found.vectors[path], vector), path
    for name in ("first_token_ids", "first_token_logprobs", "answer_token_ids", "answer_logprobs"):
        left, right = getattr(found, name), getattr(wanted, name)
        assert (left is None) == (right is None), name
        if right is not None:
            assert left.dtype == right.dtype, name
            assert np.array_equal(left, right), name
    for name in (
        "boundaries",
        "num_prompt_tokens",
        "image_sha256",
        "image_dhash",
        "image_thumbnail",
        "first_token_entropy",
        "finish_reason",
        "answer",
    ):
        assert getattr(found, name) == getattr(wanted, name), name
