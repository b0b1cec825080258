"""Position ids that the CPU computes: the same method, with its tensors on the CPU."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlmscope.model import host_positions
from vlmscope.model.host_positions import NAME, numbering_on_host


class Inner(nn.Module):
    """Numbers its tokens, and notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Any] = []

    def get_rope_index(self, ids: Tensor, grid: Tensor | None = None, **more: Any) -> Any:
        self.given.append((ids.device.type, None if grid is None else grid.device.type, more))
        return torch.arange(3).expand(2, 3), torch.zeros(2)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Inner()


class OnGpu:
    """Stands for a tensor on a GPU, and for its copy on the CPU."""

    def __init__(self, where: str = "cuda") -> None:
        self.device = torch.device(where)

    def to(self, device: Any) -> OnGpu:
        return OnGpu(str(device))


def test_tensors_are_on_the_cpu_and_results_where_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_positions, "Tensor", OnGpu)
    seen: list[Any] = []

    def number(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        seen.extend((args, kwargs))
        return args[0], None

    model: Any = Model()
    model.model.get_rope_index = number
    with numbering_on_host(model):
        found = model.model.get_rope_index(OnGpu(), grid=OnGpu(), kept=3)
    [[ids], options] = seen
    assert ids.device.type == options["grid"].device.type == "cpu"
    assert options["kept"] == 3
    assert found[0].device.type == "cuda"
    assert found[1] is None


def test_the_method_is_restored() -> None:
    model = Model()
    with contextlib.suppress(KeyboardInterrupt), numbering_on_host(model):
        positions, deltas = model.model.get_rope_index(torch.zeros(2, 3), grid=None, other=1)
        assert positions.shape == (2, 3)
        assert deltas.shape == (2,)
        assert NAME in vars(model.model)
        raise KeyboardInterrupt
    assert NAME not in vars(model.model)
    assert model.model.given == [("cpu", None, {"other": 1})]


def test_a_method_that_was_replaced_before_is_kept() -> None:
    model: Any = Model()
    own = model.model.get_rope_index = lambda ids: (ids + 1,)
    with numbering_on_host(model):
        assert model.model.get_rope_index is not own
        assert model.model.get_rope_index(torch.zeros(1))[0].tolist() == [1]
    assert model.model.get_rope_index is own


def test_tensors_of_several_devices_are_left_where_they_are() -> None:
    model = Model()
    with numbering_on_host(model):
        model.model.get_rope_index(torch.zeros(2, 3), grid=torch.zeros(1, device="meta"))
    assert model.model.given == [("cpu", "meta", {})]


def test_a_model_without_positions_of_its_own() -> None:
    with numbering_on_host(nn.Linear(1, 1)):
        pass
