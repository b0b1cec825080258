"""RMS norms by one kernel, in every family: all are recognized, and the numbers are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from families.conformance import ONE_IMAGE, RUNNABLE, WANTS_TIMM, WANTS_TORCHVISION, build
from families.test_conformance import assert_same
from vlmscope.engine import prepare, session
from vlmscope.engine.session import CaptureSession
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec

WITH_EXTRAS = tuple(name for name in WANTS_TORCHVISION + WANTS_TIMM if name in RUNNABLE)

FIRST = ("gemma3", "qwen3_vl", *WITH_EXTRAS)
"""With ``1 + weight``, with norms of queries and keys, and what only ``make test-extras`` runs."""

WITHOUT = {"aya_vision", "cohere2_vision"}
"""Families whose norms subtract the mean."""

SPEC = CaptureSpec(layers="all", max_new_tokens=2)


def unknown(vlm: VisionLanguageModel, known: list[Any]) -> set[str]:
    """Return the classes of weighted norms that are not recognized, without those with a gate."""
    ids = {id(module) for module, _ in known}
    return {
        type(module).__name__
        for module in vlm.model.modules()
        if "RMSNorm" in type(module).__name__
        and hasattr(module, "weight")
        and id(module) not in ids
    }


@pytest.mark.first(len(FIRST))
@pytest.mark.parametrize("family", [*FIRST, *(name for name in RUNNABLE if name not in FIRST)])
def test_norms_of_a_family(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "suits_norms", lambda _vlm: True)
    vlm = load_model(build(family, tmp_path / family), device="cpu", dtype="float32")
    spec = resolve_spec(SPEC, vlm)
    rows = ONE_IMAGE[:2]
    capturing = CaptureSession(vlm, spec, len(rows))
    assert capturing._norms is not None
    known = capturing._norms._modules
    assert bool(known) == (family not in WITHOUT)
    assert all(name.endswith("Gated") for name in unknown(vlm, known))
    batches, failures = prepare(rows, capturing.prepares_with, spec)
    assert not failures
    found = [item for batch in batches for item in capturing.submit(batch)] + capturing.drain()
    expected = {row.id: reference(row, vlm, SPEC) for row in rows}
    for capture in found:
        assert isinstance(capture, Capture), capture
        assert_same(capture, expected[capture.sample.id])
