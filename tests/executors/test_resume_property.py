"""Whatever sequence of stops, crashes, limits and batch sizes came before: the end is the same."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executors.captured_rows import make_capture, make_manifest
from executors.made_up_model import Rows, made_up
from vlmscope.executors import Request, local, runner
from vlmscope.executors.plan import Plan
from vlmscope.schema import Capture, CaptureSpec
from vlmscope.store import open_run

ROWS = 12


def row(id_: str) -> Capture:
    return make_capture(int(id_[1:]), id_=id_)


class PowerCut(BaseException):
    """The process dies; nothing may catch it."""


@dataclass
class Session:
    """One run of the command: how far, in what batches, and how it ends."""

    limit: int
    batch_size: int
    dies_after: int | None

    def run(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        left = self.dies_after
        journal, in_work = out / ".in-progress-000", b""

        def capture_batch(batch: Any, *_: Any) -> list[Capture]:
            nonlocal left, in_work
            if left is not None:
                left -= 1
                if left < 0:
                    in_work = journal.read_bytes()
                    raise PowerCut
            return [row(sample.id) for sample in batch.samples]

        monkeypatch.setattr(runner, "capture_batch", capture_batch)
        monkeypatch.setattr(
            runner,
            "prepare",
            lambda rows, *_: ([SimpleNamespace(samples=tuple(rows), nbytes=0)], []),
        )
        request = Request("table", "model", out, spec=CaptureSpec(), batch_size=self.batch_size)
        done = frozenset(open_run(out).ids) if (out / "run.json").exists() else frozenset()
        ids = tuple(f"q{i}" for i in range(self.limit))
        scan: Any = SimpleNamespace(ids=ids)
        plan = Plan(request, Rows(self.limit), scan, made_up(), make_manifest(), done & set(ids))  # type: ignore[arg-type]
        try:
            local.run_plan(plan)
        except PowerCut:
            assert self.dies_after is not None
            journal.write_bytes(in_work)  # nothing wrote any more


sessions = st.builds(
    Session,
    limit=st.integers(1, ROWS),
    batch_size=st.integers(1, 5),
    dies_after=st.none() | st.integers(0, 3),
)


@pytest.mark.exhaustive
@settings(max_examples=4, deadline=None)
@given(st.lists(sessions, max_size=4), st.integers(1, 5))
def test_the_end_is_the_same(history: list[Session], batch_size: int) -> None:
    out = Path(tempfile.mkdtemp()) / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        # The last session but one may find a row that was alone in work twice, and record it.
        for session in [*history, Session(ROWS, batch_size, None), Session(ROWS, batch_size, None)]:
            before = set(open_run(out).ids) if (out / "run.json").exists() else set()
            session.run(out, monkeypatch)
            assert before <= set(open_run(out).ids)
    run = open_run(out)
    assert sorted(run.ids) == sorted(f"q{i}" for i in range(ROWS) if i != 5)
    assert list(run.failures) == ["q5"]
    for item in run:
        expected = row(item.sample.id)
        assert item.answer == expected.answer
        for name, vector in expected.vectors.items():
            np.testing.assert_array_equal(item.vectors[name], vector)
    assert not run.check()
    assert not list(out.glob(".in-progress-*"))
    shutil.rmtree(out.parent)
