"""Only regular files are opened: nothing is waited for, and nothing is read for ever."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from vlmscope.regular import (
    MOST_OF_A_TEXT,
    NotRegularError,
    check_folder,
    check_regular,
    open_regular,
    read_regular,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder: the path of a socket must be short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pipe(name: str) -> None:
    os.mkfifo(name)


def bound(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(name)


def zeros(name: str) -> None:
    Path(name).symlink_to("/dev/zero")


KINDS: dict[str, Callable[[str], None]] = {"a pipe": pipe, "a socket": bound, "a device": zeros}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", [check_regular, open_regular, read_regular])
def test_anything_else_is_refused_at_once(kind: str, read: Callable[[str], object]) -> None:
    KINDS[kind]("x")
    with pytest.raises(NotRegularError, match=f"is {kind}, expected a file"):
        read("x")


@pytest.mark.parametrize("read", [check_regular, open_regular, read_regular])
def test_a_folder_and_a_gap_are_what_they_always_were(
    folder: Path, read: Callable[[Path], object]
) -> None:
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        read(folder)
    with pytest.raises(FileNotFoundError):
        read(folder / "none")


def test_a_pipe_that_takes_the_name_between_the_look_and_the_opening(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, late = folder / "plain", folder / "late"
    plain.write_text("x")
    pipe("late")
    monkeypatch.setattr("vlmscope.regular.check_regular", lambda _: None)
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(NotRegularError, match="is a pipe"):
        open_regular(late)
    assert len(list(Path("/dev/fd").iterdir())) == before
    with open_regular(plain) as file:
        assert file.read() == b"x"


def test_links_to_files_are_followed(folder: Path) -> None:
    (folder / "file").write_bytes(b"text")
    (folder / "link").symlink_to("file")
    assert read_regular("link") == b"text"


def test_a_document_that_is_too_long(folder: Path) -> None:
    path = folder / "run.json"
    path.write_bytes(b"12345")
    assert read_regular(path, most=5) == b"12345"
    with pytest.raises(OSError, match="has 5 bytes, expected at most 4") as caught:
        read_regular(path, most=4)
    assert caught.value.errno == errno.EFBIG
    os.truncate(path, 10 * 2**30)
    with pytest.raises(OSError, match="expected at most 67,108,864"):
        read_regular(path)


def test_a_folder_that_a_library_reads(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "nowhere.json").symlink_to("none")
    (folder / "templates").mkdir()
    (folder / "deep/deeper").mkdir(parents=True)
    pipe("deep/deeper/pipe")
    check_folder(folder)
    pipe("templates/a.jinja")
    with pytest.raises(NotRegularError, match="is a pipe") as caught:
        check_folder(folder)
    assert caught.value.filename == str(folder / "templates/a.jinja")
    (folder / "templates/a.jinja").unlink()
    os.truncate(folder / "config.json", MOST_OF_A_TEXT + 1)
    with pytest.raises(OSError, match="expected at most"):
        check_folder(folder)
