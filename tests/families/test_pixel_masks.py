"""Masks of pixels are given to the model as booleans; it computes the same of them, bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from families.conformance import ONE_IMAGE, build
from vlmscope.engine import prepare
from vlmscope.model import FAMILIES, load_model, resolve_spec
from vlmscope.schema import CaptureSpec

WITH_MASKS = [name for name, family in FAMILIES.items() if family.pixel_masks]


@pytest.mark.parametrize("family", WITH_MASKS)
def test_booleans_give_the_same_states(family: str, tmp_path: Path) -> None:
    vlm = load_model(build(family, tmp_path / family), device="cpu", dtype="float32")
    [batch], _ = prepare(ONE_IMAGE, vlm, resolve_spec(CaptureSpec(max_new_tokens=0), vlm))
    found = batch.model_inputs()
    for name in vlm.family.pixel_masks:
        assert found[name].dtype == torch.bool
        assert found[name].any()
        assert not found[name].all()
    masks = {name: found[name].long() for name in vlm.family.pixel_masks}
    with torch.inference_mode():
        states, expected = (vlm.model(**each).logits for each in (found, {**found, **masks}))
    assert torch.equal(states, expected)
