"""The current shards of a run, and the ids of the rows in them.

A run keeps no list of its shards: the folder is the list. A part that a published pack supersedes
is ignored, so no row is duplicated if the process is killed between publishing a pack and removing
its parts.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import RunMismatchError, StoreError
from vlmscope.store.format.batch import QUESTION_ID, Block, check_columns, take
from vlmscope.store.format.checksums import confirm, read_column
from vlmscope.store.format.columns import read_columns
from vlmscope.store.format.hdf5_links import member
from vlmscope.store.format.hdf5_screening import screen_ahead
from vlmscope.store.format.manifest import Manifest, read_manifest
from vlmscope.store.format.naming import is_signal, is_vector, signal_path
from vlmscope.store.format.shard import is_changed, opened
from vlmscope.store.format.token_rows import TokenRows, datasets_of, read_token_rows
from vlmscope.store.format.validation import (
    COLUMNS,
    MissingColumnError,
    columns_of,
    text_column,
)
from vlmscope.store.storage.object_store import Identity, identity_of
from vlmscope.store.storage.paths import as_path, is_remote, unreachable

SHARDS = "shards"
"""Name of the folder of shards in a run folder."""

KINDS = ("part", "pack")
"""The kinds of shards: one batch, or several merged parts."""

_NAME = re.compile(r"(?P<kind>part|pack)-(?P<writer>[A-Za-z0-9_.]+)-(?P<seq>\d{6,})\.h5")
_RESCANS = 20

_KNOWN: dict[Path, tuple[Identity, Shard]] = {}
"""Cache: path of a shard → the identity of its file, and its content."""

_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class Shard:
    """A published shard and the ids of its rows."""

    path: Path
    kind: str
    """``part`` or ``pack``."""
    writer: str
    seq: int
    """Sequence number, one counter per writer for parts and packs: the order of writing."""
    ids: tuple[str, ...]
    rows: Sequence[int]
    """The index of each id in the columns."""
    complete: bool
    """Whether every row of the columns is in ``ids``. False only where another shard has the same
    id: two writers were given the same question, and the first writer's row is used."""
    supersedes: frozenset[str]
    """Names of the parts whose rows the pack replaces."""

    def __len__(self) -> int:
        return len(self.ids)


def shard_name(kind: str, writer: str, seq: int) -> str:
    """Return the file name of a shard.

    >>> shard_name("part", "000", 41)
    'part-000-000041.h5'
    """
    return f"{kind}-{writer}-{seq:06d}.h5"


class ShardName(NamedTuple):
    """The parts of a shard's file name."""

    kind: str
    """``part`` or ``pack``."""
    writer: str
    seq: int


def parse_shard_name(path: Path) -> ShardName:
    """Return the parts of a shard's file name.

    >>> parse_shard_name(Path("run/shards/part-000-000041.h5"))
    ShardName(kind='part', writer='000', seq=41)
    """
    name = _NAME.fullmatch(path.name)
    if name is None:
        raise ValueError(path)
    return ShardName(name["kind"], name["writer"], int(name["seq"]))


def writer_of(path: Path) -> str:
    """Return the name of the writer of a shard, taken from the shard's file name."""
    return parse_shard_name(path).writer


def scan(run: Path) -> tuple[list[Shard], list[Path]]:
    """Return the current shards, in the order of writing, and the superseded parts."""
    for _ in range(_RESCANS):
        try:
            shards = _read_cached(list_shards(run))
        except FileNotFoundError:
            continue  # a writer packed it between the listing and the read
        superseded = _superseded(shards)
        current = [shard for shard in shards if shard.path not in superseded]
        current.sort(key=lambda shard: (shard.writer, shard.seq))
        return _once(current), superseded
    raise StoreError(
        f"{run}: shards disappear while they are read; check that no other program deletes them"
    )


def _superseded(shards: Sequence[Shard]) -> list[Path]:
    """Return the parts that a pack replaces: it names them, and contains all of their rows.

    Superseded parts are removed, so the names in the pack are not enough: a file of unknown origin
    may name parts whose rows it does not contain.
    """
    parts = {shard.path.name: shard for shard in shards if shard.kind == "part"}
    found: dict[Path, None] = {}
    for pack in shards:
        named = pack.supersedes & parts.keys() if pack.kind == "pack" else frozenset()
        packed = set(pack.ids) if named else set()
        for name in sorted(named):
            if packed.issuperset(parts[name].ids):
                found[parts[name].path] = None
    return list(found)


