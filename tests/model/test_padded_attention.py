"""Attention of rows padded on the left: the library's numbers for real tokens, without its mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from model.test_packed_attention import Attention, Kernel, kernel  # noqa: F401 - a fixture
from vlmscope.model.attention.packed import packed_attention
from vlmscope.model.attention.padded import PADDED, PaddedAttention, attending_without_padding

WIDTH = 8


def real(*padding: int, length: int = 6) -> np.ndarray:
    return np.arange(length)[None] >= np.array(padding)[:, None]


def states(rows: int, heads: int = 4, key_heads: int = 2, length: int = 6) -> list[Tensor]:
    rng = torch.Generator().manual_seed(rows)
    return [
        torch.randn(rows, n, length, WIDTH, generator=rng) for n in (heads, key_heads, key_heads)
    ]


def masked(tokens: np.ndarray) -> Tensor:
    """Return the library's mask: causal, and padding is not attended to."""
    seen = torch.from_numpy(tokens)
    return torch.ones(seen.shape[1], seen.shape[1], dtype=torch.bool).tril() & seen[:, None, None]


def library(parts: list[Tensor], mask: Tensor, scaling: float | None = None) -> Tensor:
    groups = parts[0].shape[1] // parts[1].shape[1]
    found: Tensor = sdpa_attention_forward(Attention(groups), *parts, mask, scaling=scaling)[0]
    return found


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The mask of every call of torch's attention."""
    seen: list[Any] = []
    original = F.scaled_dot_product_attention

    def spy(*rest: Any, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        seen.append(attn_mask)
        return original(*rest, attn_mask=attn_mask, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    return seen


@pytest.mark.parametrize("scaling", [None, 0.2])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_real_tokens_attend_as_in_the_library(
    key_heads: int, scaling: float | None, masks: list[Any]
) -> None:
    tokens, parts = real(2, 0, 5), states(3, key_heads=key_heads)
    mask = masked(tokens)
    expected = library(parts, mask, scaling)
    masks.clear()
    found, _ = PaddedAttention(tokens)(Attention(4 // key_heads), *parts, mask, scaling=scaling)
    assert masks == [None] * 3
    keep = torch.from_numpy(tokens)
    torch.testing.assert_close(found[keep], expected[keep])
    assert found.isfinite().all()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_any_padding(padding: list[int]) -> None:
    tokens, parts = real(*padding), states(len(padding))
    found, _ = PaddedAttention(tokens)(Attention(2), *parts, masked(tokens))
    keep = torch.from_numpy(tokens)
    torch.testing.assert_close(found[keep], library(parts, masked(tokens))[keep])


def test_one_call_of_the_kernel_for_all_rows(
    kernel: Kernel,  # noqa: F811
) -> None:
    tokens, parts = real(2, 0, 5), states(3)
    found, _ = PaddedAttention(tokens)(Attention(2), *parts, masked(tokens), scaling=0.3)
    assert kernel.longest == [6]
    keep = torch.from_numpy(tokens)
    torch.testing.assert_close(found[keep], library(parts, masked(tokens), 0.3)[keep])
    kernel.error = RuntimeError("it needs a newer GPU")
    with pytest.warns(RuntimeWarning, match="variable-length attention failed"):
        again, _ = PaddedAttention(tokens)(Attention(2), *parts, masked(tokens), scaling=0.3)
    torch.testing.assert_close(again[keep], found[keep])


def test_a_kernel_that_fails_for_the_decoder_is_still_the_encoders(
    kernel: Kernel,  # noqa: F811
) -> None:
    tokens, parts = real(2, 0, 5), states(3)
    kernel.error = RuntimeError("it needs a newer GPU")
    with pytest.warns(RuntimeWarning, match="variable-length attention failed"):
        PaddedAttention(tokens)(Attention(2), *parts, masked(tokens))
    kernel.error = None
    PaddedAttention(tokens)(Attention(2), *parts, masked(tokens))
    assert kernel.longest == []
    patches = [part[:1] for part in parts]
    cut = torch.tensor([0, 2, 6], dtype=torch.int32)
    packed_attention(Attention(2, is_causal=False), *patches, None, cu_seq_lens_q=cut)
    assert kernel.longest == [4]


def other_masks() -> dict[str, Tensor]:
    """Masks of decoders that attend to something else than all earlier tokens."""
    tokens = real(2, 0)
    plain = masked(tokens)
    window = plain & ~torch.ones(6, 6, dtype=torch.bool).tril(-3)
    image = plain.clone()
    image[1, :, 1:3, 1:3] = True  # image tokens that attend to each other
    unseen = plain.clone()
    unseen[1, :, 5, 0] = False
    return {
        "window": window, "image": image, "one key missing": unseen,
        "padding attended to": plain | torch.ones(6, 6, dtype=torch.bool).tril(),
        "additive": torch.zeros(plain.shape).masked_fill(~plain, -1e9),
        "for each head": plain.expand(-1, 4, -1, -1),
    }  # fmt: skip


@pytest.mark.parametrize("name", other_masks())
def test_another_mask_is_kept(name: str) -> None:
    tokens, parts, mask = real(2, 0), states(2), other_masks()[name]
    found, _ = PaddedAttention(tokens)(Attention(2), *parts, mask)
    keep = torch.from_numpy(tokens)
    torch.testing.assert_close(found[keep], library(parts, mask)[keep])


def test_each_type_of_layer_has_its_own_mask() -> None:
    """Some layers of a decoder see everything, others a window: both as in the library."""
    tokens, parts = real(2, 0), states(2)
    attention, keep = PaddedAttention(tokens), torch.from_numpy(tokens)
    for mask in (masked(tokens), other_masks()["window"], masked(tokens)):
        found, _ = attention(Attention(2), *parts, mask)
        torch.testing.assert_close(found[keep], library(parts, mask)[keep])


def test_padding_on_the_right_and_steps_of_decoding_keep_their_mask() -> None:
    tokens, parts = real(2, 0)[:, ::-1].copy(), states(2)
    found, _ = PaddedAttention(tokens)(Attention(2), *parts, masked(tokens))
    torch.testing.assert_close(found, library(parts, masked(tokens)))
    step = [parts[0][:, :, -1:], *parts[1:]]
    mask = masked(real(2, 0))[:, :, -1:]
    found, _ = PaddedAttention(real(2, 0))(Attention(2), *step, mask)
    torch.testing.assert_close(found, library(step, mask))


class Decoder(nn.Module):
    """Calls its attention by name, as the library's decoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.config = type("Config", (), {"_attn_implementation": "sdpa"})()


def test_masks_are_released_when_the_pass_is_over() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    decoder, tokens = Decoder(), real(2, 0)
    with attending_without_padding(decoder, tokens):
        assert decoder.config._attn_implementation == PADDED
        attention: Any = ALL_ATTENTION_FUNCTIONS[PADDED]
        attention(Attention(2), *states(2), masked(tokens))
        assert len(attention._known) == 1
    assert decoder.config._attn_implementation == "sdpa"
    assert not attention._known
