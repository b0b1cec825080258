"""Rotary embeddings and gated MLPs by one kernel: what computes the same, while a pass runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import LlamaConfig
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.qwen2_vl import modeling_qwen2_vl

import plain_kernels
from vlmscope.model.elementwise.gates import GatedKernel
from vlmscope.model.elementwise.rotary import RotaryKernel


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """As while a session computes."""
    with torch.inference_mode():
        yield


LIBRARY = "transformers.models.made.modeling_made"
WIDTH = 8
CONFIG = LlamaConfig(hidden_size=12, intermediate_size=20, num_attention_heads=2)


def half(states: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def other_sign(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return q * cos - half(q) * sin, k * cos - half(k) * sin


def interleaved(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return [
        each * cos + torch.stack([-each[..., 1::2], each[..., ::2]], -1).flatten(-2) * sin
        for each in (q, k)
    ]


def other_keys(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
    rotated = modeling_llama.apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim)
    return rotated[0], 2 * rotated[1]


def in_float32(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
    return modeling_llama.apply_rotary_pos_emb(q.float(), k.float(), cos, sin, unsqueeze_dim)


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of the library that is made up, with a class of a model."""
    module = ModuleType(LIBRARY)
    monkeypatch.setitem(sys.modules, LIBRARY, module)
    plain_kernels.CALLS.clear()
    return module


def model_of(library: ModuleType, function: Callable[..., Any], name: str = "") -> nn.Module:
    """Return a model of the module, which rotates by a function."""
    setattr(library, name or "apply_rotary_pos_emb", function)
    kind = type("Model", (nn.Module,), {"__module__": LIBRARY})
    made: nn.Module = kind()
    return made


