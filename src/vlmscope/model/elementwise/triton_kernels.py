"""Kernels in Triton's language: a chain of element-wise operations, each number read once.

All compute in float32, whatever the type of the tensors, and round once, at the end. They are
compiled at their first call, each in less than half a second, and kept by Triton for the next
process. Importing this module imports Triton, which comes with torch for NVIDIA GPUs.

With ``TRITON_INTERPRET=1`` they run on a CPU, as the tests do.
"""

# Annotations must be evaluated here: Triton reads ``tl.constexpr``.
import torch
import triton
import triton.language as tl
from torch import Tensor

SILU, GELU, GELU_TANH = 0, 1, 2
"""Activations of ``gated``."""

MOST_NUMBERS = 8192
"""Numbers that one program of a kernel keeps in registers at most."""

MOST_KEYS = 1024
"""The largest width of keys of ``delta_step``."""

_GATED_AT_ONCE = 2048
_NORMED_AT_ONCE = 2048
_CHANGED_AT_ONCE = 4096


@triton.jit
def _rotate(
    states, cos, sin, found,
    tokens, states_row, states_token, states_head, cos_row, cos_token, sin_row, sin_token,
    found_row, found_token, found_head,
    heads: tl.constexpr, half: tl.constexpr, all_heads: tl.constexpr, all_half: tl.constexpr,
):  # fmt: skip
    """Rotate all heads of one token, which share its angles."""
    program = tl.program_id(0).to(tl.int64)
    row, token = program // tokens, program % tokens
    head, channel = tl.arange(0, all_heads)[:, None], tl.arange(0, all_half)[None, :]
    known = (head < heads) & (channel < half)
    at = states + row * states_row + token * states_token + head * states_head + channel
    first = tl.load(at, mask=known, other=0.0).to(tl.float32)
    second = tl.load(at + half, mask=known, other=0.0).to(tl.float32)
    angle = tl.arange(0, all_half)[None, :]
    within = angle < half
    cosines, sines = (
        cos + row * cos_row + token * cos_token,
        sin + row * sin_row + token * sin_token,
    )
    first_cos = tl.load(cosines + angle, mask=within, other=0.0).to(tl.float32)
    second_cos = tl.load(cosines + half + angle, mask=within, other=0.0).to(tl.float32)
    first_sin = tl.load(sines + angle, mask=within, other=0.0).to(tl.float32)
    second_sin = tl.load(sines + half + angle, mask=within, other=0.0).to(tl.float32)
    to = found + row * found_row + token * found_token + head * found_head + channel
    kind = found.dtype.element_ty
    tl.store(to, (first * first_cos - second * first_sin).to(kind), mask=known)
    tl.store(to + half, (second * second_cos + first * second_sin).to(kind), mask=known)


def rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return ``states * cos + rotate_half(states) * sin``, in the type of the states.

    Args:
        states: ``[rows, tokens, heads, width]`` with any strides but the last, which is 1; heads
            times half of the width, both rounded up to powers of two, at most ``MOST_NUMBERS``.
        cos: ``[rows, tokens, width]``; may be expanded along the rows.
        sin: As ``cos``.
    """
    rows, tokens, heads, width = states.shape
    found = torch.empty_like(states)  # keeps the order of the strides
    if found.numel():
        _rotate[(rows * tokens,)](
            states, cos, sin, found,
            tokens, *states.stride()[:3], *cos.stride()[:2], *sin.stride()[:2], *found.stride()[:3],
            heads, width // 2, triton.next_power_of_2(heads), triton.next_power_of_2(width // 2),
        )  # fmt: skip
    return found


def registers_of_rotation(heads: int, width: int) -> int:
    """Return the numbers that a program of ``rotated`` keeps."""
    return int(triton.next_power_of_2(heads) * triton.next_power_of_2(width // 2))


@triton.jit
def _gate(gate, up, found, numbers, activation: tl.constexpr, at_once: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * at_once + tl.arange(0, at_once)
    known = at < numbers
    x = tl.load(gate + at, mask=known, other=0.0).to(tl.float32)
    other = tl.load(up + at, mask=known, other=0.0).to(tl.float32)
    if activation == 0:
        active = x * tl.sigmoid(x)
    elif activation == 1:
        active = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    else:  # 1 + tanh(z) is twice the sigmoid of 2z
        active = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    tl.store(found + at, (active * other).to(found.dtype.element_ty), mask=known)


def gated(gate: Tensor, up: Tensor, activation: int) -> Tensor:
    """Return ``activation(gate) * up``.

    Args:
        gate: Any shape, contiguous.
        up: As ``gate``.
        activation: ``SILU``, ``GELU`` or ``GELU_TANH``.
    """
    found = torch.empty_like(gate)
    if numbers := found.numel():
        programs = triton.cdiv(numbers, _GATED_AT_ONCE)
        _gate[(programs,)](gate, up, found, numbers, activation, _GATED_AT_ONCE)
    return found


@triton.jit
def _norm(states, weight, found, tokens, epsilon, width: tl.constexpr, all_width: tl.constexpr,
          at_once: tl.constexpr):  # fmt: skip
    token = tl.program_id(0).to(tl.int64) * at_once + tl.arange(0, at_once)[:, None]
    channel = tl.arange(0, all_width)[None, :]
    known = (token < tokens) & (channel < width)
    at = token * width + channel
    x = tl.load(states + at, mask=known, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(x * x, axis=1) / width + epsilon)[:, None]
    scale = 1.0 + tl.load(weight + channel, mask=channel < width, other=0.0).to(tl.float32)
    tl.store(found + at, (x * factor * scale).to(found.dtype.element_ty), mask=known)


def normed_times_one_plus(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return the states over their root mean square, times ``1 + weight``.

    Args:
        states: ``[..., width]``, contiguous; the width at most ``MOST_NUMBERS``.
        weight: ``[width]``.
        epsilon: Added to the mean square.
    """
    found, width = torch.empty_like(states), len(weight)
    if tokens := found.numel() // width:
        wide = triton.next_power_of_2(width)
        at_once = max(1, _NORMED_AT_ONCE // wide)
        programs = triton.cdiv(tokens, at_once)
        _norm[(programs,)](states, weight, found, tokens, epsilon, width, wide, at_once)
    return found


@triton.jit
def _delta(
    query, key, value, decay, beta, state, found,
    query_row, key_row, value_row, heads, repeats, epsilon, scale,
    keys: tl.constexpr, values: tl.constexpr, all_keys: tl.constexpr, at_once: tl.constexpr,
    normalized: tl.constexpr,
):  # fmt: skip
    """Change some columns of the state of one head, which is read and written once."""
    program = tl.program_id(0).to(tl.int64)
    row, head = program // heads, program % heads
    place = tl.arange(0, all_keys)
    within = place < keys
    of_head = (head // repeats) * keys + place
    q = tl.load(query + row * query_row + of_head, mask=within, other=0.0).to(tl.float32)
    k = tl.load(key + row * key_row + of_head, mask=within, other=0.0).to(tl.float32)
    if normalized:
        q = q * tl.rsqrt(tl.sum(q * q, axis=0) + epsilon)
        k = k * tl.rsqrt(tl.sum(k * k, axis=0) + epsilon)
    q = q * scale
    channel = tl.program_id(1) * at_once + tl.arange(0, at_once)
    v = tl.load(
        value + row * value_row + head * values + channel, mask=channel < values, other=0.0
    ).to(tl.float32)
    at = state + program * keys * values + place[:, None] * values + channel[None, :]
    known = within[:, None] & (channel < values)[None, :]
    factor = tl.exp(tl.load(decay + program).to(tl.float32))
    held = tl.load(at, mask=known, other=0.0) * factor
    told = tl.sum(held * k[:, None], axis=0)
    change = (v - told) * tl.load(beta + program).to(tl.float32)
    held = held + k[:, None] * change[None, :]
    tl.store(at, held, mask=known)
    answer = tl.sum(held * q[:, None], axis=0).to(found.dtype.element_ty)
    tl.store(found + program * values + channel, answer, mask=channel < values)


def delta_step(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, state: Tensor,
    *, normalized: bool,
) -> Tensor:  # fmt: skip
    """Return the output of one step of the gated delta rule; the state is changed in place.

    Args:
        query: ``[rows, heads of keys, width of keys]``, the last two dimensions contiguous.
        key: As ``query``.
        value: ``[rows, heads, width of values]``, likewise; the heads are a multiple of those of
            the keys.
        decay: Logarithm of the factor of the state, ``[rows, heads]``, contiguous.
        beta: How much of the difference is added, likewise.
        state: ``[rows, heads, width of keys, width of values]`` in float32, contiguous; the width
            of keys, rounded up to a power of two, at most ``MOST_KEYS``.
        normalized: Whether queries and keys are divided by their length first.

    Returns:
        ``[rows, heads, width of values]`` in the type of ``query``.
    """
    rows, heads, keys, values = state.shape
    found = torch.empty_like(value, dtype=query.dtype, memory_format=torch.contiguous_format)
    if found.numel():
        all_keys = triton.next_power_of_2(keys)
        at_once = min(triton.next_power_of_2(values), max(1, _CHANGED_AT_ONCE // all_keys))
        _delta[(rows * heads, triton.cdiv(values, at_once))](
            query, key, value, decay, beta, state, found,
            query.stride(0), key.stride(0), value.stride(0), heads, heads // query.shape[1],
            1e-6, keys**-0.5, keys, values, all_keys, at_once, normalized,
        )  # fmt: skip
    return found
