"""Position ids that the CPU computes: the same method, with its tensors on the CPU."""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlmscope.model import host_positions
from vlmscope.model.device_copies import to_device
from vlmscope.model.host_positions import NAME, VISION_UTILS, HostCopies, numbering_on_host


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


DEVICE = torch.device("meta")
"""Stands for a GPU: what is computed there has no numbers."""

TOWER = "module_of_a_tower"


def double(grid: Tensor, options: dict[str, Any] | None = None) -> tuple[Tensor, int]:
    """Stand for one of the library's functions of an encoder."""
    return grid * 2, int(grid.sum())


def longest(bounds: Tensor) -> int:
    return int(bounds.diff().max())


double.__module__ = VISION_UTILS


@pytest.fixture
def tower(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A vision encoder whose module has imported the library's functions."""
    space: Any = ModuleType(TOWER)
    space.get_positions, space.get_max_seqlen, space.other = double, longest, len
    monkeypatch.setitem(sys.modules, TOWER, space)
    return type("Tower", (nn.Module,), {"__module__": TOWER})()


def test_tensors_are_those_of_the_cpu_and_results_on_the_device() -> None:
    model: Any = Model()
    ids, grid = torch.zeros(2, 3), torch.ones(1)
    given, there = ids.to(DEVICE), grid.to(DEVICE)
    known = HostCopies({"ids": given, "grid": there}, {"ids": ids, "grid": grid})
    with numbering_on_host(model, None, known):
        positions, deltas = model.model.get_rope_index(given, grid=there, kept=3)
    assert model.model.given == [("cpu", "cpu", {"kept": 3})]
    assert positions.device == deltas.device == DEVICE
    assert known.of(positions).tolist() == [[0, 1, 2]] * 2


def test_functions_of_the_encoder_have_numbers_without_waiting(tower: nn.Module) -> None:
    grid = torch.tensor([3, 9, 11])
    known = HostCopies({"grid": (there := grid.to(DEVICE))}, {"grid": grid})
    space: Any = sys.modules[TOWER]
    with numbering_on_host(nn.Linear(1, 1), tower, known):
        found, total = space.get_positions(there, options={"kept": 1})
        assert (found.device, total, space.other([1])) == (DEVICE, 23, 1)
        assert space.get_max_seqlen(found) == 12, "of a result"
    assert space.get_positions is double
    assert space.get_max_seqlen is longest


def test_a_tensor_is_moved_like_any_other_and_known(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Tensor, torch.device]] = []

    def moved(tensor: Tensor, device: torch.device) -> Tensor:
        asked.append((tensor, device))
        return to_device(tensor, device)

    monkeypatch.setattr(host_positions, "to_device", moved)
    known, own = HostCopies(), torch.ones(2)
    there = known.moved(own, DEVICE)
    assert there.device == DEVICE
    assert asked == [(own, DEVICE)]
    assert known.of(there) is own
    assert known.of(known.moved(own, own.device)) is own, "the device may be the host"


def test_an_unknown_tensor_is_copied() -> None:
    with pytest.raises(NotImplementedError, match="meta"):
        HostCopies().of(torch.zeros(1, device=DEVICE))
    assert HostCopies().of(torch.ones(1)).tolist() == [1]


def test_what_is_known_is_on_the_cpu_and_other_values_stay() -> None:
    own = torch.ones(1)
    known = HostCopies({"ids": (there := own.to(DEVICE))}, {"ids": own})
    other = torch.ones(1, device=DEVICE)
    assert known.if_known(there) is own
    assert known.if_known(other) is other
    assert known.if_known("name") == "name"


def test_the_method_is_restored() -> None:
    model = Model()
    with contextlib.suppress(KeyboardInterrupt), numbering_on_host(model, None, HostCopies()):
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
    with numbering_on_host(model, None, HostCopies()):
        assert model.model.get_rope_index is not own
        assert model.model.get_rope_index(torch.zeros(1))[0].tolist() == [1]
    assert model.model.get_rope_index is own


def test_tensors_of_several_devices_are_left_where_they_are() -> None:
    model = Model()
    with numbering_on_host(model, None, HostCopies()):
        model.model.get_rope_index(torch.zeros(2, 3), grid=torch.zeros(1, device="meta"))
    assert model.model.given == [("cpu", "meta", {})]


def test_a_model_without_positions_of_its_own() -> None:
    with numbering_on_host(nn.Linear(1, 1), None, HostCopies()):
        pass
