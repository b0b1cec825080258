"""The kernels in Triton's language, which ``make test-extras`` interprets on a CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_recurrent_gated_delta_rule

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")
"""The interpreter computes with NumPy, which warns where the result is 0 or 1."""

DTYPES = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
"""Types, and how far a result rounded once may be from float32, relative to its size."""


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    assert os.environ["TRITON_INTERPRET"] == "1"  # read when Triton is imported
    from vlmscope.model.elementwise import triton_kernels

    return triton_kernels


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "width"), [(4, 16), (3, 12), (1, 80)])
def test_rotations(kernels: ModuleType, heads: int, width: int, dtype: torch.dtype) -> None:
    states = numbers(2, 3, 5, heads, width).to(dtype)[:, 1]  # as a slice of queries, keys, values
    cos, sin = numbers(2, 5, width), 1 + numbers(2, 5, width)
    found = kernels.rotated(states, cos, sin)
    assert found.dtype == dtype
    for row in range(2):
        theirs = apply_rotary_pos_emb_vision(
            states[row].float(), states[row].float(), cos[row], sin[row]
        )
        assert_near(found[row], theirs[0], DTYPES[dtype])
    turned = states.transpose(1, 2).contiguous()
    own = [part.to(dtype) for part in (cos, sin)]
    found = kernels.rotated(turned.transpose(1, 2), *own).transpose(1, 2)
    assert found.is_contiguous()
    expected = apply_rotary_pos_emb(turned.float(), turned.float(), *(each.float() for each in own))
    assert_near(found, expected[0], DTYPES[dtype])


def test_angles_of_one_row_are_expanded(kernels: ModuleType) -> None:
    states, cos, sin = numbers(3, 5, 2, 8), numbers(1, 5, 8), 1 + numbers(1, 5, 8)
    found = kernels.rotated(states, cos.expand(3, 5, 8), sin.expand(3, 5, 8))
    expected = apply_rotary_pos_emb(states, states, cos, sin, unsqueeze_dim=2)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("SILU", F.silu),
        ("GELU", F.gelu),
        ("GELU_TANH", lambda x: F.gelu(x, approximate="tanh")),
    ],
)
def test_gates(kernels: ModuleType, name: str, function: Any, dtype: torch.dtype) -> None:
    gate, up = (6 * numbers(3, 1001)).to(dtype), numbers(1001, 3).T.contiguous().to(dtype)
    found = kernels.gated(gate, up, getattr(kernels, name))
    assert found.dtype == dtype
    assert_near(found, function(gate.float()) * up.float(), DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 40, 2500])
def test_norms(kernels: ModuleType, width: int, dtype: torch.dtype) -> None:
    norm = Gemma3RMSNorm(width)
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    states = (3 * numbers(7, 5, width)).to(dtype)
    weight = norm.weight.detach().to(dtype)
    found = kernels.normed_times_one_plus(states, weight, norm.eps)
    assert found.dtype == dtype
    norm.weight.data = weight.float()
    assert_near(found, norm(states.float()).detach(), DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("of_keys", "heads", "keys", "values"), [(2, 4, 16, 8), (3, 3, 12, 20), (1, 2, 128, 72)]
)
@pytest.mark.parametrize("normalized", [True, False])
def test_steps_of_the_delta_rule(
    kernels: ModuleType, of_keys: int, heads: int, keys: int, values: int, normalized: bool,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    mixed = numbers(3, 1, 2 * of_keys * keys + heads * values).to(dtype)
    widths = [of_keys * keys, of_keys * keys, heads * values]
    query, key, value = (
        part.unflatten(-1, (-1, width))
        for part, width in zip(mixed.split(widths, dim=-1), (keys, keys, values), strict=True)
    )  # slices of one projection, as the library's
    decay, beta = -numbers(3, 1, heads).abs(), numbers(4, 1, heads)[1:].sigmoid()
    state = numbers(3, heads, keys, values)
    step = torch_recurrent_gated_delta_rule
    repeated = [each.float().repeat_interleave(heads // of_keys, 2) for each in (query, key)]
    expected, after = step(
        *repeated, value.float(), decay, beta.to(dtype).float(), state.clone(), True, normalized
    )
    found = kernels.delta_step(
        query[:, 0], key[:, 0], value[:, 0], decay[:, 0], beta[:, 0].to(dtype), state,
        normalized=normalized,
    )  # fmt: skip
    assert found.dtype == dtype
    size = float(expected.abs().max())
    assert_near(found / size, expected[:, 0] / size, DTYPES[dtype])
    torch.testing.assert_close(state, after, rtol=2e-6, atol=2e-6 * float(after.abs().max()))


def test_nothing_gives_nothing(kernels: ModuleType) -> None:
    none = torch.empty(0, 8)
    assert kernels.gated(none, none, kernels.SILU).shape == (0, 8)
    assert kernels.normed_times_one_plus(none, torch.ones(8), 1e-6).shape == (0, 8)
    assert kernels.rotated(torch.empty(1, 0, 2, 8), *[torch.empty(1, 0, 8)] * 2).shape == (
        1,
        0,
        2,
        8,
    )


def test_registers(kernels: ModuleType) -> None:
    assert kernels.registers_of_rotation(28, 80) == 32 * 64


def test_the_compiler_takes_them_too(kernels: ModuleType, tmp_path: Path) -> None:
    """For GPUs that are not here; the tests above interpret them."""
    script = Path(__file__).with_name("compiled_kernels.py")
    without = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, script], env=without | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    source = Path(str(kernels.__file__)).read_text("utf-8")
    assert done.stdout.split() == re.findall(r"@triton.jit\ndef (\w+)", source)
