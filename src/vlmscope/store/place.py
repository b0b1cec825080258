"""Where a run lies: a folder of a file system, or everything below a URL of an object store.

A folder is a ``pathlib.Path``. What ``s3://``, ``gs://`` and their like lead to is a ``UPath`` of
universal_pathlib, which has the same methods over an fsspec file system, so that most of vlmscope
need not know which of the two it has. What an object store lacks is asked for here: it has no
folders to make, no locks, and no renaming; a whole object is put at once, or not at all.
"""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Any, cast

from vlmscope.errors import InputError, StoreError, UnreachableError, one_line

_LOCAL = ("file://", "local://")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Scheme of a URL → the extra of vlmscope that installs what it needs."""


def place(path: str | PathLike[str] | Path) -> Path:
    """Return a path, or of a URL what stands for it and has the methods of a path.

    >>> place("runs/pope").name, is_remote(place("runs/pope"))
    ('pope', False)

    Raises:
        InputError: It is a URL that nothing installed here can open.
    """
    if isinstance(path, Path) or is_remote(path):
        return _no_squeezed_url(cast("Path", path))
    text = fspath(path)
    if text.startswith(_LOCAL):
        return Path(text.partition("://")[2])
    return _remote(text) if "://" in text else Path(text)


def is_remote(path: Any) -> bool:
    """Return whether a path is one of an object store: what ``place`` made of a URL."""
    return hasattr(path, "fs") and not isinstance(path, Path)


def make_folder(path: Path, *, parents: bool = False) -> None:
    """Make a folder where there are folders; it may be there.

    Raises:
        OSError: It cannot be made.
    """
    if not is_remote(path):
        path.mkdir(parents=parents, exist_ok=True)


def size_of_all(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    if is_remote(folder):
        remote = cast("Any", folder)
        return int(remote.fs.du(remote.path))
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def check_reachable(path: Path) -> None:
    """Look once at what a URL leads to, so that a wrong address is a clear line.

    Raises:
        InputError: The store does not answer, or lets nobody in.
    """
    if not is_remote(path):
        return
    try:
        path.exists()
    except Exception as error:
        raise InputError(
            f"{path}: cannot be reached: {one_line(error)}; check the address, and the "
            "credentials and endpoint in the environment"
        ) from error


def unreachable(path: Path, error: BaseException) -> StoreError:
    """Return the error for a store that answered before and does not now, or that refuses."""
    if isinstance(error, PermissionError):
        return StoreError(
            f"{path}: the store refuses access: {one_line(error)}; what was published is safe, get "
            "the right to read and write there and run the same command again"
        )
    return UnreachableError(
        f"{path}: cannot be reached: {one_line(error)}; what was published is safe, run the same "
        "command again to continue"
    )


def _no_squeezed_url(path: Path) -> Path:
    """Refuse what ``Path`` made of a URL: one slash is lost, and it would be a folder named s3:."""
    scheme, colon, _ = str(path).partition(":/")
    if isinstance(path, Path) and colon and scheme in _EXTRAS and not path.exists():
        raise InputError(f"{path}: Path() takes a slash from a URL; give the URL as a string")
    return path


def _remote(url: str) -> Path:
    """Return what stands for a URL."""
    scheme = url.partition("://")[0]
    extra = _EXTRAS.get(scheme)
    remedy = f"pip install 'vlmscope[{extra}]'" if extra else "install fsspec's package for it"
    try:
        from upath import UPath

        found = UPath(url, use_listings_cache=False)  # others write there too
        found.fs  # noqa: B018 - imports what the scheme needs
    except ImportError as error:
        raise InputError(
            f"{url}: {scheme}:// needs more packages ({one_line(error)}); {remedy}"
        ) from error
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{url}: {one_line(error)}; give a folder, or a URL such as s3://bucket/run"
        ) from error
    return cast("Path", found)
