"""``triton_kernels`` in plain torch: the same functions on any device, without Triton."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

SILU, GELU, GELU_TANH = 0, 1, 2
MOST_NUMBERS = 8192
MOST_KEYS = 1024
CALLS: list[str] = []
"""The functions that were called."""


def rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    CALLS.append("rotated")
    assert states.dim() == 4
    assert cos.shape == sin.shape == (*states.shape[:2], states.shape[3])
    assert states.stride(-1) == cos.stride(-1) == sin.stride(-1) == 1
    first, second = states.float().chunk(2, dim=-1)
    half = torch.cat([-second, first], dim=-1)
    turned = states.float() * cos[:, :, None].float() + half * sin[:, :, None].float()
    return torch.empty_like(states).copy_(turned)


def registers_of_rotation(heads: int, width: int) -> int:
    return heads * width


def gated(gate: Tensor, up: Tensor, activation: int) -> Tensor:
    CALLS.append("gated")
    assert gate.is_contiguous()
    assert up.is_contiguous()
    x = gate.float()
    approximate = "tanh" if activation == GELU_TANH else "none"
    active = F.silu(x) if activation == SILU else F.gelu(x, approximate=approximate)
    return (active * up.float()).to(gate.dtype)


def normed_times_one_plus(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    CALLS.append("normed_times_one_plus")
    assert states.is_contiguous()
    x = states.float()
    factor = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)
    return (x * factor * (1 + weight.float())).to(states.dtype)


def delta_step(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, state: Tensor,
    *, normalized: bool,
) -> Tensor:  # fmt: skip
    CALLS.append("delta_step")
    assert state.is_contiguous()
    assert decay.is_contiguous()
    assert beta.is_contiguous()
    assert all(each[0].is_contiguous() for each in (query, key, value))
    repeats = state.shape[1] // query.shape[1]
    q, k = (each.float().repeat_interleave(repeats, dim=1) for each in (query, key))
    if normalized:
        q, k = (each * (each.pow(2).sum(-1, keepdim=True) + 1e-6).rsqrt() for each in (q, k))
    state.mul_(decay.float().exp()[..., None, None])
    told = torch.einsum("rhkv,rhk->rhv", state, k)
    change = (value.float() - told) * beta.float()[..., None]
    state.add_(k[..., None] * change[..., None, :])
    return torch.einsum("rhkv,rhk->rhv", state, q * q.shape[-1] ** -0.5).to(query.dtype)
