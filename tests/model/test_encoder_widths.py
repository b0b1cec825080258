"""MLPs of an encoder filled up with zeros: the same numbers, nothing held twice, and put back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from families.conformance import ONE_IMAGE, build
from vlmscope.engine import capture
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.model import encoder_widths as widths
from vlmscope.model.encoder_widths import MULTIPLE, pad_encoder_widths, widen, widened
from vlmscope.model.loading import load
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec

IN = 24


class Gated(nn.Module):
    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(IN, width, bias=bias)
        self.up_proj = nn.Linear(IN, width, bias=bias)
        self.down_proj = nn.Linear(width, IN, bias=bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))  # type: ignore[no-any-return]


def plain(into: str, out: str, act: Callable[[Tensor], Tensor]) -> type[nn.Module]:
    class Plain(nn.Module):
        def __init__(self, width: int, *, bias: bool) -> None:
            super().__init__()
            setattr(self, into, nn.Linear(IN, width, bias=bias))
            setattr(self, out, nn.Linear(width, IN, bias=bias))

        def forward(self, hidden: Tensor) -> Tensor:
            return getattr(self, out)(act(getattr(self, into)(hidden)))  # type: ignore[no-any-return]

    return Plain


KINDS: dict[str, Any] = {
    "gated": Gated,
    "fc": plain("fc1", "fc2", F.gelu),
    "linear_fc": plain("linear_fc1", "linear_fc2", F.gelu),
    "up and down, an activation that is not zero at zero": plain(
        "up_proj", "down_proj", torch.sigmoid
    ),
}


class Tower(nn.Module):
    """Stands for a model whose encoder is one MLP."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    @property
    def vision_tower(self) -> nn.Module:
        return self

    def forward(self, hidden: Tensor) -> Tensor:
        return self.mlp(hidden)  # type: ignore[no-any-return]


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the weights that linear layers computed with."""
    seen: list[tuple[int, ...]] = []
    original = F.linear

    def spy(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(tuple(weight.shape))
        return original(hidden, weight, bias)

    monkeypatch.setattr(F, "linear", spy)
    return seen


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", [1, 57, 63, 65])
def test_the_same_numbers_through_wider_layers(
    kind: Any, bias: bool, width: int, shapes: list[tuple[int, ...]]
) -> None:
    torch.manual_seed(width)
    tower: Any = Tower(kind(width, bias=bias)).double()
    hidden = torch.randn(5, IN, dtype=torch.float64)
    before, saved = tower(hidden), {k: v.clone() for k, v in tower.state_dict().items()}
    assert widen(tower) == 1
    after = tower(hidden)
    shapes.clear()
    with widened(tower):
        found = tower(hidden)
    wide = width + -width % MULTIPLE
    assert {IN, wide} == set(sum(shapes, ()))
    torch.testing.assert_close(found, before, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(after, before, rtol=1e-13, atol=1e-13)
    assert saved.keys() == tower.state_dict().keys()
    assert all(torch.equal(saved[name], own) for name, own in tower.state_dict().items())


def test_nothing_is_held_twice() -> None:
    tower: Any = Tower(Gated(57, bias=True))
    widen(tower)
    for layer in tower.mlp.children():
        for name, wide in layer.__dict__[widths._WIDE].items():
            own = getattr(layer, name)
            assert own.untyped_storage().data_ptr() == wide.untyped_storage().data_ptr()
            assert own.requires_grad
            assert isinstance(own, nn.Parameter)


@pytest.mark.parametrize("fails", [False, True])
def test_the_layers_are_put_back(fails: bool) -> None:
    tower: Any = Tower(Gated(57, bias=True))
    widen(tower)
    before = dict(tower.named_parameters())
    with contextlib.suppress(ArithmeticError), widened(tower):
        assert tower.mlp.up_proj.weight.shape == (64, IN)
        if fails:
            raise ArithmeticError
    assert all(own is before[name] for name, own in tower.named_parameters())


def test_weights_that_are_changed_afterwards_count() -> None:
    """In place, replaced, of another type: what the model computes with is what it has."""
    hidden = torch.randn(3, IN)
    tower: Any = Tower(Gated(57, bias=True))
    widen(tower)
    with torch.no_grad():
        tower.mlp.up_proj.weight.mul_(3)
    expected = tower(hidden)
    with widened(tower):
        torch.testing.assert_close(tower(hidden), expected)
        assert tower.mlp.up_proj.weight.shape == (64, IN)
    state = {name: torch.randn_like(own) for name, own in tower.state_dict().items()}
    tower.load_state_dict(state, assign=True)
    expected = tower(hidden)
    with widened(tower):
        torch.testing.assert_close(tower(hidden), expected)
    tower.double()
    expected = tower(hidden.double())
    with widened(tower):
        torch.testing.assert_close(tower(hidden.double()), expected)


class Normed(Gated):
    """There is a norm over the inner channels: zeros would change its mean."""

    def __init__(self) -> None:
        super().__init__(57, bias=True)
        self.norm = nn.LayerNorm(57)


class Halved(KINDS["fc"]):  # type: ignore[misc]
    """Half of the inner channels are the gate of the others."""

    def __init__(self) -> None:
        super().__init__(114, bias=True)
        self.fc2 = nn.Linear(57, IN)


class Adapted(nn.Linear):
    """A layer that is more than its weight."""


def with_adapter() -> nn.Module:
    mlp = Gated(57, bias=True)
    mlp.gate_proj = Adapted(IN, 57)
    return mlp


def with_buffer() -> nn.Module:
    mlp = Gated(57, bias=True)
    mlp.register_buffer("scale", torch.ones(57))
    return mlp


@pytest.mark.parametrize(
    "make",
    [Normed, Halved, with_adapter, with_buffer, lambda: Gated(128, bias=True), nn.Identity],
    ids=["a norm", "halves", "an adapter", "a buffer", "no odd width", "no MLP"],
)
def test_what_is_left_alone(make: Callable[[], nn.Module]) -> None:
    tower = Tower(make())
    assert widen(tower) == 0
    assert not any(widths._WIDE in module.__dict__ for module in tower.modules())


@pytest.mark.parametrize(
    ("device", "dtype", "count"),
    [("cuda:0", "bfloat16", 1), ("cuda:0", "float16", 1), ("cuda:0", "float32", 0),
     (None, "bfloat16", 0)],
)  # fmt: skip
def test_only_on_a_gpu_in_half_precision(device: str | None, dtype: str, count: int) -> None:
    tower: Any = Tower(Gated(57, bias=True))
    tower.dtype = getattr(torch, dtype)
    tower.cuda_devices = (torch.device(device),) if device else ()
    assert pad_encoder_widths(tower) == count


@pytest.mark.first(1)
# Families whose MLPs are gated, of two layers, and of two layers with other names.
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "qwen3_vl", "qwen2_vl", "pixtral"])
def test_a_capture_is_the_same(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: list[tuple[int, ...]]
) -> None:
    """Forced where it does not pay; the slow method runs the layers as they were loaded."""
    monkeypatch.setattr(widths, "MULTIPLE", 48)
    counts: list[int] = []
    monkeypatch.setattr(
        load, "pad_encoder_widths", lambda vlm: counts.append(widen(vlm.vision_tower))
    )
    folder = build(family, tmp_path / family)
    vlm: VisionLanguageModel = load_model(folder, device="cpu", dtype="float32")
    config = vlm.model.config.vision_config
    assert counts == [getattr(config, "depth", None) or config.num_hidden_layers]
    odd = next(
        mlp.down_proj.in_features if hasattr(mlp, "down_proj") else mlp.fc2.in_features
        if hasattr(mlp, "fc2") else mlp.linear_fc2.in_features
        for name, mlp in vlm.vision_tower.named_modules()
        if name.endswith(("mlp", "feed_forward"))
    )  # fmt: skip
    spec = CaptureSpec(layers="0,n-1", max_new_tokens=2)
    vlm.model.generation_config.eos_token_id = [10**6]
    shapes.clear()
    items = list(capture(ONE_IMAGE, vlm, spec, batch_size=4))
    used = [shape for shape in shapes if odd + -odd % 48 in shape]
    assert len(used) >= 2 * counts[0]
    shapes.clear()
    for item in items:
        expected = reference(item.sample, vlm, spec)
        for name, vector in expected.vectors.items():
            found = torch.from_numpy(item.vectors[name])
            wanted = torch.from_numpy(vector)
            assert float((found - wanted).norm() / wanted.norm()) < 1e-5, name
        assert item.answer == expected.answer
    assert any(odd in shape for shape in shapes)


def test_nothing_is_filled_up_on_a_cpu(vlm: VisionLanguageModel) -> None:
    assert not any(widths._WIDE in module.__dict__ for module in vlm.model.modules())
