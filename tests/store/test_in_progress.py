"""What a session that is killed leaves behind, and what the next one makes of it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlmscope.errors import StoreError
from vlmscope.store import InProgress, as_path, in_progress, is_remote
from vlmscope.store.storage.paths import check_inside

PLAIN = "000"


def session(run: Path, writer: str = PLAIN) -> InProgress:
    """A session that has begun."""
    journal = InProgress(run, writer).__enter__()
    journal.start({i: n for i, n in journal.suspects.items() if i not in journal.blamed})
    return journal


def left(run: Path, writer: str = PLAIN) -> tuple[dict[str, int], dict[str, str]]:
    """What the next session would know."""
    journal = InProgress(run, writer).__enter__()
    return journal.suspects, dict(journal.blamed)


def test_a_clean_end_leaves_nothing(tmp_path: Path) -> None:
    with InProgress(tmp_path, PLAIN) as journal:
        journal.start({})
        journal.begin("prepare", ["a", "b"])
        journal.leave(["a", "b"])
        journal.begin("model", ["a", "b"])
        assert list(tmp_path.iterdir()) == [tmp_path / ".in-progress-000"]
        journal.finish(["a"])
    assert not list(tmp_path.iterdir())


def test_an_error_that_ends_the_session_makes_no_suspects(tmp_path: Path) -> None:
    def fail() -> None:
        with InProgress(tmp_path, PLAIN) as journal:
            journal.start({})
            journal.begin("model", ["a"])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not list(tmp_path.iterdir())


def test_rows_in_work_at_a_kill_are_suspects(tmp_path: Path) -> None:
    journal = session(tmp_path)
    journal.begin("prepare", ["a", "b"])
    journal.leave(["a", "b"])
    journal.begin("prepare", ["c", "ü\n"])
    journal.begin("model", ["a", "b"])
    journal.finish(["b"])
    assert left(tmp_path) == ({"a": 1, "c": 1, "ü\n": 1}, {})


def test_who_is_alone_in_work_once_more_is_blamed(tmp_path: Path) -> None:
    session(tmp_path).begin("prepare", ["a", "b", "c"])
    second = session(tmp_path)
    second.begin("prepare", ["d"])
    second.leave(["d"])
    second.begin("prepare", ["a"])
    second.leave(["a"])
    second.begin("prepare", ["b"])
    assert left(tmp_path) == ({"a": 1, "b": 2, "c": 1}, {"b": "prepare"})
    third = session(tmp_path)
    assert third.suspects == {"a": 1, "c": 1}
    third.begin("model", ["a", "c"])
    assert left(tmp_path) == ({"a": 2, "c": 2}, {})
    fourth = session(tmp_path)
    fourth.begin("model", ["c"])
    assert left(tmp_path) == ({"a": 2, "c": 3}, {"c": "model"})


def test_one_row_alone_is_not_blamed_the_first_time(tmp_path: Path) -> None:
    session(tmp_path).begin("model", ["last"])
    assert left(tmp_path) == ({"last": 1}, {})


def test_suspects_that_were_not_tried_are_kept(tmp_path: Path) -> None:
    session(tmp_path).begin("prepare", ["a", "b", "c"])
    with InProgress(tmp_path, PLAIN) as journal:
        journal.start({"a": 1, "b": 1})
        journal.begin("prepare", ["a"])
        journal.finish(["a"])
    assert left(tmp_path) == ({"b": 1}, {})


def test_a_session_that_ends_before_it_begins_changes_nothing(tmp_path: Path) -> None:
    session(tmp_path).begin("prepare", ["a"])
    with InProgress(tmp_path, PLAIN):
        pass
    assert left(tmp_path) == ({"a": 1}, {})


def test_a_rank_knows_of_its_own_rows_and_one_alone_of_all(tmp_path: Path) -> None:
    session(tmp_path, "rank_000_of_002").begin("prepare", ["a", "b"])
    session(tmp_path, "rank_001_of_002").begin("prepare", ["c"])
    assert left(tmp_path, "rank_001_of_002") == ({"c": 1}, {})
    assert left(tmp_path) == ({"a": 1, "b": 1, "c": 1}, {})
    with InProgress(tmp_path, PLAIN) as journal:
        journal.start({})
        assert [path.name for path in tmp_path.iterdir()] == [".in-progress-000"]
        journal.finish(["a", "b", "c"])
    assert not list(tmp_path.iterdir())


def test_a_file_stays_small_and_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session(tmp_path).begin("prepare", ["old"])
    monkeypatch.setattr(in_progress, "REWRITTEN_AT", 2_000)
    journal = session(tmp_path)
    journal.begin("prepare", ["slow"])
    for number in range(0, 1000, 4):
        ids = [str(number + i) for i in range(4)]
        journal.begin("prepare", ids)
        journal.leave(ids)
        journal.begin("model", ids)
        assert (tmp_path / ".in-progress-000").stat().st_size < 2_200
        if number < 996:
            journal.finish(ids)
    expected = {"old": 1, "slow": 1, "996": 1, "997": 1, "998": 1, "999": 1}
    assert left(tmp_path) == (expected, {})


def test_threads_may_note_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_progress, "REWRITTEN_AT", 500)
    journal = session(tmp_path)
    ready = threading.Barrier(8)

    def work(thread: int) -> None:
        ready.wait()
        for number in range(20):
            journal.begin("prepare", [f"{thread}-{number}"])
            if number < 19:
                journal.finish([f"{thread}-{number}"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert left(tmp_path)[0].keys() == {f"{thread}-19" for thread in range(8)}


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_torn_line_says_nothing(tmp_path: Path, cut: int) -> None:
    journal = session(tmp_path)
    journal.begin("prepare", ["a"])
    path = tmp_path / ".in-progress-000"
    whole = path.read_bytes()
    journal.begin("prepare", ["b"])
    path.write_bytes(path.read_bytes()[: len(whole) + cut])
    suspects, blamed = left(tmp_path)
    assert suspects.keys() in ({"a"}, {"a", "b"})
    assert not blamed


@pytest.mark.parametrize(
    "line",
    [
        b"", b"nonsense", b"[1]", b"3", b"null", b'"begin"', b"{}", b"[" * 100_000, b"\xff\xfe",
        b'{"begin": "prepare"}', b'{"begin": 1, "ids": 7}', b'{"leave": null}',
        b'{"suspects": ["a"]}', b'{"suspects": {"a": "x"}}', b'{"suspects": {"a": 1e999}}',
        b'{"finish": {"a": 1}, "begin": []}', b'{"suspects": {"x": ' + b"9" * 5000 + b"}}",
    ],
)  # fmt: skip
def test_what_is_no_such_line_says_nothing(tmp_path: Path, line: bytes) -> None:
    good = json.dumps({"begin": "prepare", "ids": ["good"]}).encode()
    (tmp_path / ".in-progress-000").write_bytes(line + b"\n" + good)
    assert left(tmp_path) == ({"good": 1}, {})


@settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    (tmp_path / ".in-progress-000").write_bytes(data)
    left(tmp_path)


def link(path: Path) -> None:
    (path.parent / "other").write_bytes(b'{"begin": "prepare", "ids": ["a"]}\n')
    path.symlink_to("other")


@pytest.mark.parametrize(
    "make", [link, os.mkfifo, lambda path: path.symlink_to("/dev/zero")],
    ids=["link", "pipe", "device"],
)  # fmt: skip
def test_only_a_regular_file_is_read_and_written(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / ".in-progress-000")
    assert left(tmp_path) == ({}, {})
    session(tmp_path).begin("prepare", ["b"])
    assert left(tmp_path) == ({"b": 1}, {})
    if (tmp_path / "other").exists():
        assert b'"b"' not in (tmp_path / "other").read_bytes()


def test_a_link_out_of_the_run_is_refused_with_the_rest(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".in-progress-000").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="symbolic link that leads out of the run"):
        check_inside(tmp_path / "run")


def test_where_nothing_can_be_written_nothing_is_noted(tmp_path: Path) -> None:
    (tmp_path / ".in-progress-000").mkdir()
    with InProgress(tmp_path, PLAIN) as journal:
        journal.start({})
        journal.begin("prepare", ["a"])
    assert left(tmp_path) == ({}, {})
    with InProgress(tmp_path / "none", PLAIN) as journal:
        journal.start({})
        journal.begin("prepare", ["a"])


@pytest.mark.parametrize("short", [True, False])
def test_a_disk_that_is_full_ends_the_notes_and_not_the_run(
    tmp_path: Path, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def refuse(file: int, data: bytes) -> int:
        if short:
            return write(file, data[:7])
        raise OSError(28, "No space left on device")

    journal = session(tmp_path)
    monkeypatch.setattr(os, "write", refuse)
    journal.begin("prepare", ["a"])
    monkeypatch.undo()
    journal.begin("prepare", ["b"])
    assert not list(tmp_path.iterdir())
    journal.close()


def test_an_object_store_has_none() -> None:
    run = as_path("memory://in-progress/run")
    assert is_remote(run)
    journal = session(run)
    journal.begin("prepare", ["a"])
    assert left(run) == ({}, {})
    journal.close()
    assert not list(run.glob("*"))
