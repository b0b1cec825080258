"""Objects that are open as files: two of them at once, removed ones, and a store that refuses."""

from __future__ import annotations

from typing import Any

import h5py
import pytest

from vlmscope.errors import InputError, StoreError, UnreachableError
from vlmscope.store import as_path
from vlmscope.store.format.hdf5_links import file_name, remote_of
from vlmscope.store.storage.object_store import BLOCK, RemoteFile, identity_of, put, remote_file


def make_file(url: str, rows: int) -> Any:
    path = as_path(url)
    with RemoteWritten(path) as file:
        file["column"] = list(range(rows))
    return path


class RemoteWritten:
    """An HDF5 file that is made in memory and put as one object."""

    def __init__(self, path: Any) -> None:
        self._path = path
        self._file = h5py.File.in_memory()

    def __enter__(self) -> h5py.File:
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.flush()
        self._path.write_bytes(self._file.id.get_file_image())


def test_names_that_differ_in_accents_are_two_files(bucket: str) -> None:
    paths = [make_file(f"{bucket}/{name}.h5", rows) for name, rows in (("é", 3), ("è", 4000))]
    with (
        remote_file(paths[0]) as one,
        remote_file(paths[1]) as two,
        h5py.File(one, "r") as first,
        h5py.File(two, "r") as second,
    ):
        for path, file in zip(paths, (first, second), strict=True):
            assert getattr(remote_of(file.id), "size", None) == path.stat().st_size
            assert file_name(file.id) == str(path)


def test_an_object_that_is_opened_twice_stays_known_when_one_is_closed(bucket: str) -> None:
    path = make_file(f"{bucket}/twice.h5", 3)
    with remote_file(path) as one, h5py.File(one, "r") as first:
        other = RemoteFile(path)
        del other
        assert remote_of(first.id) is one


def read_after_removal(path: Any) -> None:
    with remote_file(path) as file:
        path.unlink()
        file.read()


def test_an_object_that_was_removed_since_is_not_there(bucket: str) -> None:
    path = as_path(f"{bucket}/part")
    path.write_bytes(bytes(2 * BLOCK))
    with pytest.raises(FileNotFoundError):
        read_after_removal(path)


def read_after_replacement(path: Any, data: bytes) -> None:
    with remote_file(path) as file:
        path.write_bytes(data)
        file.read()


def test_an_object_that_is_shorter_since_is_told_and_not_waited_for() -> None:
    path = as_path("memory://shorter/part")
    path.write_bytes(bytes(2 * BLOCK))
    with pytest.raises(UnreachableError, match=r": 3 of [0-9,]+ bytes; the object was replaced"):
        read_after_replacement(path, b"new")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (PermissionError("Access Denied"), StoreError),
        (MemoryError(), MemoryError),
        (RuntimeError("the line is dead"), UnreachableError),
    ],
)
def test_what_a_store_says_is_told_apart(
    bucket: str, error: Exception, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    path: Any = as_path(f"{bucket}/object")

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(path.fs, "pipe_file", refuse)
    monkeypatch.setattr(path.fs, "info", refuse)
    for ask in (lambda: put(path, b"x", exclusive=True), lambda: identity_of(path)):
        with pytest.raises(raised) as caught:
            ask()
        assert type(caught.value) is raised
        if raised is StoreError:
            assert "the store refuses access: Access Denied" in str(caught.value)


def test_a_scheme_without_an_extra_is_not_told_to_install_one() -> None:
    with pytest.raises(InputError, match="az://") as caught:
        as_path("az://container/run")
    assert "vlmscope[" not in str(caught.value)
