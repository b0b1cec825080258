"""Contiguous states in the vision encoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlmscope.model.encoder_layout import contiguous_states

WIDTH = 12


class Block(nn.Module):
    """Remembers how its states were laid out."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.contiguous: list[bool] = []

    def forward(self, hidden_states: Tensor, scale: float = 1.0) -> Tensor:
        self.contiguous.append(hidden_states.is_contiguous())
        return hidden_states + scale * self.linear(self.norm(hidden_states))  # type: ignore[no-any-return]


class Tower(nn.Module):
    """A vision encoder like SigLIP's, also in the place of the model that has it."""

    def __init__(self, *, by_name: bool) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.blocks = nn.ModuleList([Block(), Block(), Block()])
        self._by_name = by_name

    @property
    def vision_tower(self) -> nn.Module:
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        states = self.embedding(pixels).flatten(2).transpose(1, 2)
        for block in self.blocks:
            states = block(hidden_states=states) if self._by_name else block(states, 0.5)
        return states  # type: ignore[no-any-return]


@pytest.mark.parametrize("by_name", [True, False])
def test_every_block_gets_contiguous_states_and_the_same_numbers(by_name: bool) -> None:
    torch.manual_seed(0)
    tower: Any = Tower(by_name=by_name)
    pixels = torch.randn(2, 3, 20, 20)
    before = tower(pixels)
    with contiguous_states(tower):
        found = tower(pixels)
    after = tower(pixels)
    for block in tower.blocks:
        assert block.contiguous == [False, True, False], "within the context only"
    assert torch.equal(found, before)
    assert torch.equal(after, before)


def test_the_hooks_go_if_the_pass_fails() -> None:
    tower: Any = Tower(by_name=True)
    with pytest.raises(RuntimeError, match="size"), contiguous_states(tower):
        tower(torch.zeros(1, 3, 2, 2))
    assert not any(block._forward_pre_hooks for block in tower.blocks)