def arguments(
    *, heads: int, dtype: torch.dtype = torch.float32, rows: int = 2, angles: Any = None
) -> tuple[Tensor, ...]:
    """Return queries of four heads, keys of two, and angles, with the heads in a dimension."""
    q, k = (numbers(rows, 5, count, WIDTH, dtype=dtype) for count in (4, 2))
    cos, sin = (numbers(rows, 5, WIDTH + 0 * n, dtype=angles or dtype) * (1 + n) for n in (0, 1))
    return q.movedim(2, heads), k.movedim(2, heads), cos, sin


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [1, 2])
def test_a_decoder_rotates_by_the_kernel(
    library: ModuleType, heads: int, dtype: torch.dtype
) -> None:
    own = modeling_llama.apply_rotary_pos_emb
    kernel = RotaryKernel(model_of(library, own), plain_kernels)
    given = arguments(heads=heads, dtype=dtype)
    with kernel.in_place():
        found = library.apply_rotary_pos_emb(*given, unsqueeze_dim=heads)
    assert library.apply_rotary_pos_emb is own
    assert plain_kernels.CALLS[-2:] == ["rotated", "rotated"]
    expected = own(*(each.float() for each in given), unsqueeze_dim=heads)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    for mine, theirs, states in zip(found, expected, given[:2], strict=True):
        assert mine.dtype == dtype
        assert mine.stride() == states.stride()
        torch.testing.assert_close(mine.float(), theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rows", [0, 2])
def test_an_encoder_rotates_by_the_kernel_with_angles_in_float32(
    library: ModuleType, rows: int
) -> None:
    own = modeling_qwen2_vl.apply_rotary_pos_emb_vision
    kernel = RotaryKernel(model_of(library, own, "apply_rotary_pos_emb_vision"), plain_kernels)
    q, k, cos, sin = arguments(heads=2, dtype=torch.bfloat16, angles=torch.float32)
    if not rows:  # all images in one row, as a slice of queries, keys and values
        q, k, cos, sin = q[0], k[0], cos[0], sin[0]
        q = torch.stack([q, q], dim=1)[:, 1]
    with kernel.in_place():
        found = library.apply_rotary_pos_emb_vision(q, k, cos, sin)
    assert "rotated" in plain_kernels.CALLS
    torch.testing.assert_close(found, own(q, k, cos, sin))
    assert kernel._known.values()
    assert all(kernel._known.values())


def test_angles_of_one_row_serve_all(library: ModuleType) -> None:
    kernel = RotaryKernel(model_of(library, modeling_llama.apply_rotary_pos_emb), plain_kernels)
    q, k, cos, sin = arguments(heads=1)
    given = q, k, cos[:1], sin[:1]
    with kernel.in_place():
        found = library.apply_rotary_pos_emb(*given)
    assert "rotated" in plain_kernels.CALLS
    torch.testing.assert_close(found, modeling_llama.apply_rotary_pos_emb(*given))


@pytest.mark.parametrize("function", [other_sign, interleaved, other_keys, in_float32])
def test_a_function_that_computes_anything_else_is_called(
    library: ModuleType, function: Callable[..., Any]
) -> None:
    kernel = RotaryKernel(model_of(library, function), plain_kernels)
    given = arguments(heads=1, dtype=torch.bfloat16)
    with kernel.in_place():
        found = library.apply_rotary_pos_emb(*given)
    assert list(kernel._known.values()) == [False]
    torch.testing.assert_close(found, function(*given))


@pytest.mark.parametrize(
    "change",
    [
        lambda q, k, cos, sin: (q, k, cos[..., :6], sin[..., :6]),
        lambda q, k, cos, sin: (q[..., :7], k[..., :7], cos[..., :7], sin[..., :7]),
        lambda q, k, cos, sin: (q, k, cos[:, :1], sin[:, :1]),
        lambda q, k, cos, sin: (q, k, cos, sin.half()),
        lambda q, k, cos, sin: (q.transpose(2, 3).contiguous().transpose(2, 3), k, cos, sin),
        lambda q, k, cos, sin: (q, k, cos[None], sin[None]),
    ],
    ids=["partial", "odd", "one token", "types", "strides", "dimensions"],
)
def test_what_the_kernel_does_not_support_is_left_to_the_library(
    library: ModuleType, change: Callable[..., Any]
) -> None:
    given = change(*arguments(heads=1))
    called: list[Any] = []

    def apply(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
        called.append((q, k, cos, sin, unsqueeze_dim))
        return q, k

    kernel = RotaryKernel(model_of(library, apply), plain_kernels)
    with kernel.in_place():
        library.apply_rotary_pos_emb(*given)
    assert called == [(*given, 1)]
    assert plain_kernels.CALLS == []


@pytest.mark.parametrize("other", [False, True])
def test_a_function_may_rotate_one_tensor(library: ModuleType, other: bool) -> None:
    def one(x: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Tensor:
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return x * cos + half(x) * sin + other

    kernel = RotaryKernel(model_of(library, one), plain_kernels)
    q, _, cos, sin = arguments(heads=2)
    with kernel.in_place():
        found = library.apply_rotary_pos_emb(q, cos, sin, unsqueeze_dim=2)
    assert list(kernel._known.values()) == [not other]
    torch.testing.assert_close(found, one(q, cos, sin, unsqueeze_dim=2))


def test_functions_with_other_arguments_stay(library: ModuleType) -> None:
    def one(tensor: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        return tensor * cos + sin

    model = model_of(library, one)
    model_of(library, one, "apply_rotary_pos_emb_x")
    with RotaryKernel(model, plain_kernels).in_place():
        assert library.apply_rotary_pos_emb is one


def test_nothing_is_compared_while_a_graph_is_captured(
    library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    capturing = [True]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    kernel = RotaryKernel(model_of(library, modeling_llama.apply_rotary_pos_emb), plain_kernels)
    given = arguments(heads=1)
    with kernel.in_place():
        library.apply_rotary_pos_emb(*given)
        assert plain_kernels.CALLS == []
        capturing[0] = False
        library.apply_rotary_pos_emb(*given)
    assert plain_kernels.CALLS


def test_the_library_gets_its_functions_back_after_an_error(library: ModuleType) -> None:
    own = modeling_llama.apply_rotary_pos_emb
    kernel = RotaryKernel(model_of(library, own), plain_kernels)
    with pytest.raises(KeyboardInterrupt), kernel.in_place():
        raise KeyboardInterrupt
    assert library.apply_rotary_pos_emb is own


class HalvedMLP(LlamaMLP):
    """The result is halved."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class SwappedMLP(LlamaMLP):
    """The activation is that of the other layer."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))
        return found


class LimitedMLP(LlamaMLP):
    """As the usual one for small inputs."""

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x).clamp(max=10), self.up_proj(x).clamp(-10, 10)
        found: Tensor = self.down_proj(self.act_fn(gate) * up)
        return found


for _kind in (HalvedMLP, SwappedMLP, LimitedMLP):
    _kind.__module__ = LIBRARY


def mlp(kind: type[LlamaMLP] = LlamaMLP, activation: Any = None) -> Any:
    torch.manual_seed(0)
    made: Any = kind(CONFIG)
    if activation is not None:
        made.act_fn = activation
    return made


class Approximate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


@torch.no_grad()
@pytest.mark.parametrize(
    "activation", [None, nn.GELU(), Approximate()], ids=["SiLU", "GELU", "tanh"]
)
def test_a_gated_mlp_is_computed_by_the_kernel(activation: Any) -> None:
    made, x = mlp(activation=activation), numbers(2, 3, 12)
    expected = made(x)
    plain_kernels.CALLS.clear()
    kernel = GatedKernel(made, plain_kernels)
    with kernel.in_place():
        plain_kernels.CALLS.clear()
        found = made(x)
        assert plain_kernels.CALLS == ["gated"]
    torch.testing.assert_close(found, expected)
    assert "forward" not in vars(made)


@pytest.mark.parametrize(
    "made",
    [
        mlp(HalvedMLP),
        mlp(SwappedMLP),
        mlp(LimitedMLP),
        mlp(activation=nn.ReLU()),
        mlp(activation=nn.Hardswish()),
    ],
    ids=["halved", "swapped", "limited", "ReLU", "Hardswish"],
)
def test_an_mlp_that_computes_anything_else_stays(made: Any) -> None:
    assert GatedKernel(made, plain_kernels)._modules == []
    for own in made.parameters():  # what its weights hide is found all the same
        own.data.zero_()
    assert GatedKernel(made, plain_kernels)._modules == []


@torch.no_grad()
def test_hooks_on_layers_of_an_mlp_are_called(library: ModuleType) -> None:
    made, x, seen = mlp(), numbers(1, 12), []
    handles = [
        getattr(made, name).register_forward_hook(lambda *_, name=name: seen.append(name))
        for name in ("gate_proj", "up_proj", "down_proj")
    ]
    kernel = GatedKernel(made, plain_kernels)
    seen.clear()
    plain_kernels.CALLS.clear()
    with kernel.in_place():
        made(x)
    assert seen == ["gate_proj", "up_proj", "down_proj"]
    assert plain_kernels.CALLS == ["gated"]
    for handle in handles:
        handle.remove()
    made.act_fn.register_forward_hook(lambda *_: seen.append("act_fn"))
    with kernel.in_place():
        made(x)
    assert "act_fn" in seen
    assert plain_kernels.CALLS == ["gated"]


@torch.no_grad()
def test_hooks_see_nothing_of_a_trial(library: ModuleType) -> None:
    made, seen = mlp(), []
    for part in made.modules():
        part.register_forward_hook(lambda *_: seen.append(True))
    assert GatedKernel(made, plain_kernels)._modules
    assert seen == []


@torch.no_grad()
@pytest.mark.parametrize("change", ["exchanged", "replaced"])
def test_an_activation_that_somebody_changes_later_is_called(
    library: ModuleType, change: str
) -> None:
    made, x = mlp(), numbers(1, 12)
    kernel = GatedKernel(made, plain_kernels)
    if change == "exchanged":
        made.act_fn = nn.ReLU()
    else:
        made.act_fn.forward = torch.relu
    expected = made(x)
    plain_kernels.CALLS.clear()
    with kernel.in_place():
        torch.testing.assert_close(made(x), expected)
    assert plain_kernels.CALLS == []


class Failing(ModuleType):
    """Kernels of which one fails after some calls."""

    def __init__(self, name: str, calls: int, error: Exception) -> None:
        super().__init__("failing")
        vars(self).update(vars(plain_kernels))
        own = getattr(plain_kernels, name)

        def call(*args: Any, **kwargs: Any) -> Tensor:
            nonlocal calls
            calls -= 1
            if calls < 0:
                raise error
            found: Tensor = own(*args, **kwargs)
            return found

        setattr(self, name, call)


@torch.no_grad()
def test_a_kernel_that_fails_leaves_the_rest_to_the_library(library: ModuleType) -> None:
    made, x = mlp(), numbers(1, 12)
    expected = made(x)
    kernel = GatedKernel(made, Failing("gated", 4, RuntimeError("PassManager::run failed")))
    with kernel.in_place():
        torch.testing.assert_close(made(x), expected)
        with pytest.warns(RuntimeWarning, match="Triton failed .*PassManager.* library's"):
            torch.testing.assert_close(made(x), expected)
        torch.testing.assert_close(made(x), expected)
    own = modeling_llama.apply_rotary_pos_emb
    rotary = RotaryKernel(
        model_of(library, own), Failing("rotated", 4, RuntimeError("no registers"))
    )
    given = arguments(heads=1)
    with rotary.in_place():
        library.apply_rotary_pos_emb(*given)
        with pytest.warns(RuntimeWarning, match="no registers"):
            found = library.apply_rotary_pos_emb(*given)
        library.apply_rotary_pos_emb(*given)
    torch.testing.assert_close(found, own(*given))


@torch.no_grad()
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: gone")]
)
def test_memory_and_a_dead_gpu_are_not_the_kernels_fault(
    library: ModuleType, error: Exception
) -> None:
    with pytest.raises(type(error)):
        GatedKernel(mlp(), Failing("gated", 0, error))
    kernel = RotaryKernel(
        model_of(library, modeling_llama.apply_rotary_pos_emb), Failing("rotated", 0, error)
    )
    with kernel.in_place(), pytest.raises(type(error)):
        library.apply_rotary_pos_emb(*arguments(heads=1))


def test_a_model_that_trains_meanwhile_keeps_the_function_with_gradients(
    library: ModuleType,
) -> None:
    kernel = RotaryKernel(model_of(library, modeling_llama.apply_rotary_pos_emb), plain_kernels)
    with torch.inference_mode(False), kernel.in_place():
        q, k, cos, sin = (torch.ones(1, 2, 5, WIDTH), torch.ones(1, 2, 5, WIDTH),
                          torch.ones(1, 5, WIDTH), torch.ones(1, 5, WIDTH))  # fmt: skip
        q.requires_grad_()
        found, _ = library.apply_rotary_pos_emb(q, k, cos, sin)
        found.sum().backward()
    assert q.grad is not None
    assert plain_kernels.CALLS == []


def test_angles_of_more_rows_than_states_are_broadcast_by_the_library(library: ModuleType) -> None:
    own = modeling_llama.apply_rotary_pos_emb
    kernel = RotaryKernel(model_of(library, own), plain_kernels)
    q, k, cos, sin = arguments(heads=1, rows=3)
    with kernel.in_place():
        found = library.apply_rotary_pos_emb(q[:1], k[:1], cos, sin)
    torch.testing.assert_close(found, own(q[:1], k[:1], cos, sin))
    assert plain_kernels.CALLS == []
