"""The location of a run: a folder or a URL prefix, and the names that may be used inside it.

A folder is a ``pathlib.Path``. A URL such as ``s3://`` or ``gs://`` becomes a ``UPath`` of
universal_pathlib, which has the same methods over an fsspec file system, so that most of vlmscope
need not distinguish the two. The functions here cover the differences: an object store has no
folders to create, no locks, and no renaming; an object is written at once, or not at all.

A run folder may come from an untrusted source: none of its names may lead out of it. A symbolic
link instead of a shard would make another file part of the run; instead of a lock, a log or a
hidden file, another file would be overwritten. A reader would block forever on a pipe.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from os import PathLike, fspath
from pathlib import Path
from typing import Any, cast

from vlmscope.errors import InputError, StoreError, UnreachableError, one_line, shortened
from vlmscope.regular import NotRegularError, check_regular

_MANIFEST = "run.json"
_LOCAL = ("file://", "local://")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Scheme of a URL → the extra of vlmscope that installs the packages for it."""


def as_path(path: str | PathLike[str] | Path) -> Path:
    """Return a path as a ``Path``, or a URL as a ``UPath`` with the same methods.

    >>> as_path("runs/pope").name, is_remote(as_path("runs/pope"))
    ('pope', False)

    Raises:
        InputError: It is a URL that no installed package can open.
    """
    if isinstance(path, Path) or is_remote(path):
        return _no_squeezed_url(cast("Path", path))
    text = fspath(path)
    if text.startswith(_LOCAL):
        return Path(text.partition("://")[2])
    return _remote(text) if "://" in text else Path(text)


def path_of(run: Any) -> Path:
    """Return the folder of a run, which is given itself or by its path.

    Args:
        run: The path of a folder, a URL, or what has one as its ``path``: a ``Run``.

    Raises:
        InputError: It is neither, or a URL that nothing installed here can open.
    """
    if isinstance(run, str | PathLike) or is_remote(run):
        return as_path(run)
    path = getattr(run, "path", None)
    if isinstance(path, Path) or is_remote(path):
        return cast("Path", path)
    raise InputError(
        f"run {shortened(repr(run))}: found {type(run).__name__}, expected a run or the path of "
        "its folder"
    )


def is_remote(path: Any) -> bool:
    """Return whether a path is in an object store: a URL, as returned by ``as_path``."""
    return hasattr(path, "fs") and not isinstance(path, Path)


