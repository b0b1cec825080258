"""A model and a table that are not there, for tests in which something else makes the rows."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from vlmscope.model import VisionLanguageModel
from vlmscope.model.families import Family
from vlmscope.schema import Failure, Sample


@dataclass(frozen=True, slots=True)
class MadeUp(VisionLanguageModel):
    """A model that says of itself where it is, and has no weights."""

    gpus: tuple[torch.device, ...] = ()

    @property
    def cuda_devices(self) -> tuple[torch.device, ...]:
        """What it says."""
        return self.gpus

    @property
    def num_layers(self) -> int:
        """What it says."""
        return 4


def made_up(*gpus: str) -> MadeUp:
    """Return a model on a CPU, or as if it were on some GPUs."""
    family, devices = Family("made_up", "Made up"), tuple(map(torch.device, gpus))
    return MadeUp(None, SimpleNamespace(), family, "made-up", description={}, gpus=devices)


@dataclass(frozen=True)
class Rows:
    """A table in memory; row 5 is bad."""

    count: int

    def rows(self, skip: Container[str] = frozenset()) -> Iterator[Sample | Failure]:
        for i in range(self.count):
            if f"q{i}" in skip:
                continue
            if i == 5:
                yield Failure(f"q{i}", "input", "the question is empty")
            else:
                yield Sample(f"q{i}", f"{i}.png", f"Question {i}?")
