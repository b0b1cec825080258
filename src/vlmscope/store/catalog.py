"""Which shards of a run count, and which questions they hold.

A run has no list of its shards: the folder is the list. A part that a published pack supersedes is
ignored, so a kill between publishing the pack and removing its parts doubles nothing.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vlmscope.errors import StoreError
from vlmscope.store.format.batch import QUESTION_ID, Block, take
from vlmscope.store.format.columns import read_columns
from vlmscope.store.format.hdf5_screening import screen_ahead
from vlmscope.store.format.shard import opened
from vlmscope.store.format.validation import text_column
from vlmscope.store.storage.object_store import Identity, identity_of
from vlmscope.store.storage.paths import is_remote, place, unreachable

SHARDS = "shards"
"""Name of the folder of shards in a run folder."""

KINDS = ("part", "pack")
"""What a shard is: a batch, or parts merged."""

_NAME = re.compile(r"(?P<kind>part|pack)-(?P<writer>[A-Za-z0-9_.]+)-(?P<seq>\d{6,})\.h5")
_RESCANS = 20

_KNOWN: dict[Path, tuple[Identity, Shard]] = {}
"""Path of a shard → what tells it from a later file of that name, and what is in it."""

_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class Shard:
    """A published shard and the ids of its rows."""

    path: Path
    kind: str
    """``part`` or ``pack``."""
    writer: str
    seq: int
    """One count per writer for parts and packs alike: the order of writing."""
    ids: tuple[str, ...]
    rows: Sequence[int]
    """Where each id stands in the columns."""
    whole: bool
    """Every row of the columns is in ``ids``. False only where another shard has the same id:
    two writers were given the same question, and the first one's row counts."""
    supersedes: frozenset[str]
    """Names of the parts whose rows a pack took over."""

    def __len__(self) -> int:
        return len(self.ids)


def shard_name(kind: str, writer: str, seq: int) -> str:
    """Return the file name of a shard.

    >>> shard_name("part", "000", 41)
    'part-000-000041.h5'
    """
    return f"{kind}-{writer}-{seq:06d}.h5"


class ShardName(NamedTuple):
    """What the file name of a shard says."""

    kind: str
    """``part`` or ``pack``."""
    writer: str
    seq: int


def parse_shard_name(path: Path) -> ShardName:
    """Return what the file name of a shard says.

    >>> parse_shard_name(Path("run/shards/part-000-000041.h5"))
    ShardName(kind='part', writer='000', seq=41)
    """
    name = _NAME.fullmatch(path.name)
    if name is None:
        raise ValueError(path)
    return ShardName(name["kind"], name["writer"], int(name["seq"]))


def writer_of(path: Path) -> str:
    """Return the name of the writer that made a shard, by the shard's name."""
    return parse_shard_name(path).writer


def scan(run: Path) -> tuple[list[Shard], list[Path]]:
    """Return the shards that count, in the order of writing, and the superseded parts."""
    for _ in range(_RESCANS):
        try:
            shards = _look_into(list_shards(run))
        except FileNotFoundError:
            continue  # a writer packed it away between the listing and the look inside
        superseded = _superseded(shards)
        current = [shard for shard in shards if shard.path not in superseded]
        current.sort(key=lambda shard: (shard.writer, shard.seq))
        return _once(current), superseded
    raise StoreError(f"{run}: shards vanish while they are read; is something deleting them?")


def _superseded(shards: Sequence[Shard]) -> list[Path]:
    """Return the parts that a pack took over: those it names, and all of whose rows it holds.

    Superseded parts are removed, so the pack's word is not enough: in a file from elsewhere it may
    name what it does not hold.
    """
    parts = {shard.path.name: shard for shard in shards if shard.kind == "part"}
    found: dict[Path, None] = {}
    for pack in shards:
        named = pack.supersedes & parts.keys() if pack.kind == "pack" else frozenset()
        held = set(pack.ids) if named else set()
        for name in sorted(named):
            if held.issuperset(parts[name].ids):
                found[parts[name].path] = None
    return list(found)


def ids_written_by(run: Path, writer: str) -> frozenset[str]:
    """Return the ids in the shards of one writer, without a look at those of others."""
    own = [path for path in list_shards(run) if writer_of(path) == writer]
    return frozenset(id_ for path in own for id_ in _read(path).ids)


def packs_of(run: Path) -> frozenset[str]:
    """Return the names of the packs."""
    return frozenset(p.name for p in list_shards(run) if parse_shard_name(p).kind == "pack")


def read_shard(path: Path, rows: slice = slice(None), *, vectors: bool = True) -> Block:
    """Return rows of a shard as columns."""
    try:
        with opened(path) as file:
            return read_columns(file, rows, vectors=vectors)
    except FileNotFoundError as error:
        raise vanished(path) from error


def read_rows(shard: Shard, *, vectors: bool = True) -> Block:
    """Return the rows of a shard that count."""
    block = read_shard(shard.path, vectors=vectors)
    return block if shard.whole else take(block, shard.rows)


def read_texts(shard: Shard, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return some columns of strings of the rows that count, a tuple for each row."""
    try:
        with opened(shard.path) as file:
            columns = [text_column(file, name) for name in names]
    except FileNotFoundError as error:
        raise vanished(shard.path) from error
    rows = list(zip(*columns, strict=True))
    return rows if shard.whole else [rows[i] for i in shard.rows]


def vanished(path: Path) -> StoreError:
    """Return the error for a shard that was there when the run was opened."""
    return StoreError(
        f"{path}: gone since the run was opened, a writer has packed it into a larger file; "
        "run the command again, or open the run again"
    )


def list_shards(run: Path) -> list[Path]:
    """Return every file of a shard's name, superseded or not; hidden ones are not published."""
    folder = place(run) / SHARDS
    try:
        return sorted(path for path in folder.glob("*.h5") if _NAME.fullmatch(path.name))
    except Exception as error:
        if is_remote(folder):
            raise unreachable(folder, error) from error
        raise


def _look_into(paths: Sequence[Path]) -> list[Shard]:
    """Look into shards, but for those that were looked into before and are the same file still.

    A session opens its run twice, to plan and to write. Those of one run are remembered.
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
    """Look into one shard."""
    name = parse_shard_name(path)
    with opened(path, "ids") as file:
        ids = tuple(text_column(file, QUESTION_ID))
        try:
            supersedes = frozenset(map(str, np.ravel(file.attrs.get("supersedes", ()))))
        except (TypeError, ValueError, OSError) as error:  # of a type that nobody writes
            raise StoreError(f"{path}: damaged, its supersedes makes no sense") from error
    return Shard(
        path=path,
        kind=name.kind,
        writer=name.writer,
        seq=name.seq,
        ids=ids,
        rows=range(len(ids)),
        whole=True,
        supersedes=supersedes,
    )


def _once(shards: list[Shard]) -> list[Shard]:
    """Drop rows whose id an earlier shard has."""
    seen: set[str] = set()
    result = []
    for shard in shards:
        if not seen.isdisjoint(shard.ids):
            rows = [i for i, id_ in enumerate(shard.ids) if id_ not in seen]
            ids = tuple(shard.ids[i] for i in rows)
            result.append(replace(shard, ids=ids, rows=tuple(rows), whole=False))
        else:
            result.append(shard)
        seen.update(shard.ids)
    return result
