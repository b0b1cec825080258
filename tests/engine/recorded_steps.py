"""Steps as on a GPU, on a CPU: recorded for a round number of rows, and their flags seen late."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from vlmscope.engine.decoding import step
from vlmscope.engine.decoding.scheduler import Decoding
from vlmscope.engine.decoding.step import Stepper


@dataclass
class Recording:
    """Stands for a graph: the same step for the same rows, whoever they are."""

    stepper: Stepper
    rows: int
    masked: bool

    def replay(self) -> None:
        self.stepper._run(self.rows, masked=self.masked)


def with_recorded_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record steps from now on; return a list that fills with the rows of each graph."""
    rows_of_graphs: list[int] = []
    original, late = Stepper.__init__, Decoding.__init__

    def init(self: Stepper, *args: object, **options: object) -> None:
        original(self, *args, **options)  # type: ignore[arg-type]
        self.replays = True

    def record(self: Stepper, rows: int, *, masked: bool) -> Recording:
        rows_of_graphs.append(rows)
        return Recording(self, rows, masked)

    def init_late(self: Decoding, *args: object, **options: object) -> None:
        late(self, *args, **options)  # type: ignore[arg-type]
        self._lag = 1

    monkeypatch.setattr(step, "ROWS_OF_A_GRAPH", (4,))
    monkeypatch.setattr(Stepper, "__init__", init)
    monkeypatch.setattr(Stepper, "_record", record)
    monkeypatch.setattr(Decoding, "__init__", init_late)
    return rows_of_graphs
