"""While a model computes in float32 nothing rounds it, and afterwards everything is as before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import pytest
import torch

from vlmscope.engine import capture
from vlmscope.model import VisionLanguageModel
from vlmscope.model.computing import full_float32
from vlmscope.schema import CaptureSpec, Sample


def switches() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def set_switches(convolutions: bool, products: bool) -> None:
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products


@pytest.fixture(autouse=True)
def _as_they_were() -> Iterator[None]:
    before = switches()
    yield
    set_switches(*before)


@pytest.mark.parametrize("before", [(True, True), (True, False), (False, False)])
def test_the_switches_are_off_inside_and_put_back(before: tuple[bool, bool]) -> None:
    set_switches(*before)
    with contextlib.suppress(ValueError), full_float32():
        assert switches() == (False, False)
        raise ValueError
    assert switches() == before


def test_a_capture_computes_with_the_switches_off(
    vlm: VisionLanguageModel, samples: Sequence[Sample]
) -> None:
    set_switches(True, True)
    seen: list[tuple[bool, bool]] = []
    handle = vlm.vision_encoder.register_forward_hook(lambda *_: seen.append(switches()))
    try:
        list(capture(samples[:2], vlm, CaptureSpec(max_new_tokens=0)))
    finally:
        handle.remove()
    assert set(seen) == {(False, False)}
    assert switches() == (True, True)
