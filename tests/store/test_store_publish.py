"""Files that are published and locks that are taken: two at once, leftovers, odd file systems."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from store_support import make_captures, make_manifest
from vlmscope.errors import RunBusyError, StoreError
from vlmscope.schema import Failure
from vlmscope.store import (
    FailureLog,
    RunWriter,
    alone,
    check_free,
    open_run,
    publish,
    publish_together,
    read_failures,
)
from vlmscope.store.storage.atomic import publishing, remove_leftovers

UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".tmp"))


def test_two_publishers_of_one_name_never_share_a_file(tmp_path: Path) -> None:
    target = tmp_path / "labels.parquet"
    with publishing(target) as one:
        one.write_bytes(b"half of the f")
        with publishing(target) as other:
            other.write_bytes(b"second, whole")
            assert one.read_bytes() == b"half of the f"
        assert target.read_bytes() == b"second, whole"
        one.write_bytes(b"first, whole")
        assert target.read_bytes() == b"second, whole"
    assert target.read_bytes() == b"first, whole"
    assert hidden(tmp_path) == []


@pytest.mark.exhaustive
def test_publishers_in_many_processes_leave_one_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "results.json"
    code = (
        "import sys; from pathlib import Path; from vlmscope.store import publish\n"
        "for _ in range(60): publish(Path(sys.argv[1]), sys.argv[2].encode() * 100_000)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, target, word]) for word in "abc"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if target.exists():
            data = target.read_bytes()
            assert len(data) == 100_000
            seen.add(data[:1])
            assert data == data[:1] * 100_000
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen
    assert hidden(tmp_path) == []


def test_an_error_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    publish(target, b"old")

    def break_off() -> None:
        with publishing(target) as temporary:
            temporary.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match=r"run\.json: .*No space left.*, free space and run"):
        break_off()
    assert (target.read_bytes(), hidden(tmp_path)) == (b"old", [])


def test_files_published_together_change_together(tmp_path: Path) -> None:
    names = {tmp_path / name: name.encode() for name in "abc"}
    publish_together(names)
    (tmp_path / "d").mkdir()
    with pytest.raises(StoreError, match="cannot be written"):
        publish_together({**dict.fromkeys(names, b"new"), tmp_path / "missing/e": b"new"})
    assert {path: path.read_bytes() for path in names} == names
    assert hidden(tmp_path) == []


def test_leftovers_of_dead_processes_are_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "index.h5"
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
    space = publish_module_of("_process_space")()
    names = {
        "dead": f".index.h5.{space}-{gone}-aaaa.tmp",
        "alive": f".index.h5.{space}-{os.getpid()}-aaaa.tmp",
        "elsewhere, young": f".index.h5.0123abcd-{gone}-aaaa.tmp",
        "elsewhere, old": f".index.h5.0123abce-{gone}-aaaa.tmp",
        "of another file": f".other.h5.{space}-{gone}-aaaa.tmp",
        "somebody's own": ".index.h5.backup.tmp",
    }
    for name in names.values():
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / f".index.h5.{space}-{gone}-bbbb.tmp").mkdir()
    os.utime(tmp_path / names["elsewhere, old"], (time.time() - 90_000,) * 2)
    publish(target, b"whole")
    left = set(hidden(tmp_path))
    assert names["dead"] not in left
    assert names["elsewhere, old"] not in left
    assert left == {
        names["alive"], names["elsewhere, young"], names["of another file"],
        names["somebody's own"], f".index.h5.{space}-{gone}-bbbb.tmp",
    }  # fmt: skip
    monkeypatch.setattr("os.scandir", refuse(errno.EACCES))
    remove_leftovers(target)


def test_names_as_long_as_a_file_system_allows(tmp_path: Path) -> None:
    for name in ("n" * 251 + ".csv", "é" * 120 + ".parquet"):
        publish(tmp_path / name, b"whole")
        assert (tmp_path / name).read_bytes() == b"whole"
    assert hidden(tmp_path) == []


def test_a_hidden_file_that_is_there_is_not_written_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / ".page.html.tmp").symlink_to(victim)
    publish(tmp_path / "page.html", b"page")
    assert victim.read_bytes() == b"mine"


def publish_module_of(name: str) -> Any:
    import importlib

    return getattr(importlib.import_module("vlmscope.store.storage.atomic"), name)


def refuse(number: int) -> Any:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.mark.parametrize("number", UNSUPPORTED)
def test_a_file_system_without_fsync_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("os.fsync", refuse(number))
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        writer.add(make_captures(range(3)))
    FailureLog(tmp_path / "run").add(Failure("a", "image", "not found"))
    monkeypatch.undo()
    assert len(open_run(tmp_path / "run")) == 3
    assert list(read_failures(tmp_path / "run")) == ["a"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fails_to_flush_is_an_error_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("os.fsync", refuse(number))
    with pytest.raises(StoreError) as caught:
        publish(tmp_path / "run.json", b"{}")
    assert os.strerror(number) in str(caught.value)
    assert ("free space" in str(caught.value)) == (number != errno.EIO)
    assert "permissions" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_parent_that_may_not_be_listed_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.open

    def opened(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if Path(path) == tmp_path and not flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return original(path, flags, *more, **options)

    monkeypatch.setattr("os.open", opened)
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        writer.add(make_captures([1]))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_flock_a_marker_keeps_a_second_writer_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(number))
    run = tmp_path / "run"
    with RunWriter(run, make_manifest()) as writer:
        writer.add(make_captures([1]))
        assert (run / ".marker-000").exists()
        with (
            pytest.raises(RunBusyError, match=r"another vlmscope .* remove .*\.marker-000"),
            RunWriter(run, make_manifest()),
        ):
            pass
        with pytest.raises(RunBusyError, match="another vlmscope"):
            check_free(run)
    assert not list(run.glob(".marker-*"))
    with RunWriter(run, make_manifest()) as again:
        assert again.done_ids == {"question_comb_1"}


def test_who_has_flock_heeds_the_marker_of_who_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
        writer = RunWriter(run, make_manifest()).__enter__()
    with pytest.raises(RunBusyError, match="another vlmscope"), RunWriter(run, make_manifest()):
        pass
    writer.close()
    with RunWriter(run, make_manifest()):
        pass


def test_the_marker_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import errno, fcntl, os, sys\n"
        "from pathlib import Path\n"
        "def refuse(*_): raise OSError(errno.ENOLCK, 'No locks available')\n"
        "fcntl.flock = refuse\n"
        "from vlmscope.store.storage.locks import lock_of\n"
        "lock = lock_of(Path(sys.argv[1]), '000')\n"
        "lock.acquire()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert ended.returncode == -9
    assert (tmp_path / ".marker-000").exists()
    with RunWriter(tmp_path, make_manifest()) as writer:
        writer.add(make_captures([1]))
    assert len(open_run(tmp_path)) == 1


def test_another_error_of_a_lock_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.EIO))
    with (
        pytest.raises(StoreError, match=r"Input/output error; .* another file system"),
        RunWriter(tmp_path / "run", make_manifest()),
    ):
        pass


def test_two_who_replace_what_belongs_together(tmp_path: Path) -> None:
    with (
        alone(tmp_path, "probes", "saving probes here"),
        pytest.raises(RunBusyError, match="another vlmscope is saving probes here; wait"),
        alone(tmp_path, "probes", "saving probes here"),
    ):
        pass
    with alone(tmp_path, "probes", "saving probes here"):
        json.dumps({})


def test_a_folder_of_the_users_may_hold_links_of_any_name(tmp_path: Path) -> None:
    for name in ("plots", "probes", "shards"):
        (tmp_path / name).symlink_to(tmp_path)
    with alone(tmp_path, "report", "writing a report here"):
        pass
    (tmp_path / ".lock-probes").symlink_to(tmp_path / "victim")
    with (
        pytest.raises(StoreError, match=r"\.lock-probes: is a symbolic link"),
        alone(tmp_path, "probes", "saving probes here"),
    ):
        pass
    assert not (tmp_path / "victim").exists()
