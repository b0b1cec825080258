"""The decoding steps' attention, for the library's, and how it gets into a model and out again."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.integrations import sdpa_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from vlmscope.model import VisionLanguageModel
from vlmscope.model.attention import switch
from vlmscope.model.attention.switch import GROUPED, attending_with, grouped_attention, masking_keys

BATCH, LENGTH, WIDTH = 3, 11, 8


class Attention(nn.Module):
    """What an implementation knows of the attention that calls it."""

    is_causal = True

    def __init__(self, heads: int, key_heads: int) -> None:
        super().__init__()
        self.num_key_value_groups = heads // key_heads
        self.q_proj = nn.Identity()


def tensors(heads: int, key_heads: int, tokens: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(heads * 100 + key_heads)
    query = torch.randn(BATCH, heads, tokens, WIDTH, generator=rng)
    key, value = torch.randn(2, BATCH, key_heads, LENGTH, WIDTH, generator=rng)
    return query, key, value


def mask_of(kind: str, tokens: int = 1, heads: int = 1) -> Tensor | None:
    rng = torch.Generator().manual_seed(7)
    seen = torch.rand(BATCH, heads, tokens, LENGTH, generator=rng) > 0.4
    seen[..., 0] = True
    if kind == "none":
        return None
    return seen if kind == "boolean" else torch.where(seen, 0.0, torch.finfo(torch.float32).min)


@pytest.mark.first(18)
@pytest.mark.parametrize("kind", ["none", "boolean", "additive"])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("scaling", [None, 0.2])
@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_tokens_attend_as_in_the_library(
    kind: str, heads: int, key_heads: int, scaling: float | None, tokens: int
) -> None:
    """One new token, a few and more than there are keys; without a mask they are causal."""
    states = tensors(heads, key_heads, tokens)
    taken = (Attention(heads, key_heads), *states, mask_of(kind, tokens), 0.0, scaling)
    found, weights = grouped_attention(*taken)
    expected, _ = sdpa_attention_forward(*taken)
    assert weights is None
    assert found.shape == (BATCH, tokens, heads, WIDTH)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["boolean", "additive"])
def test_a_few_tokens_take_no_copy_of_the_keys(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is for: the library never sees them."""

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("the library was to attend")

    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", refused)
    for tokens in (1, 2):
        grouped_attention(Attention(4, 2), *tensors(4, 2, tokens), mask_of(kind, tokens))


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("what", ["a mask for each head", "a bias"])
def test_what_it_cannot_do_goes_to_the_library(tokens: int, what: str) -> None:
    mask = mask_of("boolean", tokens, 4 if what == "a mask for each head" else 1)
    taken = (Attention(4, 2), *tensors(4, 2, tokens), mask)
    bias = torch.linspace(0, 1, LENGTH).expand(1, 4, tokens, LENGTH)
    options = {"position_bias": bias} if what == "a bias" else {}
    found, _ = grouped_attention(*taken, **options)
    torch.testing.assert_close(found, sdpa_attention_forward(*taken, **options)[0])


@pytest.mark.parametrize("tokens", [1, 2])
def test_a_part_may_be_told_what_it_sees(tokens: int) -> None:
    """More rows are described than go through a step; a mask that is handed in is not asked."""
    part = nn.ModuleList([Attention(4, 2), nn.Identity(), Attention(4, 2)])
    other = Attention(4, 2)
    seen = torch.rand(BATCH + 2, LENGTH, generator=torch.Generator().manual_seed(1)) > 0.5
    seen[:, 3] = True
    states, handed = tensors(4, 2, tokens), mask_of("boolean", tokens)
    expected, _ = sdpa_attention_forward(other, *states, seen[:BATCH, None, None])
    plain, _ = sdpa_attention_forward(other, *states, handed)
    with masking_keys([part], seen):
        for module in (part[0], part[2]):
            torch.testing.assert_close(grouped_attention(module, *states, handed)[0], expected)
        torch.testing.assert_close(grouped_attention(other, *states, handed)[0], plain)
    assert not torch.allclose(expected, plain)
    torch.testing.assert_close(grouped_attention(part[0], *states, handed)[0], plain)


