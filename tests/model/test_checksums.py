"""Checksums of weight files: computed once, confirmed by a sample, whatever became of the cache."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from vlmscope.errors import ModelError
from vlmscope.model.loading import checksums
from vlmscope.model.loading.checksums import PIECE, STRIDE, Checksumming, checksum, hash_sample

TENSOR = 10 * PIECE
TENSORS = 3


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A safetensors file of three tensors, behind a header that is no multiple of a page."""
    header = {
        f"layer_{i}": {
            "dtype": "U8",
            "shape": [TENSOR],
            "data_offsets": [i * TENSOR, (i + 1) * TENSOR],
        }
        for i in range(TENSORS)
    }
    return write(tmp_path / "model.safetensors", json.dumps(header).encode(), TENSORS * TENSOR)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the entries, which are kept however young a file is."""
    monkeypatch.setenv("VLMSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checksums, "SETTLED", 0.0)
    return tmp_path / "cache" / "checksums"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every file that is read as a whole."""
    found: list[int] = []
    hash_all = checksums._hash_all

    def count(file: int, stop: threading.Event) -> str:
        found.append(file)
        return hash_all(file, stop)

    monkeypatch.setattr(checksums, "_hash_all", count)
    return found


def write(path: Path, header: bytes, size: int, length: int | None = None) -> Path:
    length = len(header) if length is None else length
    path.write_bytes(struct.pack("<Q", length) + header + bytes(size))
    return path


