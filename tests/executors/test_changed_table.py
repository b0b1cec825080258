"""A table that changes while the model is loaded: no row of it gets under the old fingerprint."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from executors.captured_rows import make_capture, make_manifest
from executors.made_up_model import made_up
from vlmscope.dataset import open_table
from vlmscope.errors import RunMismatchError, TableChangedError, naming_options
from vlmscope.executors import Request, local, pending, runner
from vlmscope.executors.journal import MODEL_STAGE
from vlmscope.executors.plan import Plan, as_compared, open_checked
from vlmscope.executors.ray import driver
from vlmscope.executors.ray.worker import Loaded, Report
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample
from vlmscope.store import FailureLog, Run, RunWriter, open_run, team_name

SPEC = CaptureSpec(layers="0,2,3", max_new_tokens=20)

ROWS = 10

Change = Callable[[list[str]], list[str]]


def capture(sample: Sample) -> Capture:
    return replace(make_capture(int(sample.id[1:])), sample=sample)


@dataclass
class Session:
    """``vlmscope extract``, with the table changed while its model is loaded."""

    table: Path
    out: Path
    unreadable: set[str] = field(default_factory=set)

    def rewrite(self, change: Change) -> None:
        header, *rows = self.table.read_text("utf-8").splitlines()
        self.table.write_text("\n".join([header, *change(rows)]) + "\n", "utf-8")

    def plan(self, change: Change | None = None, **options: Any) -> tuple[Any, ...]:
        request = Request(str(self.table), "model", self.out, spec=SPEC, batch_size=2, **options)
        table, scan, comparison = open_checked(request)
        if change is not None:
            self.rewrite(change)
        manifest = as_compared(make_manifest(data={"fingerprint": scan.fingerprint}), comparison)
        done = frozenset(self.run.ids if (self.out / "run.json").exists() else ())
        return request, table, scan, manifest, done.intersection(scan.ids)

    def start(self, change: Change | None = None, **options: Any) -> local.Summary:
        request, table, scan, manifest, done = self.plan(change, **options)
        return local.run_plan(Plan(request, table, scan, made_up(), manifest, done))

    @property
    def run(self) -> Run:
        return open_run(self.out)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    table = tmp_path / "t.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = [(f"q{i}", f"{i % 4}.png", f"Is it {i}?", "Yes", f"topic {i}") for i in range(ROWS)]
        csv.writer(file).writerows([("id", "image", "question", "answer", "topic"), *rows])
    session = Session(table, tmp_path / "run")

    def prepare(rows: Sequence[Sample], *_: Any) -> tuple[list[Any], list[Failure]]:
        good = tuple(row for row in rows if row.id not in session.unreadable)
        bad = [Failure(row.id, "image", "is broken") for row in rows if row not in good]
        return ([SimpleNamespace(samples=good, nbytes=0)] if good else []), bad

    monkeypatch.setattr(runner, "prepare", prepare)
    monkeypatch.setattr(
        runner, "capture_batch", lambda batch, *_: list(map(capture, batch.samples))
    )
    return session


def edit(index: int, old: str, new: str) -> Change:
    return lambda rows: [*rows[:index], rows[index].replace(old, new), *rows[index + 1 :]]


def append(rows: list[str]) -> list[str]:
    return [*rows, rows[0].replace("q0", "q10")]


CHANGES = [
    (edit(5, "Yes", "No"), "question 'q5' has changed"),
    (lambda rows: rows[:5], "ends before question 'q5'"),
    (lambda rows: [*rows[:5], "a,b", *rows[6:]], "found 2 fields, expected 5"),
]


@pytest.mark.first(1)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_nothing_from_the_change_on_is_stored(
    session: Session, change: Change, message: str, strict: bool
) -> None:
    whole = list(open_table(session.table).rows())
    before = session.table.read_bytes()
    with pytest.raises(TableChangedError, match=message):
        session.start(change, strict=strict)
    if strict:  # so that no row waits for others about its image
        assert sorted(session.run.ids) == [f"q{i}" for i in range(5)]
    assert set(session.run.ids) <= {f"q{i}" for i in range(5)}
    assert not session.run.failures
    session.table.write_bytes(before)
    left = ROWS - len(session.run.ids)
    assert session.start().captured == left
    stored = {item.sample.id: item.sample for item in session.run}
    for row in whole:
        assert isinstance(row, Sample)
        found = stored[row.id]
        assert (found.question, found.target) == (row.question, row.target)
        assert found.metadata == row.metadata


def test_the_run_goes_on_with_the_changed_table(session: Session) -> None:
    with pytest.raises(TableChangedError):
        session.start(edit(5, "Is it 5?", "Is it five?"), strict=True)
    assert len(session.run.ids) == 5
    assert session.start().captured == ROWS - 5
    assert session.run["q5"].sample.question == "Is it five?"


def test_a_row_that_is_stored_by_then_is_refused(session: Session) -> None:
    session.start(limit=6)
    session.rewrite(edit(5, "Is it 5?", "Is it five?"))
    with pytest.raises(RunMismatchError, match=r"1 row of .* in t\.csv: 'q5' \(question\); "):
        session.start()


def test_of_a_table_that_grew_every_row_that_was_checked_is_stored(session: Session) -> None:
    with pytest.raises(TableChangedError, match="question 'q10' was appended"):
        session.start(append)
    assert len(session.run.ids) == ROWS


def test_rows_that_a_limit_leaves_out_may_change(session: Session) -> None:
    assert session.start(edit(5, "Yes", "No"), limit=5).captured == 5


def test_a_resumed_run_is_held_to_the_table_too(session: Session) -> None:
    session.start(limit=3)
    with pytest.raises(TableChangedError, match="question 'q4' has changed"):
        session.start(edit(4, "Yes", "No"), strict=True)
    assert sorted(session.run.ids) == ["q0", "q1", "q2", "q3"]


@pytest.mark.first(1)
@pytest.mark.parametrize("change", [edit(3, "Yes", "No"), append])
def test_a_table_that_changes_before_failed_rows_are_tried_again(
    session: Session, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read in a pass of their own, after all others."""
    session.unreadable = {"q3"}
    assert session.start().failed == 1
    session.unreadable.clear()
    passes = 0
    original = pending._Reader._good_rows

    def good_rows(self: Any, skip: Any) -> Iterator[Any]:
        nonlocal passes
        passes += 1
        if passes == 2:
            session.rewrite(change)
        return original(self, skip)

    monkeypatch.setattr(pending._Reader, "_good_rows", good_rows)
    with pytest.raises(TableChangedError):
        session.start()
    assert passes == 2
    assert ("q3" in session.run.ids) == (change is append)


