"""Rows that were in work when a session was killed: last, apart, and on record when they kill."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from executors.captured_rows import make_capture, make_manifest
from executors.made_up_model import Rows, made_up
from vlmscope.dataset import Share
from vlmscope.executors import Request, Summary, local, pending, runner
from vlmscope.executors.plan import Plan
from vlmscope.schema import Capture, CaptureSpec, Sample
from vlmscope.store import open_run


class Killed(BaseException):
    """The process is gone; nothing may catch it."""


@dataclass(frozen=True)
class Good(Rows):
    """A table in memory without a bad row."""

    def rows(self, skip: Container[str] = frozenset()) -> Iterator[Any]:
        for i in range(self.count):
            if f"q{i}" not in skip:
                yield Sample(f"q{i}", f"{i}.png", f"Question {i}?", origin=f"t.csv line {i + 2}")


@dataclass
class Machine:
    """Where sessions of one run happen, and rows that kill them."""

    out: Path
    rows: int = 12
    kills: Callable[[str, list[str]], bool] = lambda _stage, _ids: False
    prepared: list[list[str]] = field(default_factory=list)
    """What was prepared together in the last session, in order."""
    modelled: list[list[str]] = field(default_factory=list)
    """What went into the model together."""

    def session(self, **options: Any) -> Summary | None:
        """Run the command once more; None where it was killed."""
        self.prepared, self.modelled = [], []
        left: bytes | None = None

        def work(stage: str, ids: list[str]) -> None:
            nonlocal left
            (self.prepared if stage == "prepare" else self.modelled).append(ids)
            if left is None and self.kills(stage, ids):
                left = journal.read_bytes()
                raise Killed

        def prepare(samples: Any, *_: Any) -> Any:
            work("prepare", [sample.id for sample in samples])
            return [SimpleNamespace(samples=tuple(samples), nbytes=0)], []

        def capture_batch(batch: Any, *_: Any) -> list[Capture]:
            work("model", [sample.id for sample in batch.samples])
            return [make_capture(int(s.id[1:]), id_=s.id) for s in batch.samples]

        request = Request("table", "model", self.out, spec=CaptureSpec(), **options)
        journal = self.out / f".in-progress-{request.writes_as}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "prepare", prepare)
            patch.setattr(runner, "capture_batch", capture_batch)
            limit = request.limit or self.rows
            ids = tuple(f"q{i}" for i in range(limit))
            done = open_run(self.out).ids if (self.out / "run.json").exists() else ()
            known = frozenset(done) & set(ids)
            scan: Any = SimpleNamespace(ids=ids)
            plan = Plan(request, Good(limit), scan, made_up(), make_manifest(), known)  # type: ignore[arg-type]
            try:
                return local.run_plan(plan)
            except Killed:
                assert left is not None
                journal.write_bytes(left)
                return None

    @property
    def held(self) -> set[str]:
        return set(open_run(self.out).ids) if (self.out / "run.json").exists() else set()

    @property
    def all_but(self) -> Callable[..., set[str]]:
        return lambda *ids: {f"q{i}" for i in range(self.rows)} - set(ids)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "run")


def failures(machine: Machine) -> dict[str, tuple[str, int]]:
    return {id_: (f.stage, f.attempt) for id_, f in open_run(machine.out).failures.items()}


def test_a_row_that_kills_while_it_is_prepared(machine: Machine) -> None:
    machine.kills = lambda stage, ids: stage == "prepare" and "q6" in ids
    assert machine.session(batch_size=4) is None
    assert machine.session(batch_size=4) is None
    assert machine.held >= machine.all_but("q4", "q5", "q6", "q7"), "the others came first"
    assert machine.prepared[-1] == ["q6"], "alone"
    third = machine.session(batch_size=4)
    assert third is not None
    assert (third.failed, third.stopped) == (1, False)
    assert machine.held == machine.all_but("q6")
    assert not any("q6" in ids for ids in machine.prepared)
    assert failures(machine) == {"q6": ("prepare", 1)}
    error = open_run(machine.out).failures["q6"].error
    assert error.startswith("t.csv line 8: the process was killed while its images and its prompt")
    assert not list(machine.out.glob(".in-progress-*"))
    # With more memory it is well; else it is on record again, and that is no endless loop.
    assert machine.session(batch_size=4) is None
    assert machine.prepared == [["q6"]]
    again = machine.session(batch_size=4)
    assert again is not None
    assert again.failed == 1
    assert failures(machine) == {"q6": ("prepare", 2)}
    machine.kills = lambda _stage, _ids: False
    assert machine.session(batch_size=4) is not None
    assert machine.held == machine.all_but()
    assert not failures(machine)


def test_a_row_that_kills_in_the_model(machine: Machine) -> None:
    machine.kills = lambda stage, ids: stage == "model" and "q0" in ids
    assert machine.session(batch_size=3) is None
    assert machine.held == set()
    assert machine.session(batch_size=3) is None
    assert machine.modelled[-1] == ["q0"]
    third = machine.session(batch_size=3)
    assert third is not None
    assert failures(machine) == {"q0": ("model", 1)}
    assert machine.held == machine.all_but("q0")


def test_ranks_know_of_their_own_rows(machine: Machine) -> None:
    ranks: list[dict[str, Any]] = [{"batch_size": 4, "shard": Share(i, 2)} for i in range(2)]
    (machine.out / "shards").mkdir(parents=True)
    other = machine.out / ".in-progress-rank_001_of_002"
    other.write_text('{"begin": "prepare", "ids": ["q0"]}\n')
    machine.kills = lambda stage, ids: stage == "prepare" and "q6" in ids
    assert machine.session(**ranks[0]) is None
    assert machine.prepared[0][0] == "q0", "no suspect of this rank"
    assert machine.session(**ranks[0]) is None
    third = machine.session(**ranks[0])
    assert third is not None
    assert failures(machine) == {"q6": ("prepare", 1)}
    assert list(machine.out.glob(".in-progress-*")) == [other]


@pytest.mark.exhaustive
def test_two_rows_that_kill(machine: Machine) -> None:
    machine.kills = lambda stage, ids: (
        (stage == "model" and "q2" in ids) or (stage == "prepare" and "q9" in ids)
    )
    killed = 0
    while (summary := machine.session(batch_size=4)) is None:
        killed += 1
        assert killed <= 4
    assert summary.failed == 1
    assert machine.held == machine.all_but("q2", "q9")
    assert failures(machine) == {"q2": ("model", 1), "q9": ("prepare", 1)}
    # Each time they are tried again, one kills, and the session after that comes to its end.
    ends = [machine.session(batch_size=4) is None for _ in range(4)]
    assert ends == [True, False, True, False]
    assert failures(machine) == {"q2": ("model", 2), "q9": ("prepare", 2)}


@pytest.mark.exhaustive
def test_many_suspects_come_in_groups_first_and_alone_when_one_of_them_kills(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path / "run", rows=60)
    machine.kills = lambda stage, ids: stage == "model" and "q7" in ids
    assert machine.session(batch_size=20) is None
    assert machine.session(batch_size=20) is None
    assert machine.prepared[-pending.GROUP :] == [[f"q{i}"] for i in range(pending.GROUP)]
    assert machine.session(batch_size=20) is None or failures(machine) == {"q7": ("model", 1)}
    last = machine.session(batch_size=20)
    assert failures(machine) == {"q7": ("model", 1)} or last is None
    assert machine.held == machine.all_but("q7")


def test_a_kill_from_outside_costs_nothing_but_the_order(machine: Machine) -> None:
    count = 0

    def third_batch(stage: str, _ids: list[str]) -> bool:
        nonlocal count
        count += stage == "model"
        return count == 3

    machine.kills = third_batch
    assert machine.session(batch_size=2) is None
    machine.kills = lambda _stage, _ids: False
    second = machine.session(batch_size=2)
    assert second is not None
    assert second.failed == 0
    assert machine.held == machine.all_but()
    assert not failures(machine)
    assert machine.prepared[-1] in (["q5"], ["q6"], ["q7"], ["q8"], ["q9"])


@pytest.mark.first(1)
@pytest.mark.parametrize("strict", [False, True])
def test_strict_stops_at_the_record_and_goes_on_the_next_time(
    machine: Machine, strict: bool
) -> None:
    machine.kills = lambda stage, ids: stage == "prepare" and "q1" in ids
    assert machine.session(batch_size=4, strict=strict) is None
    assert machine.session(batch_size=4, strict=strict) is None
    third = machine.session(batch_size=4, strict=strict)
    assert third is not None
    assert (third.failed, third.stopped) == (1, strict and third.captured < 3)
    machine.kills = lambda _stage, _ids: False
    assert machine.session(batch_size=4, strict=strict) is not None
    assert machine.held == machine.all_but()


def test_a_blamed_row_outside_of_the_limit_is_kept_for_later(machine: Machine) -> None:
    machine.kills = lambda stage, ids: stage == "prepare" and "q9" in ids
    assert machine.session(batch_size=12) is None
    assert machine.session(batch_size=12) is None
    first = machine.session(batch_size=12, limit=9)
    assert first is not None
    assert (first.captured, first.failed) == (1, 0)
    machine.kills = lambda _stage, _ids: False
    whole = machine.session(batch_size=4)
    assert whole is not None
    assert machine.prepared == [["q10"], ["q11"], ["q9"]], "it is still a suspect"
    assert machine.held == machine.all_but()


def test_a_run_in_which_nothing_can_be_noted_goes_on(machine: Machine) -> None:
    machine.out.mkdir()
    (machine.out / ".in-progress-000").mkdir()
    summary = machine.session(batch_size=4)
    assert summary is not None
    assert machine.held == machine.all_but()
