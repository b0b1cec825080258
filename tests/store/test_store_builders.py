"""Shards that are built elsewhere: the same run, in order, whoever dies in between."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_support import assert_same, make_bare, make_capture, make_captures, make_manifest
from vlmscope.errors import StoreError
from vlmscope.schema import Failure
from vlmscope.store import RunWriter, RunWriterProcess, as_path, open_run
from vlmscope.store.builders import Builders, Pieces, ShardTask, build, build_here
from vlmscope.store.catalog import scan
from vlmscope.store.writer import Batch
from vlmscope.store.writer_process import _Recording

AHEAD = 4


def ids_of(numbers: range) -> tuple[str, ...]:
    return tuple(f"question_comb_{i}" for i in numbers)


def check_run(run: Path, rows: int) -> None:
    """Check that a closed run has each row once, in order, and nothing else."""
    found = open_run(run)
    assert found.ids == ids_of(range(rows))
    assert found.check() == []
    for i, capture in enumerate(found):
        assert_same(capture, make_capture(i))
    left = [path.name for path in (as_path(run) / "shards").iterdir()]
    assert all(name.startswith("pack-") for name in left), left


@contextmanager
def builders_of(count: int) -> Iterator[Builders]:
    found = Builders(count)
    try:
        wait_for(lambda: found.are_ready)
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def builders() -> Iterator[Builders]:
    with builders_of(2) as found:
        yield found


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def descendants(pid: int | None) -> set[int]:
    """Return the children of a process, theirs too. Linux only."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                found |= {child} | descendants(child)
    return found


def write(writer: RunWriter, batches: list[list[Any]]) -> None:
    """Add batches, with several of them begun at once."""
    begun: deque[Batch | None] = deque()
    for results in batches:
        begun.append(writer.begin(results))
        if len(begun) > AHEAD:
            writer.finish(begun.popleft())
    while begun:
        writer.finish(begun.popleft())


def in_pairs(rows: int) -> list[list[Any]]:
    return [make_captures(range(i, min(rows, i + 2))) for i in range(0, rows, 2)]


@pytest.mark.exhaustive
def test_builders_write_what_one_process_writes(builders: Builders, tmp_path: Path) -> None:
    batches: list[list[Any]] = in_pairs(31)
    batches.insert(3, [make_bare(40), Failure("bad", "image", "no such file")])
    batches.insert(5, [Failure("worse", "image", "no such file")])
    for name in ("here", "elsewhere"):
        with RunWriter(tmp_path / name, make_manifest(), pack_rows=6) as writer:
            if name == "elsewhere":
                writer.build_with(builders.submit, 2)
            write(writer, batches)
    here, elsewhere = open_run(tmp_path / "here"), open_run(tmp_path / "elsewhere")
    assert here.ids == elsewhere.ids
    assert len(here) == 32
    for one, other in zip(here, elsewhere, strict=True):
        assert_same(other, one)
    assert here.to_pandas().equals(elsewhere.to_pandas())
    assert set(elsewhere.failures) == {"bad", "worse"}
    assert elsewhere.check() == []
    assert not list((tmp_path / "elsewhere" / "shards").glob("[!p]*"))
    # Parts of this session need no screening, for which a builder would start a process.
    children = [each for each in multiprocessing.active_children() if each.name == "vlmscope-build"]
    assert len(children) == 2
    assert not set().union(*(descendants(child.pid) for child in children))


@pytest.mark.exhaustive
def test_builders_write_into_an_object_store(builders: Builders, bucket: str) -> None:
    """There a part is not renamed: it is read by a builder too."""
    url = f"{bucket}/run"
    with RunWriter(url, make_manifest(), pack_rows=4) as writer:
        writer.build_with(builders.submit, 2)
        write(writer, in_pairs(13))
    check_run(as_path(url), 13)


def test_a_batch_that_is_finished_is_published_and_no_later_one(
    builders: Builders, tmp_path: Path
) -> None:
    with RunWriter(tmp_path, make_manifest()) as writer:
        writer.build_with(builders.submit, 2)
        batches = [writer.begin(results) for results in in_pairs(10)]
        with pytest.raises(StoreError, match="already has a row"):
            writer.begin([make_capture(5)])
        for count, batch in enumerate(batches):
            assert [shard.ids for shard in scan(tmp_path)[0]] == [
                ids_of(range(i, i + 2)) for i in range(0, 2 * count, 2)
            ]
            writer.finish(batch)
    check_run(tmp_path, 10)


class Later(Future[Pieces]):
    """A shard that is built once it is asked for, or set to be done."""

    def __init__(self, task: ShardTask) -> None:
        super().__init__()
        self.task = task

    def build(self) -> None:
        if self.done():
            return
        try:
            self.set_result(build(self.task))
        except StoreError as error:
            self.set_exception(error)

    def result(self, timeout: float | None = None) -> Pieces:
        self.build()
        return super().result(timeout)


