"""Finds the files of a run that differ from what was published, and sets them aside.

A damaged file is moved to ``damaged/``, never removed. Its questions then have no row, and the next
session captures them like any other missing row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import h5py

from vlmscope.errors import (
    EarlierVersionError,
    StoreError,
    UnreachableError,
    VlmscopeError,
    shortened,
)
from vlmscope.store.catalog import SHARDS, list_shards, writer_of
from vlmscope.store.format.batch import QUESTION_ID
from vlmscope.store.format.checksums import seal_is_broken
from vlmscope.store.format.columns import damaged_columns
from vlmscope.store.format.hdf5_links import is_there
from vlmscope.store.format.manifest import read_manifest
from vlmscope.store.format.naming import link_name, question_id
from vlmscope.store.format.shard import hdf5_file, opened
from vlmscope.store.format.validation import text_column
from vlmscope.store.index import INDEX
from vlmscope.store.storage.atomic import cannot_write, sync
from vlmscope.store.storage.locks import acquire, lock_of
from vlmscope.store.storage.paths import as_path, is_remote, make_folder
from vlmscope.store.storage.removal import move_file

DAMAGED = "damaged"
"""Name of the folder in a run folder to which damaged files are moved."""

REMEDY = (
    "restore the file from a copy, or run the same extract command with --redo-damaged, which "
    "moves the file to damaged/ and captures its rows again"
)
_LISTED = 5


@dataclass(frozen=True, slots=True)
class Damage:
    """A file of a run that differs from what was published."""

    path: Path
    """The shard, or the index."""
    found: tuple[str, ...]
    """The problems, one phrase each."""
    ids: tuple[str, ...] | None
    """The questions whose rows are in it; None if neither the file nor the index lists them."""

    @property
    def text(self) -> str:
        """The damage in one line: the file, what was found, the rows, what to do."""
        if self.path.name == INDEX:
            return f"{self.path}: damaged; remove it, the next session rebuilds it"
        return f"{self.path}: {'; '.join(self.found)}; {_rows(self.ids)}; {REMEDY}"


def find_damage(run: Path) -> list[Damage]:
    """Read every file of a run completely, including its index, and return the damaged ones.

    Raises:
        StoreError: The folder cannot be read.
        EarlierVersionError: An earlier version wrote a file, and it cannot be checked.
    """
    found, run_id = [], _run_id_of(as_path(run))
    for path in list_shards(run):
        try:
            faults = tuple(damage_of(path, run_id))
        except FileNotFoundError:
            continue  # a writer has packed it in the meantime
        if faults:
            found.append(Damage(path, faults, _ids_of(path)))
    index = as_path(run) / INDEX
    if index.exists() and _seal_is_broken(index):
        found.append(Damage(index, ("damaged",), ()))
    return found


def _run_id_of(run: Path) -> str | None:
    """Return the ``run_id`` of a run; None if its manifest cannot be read."""
    try:
        return read_manifest(run).run_id
    except (VlmscopeError, FileNotFoundError):  # what cannot be reached is said of its shards
        return None


def damage_of(path: Path, run_id: str | None = None) -> Iterator[str]:
    """Yield the problems of a shard, one phrase each.

    Args:
        path: The shard.
        run_id: That of the run; a shard that was copied from another one has its own.

    Raises:
        FileNotFoundError: The file has been removed.
        EarlierVersionError: An earlier version wrote it, and it cannot be checked.
        UnreachableError: The object store does not answer.
    """
    try:
        with opened(path) as file:
            columns = damaged_columns(file)
            yield from (f"column {name} is damaged" for name in columns)
            own = file.attrs.get("run_id")
            if run_id is not None and isinstance(own, str) and own != run_id:
                yield f"of another run (run_id {shortened(own, 8)})"
            missing = []
            if QUESTION_ID not in columns:
                ids = text_column(file, QUESTION_ID)
                missing = [id_ for id_ in ids if not is_there(file, link_name(id_))]
            yield from (f"row {id_!r} is missing" for id_ in missing)
    except (FileNotFoundError, UnreachableError, EarlierVersionError):
        raise
    except StoreError as error:
        yield f"damaged or not an HDF5 file ({error.__cause__ or error})"
    else:
        if not columns and not missing and _seal_is_broken(path):
            yield "bytes outside the columns are changed"


def set_aside(run: Path, damages: Sequence[Damage]) -> list[Path]:
    """Move damaged files to ``damaged/``, holding their writers' locks; return the new paths.

    Raises:
        RunBusyError: Another process is writing the run.
        StoreError: A file cannot be moved.
    """
    run, moved = as_path(run), []
    with ExitStack() as stack:
        shards = [damage.path for damage in damages if damage.path.name != INDEX]
        for writer in sorted({writer_of(path) for path in shards}):
            lock = lock_of(run, writer)
            acquire(lock, run)
            stack.callback(lock.release)
        try:
            make_folder(run / DAMAGED)
            for damage in damages:
                moved.append(_set_one_aside(run, damage.path))
            for folder in (run / SHARDS, run / DAMAGED, run):
                sync(folder)
        except OSError as error:
            raise cannot_write(run / DAMAGED, error) from error
    return moved


def _set_one_aside(run: Path, path: Path) -> Path:
    """Move one file to ``damaged/``, under a free name."""
    source = (path.name,) if path.name == INDEX else (SHARDS, path.name)
    return move_file(run, source, (DAMAGED, path.name))


def _seal_is_broken(path: Path) -> bool:
    try:
        return seal_is_broken(path)
    except OSError:
        return True


def _ids_of(path: Path) -> tuple[str, ...] | None:
    """Return the ids in a damaged shard, from the shard or else from the links of the index."""
    try:
        with opened(path) as file:
            return tuple(text_column(file, QUESTION_ID))
    except UnreachableError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, StoreError):
        pass
    return _ids_by_index(path)


def _ids_by_index(path: Path) -> tuple[str, ...] | None:
    if is_remote(path):  # a run in an object store has no index
        return None
    target = f"{SHARDS}/{path.name}"
    try:
        with hdf5_file(path.parent.parent / INDEX, "columns") as index:
            links = {name: index.get(name, getlink=True) for name in index}
    except (OSError, KeyError, RuntimeError, StoreError):
        return None
    ids = tuple(
        question_id(name)
        for name, link in links.items()
        if isinstance(link, h5py.ExternalLink) and link.filename == target
    )
    return ids or None


def _rows(ids: tuple[str, ...] | None) -> str:
    if ids is None:
        return "the ids of its rows cannot be read"
    shown = ", ".join(map(repr, ids[:_LISTED])) + (", …" if len(ids) > _LISTED else "")
    return f"{len(ids):,} row{'s' if len(ids) != 1 else ''}: {shown}"
