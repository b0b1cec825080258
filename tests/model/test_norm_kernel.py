"""RMS norms by one kernel: only what is a known formula, in place during a pass only."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1RMSNormGated
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNormGated

import plain_kernels
from engine.against_reference import assert_all_same, expected_of
from vlmscope.engine import CaptureSession, prepare
from vlmscope.model import VisionLanguageModel, resolve_spec
from vlmscope.model.elementwise import ElementwiseKernels, kernels
from vlmscope.model.elementwise.norms import NormKernel
from vlmscope.schema import CaptureSpec, Sample

SPEC = CaptureSpec(max_new_tokens=3)
WIDTH = 48


class Known(nn.Module):
    """A norm with the usual parts; each variant below changes one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.4, 1.9, WIDTH))
        self.variance_epsilon = 1e-6

    def forward(self, states: Tensor) -> Tensor:
        mean_square = states.float().pow(2).mean(-1, keepdim=True)
        found = states.float() * torch.rsqrt(mean_square + self.variance_epsilon)
        return self.weight * found.to(states.dtype)


class KnownRMSNorm(Known):
    pass


class CentredRMSNorm(Known):
    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states - states.mean(-1, keepdim=True))


class EpsilonOutsideRMSNorm(Known):
    def forward(self, states: Tensor) -> Tensor:
        return self.weight * states / (states.pow(2).mean(-1, keepdim=True).sqrt() + 1e-6)


class OtherEpsilonRMSNorm(Known):
    def __init__(self) -> None:
        super().__init__()
        self.variance_epsilon = 1e-5
        self.own = 1e-6

    def forward(self, states: Tensor) -> Tensor:
        return self.weight * states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.own)


class ScaledRMSNorm(Known):
    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states) * 1.001


class GroupedRMSNorm(Known):
    def forward(self, states: Tensor) -> Tensor:
        halves = states.unflatten(-1, (2, WIDTH // 2))
        scale = torch.rsqrt(halves.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * (halves * scale).flatten(-2)


class BiasedRMSNorm(Known):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(WIDTH))


class SquaredRMSNorm(Known):
    """As the usual one while its weight is 1."""

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states) * self.weight


class LimitedRMSNorm(Known):
    """As the usual one for small inputs."""

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states.clamp(-10, 10))


class Float32RMSNorm(Known):
    """As the usual one in float32."""

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states.float())


for _kind in (KnownRMSNorm, *KnownRMSNorm.__base__.__subclasses__()):
    _kind.__module__ = "transformers.models.made.modeling_made"


def found_in(module: nn.Module) -> list[str]:
    """Return the formulas of the norms that were recognized."""
    return [forward.args[0].__name__ for _, forward in NormKernel(module)._modules]  # type: ignore[attr-defined]


def test_a_norm_is_told_by_what_it_computes() -> None:
    gemma = Gemma3RMSNorm(WIDTH)
    nn.init.normal_(gemma.weight)
    norms = nn.ModuleList([LlamaRMSNorm(WIDTH), gemma, KnownRMSNorm()])
    assert found_in(norms) == ["_times_weight", "_times_one_plus_weight", "_times_weight"]


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize(
    "norm",
    [
        CentredRMSNorm(), SquaredRMSNorm(), LimitedRMSNorm(), Float32RMSNorm(), ScaledRMSNorm(),
    ],
    ids=lambda norm: type(norm).__name__,
)  # fmt: skip
def test_the_weight_of_the_first_of_a_class_does_not_matter(norm: nn.Module, value: float) -> None:
    nn.init.constant_(norm.weight, value)  # type: ignore[arg-type]
    assert found_in(norm.to(torch.bfloat16)) == []
    assert (norm.weight == value).all()


@torch.no_grad()
def test_a_norm_that_may_be_given_a_gate_gets_it() -> None:
    norm, states, gate = FalconH1RMSNormGated(WIDTH), torch.randn(2, WIDTH), torch.randn(2, WIDTH)
    assert found_in(norm) == ["_times_weight"]
    expected = [norm(states), norm(states, gate), norm(states, gate=gate), norm(hidden_states=gate)]
    with NormKernel(norm).in_place():
        found = [
            norm(states),
            norm(states, gate),
            norm(states, gate=gate),
            norm(hidden_states=gate),
        ]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "norm",
    [
        CentredRMSNorm(), EpsilonOutsideRMSNorm(), OtherEpsilonRMSNorm(), ScaledRMSNorm(),
        GroupedRMSNorm(), BiasedRMSNorm(), Known(), Qwen3NextRMSNormGated(WIDTH),
    ],
    ids=lambda norm: type(norm).__name__,
)  # fmt: skip
def test_every_other_norm_stays_as_it_was_loaded(norm: nn.Module) -> None:
    assert found_in(norm) == []


def test_settings_of_one_class_are_tried_each() -> None:
    first, second = OtherEpsilonRMSNorm(), OtherEpsilonRMSNorm()
    second.own = second.variance_epsilon
    assert [module for module, _ in NormKernel(nn.ModuleList([first, second]))._modules] == [second]