def right(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sample(path: Path) -> str:
    with path.open("rb") as file:
        return hash_sample(file.fileno())


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff")


def entry(cache: Path) -> Path:
    (found,) = cache.glob("*.json")
    return found


def test_a_file_is_hashed_once(weights: Path, cache: Path, hashed: list[int]) -> None:
    expected = right(weights)
    assert checksum(weights).sha256 == checksum(weights).sha256 == expected
    assert checksum(weights).size == weights.stat().st_size
    assert len(hashed) == 1
    assert entry(cache).stat().st_mode & 0o077 == 0


def test_the_same_file_by_other_names_is_hashed_once(
    weights: Path, cache: Path, hashed: list[int], tmp_path: Path
) -> None:
    (tmp_path / "hard").hardlink_to(weights)  # changes the file's change time
    (tmp_path / "soft").symlink_to(weights)
    files = {name: tmp_path / name for name in (weights.name, "hard", "soft")}
    sums = Checksumming(files)
    assert {found.sha256 for found in sums.result().values()} == {right(weights)}
    sums.cancel()
    assert len(hashed) == 1


def test_a_change_that_the_time_of_modification_hides(
    weights: Path, cache: Path, hashed: list[int]
) -> None:
    before, times = checksum(weights), weights.stat()
    flip(weights, weights.stat().st_size - TENSOR // 3)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert checksum(weights).sha256 == right(weights) != before.sha256
    assert len(hashed) == 2


@pytest.mark.parametrize("tensor", range(TENSORS))
@pytest.mark.parametrize("at", [0, PIECE - 1, TENSOR // 2, TENSOR - PIECE, TENSOR - 1])
def test_a_change_that_no_time_shows_is_seen_in_the_sample(
    weights: Path,
    cache: Path,
    hashed: list[int],
    monkeypatch: pytest.MonkeyPatch,
    tensor: int,
    at: int,
) -> None:
    stamp = checksums.stamp_of(weights.stat())
    monkeypatch.setattr(checksums, "stamp_of", lambda _: stamp)
    before = checksum(weights)
    flip(weights, weights.stat().st_size - (TENSORS - tensor) * TENSOR + at)
    assert checksum(weights).sha256 == right(weights) != before.sha256
    assert checksum(weights).sha256 == right(weights)
    assert len(hashed) == 2


def test_a_sample_of_what_has_no_header(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(bytes(3 * STRIDE))
    found = {sample(path)}
    for at in (0, STRIDE + 5, 2 * STRIDE, 3 * STRIDE - 1):
        flip(path, at)
        found.add(sample(path))
    assert len(found) == 5


@pytest.mark.parametrize(
    "header",
    [
        b"", b"null", b"[1]", b'{"a": 1}', b'{"a": {}}', b"\xff\xfe{", b"[" * 100_000,
        b'{"a": {"data_offsets": [0, 1, 2]}}',
        b'{"a": {"data_offsets": [0.5, 40.0]}}',
        b'{"a": {"data_offsets": ["0", "4"]}}',
        b'{"a": {"data_offsets": [-9, 4]}}',
        b'{"a": {"data_offsets": [4, 2]}}',
        b'{"a": {"data_offsets": [NaN, Infinity]}}',
        b'{"a": {"data_offsets": [0, 1000000000000000000]}}',
        b'{"a": {"data_offsets": [0, %s]}}' % (b"9" * 5000),
        b'{"a": {"data_offsets": [0, 60]}, "b": {"data_offsets": [30, 99]}}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("length", [None, 2**24, 2**64 - 1])
def test_a_header_that_makes_no_sense(tmp_path: Path, header: bytes, length: int | None) -> None:
    path = write(tmp_path / "model.safetensors", header, 100, length)
    before = sample(path)
    assert checksum(path).sha256 == right(path)
    flip(path, path.stat().st_size - 1)
    assert sample(path) != before


@pytest.mark.parametrize("size", [0, 1, 7, 8, PIECE])
def test_a_small_file(tmp_path: Path, cache: Path, size: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x01" * size)
    assert checksum(path).sha256 == checksum(path).sha256 == right(path)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "damage",
    [
        as_folder,
        as_pipe,
        as_link,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(b"[" * 60_000),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text("{}"),
        lambda path: edit(path, sha256="0" * 64),
        lambda path: edit(path, sample="0" * 64),
        lambda path: edit(path, stamp=[1, 2, 3, 4, 5]),
        lambda path: edit(path, check=None),
    ],
)
def test_a_damaged_entry_is_made_again(
    weights: Path, cache: Path, hashed: list[int], damage: Callable[[Path], object]
) -> None:
    checksum(weights)
    kept = entry(cache)
    damage(kept)
    assert checksum(weights).sha256 == right(weights)
    assert len(hashed) == 2
    if not kept.is_dir():
        assert checksum(weights).sha256 == right(weights)
        assert len(hashed) == 2
        assert kept.is_file()


def test_the_entry_of_another_user_does_not_count(
    weights: Path, cache: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    checksum(weights)
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert checksum(weights).sha256 == right(weights)
    assert len(hashed) == 2


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["a file", "a pipe", "no folder", "full", "full later", "no home"])
def test_a_cache_that_cannot_be_used(
    weights: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder = tmp_path / "cache"
    if what == "a file":
        folder.write_bytes(b"")
    elif what == "a pipe":
        os.mkfifo(folder)
    elif what == "no folder":
        monkeypatch.setenv("VLMSCOPE_CACHE", "/proc/cache")
    elif what == "full":
        monkeypatch.setattr(tempfile, "mkstemp", no_space)
    elif what == "full later":
        monkeypatch.setattr(json, "dump", no_space)
    else:
        monkeypatch.delenv("VLMSCOPE_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert checksum(weights).sha256 == right(weights)
    assert not list(tmp_path.rglob("*.json"))
    assert not [path for path in cache.glob(".*") if cache.is_dir()]
    assert not Path("relative").exists()


def test_the_cache_may_be_a_link_to_a_folder_elsewhere(
    weights: Path, cache: Path, tmp_path: Path, hashed: list[int]
) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "cache").symlink_to("scratch")
    assert checksum(weights) == checksum(weights)
    assert len(hashed) == 1
    assert list((tmp_path / "scratch" / "checksums").glob("*.json"))


def test_where_the_cache_is(
    weights: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLMSCOPE_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    checksum(weights)
    assert list((tmp_path / "xdg" / "vlmscope" / "checksums").glob("*.json"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    checksum(weights)
    assert list((tmp_path / "home" / ".cache" / "vlmscope" / "checksums").glob("*.json"))


def test_a_file_that_was_just_written_is_not_kept(
    weights: Path, cache: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "SETTLED", 60.0)
    assert checksum(weights) == checksum(weights)
    assert len(hashed) == 2
    assert not list(cache.glob("*.json"))


def test_a_cache_that_is_removed_meanwhile(weights: Path, cache: Path, hashed: list[int]) -> None:
    checksum(weights)
    entry(cache).unlink()
    assert checksum(weights).sha256 == right(weights)
    assert len(hashed) == 2


def test_one_hashes_and_the_others_wait(
    weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locks of two openings exclude one another in one process as they do in two."""
    hash_all, begun, go_on, count = checksums._hash_all, threading.Event(), threading.Event(), []

    def slow(file: int, stop: threading.Event) -> str:
        count.append(file)
        begun.set()
        assert go_on.wait(10)
        return hash_all(file, stop)

    monkeypatch.setattr(checksums, "_hash_all", slow)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(checksum(weights))) for _ in range(3)]
    threads[0].start()
    assert begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.2)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert {each.sha256 for each in found} == {right(weights)}
    assert len(found) == 3
    assert len(count) == 1


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("target")])
def test_a_lock_that_cannot_be_had(
    weights: Path, cache: Path, hashed: list[int], make: Callable[[Path], object], tmp_path: Path
) -> None:
    checksum(weights)
    kept = entry(cache)
    (cache / "target").write_bytes(b"somebody's")
    kept.unlink()
    kept.with_suffix(".lock").unlink()
    make(kept.with_suffix(".lock"))
    assert checksum(weights).sha256 == right(weights)
    assert len(hashed) == 2
    assert (cache / "target").read_bytes() == b"somebody's"


def test_a_lock_that_is_not_let_go(
    weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    checksum(weights)
    kept = entry(cache)
    kept.unlink()
    monkeypatch.setattr(checksums, "_LOCK_TIMEOUT", 0.1)
    with FileLock(kept.with_suffix(".lock"), thread_local=False):
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(checksum(weights)))
        thread.start()
        thread.join(10)
    assert found[0].sha256 == right(weights)


def test_what_changes_while_it_is_hashed(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hash_all = checksums._hash_all

    def change(file: int, stop: threading.Event) -> str:
        found = hash_all(file, stop)
        weights.write_bytes(weights.read_bytes() + b"more")
        return found

    monkeypatch.setattr(checksums, "_hash_all", change)
    with pytest.raises(ModelError, match="was changed while the model was being loaded"):
        checksum(weights)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(ModelError, match="is not a regular file"):
            checksum(path)
    with pytest.raises(ModelError, match=r"cannot be read: .*No such file"):
        checksum(tmp_path / "none")


def test_hashing_can_be_stopped(weights: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(CancelledError):
        checksum(weights, stop)
    sums = Checksumming({"one": weights})
    sums.cancel()
