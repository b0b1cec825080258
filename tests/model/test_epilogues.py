"""GELU as a part of the matrix product before it: only where torch computes the same."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig
from transformers.activations import GELUTanh
from transformers.models.siglip.modeling_siglip import SiglipMLP

from vlmscope.model.elementwise import epilogues
from vlmscope.model.elementwise.epilogues import GeluEpilogue

CONFIG = SiglipVisionConfig(hidden_size=12, intermediate_size=20, num_attention_heads=2)
USUAL = torch._addmm_activation


class ScaledMLP(SiglipMLP):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return 2 * super().forward(hidden_states)


ScaledMLP.__module__ = SiglipMLP.__module__


def mlp(kind: type[nn.Module] = SiglipMLP, activation: nn.Module | None = None) -> Any:
    torch.manual_seed(0)
    made: Any = kind(CONFIG)
    made.activation_fn = activation or nn.GELU()
    return made


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The calls of torch's operation."""
    calls: list[bool] = []

    def call(*args: Any, **options: Any) -> Tensor:
        calls.append(True)
        return USUAL(*args, **options)

    monkeypatch.setattr(torch, "_addmm_activation", call)
    return calls


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_is_computed_with_the_product(calls: list[bool], dtype: torch.dtype) -> None:
    """On a CPU torch's operation has the exact GELU."""
    made = mlp().to(dtype)
    x = torch.randn(2, 3, 12).to(dtype)
    expected = made(x)
    kernel = GeluEpilogue(made)
    calls.clear()
    with kernel.in_place():
        found = made(x)
        other = made(x.double().to(torch.float64).float()) if dtype == torch.float32 else found
    assert calls
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(other, expected)
    assert "forward" not in vars(made)


@pytest.mark.parametrize(
    "made",
    [
        mlp(activation=GELUTanh()),
        mlp(activation=nn.ReLU()),
        mlp(activation=nn.SiLU()),
        mlp(ScaledMLP),
    ],
    ids=["tanh", "ReLU", "SiLU", "scaled"],
)
def test_what_computes_anything_else_stays(made: Any) -> None:
    assert GeluEpilogue(made)._modules == []


def test_as_on_a_gpu_where_the_operation_has_the_other_gelu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def on_gpu(bias: Tensor, rows: Tensor, weight: Tensor, *, use_gelu: bool) -> Tensor:
        assert use_gelu
        return nn.functional.gelu(torch.addmm(bias, rows, weight), approximate="tanh")

    monkeypatch.setattr(torch, "_addmm_activation", on_gpu)
    known = [bool(GeluEpilogue(mlp(activation=each))._modules) for each in (nn.GELU(), GELUTanh())]
    assert known == [False, True]


def test_without_the_operation_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Tensor:
        raise NotImplementedError

    monkeypatch.setattr(torch, "_addmm_activation", fail)
    assert GeluEpilogue(mlp())._modules == []


@torch.no_grad()
@pytest.mark.parametrize("name", ["fc1", "activation_fn", "fc2"])
def test_hooks_of_a_user_are_called(calls: list[bool], name: str) -> None:
    made, seen = mlp(), []
    kernel = GeluEpilogue(made)
    getattr(made, name).register_forward_hook(lambda *_: seen.append(name))
    calls.clear()
    with kernel.in_place():
        made(torch.randn(3, 12))
    assert seen == [name]
    assert bool(calls) == (name == "fc2")


def test_layers_that_are_more_than_linear_stay(calls: list[bool]) -> None:
    class Rounded(nn.Linear):
        pass

    made = mlp()
    made.fc1 = Rounded(12, 20)
    other = mlp()
    other.fc1 = nn.Linear(12, 20, bias=False)
    replaced = mlp()
    replaced.forward = partial(SiglipMLP.forward, replaced)
    assert GeluEpilogue(nn.ModuleList([made, other, replaced]))._modules == []
    assert epilogues._parts_of(nn.Linear(2, 2)) is None
    assert not calls


@torch.no_grad()
@pytest.mark.parametrize("change", ["forward of a layer", "activation", "layer", "its forward"])
def test_what_somebody_changes_later_is_called(calls: list[bool], change: str) -> None:
    made, x = mlp(), torch.randn(3, 12)
    kernel = GeluEpilogue(made)
    if change == "forward of a layer":
        made.fc1.forward = lambda x: torch.ones(len(x), 20)
    elif change == "activation":
        made.activation_fn.forward = torch.relu
    elif change == "layer":
        made.fc1 = nn.Linear(12, 20)
    else:
        made.forward = partial(ScaledMLP.forward, mlp(ScaledMLP))
    expected = made(x)
    calls.clear()
    with kernel.in_place():
        torch.testing.assert_close(made(x), expected)
    assert bool(calls) == (change == "layer")  # which is as plain as the one before


@torch.no_grad()
def test_hooks_see_nothing_of_a_trial() -> None:
    made, seen = mlp(), []
    for part in made.modules():
        part.register_forward_hook(lambda *_: seen.append(True))
    assert GeluEpilogue(made)._modules
    assert seen == []