def test_a_forward_that_somebody_replaced_stays() -> None:
    early, late = KnownRMSNorm(), KnownRMSNorm()
    own = early.forward = lambda states: states  # type: ignore[method-assign,assignment]
    norms = NormKernel(nn.ModuleList([early, late]))
    late.forward = own  # type: ignore[method-assign,assignment]
    with norms.in_place():
        assert early.forward is own
        assert late.forward is own
    assert late.forward is own


@torch.no_grad()
@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma3RMSNorm])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_further_from_float32(kind: Any, dtype: torch.dtype) -> None:
    norm = kind(512)
    nn.init.normal_(norm.weight, 0.5, 0.4)
    norm.to(dtype)
    states = (torch.randn(64, 512, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    truth, before = norm(states.float()), norm(states)
    with NormKernel(norm).in_place():
        found = norm(states)
        other = norm(states.float())
    assert found.dtype == before.dtype == dtype
    torch.testing.assert_close(other, truth, rtol=0, atol=0)  # other types: as it was loaded
    errors = [float((each.float() - truth).norm() / truth.norm()) for each in (found, before)]
    assert errors[0] < 1.5 * errors[1]


def test_the_numbers_are_those_of_the_slow_method_and_the_model_is_restored(
    vlm: VisionLanguageModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "suits", lambda _vlm: True)
    spec = resolve_spec(SPEC, vlm)
    parts = ElementwiseKernels(vlm)
    capturing = CaptureSession(vlm, spec, 3, kernels=parts)
    [norms] = parts.parts
    assert isinstance(norms, NormKernel)
    calls: list[Any] = []
    norms._modules = [
        (module, lambda states, call=call: calls.append(call) or call(states))
        for module, call in norms._modules
    ]
    batches, _ = prepare(samples[:3], vlm, spec)
    found = [item for batch in batches for item in capturing.submit(batch)] + capturing.drain()
    assert len(set(map(id, calls))) == len(norms._modules)
    assert_all_same(found, expected_of(samples[:3], vlm, SPEC), samples[:3])
    with contextlib.suppress(KeyboardInterrupt), norms.in_place():
        raise KeyboardInterrupt
    assert not any("forward" in vars(module) for module, _ in norms._modules)


@pytest.mark.parametrize(
    ("changes", "suits"),
    [
        ({}, True),
        ({"cuda_devices": (0, 1)}, True),
        ({"cuda_devices": ()}, False),
        ({"dtype": torch.float32}, False),
    ],
)
def test_where_norms_are_replaced(changes: dict[str, Any], suits: bool) -> None:
    model: Any = SimpleNamespace(**{"cuda_devices": (0,), "dtype": torch.bfloat16} | changes)
    assert kernels.suits(model) == suits


@torch.no_grad()
def test_heads_before_tokens_are_not_copied() -> None:
    norm, states = LlamaRMSNorm(WIDTH), torch.randn(2, 5, 3, WIDTH).transpose(1, 2)
    expected = norm(states)
    with NormKernel(norm).in_place():
        found = norm(states)
    torch.testing.assert_close(found, expected)
    assert found.stride() == expected.stride() == states.stride()


@pytest.mark.parametrize(
    ("changes", "many", "parts"),
    [
        ({}, True, 5),
        ({}, False, 1),
        ({"cuda_devices": (0, 1)}, True, 2),
        ({"cuda_devices": ()}, True, 0),
        ({"dtype": torch.float32}, True, 0),
    ],
)
def test_which_kernels_a_session_has(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], many: bool, parts: int
) -> None:
    """Those of Triton only for many rows, on one GPU."""
    monkeypatch.setattr(kernels, "triton_kernels", lambda _device: plain_kernels)
    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
    usual = {"cuda_devices": (0,), "dtype": torch.bfloat16, "model": LlamaRMSNorm(WIDTH)}
    model: Any = SimpleNamespace(**usual | changes)
    assert len(ElementwiseKernels(model, many=many).parts) == parts


def test_without_triton_the_library_computes_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> Any:
        raise ModuleNotFoundError("No module named 'triton'")

    kernels.triton_kernels.cache_clear()
    monkeypatch.setattr(kernels, "import_module", missing)
    assert kernels.triton_kernels("cuda") is None
    kernels.triton_kernels.cache_clear()


def test_triton_that_does_not_work_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here there is no GPU, as on a machine without a C compiler its kernels cannot be made."""
    kernels.triton_kernels.cache_clear()
    monkeypatch.setattr(kernels, "import_module", lambda _name: plain_kernels)
    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
    monkeypatch.setattr(torch, "ones", lambda *_, **__: 1 / 0)
    with pytest.warns(RuntimeWarning, match="Triton failed .ZeroDivisionError: .*library.s"):
        assert kernels.triton_kernels("cuda") is None
    kernels.triton_kernels.cache_clear()