def test_a_part_forgets_what_it_sees_when_a_step_raises() -> None:
    part = Attention(4, 2)
    before = dict(part.__dict__)
    with contextlib.suppress(ArithmeticError), masking_keys([part], torch.ones(BATCH, LENGTH)):
        assert part.__dict__ != before
        raise ArithmeticError
    assert part.__dict__ == before


@pytest.mark.parametrize("fails", [False, True])
def test_only_one_part_attends_otherwise_and_only_for_a_while(
    vlm: VisionLanguageModel, fails: bool
) -> None:
    with (
        contextlib.suppress(ArithmeticError),
        attending_with(GROUPED, grouped_attention, vlm.decoder),
    ):
        assert vlm.layers[0].self_attn.config._attn_implementation == GROUPED
        assert vlm.vision_encoder.config._attn_implementation == "sdpa"
        if fails:
            raise ArithmeticError
    assert vlm.layers[0].self_attn.config._attn_implementation == "sdpa"


def test_an_implementation_that_is_not_sdpa_is_left_alone() -> None:
    part = nn.Module()
    part.config = type("Config", (), {"_attn_implementation": "eager"})()
    with attending_with(GROUPED, grouped_attention, part):
        assert part.config._attn_implementation == "eager"
    assert part.config._attn_implementation == "eager"


ANY_SHAPE = [
    int(backend.value) for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
]
"""torch's kernels that need no plan for a shape; the others come after them."""


def first_kernels() -> list[int]:
    return list(torch._C._get_sdp_priority_order()[:2])


@pytest.fixture
def others_first() -> Iterator[None]:
    """Another order than the one that is set, as on a GPU."""
    with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], set_priority=True):
        yield


@pytest.mark.usefixtures("others_first")
@pytest.mark.parametrize(("width", "chosen"), [(128, False), (256, True)])
def test_the_kernel_of_a_step_with_wide_heads_on_a_gpu(width: int, chosen: bool) -> None:
    """The choice alone, which is not of one that a CPU has."""
    before = torch._C._get_sdp_priority_order()
    query: Any = SimpleNamespace(is_cuda=True, shape=(3, 2, 1, width))
    with switch._kernels_of_step(query):
        assert (first_kernels() == ANY_SHAPE) == chosen
    assert torch._C._get_sdp_priority_order() == before


@pytest.mark.usefixtures("others_first")
def test_kernels_are_planned_only_for_shapes_that_occur_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(switch, "_calls", Counter())
    monkeypatch.setattr(switch, "OFTEN", 5)

    def chosen(tokens: int, *, on_gpu: bool = True) -> bool:
        query: Any = SimpleNamespace(
            is_cuda=on_gpu, shape=(3, 2, tokens, 8), device="cuda:0", dtype=torch.float16
        )
        with switch.kernels_for_prompts(query, query):
            return first_kernels() == ANY_SHAPE

    assert all(chosen(7) for _ in range(switch.OFTEN))
    assert not chosen(7), "now it is worth a plan"
    assert chosen(8), "another shape"
    assert not chosen(9, on_gpu=False)


def test_shapes_that_are_rare_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million images of as many sizes need no memory."""
    monkeypatch.setattr(switch, "_calls", Counter())
    monkeypatch.setattr(switch, "OFTEN", 20)
    monkeypatch.setattr(switch, "MOST_SHAPES", 8)
    often = torch.zeros(1, 1, 1, 1)
    for tokens in range(2, 22):
        assert not switch.is_frequent(often, often)
        other = torch.zeros(1, 1, tokens, 1)
        assert not switch.is_frequent(other, other)
        assert len(switch._calls) <= 8
    assert switch.is_frequent(often, often), "seen 20 times before"


@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_prompts_and_steps_are_attended_with_their_kernels(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[str] = []

    @contextmanager
    def note(name: str) -> Iterator[None]:
        entered.append(name)
        yield

    monkeypatch.setattr(switch, "_kernels_of_step", lambda _query: note("step"))
    monkeypatch.setattr(switch, "kernels_for_prompts", lambda _query, _key: note("prompts"))
    query, key = torch.randn(2, 4, tokens, 8), torch.randn(2, 2, 40, 8)
    mask = torch.ones(2, 1, tokens, 40, dtype=torch.bool)
    grouped_attention(Attention(4, 2), query, key, key, mask)
    assert entered == ["step" if tokens == 1 else "prompts"]