def ids_written_by(run: Path, writer: str) -> frozenset[str]:
    """Return the ids in the shards of one writer, without reading those of others."""
    own = [path for path in list_shards(run) if writer_of(path) == writer]
    return frozenset(id_ for path in own for id_ in _read(path).ids)


def packs_of(run: Path) -> frozenset[str]:
    """Return the names of the packs."""
    return frozenset(p.name for p in list_shards(run) if parse_shard_name(p).kind == "pack")


def read_shard(
    path: Path, rows: slice = slice(None), *, vectors: bool = True, signals: Container[str] = ()
) -> Block:
    """Return rows of a shard as columns; ``vectors`` and ``signals`` as in ``read_columns``."""
    try:
        with opened(path) as file:
            return read_columns(file, rows, vectors=vectors, signals=signals)
    except FileNotFoundError as error:
        raise vanished(path) from error


def read_rows(shard: Shard, *, vectors: bool = True, signals: Container[str] = ()) -> Block:
    """Return the rows of a shard that are used, as columns."""
    block = read_shard(shard.path, vectors=vectors, signals=signals)
    return block if shard.complete else take(block, shard.rows)


def read_blocks(
    shards: Iterable[Shard], *, vectors: bool = True, signals: Container[str] = ()
) -> Iterator[Block]:
    """Yield the rows of some shards of a run that are used, as columns, shard by shard.

    Raises:
        StoreError: One of them lacks a column that another one has.
    """
    columns: frozenset[str] = frozenset()
    for shard in shards:
        block = read_rows(shard, vectors=vectors, signals=signals)
        columns = columns or block.columns
        check_columns(block, columns)
        yield block


