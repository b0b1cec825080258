"""Encoders that attend to a few tiles at a time: which families, how exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations import sdpa_attention

from engine.against_reference import captured_together
from families.conformance import ONE_IMAGE, RUNNABLE, SEVERAL, build
from families.test_conformance import assert_same
from families.test_own_width import WITHOUT_MASK
from vlmscope.model import load_model
from vlmscope.model.attention import flash, pieces, switch
from vlmscope.model.attention.pieces import attention_in_pieces
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec

SPEC = CaptureSpec(layers="all", max_new_tokens=0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tiles of each call of the library's attention, as on a GPU that plans its kernels."""
    seen: list[int] = []
    original = sdpa_attention.sdpa_attention_forward

    def note(module: nn.Module, query: Tensor, *states: Any, **options: Any) -> Any:
        seen.append(len(query))
        return original(module, query, *states, **options)

    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", note)
    monkeypatch.setattr(pieces, "_is_planned", lambda _query: True)
    monkeypatch.setattr(pieces, "LARGEST", 4)
    monkeypatch.setattr(flash, "_may_support", lambda _vlm: True)
    monkeypatch.setattr(switch, "_calls", Counter())
    return seen


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Tiles of each call of ours that was divided into several."""
    seen: list[int] = []
    original = pieces.pieces

    def note(rows: int) -> Iterator[slice]:
        found = list(original(rows))
        if len(found) > 1:
            seen.append(rows)
        return iter(found)

    monkeypatch.setattr(pieces, "pieces", note)
    return seen


@pytest.mark.first(1)
@pytest.mark.parametrize("family", ["llava_next", *(n for n in RUNNABLE if n != "llava_next")])
def test_the_numbers_are_the_references(
    family: str, tmp_path: Path, calls: list[int], split: list[int]
) -> None:
    vlm = load_model(build(family, tmp_path / family), device="cpu", dtype="float32")
    samples = (*ONE_IMAGE, *(() if family == "paligemma" else (SEVERAL[0],)))
    found = captured_together(samples, vlm, SPEC)
    assert bool(split) or family not in WITHOUT_MASK
    done = len(calls)
    for item in (found[0], *found[2:]):
        assert_same(item, reference(item.sample, vlm, SPEC))
    assert not split or {2, 4} & set(calls[:done])


class Attention(nn.Module):
    is_causal = False
    num_key_value_groups = 2


def states(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(rows, 4, 5, 8), torch.randn(rows, 2, 7, 8), torch.randn(rows, 2, 7, 8)


@pytest.mark.parametrize("masks", [0, 1, 9])
def test_masks_of_all_tiles_and_of_each(masks: int, calls: list[int]) -> None:
    parts = states(9)
    mask = torch.rand(masks, 1, 5, 7) < 0.7 if masks else None
    expected, _ = sdpa_attention.sdpa_attention_forward(Attention(), *parts, mask)
    calls.clear()
    found, weights = attention_in_pieces(Attention(), *parts, mask)
    torch.testing.assert_close(found, expected)
    assert weights is None
    assert calls == [4, 4, 1]


def test_a_shape_that_occurs_often_is_attended_at_once(
    calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "OFTEN", 5)
    parts = states(3)
    for _ in range(switch.OFTEN):
        attention_in_pieces(Attention(), *parts, None)
    assert set(calls) == {2, 1}
    calls.clear()
    attention_in_pieces(Attention(), *parts, None)
    assert calls == [3]


@pytest.mark.parametrize(
    ("cuda", "dtype", "capability", "planned"),
    [
        (True, torch.bfloat16, (9, 0), True),
        (True, torch.float16, (10, 0), True),
        (True, torch.float32, (9, 0), False),
        (True, torch.bfloat16, (8, 0), False),
        (False, torch.bfloat16, (9, 0), False),
    ],
)
def test_only_where_torch_plans_kernels(
    cuda: bool,
    dtype: torch.dtype,
    capability: tuple[int, int],
    planned: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    query: Any = SimpleNamespace(is_cuda=cuda, dtype=dtype, device="cuda:0")
    assert pieces._is_planned(query) == planned