@pytest.mark.first(1)
@pytest.mark.parametrize("change", [edit(7, "Yes", "No"), append])
def test_rows_that_are_tried_alone_are_held_to_the_table_too(
    session: Session, change: Change
) -> None:
    session.start(limit=3)
    FailureLog(session.out).add_all([Failure("q7", MODEL_STAGE, "it took too long")])
    with naming_options(), pytest.raises(TableChangedError):
        session.start(change, time_limit=600)
    assert ("q7" in session.run.ids) == (change is append)


@dataclass
class Crew:
    """One Ray worker that captures at once what it is sent."""

    out: Path
    manifest: Any
    team: str = "ray_0"
    deaths: int = 0
    calls: dict[Any, Any] = field(default_factory=dict)
    waiting: list[Any] = field(default_factory=list)

    def ask(self, member: Any, method: str, *arguments: Any, **_: Any) -> None:
        captured: tuple[str, ...] = ()
        if method == "exchange" and arguments[0]:
            with RunWriter(self.out, self.manifest, member.name) as writer:
                writer.add([capture(sample) for sample in arguments[0]])
            captured = tuple(sample.id for sample in arguments[0])
        report = Report(captured, (), wanted=2, batch_size=2, idle=True)
        self.waiting.append((member, report))
        self.calls[len(self.calls)] = member

    def answers(self, **_: Any) -> Iterator[Any]:
        waiting, self.waiting = self.waiting, []
        self.calls.clear()
        yield from waiting


@pytest.mark.first(1)
@pytest.mark.parametrize(("change", "message"), [*CHANGES[:2], (append, "'q10' was appended")])
def test_the_driver_on_ray_holds_rows_to_the_table_too(
    session: Session, change: Change, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver.ray, "kill", lambda _: None)
    request, table, scan, manifest, done = session.plan(change, strict=True)
    crew: Any = Crew(session.out, manifest)
    worker: Any = SimpleNamespace(name=team_name(crew.team, "worker_000"), actor=None)
    first = ((worker, Loaded(manifest, "Made up", ())),)
    plan = driver.RayPlan(request, table, scan, manifest, done, (), "Made up", crew, first)
    with pytest.raises(TableChangedError, match=message):
        driver.run_on_ray(plan)
    assert sorted(session.run.ids) == [f"q{i}" for i in range(ROWS if change is append else 5)]