def read_texts(shard: Shard, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return columns of strings of the rows that are used, as one tuple per row."""
    try:
        with opened(shard.path) as file:
            columns = [text_column(file, name) for name in names]
    except FileNotFoundError as error:
        raise vanished(shard.path) from error
    rows = list(zip(*columns, strict=True))
    return rows if shard.complete else [rows[i] for i in shard.rows]


def read_tokens(shard: Shard, path: str) -> TokenRows:
    """Return one array with a vector for each of several tokens, of all rows of a shard."""
    try:
        with opened(shard.path) as file:
            count = len(text_column(file, QUESTION_ID))
            found = read_token_rows(file, count, wanted=lambda name: name == path)
            if path not in found:
                raise MissingColumnError(path)
    except FileNotFoundError as error:
        raise vanished(shard.path) from error
    return found[path]


def check_columns_of_run(run: Path, manifest: Manifest) -> None:
    """Refuse to add rows to a run of an earlier version that recorded other arrays.

    One shard is compared: all of a run have the same columns.

    Args:
        run: The run folder.
        manifest: The manifest of the rows to be added.

    Raises:
        RunMismatchError: The rows of the run have other vectors or signals, or of other sizes.
        StoreError: The shard is damaged, or of an earlier version.
    """
    shards = scan(run)[0]
    if not shards:
        return
    with opened(shards[0].path) as file:
        names = {*columns_of(file), *datasets_of(file, values=False)}
    wanted, recorded = _arrays(manifest), _arrays(read_manifest(run))
    found = {name for name in names if is_vector(name) or is_signal(name)}
    differing = [f"lack {name}" for name in sorted(wanted.keys() - found)]
    differing += [f"have {name}" for name in sorted(found - wanted.keys())]
    differing += [
        f"have another size of {name}"
        for name, size in wanted.items()
        if recorded.get(name, size) != size
    ]
    if differing:
        raise RunMismatchError(
            f"{run}: its rows {differing[0]}, an earlier version of vlmscope wrote them: rows of "
            "this version cannot be added; give another --out"
        )


def signals_in(shards: Sequence[Shard], manifest: Manifest) -> tuple[str, ...]:
    """Return the arrays of signals that the rows of a run have, in the order of the manifest.

    Rows of an earlier version lack arrays that were added to a signal later.
    """
    names = (*manifest.signals(), *manifest.token_widths())
    if not shards or not names:
        return names
    try:
        with opened(shards[0].path) as file:
            found = {*columns_of(file, vectors=False), *datasets_of(file, values=False)}
    except (FileNotFoundError, StoreError):
        return names  # reading them reports it
    if found.issuperset(map(signal_path, names)) or is_changed(shards[0].path):
        return names
    return tuple(name for name in names if signal_path(name) in found)


def _arrays(manifest: Manifest) -> dict[str, object]:
    """Return path → width or shape of every vector and every array of signals of a run's rows."""
    signals = {**manifest.signals(), **manifest.token_widths()}
    return {**manifest.widths(), **{signal_path(name): size for name, size in signals.items()}}


def read_column_into(shard: Shard, path: str, out: NDArray[Any]) -> None:
    """Read one column of a shard directly into a slice of the matrix."""
    try:
        with opened(shard.path, f"column {path}") as file:
            try:
                column = member(file, f"{COLUMNS}/{path}")
            except KeyError:
                raise MissingColumnError(path) from None
            _check_shape(shard, path, column, out)
            if shard.complete and column.dtype == out.dtype and column.shape == out.shape:
                column.read_direct(out)
                confirm(column, out)
            else:  # NumPy turns float16 into float32 three times faster than HDF5
                values = read_column(column)
                out[:] = values if shard.complete else values[list(shard.rows)]
    except FileNotFoundError as error:
        raise vanished(shard.path) from error


def _check_shape(shard: Shard, path: str, column: Any, out: NDArray[Any]) -> None:
    """Refuse a column whose shape does not match the manifest and the shard's ids."""
    shape = column.shape if isinstance(column, h5py.Dataset) else None
    last = max(shard.rows, default=-1)
    shape = shape or (0,)
    enough = shape[0] == len(shard) if shard.complete else shape[0] > last
    if not enough or shape[1:] != out.shape[1:] or column.dtype.kind != out.dtype.kind:
        numbers = " × ".join(map(str, out.shape[1:]))
        raise StoreError(
            f"{shard.path}: damaged, column {path} has the shape {shape}, expected "
            f"{len(shard)} rows of {numbers} numbers; restore the file from a copy"
        )


def vanished(path: Path) -> StoreError:
    """Return the error for a shard that has been removed since the run was opened."""
    return StoreError(
        f"{path}: removed since the run was opened, a writer has merged it into a larger file; "
        "run the command again, or open the run again"
    )


def list_shards(run: Path) -> list[Path]:
    """Return all files named like a shard, superseded or not; hidden files are unpublished."""
    folder = as_path(run) / SHARDS
    try:
        return sorted(path for path in folder.glob("*.h5") if _NAME.fullmatch(path.name))
    except Exception as error:
        if is_remote(folder):
            raise unreachable(folder, error) from error
        raise


def _read_cached(paths: Sequence[Path]) -> list[Shard]:
    """Read the ids of shards; those whose file has not changed come from a cache.

    A session opens its run twice, to plan and to write. The cache covers one run.
    """
    with _LOCK:
        known = dict(_KNOWN)
        for gone in _KNOWN.keys() - set(paths):
            del _KNOWN[gone]
    screen_ahead((path, "ids") for path in paths)
    shards = []
    for path in paths:
        identity = identity_of(path)
        before, shard = known.get(path, (None, None))
        if shard is None or before != identity:
            shard = _read(path)
            with _LOCK:
                _KNOWN[path] = (identity, shard)
        shards.append(shard)
    return shards


def _read(path: Path) -> Shard:
    """Read the ids of one shard."""
    name = parse_shard_name(path)
    with opened(path, "ids") as file:
        ids = tuple(text_column(file, QUESTION_ID))
        try:
            supersedes = frozenset(map(str, np.ravel(file.attrs.get("supersedes", ()))))
        except (TypeError, ValueError, OSError) as error:  # of a type that vlmscope never writes
            raise StoreError(f"{path}: damaged, its supersedes is invalid") from error
    return Shard(
        path=path,
        kind=name.kind,
        writer=name.writer,
        seq=name.seq,
        ids=ids,
        rows=range(len(ids)),
        complete=True,
        supersedes=supersedes,
    )


def _once(shards: list[Shard]) -> list[Shard]:
    """Drop the rows whose id is in an earlier shard."""
    seen: set[str] = set()
    result = []
    for shard in shards:
        if not seen.isdisjoint(shard.ids):
            rows = [i for i, id_ in enumerate(shard.ids) if id_ not in seen]
            ids = tuple(shard.ids[i] for i in rows)
            result.append(replace(shard, ids=ids, rows=tuple(rows), complete=False))
        else:
            result.append(shard)
        seen.update(shard.ids)
    return result