class Slow:
    """Builds packs when told; parts at once."""

    def __init__(self) -> None:
        self.packs: list[Later] = []

    def submit(self, task: ShardTask) -> Future[Pieces]:
        if not task.parts:
            return build_here(task)
        self.packs.append(Later(task))
        return self.packs[-1]


@pytest.mark.exhaustive
@given(st.lists(st.sampled_from([None, 0, 1]), min_size=9, max_size=9), st.booleans())
@settings(max_examples=10, deadline=None)
def test_parts_are_added_while_packs_are_built(built: list[int | None], is_killed: bool) -> None:
    """Whichever pack is built first, rows stay in order, also if the session is killed."""
    with tempfile.TemporaryDirectory() as folder:
        run, slow = Path(folder), Slow()
        writer = RunWriter(run, make_manifest(), pack_rows=4).__enter__()
        writer.build_with(slow.submit, 4)
        for i, which in enumerate(built):
            writer.add(make_captures(range(2 * i, 2 * i + 2)))
            waiting = [pack for pack in slow.packs if not pack.done()]
            assert len(waiting) <= 2
            if which is not None and which < len(waiting):
                waiting[which].build()
        assert open_run(run).ids == ids_of(range(18))
        if is_killed:
            writer.release()
            with RunWriter(run, make_manifest()) as again:
                again.add(make_captures(range(18, 20)))
        else:
            writer.add(make_captures(range(18, 20)))
            writer.close()
        check_run(run, 20)
        packed = [path for pack in slow.packs if pack.done() for path in pack.task.parts]
        assert len(packed) == len(set(packed))


@pytest.mark.first(1)
@pytest.mark.parametrize(("parts", "packs"), [(9, 4), (2, 2), (1, 1)])
def test_the_rest_is_packed_by_all_builders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parts: int, packs: int
) -> None:
    monkeypatch.setattr("vlmscope.store.writer.FEWEST_ROWS", 2)
    slow = Slow()
    with RunWriter(tmp_path, make_manifest()) as writer:
        writer.build_with(slow.submit, 4)
        write(writer, in_pairs(2 * parts))
    check_run(tmp_path, 2 * parts)
    assert len(list((tmp_path / "shards").iterdir())) == packs


def test_a_pack_that_cannot_be_built_is_an_error_and_its_parts_stay(
    builders: Builders, tmp_path: Path
) -> None:
    writer = RunWriter(tmp_path, make_manifest(), pack_rows=6).__enter__()
    writer.build_with(builders.submit, 2)
    writer.add(make_captures(range(2)))
    part = tmp_path / "shards" / "part-000-000000.h5"
    whole = part.read_bytes()
    part.write_bytes(whole[:-200])
    for results in in_pairs(6)[1:]:
        writer.add(results)
    with pytest.raises(StoreError, match=r"part-000-000000\.h5: damaged"):
        writer.close()
    assert len(list(part.parent.glob("part-*"))) == 3
    part.write_bytes(whole)
    with RunWriter(tmp_path, make_manifest()):
        pass
    check_run(tmp_path, 6)


def test_parts_of_a_pack_that_failed_are_packed_again(tmp_path: Path) -> None:
    slow = Slow()
    with RunWriter(tmp_path, make_manifest(), pack_rows=6) as writer:
        writer.build_with(slow.submit, 4)
        write(writer, in_pairs(6))
        part = tmp_path / "shards" / "part-000-000001.h5"
        whole = part.read_bytes()
        part.write_bytes(whole[:-200])
        slow.packs[0].build()
        with pytest.raises(StoreError, match=r"part-000-000001\.h5: damaged"):
            writer.add(make_captures(range(6, 8)))
        part.write_bytes(whole)
    check_run(tmp_path, 8)


@pytest.mark.exhaustive
def test_shards_of_a_builder_that_is_killed_are_built_here(tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())
    with builders_of(1) as found, RunWriter(tmp_path, make_manifest(), pack_rows=6) as writer:
        [child] = set(multiprocessing.active_children()) - before
        assert child.pid
        writer.build_with(found.submit, 1)
        writer.add(make_captures(range(2)))
        os.kill(child.pid, signal.SIGSTOP)
        begun = [writer.begin(results) for results in in_pairs(12)[1:]]
        child.kill()
        for batch in begun:
            writer.finish(batch)
    check_run(tmp_path, 12)