def check_output_file(path: Path, option: str = "") -> None:
    """Refuse a path to which no file can be written.

    Args:
        path: The file, which may exist.
        option: The option that specified it, for the message: ``--out``.

    Raises:
        InputError: It is a folder or a part of a run, or its folder does not exist.
    """
    named = f"{option} {path}".strip()
    check_outside_runs(path, option)
    if path.suffix != ".html" and _is_ours(path.name) and (path.parent / _MANIFEST).exists():
        raise InputError(f"{named}: is a part of the run {path.parent}; give another name")
    if path.is_dir():
        raise InputError(f"{named}: is a folder; name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"{named}: the folder {path.parent} does not exist; make it first")


def check_outside_runs(path: Path, option: str = "") -> None:
    """Refuse a path within a folder that belongs to a run: ``shards``, ``probes`` and so on.

    Args:
        path: A file or folder to write, which need not exist.
        option: The option that specified it, for the message.

    Raises:
        InputError: It is such a folder, or in one.
    """
    found = path if is_remote(path) else Path(os.path.realpath(path))
    for folder in (found, *found.parents):
        if _is_folder_of_ours(folder.name) and (folder.parent / _MANIFEST).exists():
            named = f"{option} {path}".strip()
            raise InputError(
                f"{named}: is a part of the run {folder.parent}, in its folder {folder.name}; give "
                "another path"
            )


def make_folder(path: Path, *, parents: bool = False) -> None:
    """Create a folder, which may exist; does nothing in an object store.

    Raises:
        OSError: It cannot be created.
    """
    if not is_remote(path):
        path.mkdir(parents=parents, exist_ok=True)


def size_of_all(folder: Path) -> int:
    """Return the total size in bytes of all files below a folder."""
    if is_remote(folder):
        remote = cast("Any", folder)
        return int(remote.fs.du(remote.path))
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def check_reachable(path: Path) -> None:
    """Access a URL once, so that a wrong address gives a clear error.

    Raises:
        InputError: The store does not answer, or refuses access.
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
    """Return the error for a store that stopped answering, or that refuses access."""
    if isinstance(error, PermissionError):
        return StoreError(
            f"{path}: the store refuses access: {one_line(error)}; published rows are kept, get "
            "the right to read and write there and run the same command again"
        )
    return UnreachableError(
        f"{path}: cannot be reached: {one_line(error)}; published rows are kept, run the same "
        "command again to continue"
    )


def _no_squeezed_url(path: Path) -> Path:
    """Refuse a URL given as ``Path``: it loses a slash, and would be a folder named ``s3:``."""
    scheme, colon, _ = str(path).partition(":/")
    if isinstance(path, Path) and colon and scheme in _EXTRAS and not path.exists():
        raise InputError(f"{path}: Path() removes a slash from a URL; give the URL as a string")
    return path


def _remote(url: str) -> Path:
    """Return a URL as a ``UPath``."""
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


OURS = frozenset(
    {
        "run.json", "index.h5", "failures.jsonl", "labels.parquet", "truths.parquet", "judge.jsonl",
        "report.html",
    }
)  # fmt: skip
"""Files that vlmscope reads or writes in a run folder, besides hidden ones."""

IN_PROGRESS = ".in-progress-"
"""Beginning of the names of the files that list the rows in progress of a session."""

FOLDERS = frozenset({"shards", "probes", "detectors", "plots", "damaged"})
"""Folders whose content belongs to vlmscope. None may be a link, not even one within the run:
removing or replacing a file in it would change another part of the run."""

LABEL_SET = "[A-Za-z0-9_][A-Za-z0-9_-]{0,63}"
"""Pattern of a label set's name; its files are ``labels-<name>.parquet``, ``probes-<name>``,
``detectors-<name>``."""

_OF_SET = re.compile(rf"labels-{LABEL_SET}\.parquet", re.ASCII)
_FOLDER_OF_SET = re.compile(rf"(?:probes|detectors)-{LABEL_SET}", re.ASCII)


def check_inside(run: Path) -> None:
    """Refuse a run folder in which a name of vlmscope is not a file, or a link out of the folder.

    The folder itself may be reached through a link. Other files in it are ignored. A folder of
    vlmscope must be a folder, not a link to one.

    Raises:
        StoreError: There is such a link, or a pipe, a socket or a device.
    """
    if is_remote(run):
        return  # an object store has no links
    root = os.path.realpath(run)
    for path in _names(Path(run)):
        target = os.path.realpath(path)
        ours = _is_folder_of_ours(path.name) and os.path.realpath(path.parent) == root
        if ours and path.is_symlink():
            raise StoreError(
                f"{path}: is a symbolic link, to {target}, where a folder is expected; remove the "
                "link, or put the folder itself there"
            )
        if os.path.commonpath([root, target]) != root:
            raise StoreError(
                f"{path}: is a symbolic link that leads out of the run, to {target}; files outside "
                "a run are never read or written as part of it: put the file itself there"
            )
        _check_kind(path)


def _check_kind(path: Path) -> None:
    """Refuse anything but a regular file: a reader would block on it, or never reach its end."""
    try:
        check_regular(path)
    except NotRegularError as error:
        raise StoreError(f"{path}: {error.strerror}; get a complete copy of the run") from error
    except OSError:  # a link to a folder, or to nothing: opening it gives the error
        return


def _names(folder: Path, *, all_ours: bool = False) -> Iterator[Path]:
    """Yield paths with vlmscope's names that are neither file nor folder, also in subfolders."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if all_ours or _is_ours(entry.name)]
    except OSError:  # missing or not readable: opening it gives the error
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _names(Path(entry.path), all_ours=True)
        elif not entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def _is_ours(name: str) -> bool:
    hidden = name.startswith((".lock-", ".marker-", IN_PROGRESS)) or (
        name.startswith(".") and name.endswith(".tmp")
    )
    return hidden or name in OURS or bool(_OF_SET.fullmatch(name)) or _is_folder_of_ours(name)


def _is_folder_of_ours(name: str) -> bool:
    return name in FOLDERS or bool(_FOLDER_OF_SET.fullmatch(name))