@pytest.mark.exhaustive
@pytest.mark.parametrize("call", [4, 1, 2, 3])
def test_a_reply_that_is_read_in_part_is_no_part_of_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: int
) -> None:
    """Too little memory for it, for example, at each step: its size and data, of two pieces."""
    calls = 0
    own = Connection._recv  # type: ignore[attr-defined]

    def receive(self: Connection, size: int, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise MemoryError
        return own(self, size, *args)

    with builders_of(1) as found, RunWriter(tmp_path, make_manifest()) as writer:
        writer.build_with(found.submit, 1)
        monkeypatch.setattr(Connection, "_recv", receive)
        begun = [writer.begin(results) for results in in_pairs(8)]
        wait_for(lambda: all(batch is not None and batch.pieces.done() for batch in begun), 10)
        for batch in begun:
            writer.finish(batch)
    assert calls == call  # the process is not asked again
    check_run(tmp_path, 8)


def test_builders_that_cannot_be_started_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr("vlmscope.store.builders.start", refuse)
    found = Builders(2)
    assert not found.are_ready
    assert len(found) == 0
    found.stop()


def test_batches_that_wait_are_recorded_together_and_answered_in_order(tmp_path: Path) -> None:
    """As the writing process does: builders start when batches wait, and end."""
    before, (ours, theirs) = set(multiprocessing.active_children()), Pipe()
    with RunWriter(tmp_path, make_manifest(), pack_rows=6) as rows:
        recording = _Recording(theirs, rows, builders=2, behind_rows=4)
        thread = threading.Thread(target=recording.record_all, daemon=True)
        thread.start()
        try:
            answers: list[Exception | None] = []
            sent = 0
            with ours:
                for results in in_pairs(400):
                    ours.send([*results, results[0]] if sent == 2 else results)
                    sent += 1
                    if sent - len(answers) > AHEAD:
                        answers.append(ours.recv())
                    if len(multiprocessing.active_children()) == len(before) + 2:
                        break
                wait_for(lambda: recording._builders is not None and recording._builders.are_ready)
                for results in in_pairs(420)[200:]:
                    ours.send(results)
                    sent += 1
                ours.send(None)
                answers += [ours.recv() for _ in range(sent - len(answers))]
                thread.join()
            assert [i for i, answer in enumerate(answers) if answer is not None] == [2]
            assert "already has a row" in str(answers[2])
            assert rows._build is not build_here
            assert len(rows.done_ids) == 2 * (sent - 1)
            rows.close()
        finally:
            recording.stop()
    assert set(multiprocessing.active_children()) == before
    assert not list((tmp_path / "shards").glob("part-*"))
    assert open_run(tmp_path).check() == []


@pytest.mark.exhaustive
def test_without_waiting_batches_no_builder_is_started(tmp_path: Path) -> None:
    with RunWriterProcess(tmp_path, make_manifest(), builders=2, behind_rows=1) as rows:
        for results in in_pairs(12):
            rows.add(results)
        assert not descendants(rows._process.pid)
    check_run(tmp_path, 12)


def write_until_builders_work(run: Path) -> tuple[RunWriterProcess, set[int], int, int]:
    """Open a run and send batches until builders build them.

    Returns:
        The open run, the ids of its processes, and how many batches were sent and finished.
    """
    rows = RunWriterProcess(run, make_manifest(), builders=2, behind_rows=1).__enter__()
    batches, found = in_pairs(2_000), set[int]()
    sent = finished = 0
    while len(found) < 2 or sent - finished < AHEAD or sent < 100:
        rows.begin(batches[sent])
        sent += 1
        if sent - finished > AHEAD:
            rows.finish()
            finished += 1
        found |= descendants(rows._process.pid)
    return rows, found | {rows._process.pid or 0}, sent, finished


def are_gone(processes: set[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in processes)


@pytest.mark.exhaustive
@pytest.mark.parametrize("is_killed", [False, True])
def test_builders_end_with_the_writing_process(tmp_path: Path, is_killed: bool) -> None:
    """Whether it closes the run, or is killed: then no acknowledged row is lost."""
    rows, found, sent, finished = write_until_builders_work(tmp_path)
    if is_killed:
        rows._process.kill()
        with pytest.raises(StoreError, match=r"died \(signal 9\)"):
            rows.close()
    else:
        rows.close()
    wait_for(lambda: are_gone(found), 5)
    published = len(open_run(tmp_path))
    assert 2 * finished <= published <= 2 * sent
    assert is_killed or published == 2 * sent
    with RunWriter(tmp_path, make_manifest()):
        pass
    check_run(tmp_path, published)


SCRIPT = """
import sys
from pathlib import Path
from test_store_builders import write_until_builders_work
rows, found, sent, finished = write_until_builders_work(Path(sys.argv[1]))
print(sent, finished, *found, flush=True)
sys.stdin.read()
"""


@pytest.mark.exhaustive
def test_all_end_with_the_command(tmp_path: Path) -> None:
    folders = map(str, (Path(__file__).parent, Path(__file__).parents[1]))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*folders, *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None
        sent, finished, *found = map(int, command.stdout.readline().split())
        is_complete = len(found) >= 3 and not are_gone(set(found))  # of two builders, or more
        command.kill()
    assert is_complete
    wait_for(lambda: are_gone(set(found)), 5)
    published = len(open_run(tmp_path))
    assert 2 * finished <= published <= 2 * sent
    with RunWriter(tmp_path, make_manifest()):
        pass
    check_run(tmp_path, published)
